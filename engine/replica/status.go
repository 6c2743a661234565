package replica

import (
	"context"
	"slices"

	"go.etcd.io/raft/v3"

	"banyan"
)

// Status is how one replica is.
type Status struct {
	Shard    banyan.ShardID
	Leader   banyan.NodeID // 0: not known
	Term     uint64
	Leading  bool // this node leads, and has announced so
	Voters   []banyan.NodeID
	Learners []banyan.NodeID
	Joint    bool // a change of voters is under way
	Settled  bool // leader only: a majority has the configuration on its disks, so that replicas which it lacks are needed no more

	Revision banyan.Revision // of applied state
	Applied  uint64          // log indexes
	Commit   uint64
	Last     uint64
	First    uint64 // of the entries still in the log

	// DiffersFrom is the leader, or for the leader a replica, with which this one
	// does not agree on what is committed; 0: none. One of the two nodes has lost
	// acknowledged writes.
	DiffersFrom banyan.NodeID

	Stalled bool                     // its disk has finished nothing of it for an election time-out
	Match   map[banyan.NodeID]uint64 // leader only: up to where each replica has the log
	Pending int                      // proposals waiting here
	Proving int                      // reads that wait for the proof under way
	Tenure  Tenure                   // for Remove
}

// Statuses tells of every replica here, by shard.
func (c *Core) Statuses() ([]Status, error) {
	out := make([]Status, 0, len(c.order))
	for _, g := range c.order {
		s, err := g.status()
		if err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

func (g *group) pending() int {
	n := len(g.queue)
	for _, p := range g.flight {
		n += len(p)
	}
	return n
}

func (g *group) status() (Status, error) {
	st := g.core.cfg.Store.Shard(g.shard)
	last, err := st.LastIndex()
	if err != nil {
		return Status{}, err
	}
	s := Status{
		Shard: g.shard, Leader: banyan.NodeID(g.lead), Term: g.term, Leading: g.announced,
		Voters: nodeIDs(g.conf.GetVoters()), Learners: nodeIDs(slices.Concat(g.conf.GetLearners(), g.conf.GetLearnersNext())), Joint: joint(g.conf),
		Applied: g.applied, Commit: g.commit, Last: last, First: g.truncated + 1,
		Pending: g.pending(), Proving: len(g.proving), Tenure: g.heardLast(),
		Settled: g.settled(), DiffersFrom: banyan.NodeID(g.differsFrom),
		Stalled: g.stalled >= g.core.cfg.ElectionTicks,
	}
	if g.leader {
		s.Match = map[banyan.NodeID]uint64{}
		g.rn.WithProgress(func(id uint64, _ raft.ProgressType, pr progress) { s.Match[banyan.NodeID(id)] = pr.Match })
	}
	return s, nil
}

// Statuses tells of every replica here, by shard; of none if the host is not
// running.
func (h *Host) Statuses(ctx context.Context) ([]Status, error) {
	var out []Status
	err := h.call(ctx, "asking the replicas how they are", func(c *Core, done func(error)) {
		var err error
		out, err = c.Statuses()
		done(err)
	})
	if err != nil {
		return nil, err
	}
	for i := range out {
		out[i].Revision = h.hub.Revision(out[i].Shard)
	}
	return out, nil
}

// Status tells of one replica here.
func (h *Host) Status(ctx context.Context, shard banyan.ShardID) (Status, error) {
	all, err := h.Statuses(ctx)
	if err != nil {
		return Status{}, err
	}
	i := slices.IndexFunc(all, func(s Status) bool { return s.Shard == shard })
	if i < 0 {
		return Status{}, errNoReplica(shard)
	}
	return all[i], nil
}
