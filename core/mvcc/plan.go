package mvcc

import (
	"bytes"
	"encoding/binary"

	"banyan"
)

// plan is what a command would do, worked out without a write: a command that
// is refused, or that meets rows it cannot read, leaves no trace. Rows read
// from the batch stay valid meanwhile.
type plan struct {
	r        Reader
	known    *known
	revision banyan.Revision // the command's, if it has an effect
	res      Result

	keys    keyset // of touched, at the same index
	touched []touch

	counted keyset // prefixes appended to
	counts  []uint64

	removed   int // rows that ranges and leases met, and mostly removed
	displaced int // bytes of versions that move to history

	// The compaction: see planCompact.
	compactTo banyan.Revision
	horizon   banyan.Revision // the new one; 0: none
	dead      [][]byte        // rows to delete
	keepFrom  banyan.Revision // the records before it go

	buf []byte
}

// touch is a key the command looked at.
type touch struct {
	row         Row    // after; Key is set even if it does not exist
	before      []byte // its encoded version before the command, nil if there was none
	leaseBefore uint64
	exists      bool // after
	changed     bool

	hash   uint64 // keyHash, if lacked
	lacked bool   // known knew that there was none
}

// visible says whether anybody can tell that the command touched the key: one
// that it created and deleted again was never there.
func (t *touch) visible() bool { return t.exists || t.before != nil }

func (t *touch) event(rev banyan.Revision) Event {
	if t.exists {
		return Event{Row: t.row}
	}
	return Event{Deleted: true, Row: Row{Key: t.row.Key, Mod: rev}}
}

func (p *plan) begin(r Reader, k *known, rev banyan.Revision) {
	p.r, p.known, p.revision = r, k, rev
}

// end lets go of everything but small buffers.
func (p *plan) end() {
	touched, counts, buf := p.touched, p.counts, p.buf
	p.keys.reset()
	p.counted.reset()
	*p = plan{keys: p.keys, counted: p.counted}
	if cap(touched) <= keysKept {
		clear(touched)
		p.touched = touched[:0]
	}
	if cap(counts) <= keysKept {
		p.counts = counts[:0]
	}
	if cap(buf) <= scratchBytesMax {
		p.buf = buf[:0]
	}
}

// effect says whether the command makes a revision.
func (p *plan) effect() bool {
	for i := range p.touched {
		if p.touched[i].changed {
			return true
		}
	}
	return len(p.counts) > 0
}

// run works the command out. res says what becomes of it, but for Revision.
func (p *plan) run(cmd *Command) error {
	for i := range cmd.Conds {
		holds, err := p.test(&cmd.Conds[i])
		if err != nil {
			return err
		}
		if !holds {
			p.res = Result{FailedCond: i}
			return nil
		}
	}
	p.res.OK = true
	for i := range cmd.Muts {
		if err := p.mutate(&cmd.Muts[i]); err != nil {
			return err
		}
		if len(cmd.Muts) > 1 && (p.res.More || p.displaced > banyan.DisplacedBytesMax) {
			p.res = Result{FailedCond: -1, More: true}
			return nil
		}
	}
	return nil
}

// condKeepBytesMax bounds the version kept from a condition for a mutation of
// the same key, so that conditions on many large values hold no memory.
const condKeepBytesMax = 4 << 10

func (p *plan) test(c *Cond) (bool, error) {
	var t touch
	if i, ok := p.keys.find(c.Key); ok {
		t = p.touched[i]
	} else {
		var err error
		if t, err = p.read(c.Key); err != nil {
			return false, err
		}
		if len(t.before) <= condKeepBytesMax {
			p.add(t)
		}
	}
	switch c.Test {
	case Exists:
		return t.exists, nil
	case Missing:
		return !t.exists, nil
	case ValueEquals:
		return t.exists && bytes.Equal(t.row.Value, c.Value), nil
	case ModEquals:
		return t.row.Mod == c.Mod, nil // 0 if it does not exist
	}
	return false, nil
}

func (p *plan) mutate(u *Mutation) error {
	switch u.Op {
	case Put:
		return p.put(u.Key, u.Value, u.Lease)
	case Delete:
		i, err := p.load(u.Key)
		if err == nil {
			p.remove(i)
		}
		return err
	case DeleteRange:
		return p.deleteRange(u.Key, u.End)
	case Append:
		n, err := p.count(u.Key)
		if err != nil {
			return err
		}
		p.res.Sequences = append(p.res.Sequences, n)
		return p.put(SequenceKey(u.Key, n), u.Value, u.Lease)
	case Revoke:
		return p.revoke(u.Lease)
	case Compact:
		p.compactTo = max(p.compactTo, u.Rev)
	}
	return nil
}

// read looks a key up in the rows.
func (p *plan) read(key []byte) (touch, error) {
	if h := keyHash(key); p.known.lacks(h) {
		return touch{row: Row{Key: key}, hash: h, lacked: true}, nil
	}
	p.buf = appendCurrentKey(p.buf[:0], key)
	b, err := p.r.Get(p.buf)
	if err != nil || b == nil {
		return touch{row: Row{Key: key}}, err
	}
	return found(key, b)
}

