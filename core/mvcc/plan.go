package mvcc

import (
	"bytes"
	"cmp"
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

	trims    []trim   // ranges of unversioned rows to remove
	detached [][]byte // attachments of the rows in them

	looked    int  // rows that conditions over ranges met
	removed   int  // rows that ranges and leases met, and mostly removed
	displaced int  // bytes of versions that move to history
	refused   bool // nothing is to happen

	// The compaction: see planCompact.
	compactTo banyan.Revision
	horizon   banyan.Revision // the new one; 0: none
	dead      [][]byte        // rows to delete
	reclaimed uint64          // bytes of history that go
	keepFrom  banyan.Revision // the records before it go

	buf []byte
}

// touch is a key the command looked at.
type touch struct {
	row         Row    // after; Key is set even if it does not exist
	before      []byte // its encoded version before the command, nil if there was none
	leaseBefore uint64
	bytesBefore int64 // of key and value
	exists      bool  // after
	changed     bool

	hash   uint64 // keyHash, if lacked
	lacked bool   // known knew that there was none
}

// visible says whether anybody can tell that the command touched the key: one
// that it created and deleted again was never there.
func (t *touch) visible() bool { return t.exists || t.before != nil }

// displaced says whether the version before the command becomes history.
func (t *touch) displaced() bool { return t.before != nil && !Unversioned(t.row.Key) }

// grown is by how much the row's key and value grew.
func (t *touch) grown() int64 {
	if !t.exists {
		return -t.bytesBefore
	}
	return int64(len(t.row.Key)+len(t.row.Value)) - t.bytesBefore
}

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
	return len(p.counts)+len(p.trims) > 0
}

// run works the command out. res says what becomes of it, but for Revision.
func (p *plan) run(cmd *Command) error {
	muts := cmd.Muts
	p.res.OK = true
	for i := range cmd.Conds {
		holds, err := p.test(&cmd.Conds[i])
		if err != nil {
			return err
		}
		if p.looked > banyan.ConditionRowsMax {
			p.refuse(Result{More: true})
			return nil
		}
		if !holds {
			p.res, muts = Result{FailedCond: i}, cmd.Else
			break
		}
	}
	for i := range muts {
		if err := p.mutate(&muts[i]); err != nil || p.refused {
			return err
		}
		if len(muts) > 1 && (p.res.More || p.displaced > banyan.DisplacedBytesMax) {
			p.refuse(Result{More: true})
			return nil
		}
	}
	return nil
}

// refuse lets nothing happen, for the reason that res gives.
func (p *plan) refuse(res Result) {
	p.refused, p.res = true, res
	p.res.FailedCond = -1
}

// condKeepBytesMax bounds the version kept from a condition for a mutation of
// the same key, so that conditions on many large values hold no memory.
const condKeepBytesMax = 4 << 10

func (p *plan) test(c *Cond) (bool, error) {
	if len(c.End) > 0 {
		return p.testRange(c)
	}
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
	return c.holds(&t.row, t.exists), nil
}

// testRange asks a condition of the rows of its range, until one answers.
func (p *plan) testRange(c *Cond) (holds bool, err error) {
	from, to := Bounds(classOf(c.Key), c.Key, c.End)
	met := 0
	holds = true
	scanErr := p.r.Scan(from, to, func(k, v []byte) bool {
		met++
		if p.looked++; p.looked > banyan.ConditionRowsMax {
			return false
		}
		var row Row
		if row, err = decodeVersion(k[1:], v); err == nil {
			holds = c.holds(&row, true)
		}
		return err == nil && holds && c.Test != Exists
	})
	if met == 0 {
		holds = c.holds(&Row{}, false)
	}
	return holds, cmp.Or(err, scanErr)
}

// classOf is the class of the row that a key has now.
func classOf(key []byte) byte {
	if Unversioned(key) {
		return unversionedPrefix
	}
	return currentPrefix
}

