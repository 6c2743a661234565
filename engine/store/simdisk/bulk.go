package simdisk

import (
	"bytes"

	"banyan/engine/store"
)

// bulk is batches that are not synced: what a crash leaves of them is any
// number of rows.
type bulk struct {
	k         *KV
	any       bool
	low, high []byte
}

// NewBulk implements store.KV.
func (k *KV) NewBulk() store.KVBulk { return &bulk{k: k} }

func (u *bulk) Add(rows []store.KVRow) error {
	b := u.k.NewBatch()
	for _, r := range rows {
		if !u.any {
			u.any, u.low = true, bytes.Clone(r.Key)
		}
		u.high = append(u.high[:0], r.Key...)
		b.Set(r.Key, r.Value)
	}
	return b.Commit(false)
}

func (u *bulk) Commit() error {
	u.any = false
	return u.k.NewBatch().Commit(true)
}

func (u *bulk) Close() {
	if !u.any {
		return
	}
	u.any = false
	b := u.k.NewBatch()
	b.DeleteRange(u.low, append(u.high, 0))
	_ = b.Commit(false) // after an error nothing is written any more
}
