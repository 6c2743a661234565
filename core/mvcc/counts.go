package mvcc

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"

	"banyan"
)

// countsEvery is after how many revisions the counts are written at the latest.
// Replicas must agree on it: to change it, change the command's version.
const countsEvery = 8192

// Count is how much there is of the rows of one space in one slot: current
// versions and unversioned rows, without history.
type Count struct {
	Slot  int
	Space banyan.Space
	Rows  int64
	Bytes int64 // of keys and values
}

// counts knows how many rows there are by slot and space. It is kept in memory;
// each change record says what it changed, so that the rows of counts
// ('m' slot space), written now and then, and the records since give them again.
type counts struct {
	of      map[counted]*tally
	changed []counted // since they were written
	last    counted   // looked up last
	lastOf  *tally
}

// counted is what is counted together.
type counted struct {
	slot  uint16
	space uint64
}

type tally struct {
	rows, bytes int64
	changed     bool
}

// countedAs says where a row is counted. A key that is too short for a space is
// counted in space 0.
func countedAs(key []byte) counted {
	var c counted
	if len(key) >= slotBytes {
		c.slot = binary.BigEndian.Uint16(key)
	}
	if len(key) > slotBytes+1 {
		if space, n := binary.Uvarint(key[slotBytes+1:]); n > 0 {
			c.space = space
		}
	}
	return c
}

// countedKey is a row key that is counted there.
func countedKey(at counted) []byte { return binary.BigEndian.AppendUint16(nil, at.slot) }

func (c *counts) add(at counted, rows, bytes int64) {
	if rows == 0 && bytes == 0 {
		return
	}
	t := c.lastOf
	if t == nil || at != c.last {
		if t = c.of[at]; t == nil {
			t = &tally{}
			c.of[at] = t
		}
		c.last, c.lastOf = at, t
	}
	t.rows += rows
	t.bytes += bytes
	if !t.changed {
		t.changed = true
		c.changed = append(c.changed, at)
	}
}

// sorted gives all there are in order.
func (c *counts) sorted() []counted {
	return slices.SortedFunc(maps.Keys(c.of), counted.compare)
}

func (a counted) compare(b counted) int {
	return cmp.Or(cmp.Compare(a.slot, b.slot), cmp.Compare(a.space, b.space))
}

// drop forgets a slot's rows, which are no longer here.
func (c *counts) drop(at counted) { c.add(at, -c.of[at].rows, -c.of[at].bytes) }

// write writes the rows of what has changed.
func (c *counts) write(w Writer) {
	slices.SortFunc(c.changed, counted.compare)
	for _, at := range c.changed {
		t := c.of[at]
		t.changed = false
		if key := appendCountKey(nil, at); t.rows == 0 && t.bytes == 0 {
			w.Delete(key)
			delete(c.of, at)
		} else {
			w.Set(key, t.encode(nil))
		}
	}
	c.changed, c.lastOf = c.changed[:0], nil
}

func appendCountKey(dst []byte, at counted) []byte {
	return binary.AppendUvarint(binary.BigEndian.AppendUint16(append(dst, metaKey...), at.slot), at.space)
}

func (t *tally) encode(dst []byte) []byte {
	return binary.AppendVarint(binary.AppendVarint(append(dst, codecVersion), t.rows), t.bytes)
}

func decodeCount(k, v []byte) (at counted, t tally, err error) {
	d := decoder{b: k, what: "key of a count"}
	d.byte()
	at = counted{slot: d.uint16(), space: d.uvarint()}
	if err := d.end(); err != nil {
		return at, t, err
	}
	d = decoder{b: v, what: "count of rows"}
	d.version(codecVersion)
	t = tally{rows: d.varint(), bytes: d.varint()}
	return at, t, d.end()
}

// read takes up what is written, and then what the records behind say.
func (c *counts) read(r Reader, upTo banyan.Revision) error {
	*c = counts{of: map[counted]*tally{}}
	var err error
	from := []byte(metaKey + "\x00")
	scanErr := r.Scan(from, []byte{metaKey[0] + 1}, func(k, v []byte) bool {
		var at counted
		var t tally
		if at, t, err = decodeCount(k, v); err == nil {
			c.of[at] = &t
		}
		return err == nil
	})
	if err == nil && scanErr == nil {
		scanErr = r.Scan(appendPlaceKey(nil, place{rev: upTo + 1}), []byte{recordPrefix + 1}, func(k, v []byte) bool {
			var rec record
			if len(k) == len(appendPlaceKey(nil, place{rev: 1})) { // not a note
				if rec, err = decodeRecord(v); err == nil {
					c.learn(&rec)
				}
			}
			return err == nil
		})
	}
	return cmp.Or(err, scanErr)
}

// learn counts what a record tells of.
func (c *counts) learn(rec *record) {
	for i := range rec.changes {
		ch := &rec.changes[i]
		c.add(countedAs(ch.key), ch.rows(), ch.bytes)
	}
	for i := range rec.trims {
		t := &rec.trims[i]
		for _, n := range t.spaces {
			c.add(counted{countedAs(t.lo).slot, n.space}, -n.rows, -n.bytes)
		}
	}
}

// Counts gives how many rows the shard holds, by slot and space. r is the
// machine's state.
func (m *Machine) Counts(r Reader) ([]Count, error) {
	if err := m.remind(r); err != nil {
		return nil, err
	}
	out := make([]Count, 0, len(m.counts.of))
	for _, at := range m.counts.sorted() {
		if t := m.counts.of[at]; t.rows != 0 || t.bytes != 0 {
			out = append(out, Count{Slot: int(at.slot), Space: banyan.Space(at.space), Rows: t.rows, Bytes: t.bytes})
		}
	}
	return out, nil
}

// CountsOf gives the same without a machine, from any reader of a shard.
func CountsOf(r Reader) ([]Count, error) {
	mt, err := readMeta(r)
	if err != nil {
		return nil, err
	}
	m := &Machine{revision: mt.revision, counted: mt.counted}
	return m.Counts(r)
}
