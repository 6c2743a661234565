// Package shardmap says which shard holds which rows. A shard is a range of row
// keys; the ranges of all shards lie side by side and leave no gap.
//
// The map is one row of the root shard. Every node follows it, clients learn it,
// and its epoch says which of two is newer. It is a hint: what decides is the
// bounds that a shard keeps itself (mvcc), and a request that comes to the wrong
// shard is answered with Moved. A Map is not changed once made.
package shardmap

import (
	"bytes"
	"encoding/binary"
	"slices"
	"sort"

	"banyan"
)

// Range is one shard's row keys: from Lo up to the next Range's.
type Range struct {
	Lo     []byte // empty: the first of all
	Shard  banyan.ShardID
	Voters int      // wanted; 0: as many as the cluster's replication says
	Zones  []string // where they should be; none: anywhere

	// The shard that it was split off, and that shard's revision then: up to there
	// both have one history. A shard that was made with the cluster has neither.
	Parent banyan.ShardID
	Forked banyan.Revision
}

// Split is a split that was decided and may not have happened yet.
type Split struct {
	Parent banyan.ShardID
	At     []byte // the first row key of the child
	Child  banyan.ShardID
}

// Map is the map of one epoch.
type Map struct {
	Epoch   uint64 // of each change the next, from 1
	Ranges  []Range
	Pending *Split         // nil: none is under way
	Next    banyan.ShardID // the lowest number that no shard has had
}

// New deals the slots to shards 1 to n in runs of about the same length, and the
// root shard's slot to the root shard. n is 1 to banyan.ShardsMax.
func New(n int) *Map {
	m := &Map{Epoch: 1, Next: banyan.ShardID(n + 1)}
	for i := range n {
		r := Range{Shard: banyan.ShardID(i + 1)}
		if i > 0 {
			r.Lo = banyan.SlotKey(i * banyan.Slots / n)
		}
		m.Ranges = append(m.Ranges, r)
	}
	m.Ranges = append(m.Ranges, Range{Lo: banyan.SlotKey(banyan.SlotRoot), Shard: banyan.RootShard})
	return m
}

// Of gives the shard that holds a row.
func (m *Map) Of(row []byte) banyan.ShardID { return m.Ranges[m.at(row)].Shard }

func (m *Map) at(row []byte) int {
	return sort.Search(len(m.Ranges), func(i int) bool { return bytes.Compare(m.Ranges[i].Lo, row) > 0 }) - 1
}

// OfSlot gives the shard that holds the first row of a slot.
func (m *Map) OfSlot(slot int) banyan.ShardID { return m.Of(banyan.SlotKey(slot)) }

// Bounds gives a shard's range of row keys; an empty hi is the end. ok is false
// if there is no such shard.
func (m *Map) Bounds(shard banyan.ShardID) (lo, hi []byte, ok bool) {
	for i := range m.Ranges {
		if m.Ranges[i].Shard != shard {
			continue
		}
		if i+1 < len(m.Ranges) {
			hi = m.Ranges[i+1].Lo
		}
		return m.Ranges[i].Lo, hi, true
	}
	return nil, nil, false
}

// SlotsOf gives the slots of partitions that a shard holds a part of: from the
// first up to the one behind the last. The root shard has none.
func (m *Map) SlotsOf(shard banyan.ShardID) (from, until int) {
	lo, hi, ok := m.Bounds(shard)
	if !ok {
		return 0, 0
	}
	return slots(lo, hi)
}

func slots(lo, hi []byte) (from, until int) {
	until = banyan.Slots
	if len(lo) > 0 {
		from = min(int(binary.BigEndian.Uint16(lo)), banyan.Slots)
	}
	if len(hi) > 0 {
		until = min(until, int(binary.BigEndian.Uint16(hi)))
	}
	return from, until
}

// Has says whether there is such a shard, the root shard included.
func (m *Map) Has(shard banyan.ShardID) bool {
	_, _, ok := m.Bounds(shard)
	return ok
}