// holds says whether a row passes the test.
func (q *Cond) holds(row *Row, exists bool) bool {
	order := 0
	switch q.Test &^ 15 {
	case 0:
		return exists == (q.Test == Exists)
	case ofValue:
		if !exists {
			return false
		}
		order = bytes.Compare(row.Value, q.Value)
	case ofMod:
		order = cmp.Compare(uint64(row.Mod), q.Number)
	case ofCreate:
		order = cmp.Compare(uint64(row.Create), q.Number)
	case ofVersion:
		order = cmp.Compare(row.Version, q.Number)
	case ofLease:
		order = cmp.Compare(row.Lease, q.Number)
	}
	switch q.Test & 15 {
	case equals:
		return order == 0
	case differs:
		return order != 0
	case less:
		return order < 0
	}
	return order > 0
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
		if Unversioned(u.Key) {
			return p.trim(u.Key, u.End)
		}
		return p.deleteRange(u.Key, u.End)
	case Append:
		n, key, err := p.free(u.Key)
		if err != nil {
			return err
		}
		p.res.Sequences = append(p.res.Sequences, n)
		return p.put(key, u.Value, u.Lease)
	case Revoke:
		return p.revoke(u.Key, u.Lease)
	case Add, Max:
		return p.number(u)
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
	if p.trimmed(key) {
		return touch{row: Row{Key: key}}, nil
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
	return touch{row: row, before: b, leaseBefore: row.Lease, bytesBefore: int64(len(key) + len(row.Value)), exists: true}, err
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
	if !t.changed && t.displaced() {
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
	from, to := Bounds(currentPrefix, lo, hi)
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
	p.removeTouched(inBatch, lo, hi)
	return cmp.Or(err, scanErr)
}

// removeTouched removes those of the first n keys touched that lie in [lo, hi),
// which the command itself put there, unless rows were left.
func (p *plan) removeTouched(n int, lo, hi []byte) {
	for i := range p.touched[:n] {
		t := &p.touched[i]
		if t.exists && bytes.Compare(lo, t.row.Key) <= 0 && bytes.Compare(t.row.Key, hi) < 0 && !p.res.More {
			p.remove(i)
		}
	}
}

// trim removes a range of unversioned rows: those that the command touched one
// by one, all others together. It reads them, to count them.
func (p *plan) trim(lo, hi []byte) error {
	if bytes.Compare(lo, hi) >= 0 {
		return nil
	}
	t := trim{lo: lo, hi: hi}
	var err error
	from, to := Bounds(unversionedPrefix, lo, hi)
	scanErr := p.r.Scan(from, to, func(k, v []byte) bool {
		if p.full() {
			t.hi = bytes.Clone(k[1:])
			return false
		}
		if i, ok := p.keys.find(k[1:]); ok {
			p.remove(i)
		} else if !p.trimmed(k[1:]) {
			var row Row
			if row, err = decodeVersion(k[1:], v); err != nil {
				return false
			}
			t.count(&row)
			p.res.Deleted++
			if row.Lease != 0 {
				p.detached = append(p.detached, appendLeaseKey(nil, row.Key, row.Lease))
			}
		}
		p.removed++
		return true
	})
	p.removeTouched(len(p.touched), lo, hi)
	if len(t.spaces) > 0 {
		p.trims = append(p.trims, t)
	}
	return cmp.Or(err, scanErr)
}

// count adds a row to what is removed.
func (t *trim) count(row *Row) {
	space := countedAs(row.Key).space
	last := len(t.spaces) - 1
	if last < 0 || t.spaces[last].space != space {
		t.spaces = append(t.spaces, trimmed{space: space})
		last++
	}
	t.spaces[last].rows++
	t.spaces[last].bytes += int64(len(row.Key) + len(row.Value))
}

// trimmed says whether the command has removed a key with others, unless it
// touched it by itself.
func (p *plan) trimmed(key []byte) bool {
	for i := range p.trims {
		if t := &p.trims[i]; bytes.Compare(t.lo, key) <= 0 && bytes.Compare(key, t.hi) < 0 {
			return true
		}
	}
	return false
}

// numberBytes is the length of the value of a number.
const numberBytes = 8

// number carries out an Add or Max.
func (p *plan) number(u *Mutation) error {
	i, err := p.load(u.Key)
	if err != nil {
		return err
	}
	t, n := &p.touched[i], u.Number
	if t.exists {
		if len(t.row.Value) != numberBytes {
			p.refuse(Result{NotNumber: true})
			return nil
		}
		old := int64(binary.BigEndian.Uint64(t.row.Value))
		if u.Op == Max {
			n = max(n, old)
		} else if n += old; (n > old) != (u.Number > 0) && u.Number != 0 {
			p.refuse(Result{NotNumber: true})
			return nil
		}
		if n == old {
			p.res.Numbers = append(p.res.Numbers, n)
			return nil
		}
	}
	p.res.Numbers = append(p.res.Numbers, n)
	return p.put(u.Key, binary.BigEndian.AppendUint64(nil, uint64(n)), t.row.Lease)
}

func (p *plan) revoke(slot []byte, lease uint64) error {
	if lease == 0 {
		return nil
	}
	prefix := appendLeasePrefix(nil, slot, lease)
	var attached [][]byte
	err := p.r.Scan(prefix, PrefixEnd(prefix), func(k, _ []byte) bool {
		attached = append(attached, append(bytes.Clone(slot), k[len(prefix):]...))
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
		if t := &p.touched[i]; t.row.Lease == lease && bytes.HasPrefix(t.row.Key, slot) {
			p.remove(i)
		}
	}
	return nil
}

// stepwise is how many keys in a row an append finds taken before it skips
// ever more numbers at once, so that one command looks at few.
const stepwise = 1024

// free gives the next number of an append to prefix whose key is not there. One
// can be: a put may have made it before its turn came.
func (p *plan) free(prefix []byte) (uint64, []byte, error) {
	skip := uint64(0)
	for taken := 0; ; taken++ {
		n, err := p.count(prefix)
		if err != nil {
			return 0, nil, err
		}
		if skip > 0 {
			i, _ := p.counted.find(prefix)
			p.counts[i] += skip
			n += skip
		}
		key := SequenceKey(prefix, n)
		i, err := p.load(key)
		if err != nil || !p.touched[i].exists {
			return n, key, err
		}
		if taken >= stepwise {
			skip = 2*skip + 1
		}
	}
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
	first := len(p.trims) == 0
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
