package replica

import (
	"go.etcd.io/raft/v3"

	"banyan"
)

// The log that a replica needs after a snapshot is kept while that is on its way
// and until the replica has caught up: as much of it as the snapshot has
// brought so far. To truncate it would mean to send all of the shard again, which
// is more, and a large shard under writes would never arrive. Writes that fill
// the log faster than the snapshot is sent do not let it arrive anyway.

// sending is a snapshot on its way, and the log after it.
type sending struct {
	bytes  uint64 // of rows, sent so far
	silent int    // ticks since the replica was last active
}

// sendingSilentTicks is for how long the log is kept for a replica that is silent.
const sendingSilentTicks = 100

// SnapshotSent says how many bytes of a snapshot's rows have been sent so far.
func (c *Core) SnapshotSent(shard banyan.ShardID, to banyan.NodeID, bytes uint64) {
	g := c.groups[shard]
	if g == nil || g.removal != nil || !g.leader {
		return
	}
	if g.sendings == nil {
		g.sendings = map[uint64]*sending{}
	}
	s := g.sendings[uint64(to)]
	if s == nil {
		s = &sending{}
		g.sendings[uint64(to)] = s
	}
	s.bytes = bytes
}

// SnapshotSent is Core's.
func (h *Host) SnapshotSent(shard banyan.ShardID, to banyan.NodeID, bytes uint64) {
	h.post(func(c *Core) { c.SnapshotSent(shard, to, bytes) })
}

// followSendings forgets snapshots whose replicas have caught up, are silent
// for long, or are replicas no more.
func (g *group) followSendings(ticks int) {
	if len(g.sendings) == 0 {
		return
	}
	known := map[uint64]bool{}
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) {
		s := g.sendings[id]
		if s == nil {
			return
		}
		if s.silent += ticks; pr.RecentActive {
			s.silent = 0
		}
		known[id] = s.silent <= sendingSilentTicks
	})
	for id := range g.sendings {
		if !known[id] || g.follows(id) {
			delete(g.sendings, id)
		}
	}
}

// tailBytes is how much of the log may be kept for a replica in need.
func (g *group) tailBytes() uint64 {
	most := uint64(LogTailBytesMax)
	for _, s := range g.sendings {
		most = max(most, s.bytes)
	}
	return most
}
