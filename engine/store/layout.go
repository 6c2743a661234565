package store

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"banyan"
	"banyan/core/mvcc"
)

// Where a shard's rows lie.
//
// A replica's rows lie under a state id of this node. Two shards share one
// after a split: the child's rows of keys are those that the parent had, and
// nothing is rewritten. So a replica also knows its part of the state id: a
// range of row keys. The parts of all replicas of a state id are disjoint.
//
// What is not a row of a key would collide: the records of revisions, the
// machine's own row, and the rows of the slot that stays behind in a split.
// These keys carry the shard:
//
//	's' state class key                 a row of a key
//	's' state class FFFF shard key      a row of slot FFFF
//	's' state class shard rest          any other row
//
// The order of a shard's rows is that of their keys in mvcc.

// stateBytes is the length of a state id's prefix.
const stateBytes = 9

// layout maps the keys of one replica's rows to those of the KV. It is not
// changed once made.
type layout struct {
	state  uint64
	shard  banyan.ShardID
	lo, hi []byte // the replica's part of the state id; empty: all
	prefix [stateBytes]byte
	parts  []part // ascending, together all of the replica's rows
}

// part is a run of the replica's rows that is a run of the KV's rows.
type part struct {
	from, to []byte // keys of mvcc
	lo, hi   []byte // keys of the KV
	own      bool   // these carry the shard
}

// ownClasses are the classes of rows that are not rows of a key.
var ownClasses = []byte{'m', 'r'}

func newLayout(state uint64, shard banyan.ShardID, lo, hi []byte) *layout {
	l := &layout{state: state, shard: shard, lo: lo, hi: hi}
	copy(l.prefix[:], stateKey(state))
	classes := slices.Concat(mvcc.Classes(), ownClasses)
	slices.Sort(classes)
	for _, class := range classes {
		if !mvcc.OfKey([]byte{class}) {
			l.own([]byte{class}, class)
			continue
		}
		apart := []byte{class, 0xff, 0xff}
		from, to := mvcc.Bounds(class, lo, hi)
		if bytes.Compare(to, apart) > 0 {
			to = apart
		}
		if bytes.Compare(from, to) < 0 {
			l.parts = append(l.parts, part{from: from, to: to, lo: l.at(from), hi: l.at(to)})
		}
		l.own(apart, class)
	}
	return l
}

// own adds the part of a class in which each key carries the shard behind head.
func (l *layout) own(head []byte, class byte) {
	lo := binary.BigEndian.AppendUint32(l.at(head), uint32(l.shard))
	l.parts = append(l.parts, part{from: head, to: []byte{class + 1}, lo: lo, hi: prefixEnd(lo), own: true})
}

// at is k behind the prefix of the state id.
func (l *layout) at(k []byte) []byte {
	return append(l.prefix[:len(l.prefix):len(l.prefix)], k...)
}

// whole says whether no other replica shares the state id.
func (l *layout) whole() bool { return len(l.lo) == 0 && len(l.hi) == 0 }

// key maps a row's key.
func (l *layout) key(dst, k []byte) []byte {
	dst = append(dst, l.prefix[:]...)
	n := 1
	if mvcc.OfKey(k) {
		if len(k) < 3 || k[1] != 0xff || k[2] != 0xff {
			return append(dst, k...)
		}
		n = 3
	}
	n = min(n, len(k))
	dst = binary.BigEndian.AppendUint32(append(dst, k[:n]...), uint32(l.shard))
	return append(dst, k[n:]...)
}

// raw gives the key that was mapped to k, which lies in p. If the keys of p
// carry the shard, it is made in buf.
func (p *part) raw(buf *[]byte, k []byte) []byte {
	k = k[stateBytes:]
	if !p.own {
		return k
	}
	n := len(p.from)
	*buf = append(append((*buf)[:0], k[:n]...), k[n+4:]...)
	return *buf
}

// each calls fn with the runs of the KV that hold the rows [lo, hi), in their
// order, until it answers false. A nil hi is the end.
func (l *layout) each(lo, hi []byte, fn func(p *part, from, to []byte) bool) {
	i := sort.Search(len(l.parts), func(i int) bool {
		return bytes.Compare(l.parts[i].to, lo) > 0
	})
	for ; i < len(l.parts); i++ {
		p := &l.parts[i]
		if hi != nil && bytes.Compare(hi, p.from) <= 0 {
			return
		}
		from, to := p.lo, p.hi
		if bytes.Compare(lo, p.from) > 0 {
			from = l.key(nil, lo)
		}
		if hi != nil && bytes.Compare(hi, p.to) < 0 {
			to = l.key(nil, hi)
		}
		if bytes.Compare(from, to) < 0 && !fn(p, from, to) {
			return
		}
	}
}

// wipe removes all of the replica's rows.
func (l *layout) wipe(w mvcc.Writer) {
	if l.whole() {
		w.DeleteRange(l.prefix[:], prefixEnd(l.prefix[:]))
		return
	}
	l.each(nil, nil, func(_ *part, from, to []byte) bool {
		w.DeleteRange(from, to)
		return true
	})
}

// rows is one shard's part of a state of the KV.
type rows struct {
	r  mvcc.Reader
	at *layout
}

func (r rows) Get(key []byte) ([]byte, error) {
	return r.r.Get(r.at.key(make([]byte, 0, stateBytes+4+len(key)), key))
}

func (r rows) Scan(lo, hi []byte, fn func(k, v []byte) bool) (err error) {
	var buf []byte
	r.at.each(lo, hi, func(p *part, from, to []byte) bool {
		more := true
		err = r.r.Scan(from, to, func(k, v []byte) bool {
			more = fn(p.raw(&buf, k), v)
			return more
		})
		return err == nil && more
	})
	return err
}

type stateRows struct {
	rows
	w   mvcc.Writer
	buf []byte
}

// key is the row's key with a buffer that the next call reuses.
func (r *stateRows) key(k []byte) []byte {
	r.buf = r.at.key(r.buf[:0], k)
	return r.buf
}

func (r *stateRows) Get(k []byte) ([]byte, error) { return r.r.Get(r.key(k)) }
func (r *stateRows) Set(k, v []byte)              { r.w.Set(r.key(k), v) }
func (r *stateRows) Delete(k []byte)              { r.w.Delete(r.key(k)) }

func (r *stateRows) DeleteRange(lo, hi []byte) {
	r.at.each(lo, hi, func(_ *part, from, to []byte) bool {
		r.w.DeleteRange(from, to)
		return true
	})
}
