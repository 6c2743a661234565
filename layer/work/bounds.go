package work

import (
	"bytes"

	"banyan"
)

// bounds are the row keys of a shard, as it holds them itself; an empty one is
// the end. The map that the node follows may be behind a split, or ahead of it:
// which jobs a controller has is decided by the bounds of the rows it has read.
type bounds struct{ lo, hi []byte }

// all says that there are no bounds, as in a cluster of which nothing was split
// off and which has one shard: the map says it.
func (b *bounds) all() bool { return len(b.lo)+len(b.hi) == 0 }

// has says whether the shard holds the rows of a partition.
func (b *bounds) has(partition []byte) bool {
	row := banyan.SlotKey(banyan.SlotOf(partition))
	return bytes.Compare(b.lo, row) <= 0 && (len(b.hi) == 0 || bytes.Compare(row, b.hi) < 0)
}

func (b *bounds) overlaps(o *bounds) bool {
	return (len(b.hi) == 0 || bytes.Compare(o.lo, b.hi) < 0) && (len(o.hi) == 0 || bytes.Compare(b.lo, o.hi) < 0)
}

// slots gives the slots of the bounds: from the first up to the one behind the last.
func (b *bounds) slots() (from, until uint32) {
	slot := func(key []byte, otherwise uint32) uint32 {
		if len(key) < 2 {
			return otherwise
		}
		return min(uint32(key[0])<<8|uint32(key[1]), banyan.Slots)
	}
	return slot(b.lo, 0), slot(b.hi, banyan.Slots)
}

// give makes the rows of these bounds the controller's. What another controller
// here still has of them it had before its shard was split: until word of the split
// has it read its rows anew, as it will (replica announces it like a new term), it
// has none. Else the jobs of the child would have two controllers at once. The
// lock is held.
func (s *Service) give(l *lead, in *bounds) {
	for _, other := range s.leads {
		if other != l && other.bounds != nil && !other.bounds.all() && other.bounds.overlaps(in) {
			other.bounds = nil
			s.lose(other.Shard)
		}
	}
	s.lose(l.Shard)
	l.bounds = in
}

// shardOf gives the shard of a job: by the bounds of those led here, else by the
// map. A shard that is led here and does not hold the job is not it, whatever the
// map says. The lock is held.
func (s *Service) shardOf(partition []byte) banyan.ShardID {
	for _, l := range s.leads {
		if l.bounds != nil && !l.bounds.all() && l.bounds.has(partition) {
			return l.Shard
		}
	}
	shard := s.cfg.ShardOf(partition)
	if l := s.leads[shard]; l != nil && l.bounds != nil && !l.bounds.all() {
		return banyan.RootShard // which holds no jobs
	}
	return shard
}
