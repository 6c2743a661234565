// Package simdisk is a disk in memory for simulations: store.KV with explicit
// fsync. A crash loses or tears the tail of what was not synced, errors can be
// injected at any operation, and it can be full. Everything it does follows
// from its seed and the calls, in their order; it starts no goroutine.
package simdisk

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"sync"

	"github.com/google/btree"

	"banyan"
	"banyan/engine/store"
)

// Op is what an injector may let fail.
type Op uint8

// The operations. A commit with sync is a Write and then a Sync.
const (
	Read Op = iota
	Write
	Sync
)

// Stats counts the operations of a disk since it was made.
type Stats struct{ Reads, Writes, Syncs int }

// Disk outlives the crashes of the process that opens it.
type Disk struct {
	mu     sync.RWMutex
	rng    *rand.Rand
	rows   *btree.BTreeG[row]
	tail   [][]undo // of each commit since the last sync, oldest first
	bytes  int64
	max    int64
	inject func(Op) error
	kv     *KV // the open one, or nil
	stats  Stats
}

type row struct {
	k, v []byte
	bad  bool // Spoil has damaged it
}

// undo restores one row: v is nil if there was none.
type undo row

func less(a, b row) bool { return bytes.Compare(a.k, b.k) < 0 }

// degree keeps nodes small: each snapshot makes the next writes copy nodes.
const degree = 16

// New makes an empty disk.
func New(seed uint64) *Disk {
	return &Disk{rng: rand.New(rand.NewPCG(seed, 0)), rows: btree.NewG(degree, less)}
}

// Open gives the content as a KV. A disk is open once at a time.
func (d *Disk) Open() (*KV, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.kv != nil {
		return nil, banyan.Errorf(banyan.Unavailable, "the disk is open: Crash or Close first")
	}
	d.kv = &KV{d: d}
	return d.kv, nil
}

// Crash is the loss of power: the open KV is dead, and of what was not synced
// some prefix of the commits survives, drawn from the seed. A commit that was
// being written is torn, which its checksum shows, so it is lost whole.
func (d *Disk) Crash() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kv = nil
	if n := len(d.tail); n > 0 {
		d.rollback(d.rng.IntN(n + 1))
	}
}

// LoseTail is the worst crash: nothing survives that was not synced.
func (d *Disk) LoseTail() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.kv = nil
	d.rollback(0)
}

// rollback undoes the commits after the first keep.
func (d *Disk) rollback(keep int) {
	for i := len(d.tail) - 1; i >= keep; i-- {
		for j := len(d.tail[i]) - 1; j >= 0; j-- {
			d.put(row(d.tail[i][j]))
		}
	}
	d.settle()
}

// settle makes the rows as they are the synced ones.
func (d *Disk) settle() {
	clear(d.tail)
	d.tail = d.tail[:0]
}

// put sets a row, or removes it if it has no value, and gives the row before.
func (d *Disk) put(r row) (before row) {
	var had bool
	if r.v == nil {
		before, had = d.rows.Delete(r)
	} else {
		d.bytes += int64(len(r.k) + len(r.v))
		before, had = d.rows.ReplaceOrInsert(r)
	}
	if had {
		d.bytes -= int64(len(before.k) + len(before.v))
		return before
	}
	return row{k: r.k}
}

// Inject asks fn before every operation; an error makes it fail. A Write that
// fails may or may not be there after a crash. A nil fn injects nothing. fn
// must not call the disk.
func (d *Disk) Inject(fn func(Op) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.inject = fn
}

// SetCapacity makes writes beyond so many bytes of rows fail; 0 is no limit.
func (d *Disk) SetCapacity(bytes int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.max = bytes
}

// Flip inverts one bit, drawn from the seed, of the value of the n-th row
// (modulo their count), synced or not, and gives the row's key. A disk without
// rows, or a row without value, stays as it is.
func (d *Disk) Flip(n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows.Len() == 0 {
		return nil
	}
	hit := d.nth(n)
	if len(hit.v) > 0 {
		v := bytes.Clone(hit.v)
		v[d.rng.IntN(len(v))] ^= 1 << d.rng.IntN(8)
		d.rows.ReplaceOrInsert(row{k: hit.k, v: v})
	}
	return bytes.Clone(hit.k)
}

// Key is that of the n-th row (modulo their count), nil if there is none.
func (d *Disk) Key(n int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.rows.Len() == 0 {
		return nil
	}
	return bytes.Clone(d.nth(n).k)
}

func (d *Disk) nth(n int) (hit row) {
	n %= d.rows.Len()
	d.rows.Ascend(func(r row) bool {
		hit = r
		n--
		return n >= 0
	})
	return hit
}

