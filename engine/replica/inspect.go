package replica

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.etcd.io/raft/v3"

	"banyan"
)

// Inspection is a replica in more detail than its Status, for people.
type Inspection struct {
	Status
	Role     string // leader, follower, candidate, learner
	Vote     banyan.NodeID
	LogBytes uint64        // about
	Age      time.Duration // of applied state, at most; -1: not known
	Snapshot string        // receiving, installing, or empty
	Replicas []ReplicaProgress
}

// ReplicaProgress is what the leader knows of one replica.
type ReplicaProgress struct {
	Node        banyan.NodeID
	Learner     bool
	State       string // probe, replicate, snapshot
	Match, Next uint64
	InFlight    int
	Paused      bool
	Active      bool
	Snapshot    uint64 // index of the one on its way
}

// Inspect looks at one replica here.
func (h *Host) Inspect(ctx context.Context, shard banyan.ShardID) (Inspection, error) {
	var out Inspection
	err := h.call(ctx, "asking a replica how it is", func(c *Core, done func(error)) {
		g := c.groups[shard]
		if g == nil {
			done(errNoReplica(shard))
			return
		}
		var err error
		out, err = g.inspect()
		done(err)
	})
	if err != nil {
		return Inspection{}, err
	}
	out.Revision = h.hub.Revision(shard)
	if out.Age, err = h.Age(shard); err != nil {
		out.Age = -1 // it says so itself
	}
	if out.Snapshot == "" && h.isReceiving(shard) {
		out.Snapshot = "receiving"
	}
	return out, nil
}

func (h *Host) isReceiving(shard banyan.ShardID) bool {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.receiving[shard]
}

var roles = map[raft.StateType]string{
	raft.StateFollower: "follower", raft.StateCandidate: "candidate", raft.StatePreCandidate: "candidate", raft.StateLeader: "leader",
}

var progressStates = [...]string{"probe", "replicate", "snapshot"}

func (g *group) inspect() (Inspection, error) {
	st, err := g.status()
	if err != nil {
		return Inspection{}, err
	}
	rs := g.rn.Status()
	out := Inspection{Status: st, Role: roles[rs.RaftState], Vote: banyan.NodeID(rs.GetVote()), LogBytes: g.logBytes}
	if slices.Contains(st.Learners, g.core.cfg.Node) && out.Role == "follower" {
		out.Role = "learner"
	}
	if g.incoming != nil {
		out.Snapshot = "installing"
	}
	for id, pr := range rs.Progress {
		out.Replicas = append(out.Replicas, ReplicaProgress{
			Node: banyan.NodeID(id), Learner: pr.IsLearner, State: progressStates[pr.State],
			Match: pr.Match, Next: pr.Next, InFlight: pr.Inflights.Count(), Paused: pr.IsPaused(),
			Active: pr.RecentActive, Snapshot: pr.PendingSnapshot,
		})
	}
	slices.SortFunc(out.Replicas, func(a, b ReplicaProgress) int { return cmp.Compare(a.Node, b.Node) })
	return out, nil
}
