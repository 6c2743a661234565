package mvcc

import (
	"bytes"
	"encoding/binary"

	"banyan"
)

// The rows of a shard, by the first byte of their key:
//
//	c key                      the current version of a key
//	u key                      an unversioned key
//	h escaped(key) end         a version that held until revision end
//	q prefix                   how many appends there were to the prefix
//	a slot lease rest          the key (slot and rest) is attached to the lease
//	r revision                 the change record of a revision
//	r revision n               the n-th note behind it: a request that changed nothing
//	m                          the meta row
//	m slot space               how many rows there are: see counts
//
// The first five are rows of a key (OfKey): behind their class each class has
// the rows of a slot in one run. Every key begins with its slot, 2 bytes.
//
// Numbers in keys are 8 bytes, big-endian. A version is filed under the
// revision that ended it, so a delete needs no tombstone: the version of a key
// at revision R is the first one with end > R, or the current one, if it
// existed at R (Mod ≤ R); else there was none.
const (
	currentPrefix     = 'c'
	unversionedPrefix = 'u'
	historyPrefix     = 'h'
	recordPrefix      = 'r'
	leasePrefix       = 'a'
	counterPrefix     = 'q'
	metaKey           = "m"

	classes = "achqu" // of the rows of a key
)

// sequenceBytes is the length of the number behind an appended key.
const sequenceBytes = 16

// SequenceKey is the key that the n-th append to prefix makes: n as 16
// lower-case hexadecimal digits behind the prefix, so that keys sort by n.
func SequenceKey(prefix []byte, n uint64) []byte {
	key := make([]byte, len(prefix), len(prefix)+sequenceBytes)
	copy(key, prefix)
	for shift := 60; shift >= 0; shift -= 4 {
		key = append(key, "0123456789abcdef"[n>>shift&15])
	}
	return key
}

// PrefixEnd is the first key behind all keys that start with prefix, nil (the
// end of all) if there is none: [prefix, PrefixEnd(prefix)) are those keys.
func PrefixEnd(prefix []byte) []byte {
	for i := len(prefix) - 1; i >= 0; i-- {
		if prefix[i] < 0xff {
			end := bytes.Clone(prefix[:i+1])
			end[i]++
			return end
		}
	}
	return nil
}

// appendCurrentKey writes the key of the row that a key has now.
func appendCurrentKey(dst, key []byte) []byte {
	class := byte(currentPrefix)
	if Unversioned(key) {
		class = unversionedPrefix
	}
	return append(append(dst, class), key...)
}

// appendHistoryPrefix writes the part of a history key that is the same for
// all versions of a key. The key is escaped so that no key's versions lie
// among another's, and keys keep their order: 00 becomes 00 FF, and 00 01,
// which sorts before any escaped byte that could follow, ends it.
func appendHistoryPrefix(dst, key []byte) []byte {
	dst = append(dst, historyPrefix)
	for {
		i := bytes.IndexByte(key, 0)
		if i < 0 {
			break
		}
		dst = append(append(dst, key[:i]...), 0, 0xff)
		key = key[i+1:]
	}
	return append(append(dst, key...), 0, 1)
}

func appendHistoryKey(dst, key []byte, end banyan.Revision) []byte {
	return binary.BigEndian.AppendUint64(appendHistoryPrefix(dst, key), uint64(end))
}

// parseHistoryKey takes a history row's key apart. The key it gives is a copy.
func parseHistoryKey(k []byte) (key []byte, end banyan.Revision, err error) {
	bad := func() ([]byte, banyan.Revision, error) {
		return nil, 0, banyan.Errorf(banyan.Corrupt, "mvcc: history row %.64q… cannot be read", k)
	}
	if len(k) < 11 || k[0] != historyPrefix {
		return bad()
	}
	body, rev := k[1:len(k)-8], k[len(k)-8:]
	key = make([]byte, 0, len(body))
	for {
		i := bytes.IndexByte(body, 0)
		if i < 0 || i+1 == len(body) {
			return bad()
		}
		key = append(key, body[:i]...)
		mark := body[i+1]
		body = body[i+2:]
		switch {
		case mark == 0xff:
			key = append(key, 0)
		case mark == 1 && len(body) == 0:
			return key, banyan.Revision(binary.BigEndian.Uint64(rev)), nil
		default:
			return bad()
		}
	}
}

// appendLeasePrefix writes what the keys of a slot that are attached to a lease
// have in common.
func appendLeasePrefix(dst, slot []byte, lease uint64) []byte {
	return binary.BigEndian.AppendUint64(append(append(dst, leasePrefix), slot...), lease)
}