// Spoil damages the block that holds a row, as Flip does, but below the
// checksums of the KV: who reads it is told (banyan.Corrupt), and from then on
// the KV refuses to write. A row that is written anew is sound.
func (d *Disk) Spoil(key []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.rows.Get(row{k: key}); ok {
		r.bad = true
		d.rows.ReplaceOrInsert(r)
	}
}

// Stats gives the counts so far.
func (d *Disk) Stats() Stats {
	d.mu.RLock()
	defer d.mu.RUnlock()
	return d.stats
}

// KV is a disk that is open.
type KV struct {
	d      *Disk
	broken error // of the write that failed; final
}

var _ store.KV = (*KV)(nil)

var errDead = errors.New("the disk was closed or crashed under this store")

// ask counts an operation and lets it fail. d.mu is held.
func (k *KV) ask(op Op) error {
	if k.d.kv != k {
		return errDead
	}
	switch op {
	case Read:
		k.d.stats.Reads++
	case Write:
		k.d.stats.Writes++
	case Sync:
		k.d.stats.Syncs++
	}
	if k.d.inject != nil {
		return k.d.inject(op)
	}
	return nil
}

// Get implements store.KV.
func (k *KV) Get(key []byte) ([]byte, error) {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	if err := k.ask(Read); err != nil {
		return nil, err
	}
	v, err := get(k.d.rows, key)
	k.breaks(err)
	return v, err
}

// breaks makes damage that was read final. d.mu is held.
func (k *KV) breaks(err error) {
	if k.broken == nil {
		k.broken = err
	}
}

// Err is what ended the KV: a write that failed, or damage that was read.
func (k *KV) Err() error {
	k.d.mu.RLock()
	defer k.d.mu.RUnlock()
	return k.broken
}

func get(t *btree.BTreeG[row], key []byte) ([]byte, error) {
	r, ok := t.Get(row{k: key})
	switch {
	case !ok:
		return nil, nil
	case r.bad:
		return nil, errSpoiled(key)
	}
	return bytes.Clone(r.v), nil
}

func errSpoiled(key []byte) error {
	return banyan.Errorf(banyan.Corrupt, "the block of row %x does not match its checksum", key)
}

// Scan implements store.KV.
func (k *KV) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	t, err := k.clone()
	if err != nil {
		return err
	}
	return k.scan(t, lo, hi, fn)
}

// clone gives the rows as of now, for the price of copying nodes on writes.
func (k *KV) clone() (*btree.BTreeG[row], error) {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	if err := k.ask(Read); err != nil {
		return nil, err
	}
	return k.d.rows.Clone(), nil
}

func (k *KV) scan(t *btree.BTreeG[row], lo, hi []byte, fn func(k, v []byte) bool) (err error) {
	scan(t, lo, hi, func(r row) bool {
		if r.bad {
			err = errSpoiled(r.k)
			return false
		}
		return fn(r.k, r.v)
	})
	if err != nil {
		k.d.mu.Lock()
		k.breaks(err)
		k.d.mu.Unlock()
	}
	return err
}

func scan(t *btree.BTreeG[row], lo, hi []byte, fn func(row) bool) {
	t.AscendGreaterOrEqual(row{k: lo}, func(r row) bool {
		return (hi == nil || bytes.Compare(r.k, hi) < 0) && fn(r)
	})
}

// Snapshot implements store.KV.
func (k *KV) Snapshot() (store.KVSnapshot, error) {
	t, err := k.clone()
	if err != nil {
		return nil, err
	}
	return snapshot{k, t}, nil
}

// Size implements store.KV.
func (k *KV) Size() int64 {
	k.d.mu.RLock()
	defer k.d.mu.RUnlock()
	return k.d.bytes
}

// Close implements store.KV.
func (k *KV) Close() error {
	k.d.mu.Lock()
	defer k.d.mu.Unlock()
	if k.d.kv != k {
		return nil
	}
	err := k.broken
	if err == nil && len(k.d.tail) > 0 {
		err = k.ask(Sync)
	}
	if err == nil {
		k.d.settle()
	}
	k.d.kv = nil
	return err
}

type snapshot struct {
	k *KV
	t *btree.BTreeG[row]
}

func (s snapshot) ask() error {
	s.k.d.mu.Lock()
	defer s.k.d.mu.Unlock()
	return s.k.ask(Read)
}

func (s snapshot) Get(key []byte) ([]byte, error) {
	if err := s.ask(); err != nil {
		return nil, err
	}
	v, err := get(s.t, key)
	if err != nil {
		s.k.d.mu.Lock()
		s.k.breaks(err)
		s.k.d.mu.Unlock()
	}
	return v, err
}

func (s snapshot) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	if err := s.ask(); err != nil {
		return err
	}
	return s.k.scan(s.t, lo, hi, fn)
}

func (s snapshot) Close() {}