func found(key, b []byte) (touch, error) {
	row, err := decodeVersion(key, b)
	return touch{row: row, before: b, leaseBefore: row.Lease, exists: true}, err
}

func (p *plan) add(t touch) int {
	p.touched = append(p.touched, t)
	return p.keys.add(t.row.Key)
}

// load gives the index of a key in touched, after reading it if need be.
func (p *plan) load(key []byte) (int, error) {
	if i, ok := p.keys.find(key); ok {
		return i, nil
	}
	t, err := p.read(key)
	if err != nil {
		return 0, err
	}
	return p.add(t), nil
}

// change marks a key as changed.
func (p *plan) change(t *touch) {
	if !t.changed && t.before != nil {
		p.displaced += len(t.before) + len(t.row.Key)
	}
	t.changed = true
}

func (p *plan) put(key, value []byte, lease uint64) error {
	i, err := p.load(key)
	if err != nil {
		return err
	}
	t := &p.touched[i]
	p.change(t)
	switch {
	case !t.exists:
		t.row.Create, t.row.Version = p.revision, 1
	case t.row.Mod != p.revision:
		t.row.Version++
	}
	t.exists = true
	t.row.Mod, t.row.Value, t.row.Lease = p.revision, value, lease
	return nil
}

func (p *plan) remove(i int) {
	t := &p.touched[i]
	if !t.exists {
		return
	}
	p.change(t)
	t.exists = false
	t.row = Row{Key: t.row.Key}
	p.res.Deleted++
}

// full says whether the command may remove no further rows by range or lease;
// the result then says that there are more.
func (p *plan) full() bool {
	if p.removed >= banyan.DeleteRowsMax || p.displaced >= banyan.DisplacedBytesMax {
		p.res.More = true
	}
	return p.res.More
}

func (p *plan) deleteRange(lo, hi []byte) error {
	if bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	inBatch := len(p.touched)
	var err error
	from, to := currentBounds(lo, hi)
	scanErr := p.r.Scan(from, to, func(k, v []byte) bool {
		if p.full() {
			return false
		}
		i, ok := p.keys.find(k[1:])
		if !ok {
			var t touch
			if t, err = found(bytes.Clone(k[1:]), bytes.Clone(v)); err != nil {
				return false
			}
			i = p.add(t)
		}
		p.remove(i)
		p.removed++
		return true
	})
	if err == nil {
		err = scanErr
	}
	for i := range p.touched[:inBatch] {
		t := &p.touched[i]
		if t.exists && bytes.Compare(lo, t.row.Key) <= 0 && bytes.Compare(t.row.Key, hi) < 0 && !p.res.More {
			p.remove(i)
		}
	}
	return err
}

func (p *plan) revoke(lease uint64) error {
	if lease == 0 {
		return nil
	}
	prefix := appendLeasePrefix(nil, lease)
	var attached [][]byte
	err := p.r.Scan(prefix, PrefixEnd(prefix), func(k, _ []byte) bool {
		attached = append(attached, bytes.Clone(k[len(prefix):]))
		return len(attached) <= banyan.DeleteRowsMax
	})
	if err != nil {
		return err
	}
	inBatch := len(p.touched)
	for _, key := range attached {
		if p.full() {
			return nil
		}
		i, err := p.load(key)
		if err != nil {
			return err
		}
		if p.touched[i].row.Lease == lease {
			p.remove(i)
		}
		p.removed++
	}
	for i := range p.touched[:inBatch] {
		if p.touched[i].row.Lease == lease {
			p.remove(i)
		}
	}
	return nil
}

// count gives the next number of an append to prefix.
func (p *plan) count(prefix []byte) (uint64, error) {
	i, ok := p.counted.find(prefix)
	if !ok {
		p.buf = appendCounterKey(p.buf[:0], prefix)
		b, err := p.r.Get(p.buf)
		if err != nil {
			return 0, err
		}
		n, err := decodeCounter(b)
		if err != nil {
			return 0, err
		}
		i = p.counted.add(prefix)
		p.counts = append(p.counts, n)
	}
	p.counts[i]++
	return p.counts[i], nil
}

func appendCounter(dst []byte, n uint64) []byte {
	return binary.AppendUvarint(append(dst, codecVersion), n)
}

func decodeCounter(b []byte) (uint64, error) {
	if b == nil {
		return 0, nil
	}
	d := decoder{b: b, what: "counter of appends"}
	d.version(codecVersion)
	n := d.uvarint()
	return n, d.end()
}

// pin makes the versions before the command outlive the first write, and
// counts the changes the record will list.
func (p *plan) pin() (changes int) {
	first := true
	for i := range p.touched {
		t := &p.touched[i]
		if !t.changed {
			continue
		}
		if t.visible() {
			changes++
		}
		if !first { // that of the first goes into the very first write
			t.before = bytes.Clone(t.before)
		}
		first = false
	}
	return changes
}