func appendLeaseKey(dst, key []byte, lease uint64) []byte {
	slot := min(len(key), slotBytes)
	return append(appendLeasePrefix(dst, key[:slot], lease), key[slot:]...)
}

func appendCounterKey(dst, prefix []byte) []byte {
	return append(append(dst, counterPrefix), prefix...)
}

// appendVersion writes the value of a current or history row.
func appendVersion(dst []byte, r *Row) []byte {
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(r.Create))
	dst = binary.AppendUvarint(dst, uint64(r.Mod))
	dst = binary.AppendUvarint(dst, r.Version)
	dst = binary.AppendUvarint(dst, r.Lease)
	return append(dst, r.Value...)
}

// decodeVersion reads what appendVersion wrote; the row's slices are key and
// a part of b.
func decodeVersion(key, b []byte) (Row, error) {
	d := decoder{b: b, what: "version of a key"}
	d.version(codecVersion)
	r := Row{
		Key:     key,
		Create:  banyan.Revision(d.uvarint()),
		Mod:     banyan.Revision(d.uvarint()),
		Version: d.uvarint(),
		Lease:   d.uvarint(),
		Value:   d.rest(),
	}
	if d.err == nil && (r.Create == 0 || r.Create > r.Mod || r.Version == 0) {
		d.fail("created at %d, changed at %d, version %d", r.Create, r.Mod, r.Version)
	}
	return r, d.end()
}

// place is where a record or note lies among the rows of recordPrefix: notes
// (n ≥ 1) follow the record of their revision (n = 0).
type place struct {
	rev banyan.Revision
	n   uint64
}

func (p place) before(q place) bool { return p.rev < q.rev || p.rev == q.rev && p.n < q.n }

func appendPlaceKey(dst []byte, p place) []byte {
	dst = binary.BigEndian.AppendUint64(append(dst, recordPrefix), uint64(p.rev))
	if p.n > 0 {
		dst = binary.BigEndian.AppendUint64(dst, p.n)
	}
	return dst
}

func parsePlaceKey(k []byte) (place, error) {
	d := decoder{b: k, what: "key of a change record"}
	if d.byte() != recordPrefix {
		d.fail("it has another prefix")
	}
	p := place{rev: banyan.Revision(d.uint64())}
	if len(d.b) > 0 {
		p.n = d.uint64()
		if p.n == 0 {
			d.fail("note 0")
		}
	}
	return p, d.end()
}

// change is one key of a change record.
type change struct {
	key       []byte
	deleted   bool
	displaced bool  // a history row ends at the record's revision
	fresh     bool  // there was no row before
	bytes     int64 // by how much the row's key and value grew
}

// rows is by how much the number of rows grew.
func (c *change) rows() int64 {
	switch {
	case c.deleted:
		return -1
	case c.fresh:
		return 1
	}
	return 0
}

// trim is a range of unversioned rows that were removed together.
type trim struct {
	lo, hi []byte
	spaces []trimmed // by space, in the order in which they were met
}

// trimmed is how much was removed of a space.
type trimmed struct {
	space       uint64
	rows, bytes int64
}

// record is what one command left behind. Notes have no changes.
type record struct {
	request    banyan.RequestID
	who, trace []byte
	result     Result
	displaced  uint64 // bytes of the history rows that end here
	changes    []change
	trims      []trim
}

// changeBytesMin is the least a change takes in a record.
const (
	changeBytesMin = 3
	trimBytesMin   = 3
)

// appendRecord begins a record; as many trims and changes follow as it has.
func appendRecord(dst []byte, cmd *Command, r *Result, displaced uint64) []byte {
	named := cmd.Request != (banyan.RequestID{})
	dst = append(dst, codecVersion, flags(named, len(cmd.Who) > 0, len(cmd.Trace) > 0))
	if named {
		dst = append(dst, cmd.Request[:]...)
	}
	dst = appendOptional(appendOptional(dst, cmd.Who), cmd.Trace)
	return binary.AppendUvarint(r.Encode(dst), displaced)
}

func appendTrims(dst []byte, trims []trim) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(trims)))
	for i := range trims {
		t := &trims[i]
		dst = binary.AppendUvarint(appendBytes(appendBytes(dst, t.lo), t.hi), uint64(len(t.spaces)))
		for _, n := range t.spaces {
			dst = binary.AppendUvarint(dst, n.space)
			dst = binary.AppendUvarint(binary.AppendUvarint(dst, uint64(n.rows)), uint64(n.bytes))
		}
	}
	return dst
}

func appendChange(dst []byte, c change) []byte {
	dst = appendBytes(append(dst, flags(c.deleted, c.displaced, c.fresh)), c.key)
	return binary.AppendVarint(dst, c.bytes)
}

