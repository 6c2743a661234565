package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"slices"

	"banyan"
)

// eachSlot answers a query for a range of each slot. It visits the slots that
// have rows, one after another, and keeps of all that it met the first rows that
// fit on the page; behind the last of a full page it need not look.
func eachSlot(r Reader, q *Query) (rows []Row, more bool, err error) {
	if q.At != 0 {
		return nil, false, banyan.Errorf(banyan.Invalid, "the rows of all slots can be read as they are now, not at revision %d", q.At)
	}
	class := byte(currentPrefix)
	if len(q.Lo) > 0 && q.Lo[0]&byte(banyan.Unversioned) != 0 {
		class = unversionedPrefix
	}
	var g gathered
	hi := q.Hi
	for slot := q.FromSlot; slot < q.slotsEnd(); {
		found := page{q: q}
		slot, err = found.scanSlot(r, class, slot, hi)
		if err != nil {
			return nil, false, err
		}
		g.take(&found)
		if len(g.rows) > 2*q.Limit || g.bytes > 2*q.BytesMax {
			if g.cut(q) { // what is behind the last is not on the page
				hi = g.rows[len(g.rows)-1].Key[slotBytes:]
			}
		}
	}
	g.cut(q)
	return g.rows, g.more, nil
}

// gathered is rows of several slots, of which the first make a page. They are put
// in order when there are twice as many, not with each slot.
type gathered struct {
	rows  []Row
	bytes int
	more  bool
}

func (g *gathered) take(found *page) {
	g.rows, g.bytes, g.more = append(g.rows, found.rows...), g.bytes+found.bytes, g.more || found.more
}

// cut orders rows by what follows the slot and keeps those of one page; full says
// that there were more.
func (g *gathered) cut(q *Query) (full bool) {
	slices.SortFunc(g.rows, func(a, b Row) int {
		return cmp.Or(bytes.Compare(a.Key[slotBytes:], b.Key[slotBytes:]), bytes.Compare(a.Key, b.Key))
	})
	p := page{q: q}
	for i := range g.rows {
		if !p.add(g.rows[i]) {
			break
		}
	}
	g.rows, g.bytes, g.more = p.rows, p.bytes, g.more || p.more
	return p.more
}

// slotsEnd is behind the last slot that is asked for.
func (q *Query) slotsEnd() int {
	if q.UntilSlot == 0 {
		return banyan.SlotOwn
	}
	return min(q.UntilSlot, banyan.SlotOwn)
}

// scanSlot collects the rows of the first slot from slot on that has any, and
// gives the slot to go on with.
func (p *page) scanSlot(r Reader, class byte, slot int, hi []byte) (next int, err error) {
	from := append([]byte{class, byte(slot >> 8), byte(slot)}, p.q.Lo...)
	next = p.q.slotsEnd()
	end := append([]byte{class}, banyan.SlotKey(next)...)
	scanErr := r.Scan(from, end, func(k, v []byte) bool {
		if len(k) < 1+slotBytes {
			return true
		}
		at, rest := int(binary.BigEndian.Uint16(k[1:])), k[1+slotBytes:]
		if at != slot {
			if len(p.rows) > 0 || p.more || bytes.Compare(rest, p.q.Lo) < 0 {
				next = at
				return false
			}
			slot = at
		}
		if len(hi) > 0 && bytes.Compare(rest, hi) >= 0 {
			next = at + 1
			return false
		}
		var row Row
		if row, err = decodeVersion(k[1:], v); err != nil {
			return false
		}
		if !p.addCopy(row) {
			next = at + 1
			return false
		}
		return true
	})
	return next, cmp.Or(err, scanErr)
}
