package simdisk

import (
	"bytes"
	"errors"

	"github.com/google/btree"

	"banyan"
	"banyan/engine/store"
)

// batch holds the rows as it leaves them; one without value is deleted.
// Ranges are deleted row by row as they are when DeleteRange is called: the
// contract gives a shard's rows to one batch at a time.
type batch struct {
	k    *KV
	rows *btree.BTreeG[row]
	err  error
}

// NewBatch implements store.KV.
func (k *KV) NewBatch() store.KVBatch { return &batch{k: k, rows: btree.NewG(degree, less)} }

func (b *batch) Get(key []byte) ([]byte, error) {
	if r, ok := b.rows.Get(row{k: key}); ok {
		return r.v, nil
	}
	return b.k.Get(key)
}

// Scan merges the batch over the committed rows.
func (b *batch) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	t, err := b.k.clone()
	if err != nil {
		return err
	}
	var mine []row
	scan(b.rows, lo, hi, func(r row) bool { mine = append(mine, r); return true })
	more := true
	emit := func(r row) {
		if more && r.v != nil {
			more = fn(r.k, r.v)
		}
	}
	err = b.k.scan(t, lo, hi, func(k, v []byte) bool {
		for len(mine) > 0 && more && bytes.Compare(mine[0].k, k) < 0 {
			emit(mine[0])
			mine = mine[1:]
		}
		if len(mine) > 0 && bytes.Equal(mine[0].k, k) {
			v, mine = mine[0].v, mine[1:]
		}
		emit(row{k: k, v: v})
		return more
	})
	if err != nil {
		return err
	}
	for _, r := range mine {
		emit(r)
	}
	return nil
}

func (b *batch) Set(k, v []byte) {
	b.rows.ReplaceOrInsert(row{k: bytes.Clone(k), v: append([]byte{}, v...)})
}

func (b *batch) Delete(k []byte) { b.rows.ReplaceOrInsert(row{k: bytes.Clone(k)}) }

func (b *batch) DeleteRange(lo, hi []byte) {
	var keys [][]byte
	if err := b.Scan(lo, hi, func(k, _ []byte) bool { keys = append(keys, k); return true }); err != nil {
		b.err = err
	}
	for _, k := range keys {
		b.rows.ReplaceOrInsert(row{k: k})
	}
}

func (b *batch) Commit(sync bool) error {
	if b.err != nil {
		return b.err
	}
	d := b.k.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if b.k.broken == nil {
		b.k.broken = b.commit(d, sync)
	}
	return b.k.broken
}

// commit writes, then syncs. d.mu is held.
func (b *batch) commit(d *Disk, sync bool) error {
	failed := b.k.ask(Write)
	if errors.Is(failed, errDead) {
		return failed
	}
	if failed == nil {
		failed = b.fits(d)
	}
	if failed != nil && d.rng.IntN(2) == 0 {
		return failed
	}
	undos := make([]undo, 0, b.rows.Len())
	b.rows.Ascend(func(r row) bool { undos = append(undos, undo(d.put(r))); return true })
	d.tail = append(d.tail, undos)
	if failed != nil || !sync {
		return failed
	}
	if err := b.k.ask(Sync); err != nil {
		return err
	}
	d.settle()
	return nil
}

func (b *batch) fits(d *Disk) error {
	if d.max == 0 {
		return nil
	}
	size := d.bytes
	b.rows.Ascend(func(r row) bool { size += int64(len(r.k) + len(r.v)); return true })
	if size > d.max {
		return banyan.Errorf(banyan.Exhausted,
			"the simulated disk is full (%d of %d bytes): free space there; nothing acknowledged is lost", size, d.max)
	}
	return nil
}

func (b *batch) Close() { b.rows = nil }