// recordChangesMax is more than one command can touch.
const recordChangesMax = banyan.CommandMutationsMax + banyan.DeleteRowsMax

// decodeRecord reads a whole record; keys are slices of b.
func decodeRecord(b []byte) (record, error) {
	d := decoder{b: b, what: "change record"}
	rec := record{}
	d.recordHead(&rec)
	rec.result, rec.displaced = d.result(), d.uvarint()
	if n := d.count(banyan.CommandMutationsMax, trimBytesMin); n > 0 {
		rec.trims = make([]trim, n)
	}
	for i := range rec.trims {
		d.trim(&rec.trims[i])
	}
	if n := d.count(recordChangesMax, changeBytesMin); n > 0 {
		rec.changes = make([]change, n)
	}
	for i := range rec.changes {
		c := &rec.changes[i]
		d.flags(&c.deleted, &c.displaced, &c.fresh)
		c.key, c.bytes = d.bytes(banyan.RowKeyBytesMax+sequenceBytes), d.varint()
	}
	return rec, d.end()
}

// recordHead reads what a record says of the one who asked.
func (d *decoder) recordHead(rec *record) {
	d.version(codecVersion)
	var named, who, trace bool
	d.flags(&named, &who, &trace)
	if named {
		rec.request = d.request()
	}
	rec.who, rec.trace = d.optional(who, banyan.PrincipalBytesMax), d.optional(trace, banyan.TraceBytesMax)
}

func (d *decoder) trim(t *trim) {
	t.lo, t.hi = d.bytes(banyan.RowKeyBytesMax), d.bytes(banyan.RowKeyBytesMax)
	if n := d.count(banyan.DeleteRowsMax, 3); n > 0 {
		t.spaces = make([]trimmed, n)
	}
	for i := range t.spaces {
		t.spaces[i] = trimmed{d.uvarint(), int64(d.uvarint()), int64(d.uvarint())}
	}
}

// decodeRequest reads only the request id of a record.
func decodeRequest(b []byte) (banyan.RequestID, error) {
	d := decoder{b: b, what: "change record"}
	rec := record{}
	d.recordHead(&rec)
	return rec.request, d.err
}

// meta is the machine's own row.
type meta struct {
	revision banyan.Revision
	horizon  banyan.Revision
	front    place // of the oldest request remembered; zero: none
	time     banyan.Timestamp
	history  uint64          // bytes of history rows and of the records above the horizon
	counted  banyan.Revision // when the counts were written
	forked   banyan.Revision // up to here the records are copies of the parent's
	bounds   span
}

func (m meta) encode(dst []byte) []byte {
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(m.revision))
	dst = binary.AppendUvarint(dst, uint64(m.horizon))
	dst = binary.AppendUvarint(dst, uint64(m.front.rev))
	dst = binary.AppendUvarint(dst, m.front.n)
	dst = binary.BigEndian.AppendUint64(dst, uint64(m.time))
	dst = binary.AppendUvarint(dst, m.history)
	dst = binary.AppendUvarint(dst, uint64(m.counted))
	dst = binary.AppendUvarint(dst, uint64(m.forked))
	return appendBytes(appendBytes(dst, m.bounds.lo), m.bounds.hi)
}

func decodeMeta(b []byte) (meta, error) {
	if b == nil {
		return meta{}, nil
	}
	d := decoder{b: b, what: "meta row"}
	d.version(codecVersion)
	m := meta{revision: banyan.Revision(d.uvarint()), horizon: banyan.Revision(d.uvarint())}
	m.front = place{rev: banyan.Revision(d.uvarint()), n: d.uvarint()}
	m.time, m.history, m.counted = banyan.Timestamp(d.uint64()), d.uvarint(), banyan.Revision(d.uvarint())
	m.forked = banyan.Revision(d.uvarint())
	m.bounds = span{bytes.Clone(d.bytes(slotBytes)), bytes.Clone(d.bytes(slotBytes))}
	if d.err == nil && (m.horizon > m.revision || m.front.rev > m.revision || m.counted > m.revision) {
		d.fail("revision %d, horizon %d, oldest request at %d", m.revision, m.horizon, m.front.rev)
	}
	return m, d.end()
}

// tells says whether a change that a record tells of, at rev, was one of a row
// that this shard holds: records that it has from its parent, or of the time
// before it was cut, tell of others too.
func (m *meta) tells(key []byte, rev banyan.Revision) bool {
	return m.bounds.has(key) && (rev > m.forked || !own(key))
}

func readMeta(r Reader) (meta, error) {
	b, err := r.Get([]byte(metaKey))
	if err != nil {
		return meta{}, err
	}
	return decodeMeta(b)
}
