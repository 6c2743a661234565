package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"

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
	all := &page{q: q}
	hi := q.Hi
	for slot := q.FromSlot; slot < q.slotsEnd(); {
		found := page{q: q}
		slot, err = found.scanSlot(r, class, slot, hi)
		if err != nil {
			return nil, false, err
		}
		all.mergeSlot(&found)
		if all.more { // what is behind the last is not on the page
			hi = all.rows[len(all.rows)-1].Key[slotBytes:]
		}
	}
	return all.rows, all.more, nil
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

// mergeSlot takes in the rows of another slot, in the order of what follows the
// slot, and cuts the page where it is full.
func (p *page) mergeSlot(o *page) {
	if len(o.rows) == 0 {
		return
	}
	before := func(a, b *Row) bool {
		return cmp.Or(bytes.Compare(a.Key[slotBytes:], b.Key[slotBytes:]), bytes.Compare(a.Key, b.Key)) < 0
	}
	cut := page{q: p.q, more: p.more || o.more, rows: make([]Row, 0, min(len(p.rows)+len(o.rows), p.q.Limit))}
	for i, j := 0, 0; i < len(p.rows) || j < len(o.rows); {
		from, at := p.rows, &i
		if i == len(p.rows) || j < len(o.rows) && before(&o.rows[j], &p.rows[i]) {
			from, at = o.rows, &j
		}
		if !cut.add(from[*at]) {
			break
		}
		*at++
	}
	*p = cut
}
