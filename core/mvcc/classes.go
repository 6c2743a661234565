package mvcc

import (
	"bytes"
	"encoding/binary"

	"banyan"
)

// slotBytes is the length of the slot that begins every row key.
const slotBytes = 2

// Unversioned says whether the row of a key is unversioned: the top bit of its
// layer byte says so (banyan.Unversioned).
func Unversioned(key []byte) bool {
	return len(key) > slotBytes && key[slotBytes]&byte(banyan.Unversioned) != 0
}

// own says whether a row is of this shard alone.
func own(key []byte) bool {
	return len(key) >= slotBytes && key[0] == banyan.SlotOwn>>8 && key[1] == banyan.SlotOwn&0xff
}

// OfKey says whether a raw row is a row of a key: its class, one byte, and then
// the row key, or what begins with the row key's slot. All others are rows of a
// revision or of the machine.
func OfKey(raw []byte) bool { return len(raw) > 0 && bytes.IndexByte([]byte(classes), raw[0]) >= 0 }

// Classes gives the classes of the rows of a key.
func Classes() []byte { return []byte(classes) }

// Bounds gives where the rows of the row keys [lo, hi) lie in a class; an empty
// bound is the end. Attachments lie in the order of their slots only, so that
// their bounds are right where lo and hi lie between slots.
func Bounds(class byte, lo, hi []byte) (from, to []byte) {
	at := func(key []byte) []byte {
		switch class {
		case historyPrefix:
			return appendHistoryPrefix(nil, key)
		case leasePrefix:
			key = key[:min(len(key), slotBytes)]
		}
		return append([]byte{class}, key...)
	}
	from, to = []byte{class}, []byte{class + 1}
	if len(lo) > 0 {
		from = at(lo)
	}
	if len(hi) > 0 {
		to = at(hi)
	}
	return from, to
}

// oneClass says whether the keys [lo, hi) are all versioned or all unversioned,
// and which; an empty hi is the end. Such a range lies in one slot.
func oneClass(lo, hi []byte) (unversioned, ok bool) {
	var slot [slotBytes]byte
	copy(slot[:], lo)
	if !Unversioned(lo) {
		end := [...]byte{slot[0], slot[1], byte(banyan.Unversioned)}
		return false, len(hi) > 0 && bytes.Compare(hi, end[:]) <= 0
	}
	n := binary.BigEndian.Uint16(slot[:])
	if n == banyan.SlotOwn {
		return true, true
	}
	end := binary.BigEndian.AppendUint16(nil, n+1)
	return true, len(hi) > 0 && bytes.Compare(hi, end) <= 0
}

// span is a range of row keys; an empty hi is the end. All keys are in one
// without bounds.
type span struct{ lo, hi []byte }

func (s *span) all() bool { return len(s.lo)+len(s.hi) == 0 }

// has says whether the shard with these bounds holds a row.
func (s *span) has(key []byte) bool {
	return bytes.Compare(s.lo, key) <= 0 && (len(s.hi) == 0 || bytes.Compare(key, s.hi) < 0) || own(key)
}

// hasRange says whether it holds all rows of [lo, hi).
func (s *span) hasRange(lo, hi []byte) bool {
	return bytes.Compare(s.lo, lo) <= 0 && (len(s.hi) == 0 || bytes.Compare(hi, s.hi) <= 0) || own(lo)
}

// holds says whether it holds all rows that a command looks at or changes.
func (s *span) holds(c *Command) bool {
	for i := range c.Conds {
		if q := &c.Conds[i]; !s.has(q.Key) || len(q.End) > 0 && !s.hasRange(q.Key, q.End) {
			return false
		}
	}
	return s.holdsAll(c.Muts) && s.holdsAll(c.Else)
}

func (s *span) holdsAll(muts []Mutation) bool {
	for i := range muts {
		switch u := &muts[i]; u.Op {
		case Compact:
		case DeleteRange:
			if !s.hasRange(u.Key, u.End) {
				return false
			}
		default:
			if !s.has(u.Key) {
				return false
			}
		}
	}
	return true
}

// within says whether a narrower span lies between slots and in this one.
func (s *span) within(lo, hi []byte) error {
	switch {
	case len(lo) != 0 && len(lo) != slotBytes, len(hi) != 0 && len(hi) != slotBytes:
		return banyan.Errorf(banyan.Invalid, "the bounds %x to %x do not lie between slots: give two bytes each", lo, hi)
	case len(hi) > 0 && bytes.Compare(lo, hi) >= 0:
		return banyan.Errorf(banyan.Invalid, "there is no slot from %x to %x", lo, hi)
	case bytes.Compare(lo, s.lo) < 0 || len(s.hi) > 0 && (len(hi) == 0 || bytes.Compare(hi, s.hi) > 0):
		return banyan.Errorf(banyan.Invalid, "the shard holds %x to %x, not %x to %x", s.lo, s.hi, lo, hi)
	}
	return nil
}
