// Package memrows holds a shard's rows in memory, sorted: a small real
// implementation of mvcc.ReadWriter for tests and for the simulator.
package memrows

import (
	"bytes"

	"github.com/google/btree"

	"banyan/core/mvcc"
)

// Rows is a sorted map of raw rows. The zero value is not ready: use New.
// Slices it gives out are never changed afterwards. It is not safe for
// concurrent use; a Clone is independent of its origin.
type Rows struct {
	tree *btree.BTreeG[row]
}

type row struct{ k, v []byte }

var _ mvcc.ReadWriter = (*Rows)(nil)

// New gives an empty map.
func New() *Rows {
	return &Rows{tree: btree.NewG(32, func(a, b row) bool { return bytes.Compare(a.k, b.k) < 0 })}
}

// Get gives the value at key, nil if there is none.
func (m *Rows) Get(key []byte) ([]byte, error) {
	r, _ := m.tree.Get(row{k: key})
	return r.v, nil
}

// Scan calls fn for the rows of [lo, hi) in order until it answers false.
func (m *Rows) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	m.tree.AscendGreaterOrEqual(row{k: lo}, func(r row) bool {
		return (hi == nil || bytes.Compare(r.k, hi) < 0) && fn(r.k, r.v)
	})
	return nil
}

// Set puts a copy of v under a copy of k.
func (m *Rows) Set(k, v []byte) {
	m.tree.ReplaceOrInsert(row{bytes.Clone(k), append([]byte{}, v...)})
}

// Delete removes k, if it is there.
func (m *Rows) Delete(k []byte) { m.tree.Delete(row{k: k}) }

// DeleteRange removes the rows of [lo, hi).
func (m *Rows) DeleteRange(lo, hi []byte) {
	var doomed []row
	m.tree.AscendRange(row{k: lo}, row{k: hi}, func(r row) bool {
		doomed = append(doomed, r)
		return true
	})
	for _, r := range doomed {
		m.tree.Delete(r)
	}
}

// Clone gives a copy in constant time; either may then change by itself.
func (m *Rows) Clone() *Rows { return &Rows{tree: m.tree.Clone()} }

// Len is the number of rows.
func (m *Rows) Len() int { return m.tree.Len() }

// Equal says whether both hold the same bytes.
func (m *Rows) Equal(o *Rows) bool {
	if m.Len() != o.Len() {
		return false
	}
	same := true
	m.tree.Ascend(func(r row) bool {
		other, ok := o.tree.Get(r)
		same = ok && bytes.Equal(r.v, other.v)
		return same
	})
	return same
}