// Shares says whether a revision of one shard is one of another's history too:
// the two are one, or the other was split off it, by way of others perhaps, and
// not before that revision.
//
// A request that says that its sender knew this revision of this shard before it
// was first sent may so be judged by the other shard. Where Shares says no, and
// the other shard holds the rows now, the shard had given them up when the
// sender learned the revision: so nobody has carried the request out, or will.
func (m *Map) Shares(of banyan.ShardID, known banyan.Revision, with banyan.ShardID) bool {
	for range m.Ranges {
		if of == with {
			return true
		}
		i := slices.IndexFunc(m.Ranges, func(r Range) bool { return r.Shard == with })
		if i < 0 || m.Ranges[i].Forked < known {
			return false
		}
		with = m.Ranges[i].Parent
	}
	return false
}

// Data lists the shards but the root shard, in the order of their ranges.
func (m *Map) Data() []banyan.ShardID {
	out := make([]banyan.ShardID, 0, len(m.Ranges))
	for i := range m.Ranges {
		if s := m.Ranges[i].Shard; s != banyan.RootShard {
			out = append(out, s)
		}
	}
	return out
}

// Made gives how many data shards the cluster was made with: those that were not
// split off another.
func (m *Map) Made() int {
	n := 0
	for i := range m.Ranges {
		if r := &m.Ranges[i]; r.Shard != banyan.RootShard && r.Parent == banyan.RootShard { // which has no children
			n++
		}
	}
	return n
}

// All lists all shards by number, the root shard first.
func (m *Map) All() []banyan.ShardID {
	out := append(m.Data(), banyan.RootShard)
	slices.Sort(out)
	return out
}

// Decide notes that a shard will be split at a row key, and gives the child its
// number. One split is under way at a time.
func (m *Map) Decide(parent banyan.ShardID, at []byte) (*Map, error) {
	lo, hi, ok := m.Bounds(parent)
	switch {
	case parent == banyan.RootShard:
		return nil, banyan.Errorf(banyan.Invalid, "the root shard cannot be split")
	case !ok:
		return nil, banyan.Errorf(banyan.NotFound, "there is no shard %d: 'banyan debug shards' lists those there are", parent)
	case m.Pending != nil:
		return nil, banyan.Errorf(banyan.Unavailable, "shard %d is being split: try again when that is done", m.Pending.Parent)
	case len(m.Ranges) > banyan.ShardsMax:
		return nil, banyan.Errorf(banyan.Exhausted, "the cluster has %d shards and takes no more (docs/limits.md: ShardsMax)", len(m.Ranges)-1)
	case bytes.Compare(at, lo) <= 0 || len(hi) > 0 && bytes.Compare(at, hi) >= 0:
		return nil, banyan.Errorf(banyan.Invalid, "shard %d holds the rows from %x to %x: %x does not lie between", parent, lo, hi, at)
	}
	out := m.next()
	out.Pending = &Split{Parent: parent, At: bytes.Clone(at), Child: m.Next}
	out.Next++
	return out, nil
}

// Finish makes the pending split's child a shard of the map, which was split off
// at a revision of its parent; without one it gives the same map.
func (m *Map) Finish(forked banyan.Revision) *Map {
	p := m.Pending
	if p == nil {
		return m
	}
	out := m.next()
	i := m.at(p.At)
	child := m.Ranges[i]
	child.Lo, child.Shard, child.Parent, child.Forked = p.At, p.Child, p.Parent, forked
	out.Ranges = slices.Insert(out.Ranges, i+1, child)
	out.Pending = nil
	return out
}

// GiveUp drops the pending split: its parent's leader has refused it.
func (m *Map) GiveUp() *Map {
	out := m.next()
	out.Pending = nil
	return out
}

func (m *Map) next() *Map {
	out := *m
	out.Epoch++
	out.Ranges = slices.Clone(m.Ranges)
	return &out
}

// Middle gives the bound between slots that lies in the middle of a shard's
// range by weight of its slots; ok is false where the shard has one slot.
func (m *Map) Middle(shard banyan.ShardID, weight func(slot int) int64) (at []byte, ok bool) {
	lo, hi, found := m.Bounds(shard)
	if !found || shard == banyan.RootShard {
		return nil, false
	}
	from, to := slots(lo, hi)
	if to-from < 2 {
		return nil, false
	}
	var all int64
	for s := from; s < to; s++ {
		all += weight(s) + 1
	}
	best, left := from+1, int64(0)
	for s := from; s < to-1; s++ {
		left += weight(s) + 1
		best = s + 1
		if 2*left >= all {
			break
		}
	}
	return banyan.SlotKey(best), true
}
