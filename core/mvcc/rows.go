package mvcc

import (
	"bytes"
	"encoding/binary"

	"banyan"
)

// The rows of a shard, by the first byte of their key:
//
//	c key                      the current version of a key
//	h escaped(key) end         a version that held until revision end
//	r revision                 the change record of a revision
//	r revision n               the n-th note behind it: a request that changed nothing
//	a lease key                the key is attached to the lease
//	q prefix                   how many appends there were to the prefix
//	m                          the meta row
//
// Numbers in keys are 8 bytes, big-endian. A version is filed under the
// revision that ended it, so a delete needs no tombstone: the version of a key
// at revision R is the first one with end > R, or the current one, if it
// existed at R (Mod ≤ R); else there was none.
const (
	currentPrefix = 'c'
	historyPrefix = 'h'
	recordPrefix  = 'r'
	leasePrefix   = 'a'
	counterPrefix = 'q'
	metaKey       = "m"
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

func appendCurrentKey(dst, key []byte) []byte {
	return append(append(dst, currentPrefix), key...)
}

// currentBounds gives the current rows of the keys [lo, hi); an empty hi is
// the end.
func currentBounds(lo, hi []byte) (from, to []byte) {
	from = appendCurrentKey(nil, lo)
	if len(hi) == 0 {
		return from, []byte{currentPrefix + 1}
	}
	return from, appendCurrentKey(nil, hi)
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

// historyBounds gives the history rows of the keys [lo, hi); an empty hi is
// the end. A prefix without its versions sorts before them.
func historyBounds(lo, hi []byte) (from, to []byte) {
	from = appendHistoryPrefix(nil, lo)
	if len(hi) == 0 {
		return from, []byte{historyPrefix + 1}
	}
	return from, appendHistoryPrefix(nil, hi)
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

func appendLeasePrefix(dst []byte, lease uint64) []byte {
	return binary.BigEndian.AppendUint64(append(dst, leasePrefix), lease)
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
	displaced bool // a history row ends at the record's revision
}

// record is what one command left behind. Notes have no changes.
type record struct {
	request banyan.RequestID
	timeMs  int64
	result  Result
	changes []change
}

// changeBytesMin is the least a change takes in a record.
const changeBytesMin = 2

// appendRecord begins a record of n changes; as many appendChange follow.
func appendRecord(dst []byte, id banyan.RequestID, timeMs int64, r *Result, n int) []byte {
	dst = append(dst, codecVersion)
	dst = appendRequest(dst, id)
	dst = binary.AppendVarint(dst, timeMs)
	dst = r.Encode(dst)
	return binary.AppendUvarint(dst, uint64(n))
}

func appendChange(dst []byte, c change) []byte {
	return appendBytes(append(dst, flags(c.deleted, c.displaced)), c.key)
}

// recordChangesMax is more than one command can touch.
const recordChangesMax = banyan.CommandMutationsMax + banyan.DeleteRowsMax

// decodeRecord reads a whole record; keys are slices of b.
func decodeRecord(b []byte) (record, error) {
	d := decoder{b: b, what: "change record"}
	d.version(codecVersion)
	rec := record{request: d.request(), timeMs: d.varint(), result: d.result()}
	if n := d.count(recordChangesMax, changeBytesMin); n > 0 {
		rec.changes = make([]change, n)
	}
	for i := range rec.changes {
		c := &rec.changes[i]
		d.flags(&c.deleted, &c.displaced)
		c.key = d.bytes(banyan.KeyBytesMax + sequenceBytes)
	}
	return rec, d.end()
}

// decodeRequest reads only the request id of a record.
func decodeRequest(b []byte) (banyan.RequestID, error) {
	d := decoder{b: b, what: "change record"}
	d.version(codecVersion)
	id := d.request()
	return id, d.err
}

// meta is the machine's own row.
type meta struct {
	revision banyan.Revision
	horizon  banyan.Revision
	front    place // of the oldest request remembered; zero: none
}

func (m meta) encode(dst []byte) []byte {
	dst = append(dst, codecVersion)
	dst = binary.AppendUvarint(dst, uint64(m.revision))
	dst = binary.AppendUvarint(dst, uint64(m.horizon))
	dst = binary.AppendUvarint(dst, uint64(m.front.rev))
	return binary.AppendUvarint(dst, m.front.n)
}

func decodeMeta(b []byte) (meta, error) {
	if b == nil {
		return meta{}, nil
	}
	d := decoder{b: b, what: "meta row"}
	d.version(codecVersion)
	m := meta{revision: banyan.Revision(d.uvarint()), horizon: banyan.Revision(d.uvarint())}
	m.front = place{rev: banyan.Revision(d.uvarint()), n: d.uvarint()}
	if d.err == nil && (m.horizon > m.revision || m.front.rev > m.revision) {
		d.fail("revision %d, horizon %d, oldest request at %d", m.revision, m.horizon, m.front.rev)
	}
	return m, d.end()
}

func readMeta(r Reader) (meta, error) {
	b, err := r.Get([]byte(metaKey))
	if err != nil {
		return meta{}, err
	}
	return decodeMeta(b)
}
