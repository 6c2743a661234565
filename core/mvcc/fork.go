package mvcc

import (
	"bytes"

	"banyan"
)

// A shard splits by forking. In one entry of its log the parent gives the child
// a part of its row keys (Fork) and narrows its own (Cut). The rows of keys are
// not touched: the store lets both read those that lie in their bounds. The
// store also copies the rows of revisions to the child, so that its revisions,
// history and remembered requests go on where the parent's were.

// Bounds gives the range of row keys that the shard holds; an empty bound is
// the end. Rows of banyan.SlotOwn are always held.
func (m *Machine) Bounds() (lo, hi []byte) { return m.bounds.lo, m.bounds.hi }

// BoundsOf gives the bounds of the shard that r reads.
func BoundsOf(r Reader) (lo, hi []byte, err error) {
	mt, err := readMeta(r)
	return mt.bounds.lo, mt.bounds.hi, err
}

// ForkOf gives the revision at which the shard that r reads was split off its
// parent, 0 if it was not. Up to there both have one history.
func ForkOf(r Reader) (banyan.Revision, error) {
	mt, err := readMeta(r)
	return mt.forked, err
}

// SetBounds writes the meta row of a new shard, which holds [lo, hi): nothing
// else may have been written to it.
func SetBounds(w Writer, lo, hi []byte) error {
	mt := meta{}
	if err := mt.bounds.within(lo, hi); err != nil {
		return err
	}
	mt.bounds = span{lo, hi}
	w.Set([]byte(metaKey), mt.encode(nil))
	return nil
}

// Fork writes to child, a shard without rows, what makes it a copy of this one
// that holds [lo, hi) of its row keys. r is this machine's state. The records
// (the rows that are not OfKey, but for those that begin with 'm') are for the
// store to copy.
func (m *Machine) Fork(r Reader, child Writer, lo, hi []byte) error {
	if err := m.bounds.within(lo, hi); err != nil {
		return err
	}
	if err := m.remind(r); err != nil {
		return err
	}
	part := span{lo, hi}
	for _, at := range m.counts.sorted() {
		if row := countedKey(at); !own(row) && part.has(row) {
			child.Set(appendCountKey(nil, at), m.counts.of[at].encode(nil))
		}
	}
	mt := m.meta()
	mt.bounds, mt.counted, mt.forked = part, m.revision, m.revision
	child.Set([]byte(metaKey), mt.encode(nil))
	return nil
}

// Cut narrows the shard's bounds to [lo, hi). rw is this machine's state.
func (m *Machine) Cut(rw ReadWriter, lo, hi []byte) error {
	if err := m.bounds.within(lo, hi); err != nil {
		return err
	}
	if err := m.remind(rw); err != nil {
		return err
	}
	m.bounds = span{bytes.Clone(lo), bytes.Clone(hi)}
	for _, at := range m.counts.sorted() {
		if !m.bounds.has(countedKey(at)) {
			m.counts.drop(at)
		}
	}
	m.counts.write(rw)
	m.counted, m.dirty = m.revision, true
	return nil
}

// Records gives the bounds of the raw rows that are filed by revision: what the
// store copies to a child.
func Records() (lo, hi []byte) { return []byte{recordPrefix}, []byte{recordPrefix + 1} }
