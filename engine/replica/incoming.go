package replica

import (
	"errors"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
)

// ErrNotTaken is the answer to a snapshot that raft did not want: the replica
// has more already, or another leader.
var ErrNotTaken = errors.New("the snapshot was not needed")

// incoming is a snapshot whose rows are staged.
type incoming struct {
	message    *raftpb.Message
	stage      *store.Stage
	done       func(error)
	stepped    bool
	installing bool
}

// StepSnapshot takes a MsgSnap whose rows are all in stage. done(nil) is called
// when they have become the shard's state; with any other answer the stage is
// still the caller's, to abort.
func (c *Core) StepSnapshot(shard banyan.ShardID, m *raftpb.Message, stage *store.Stage, done func(error)) {
	if m.GetType() != raftpb.MsgSnap || m.GetTerm() < m.GetSnapshot().GetMetadata().GetTerm() || m.GetTo() != uint64(c.cfg.Node) || raft.IsEmptySnap(m.GetSnapshot()) {
		done(banyan.Errorf(banyan.Invalid, "shard %d: not a snapshot for this node", shard))
		return
	}
	g := c.groups[shard]
	if g == nil {
		g = c.create(shard, m.GetType())
	}
	switch {
	case g == nil || g.removal != nil:
		done(errNoReplica(shard))
	case !stage.Current(): // the replica it was meant for was removed meanwhile
		done(banyan.Errorf(banyan.Unavailable, "shard %d was replaced while its snapshot came in: send a new one", shard))
	case g.incoming != nil:
		done(banyan.Errorf(banyan.Unavailable, "shard %d is taking in another snapshot", shard))
	default:
		g.incoming = &incoming{message: m, stage: stage, done: done}
		g.touch()
	}
}

// stepIncoming lets raft see the snapshot when nothing is being applied: the
// rows that an apply writes must not be those that the snapshot replaces. Once
// raft has taken it, it hands out nothing to apply until it is installed.
func (g *group) stepIncoming() {
	if in := g.incoming; in != nil && !in.stepped && g.applies == 0 {
		in.stepped = true
		_ = g.rn.Step(g.admit(in.message))
	}
}

// rejectIncoming notices that raft has not taken the snapshot.
func (g *group) rejectIncoming() {
	if in := g.incoming; in != nil && in.stepped && !in.installing {
		g.incoming = nil
		in.done(ErrNotTaken)
	}
}

// installed takes over what the snapshot says; the applier hears of it before
// it gets entries again.
func (g *group) installed(m *raftpb.SnapshotMetadata) {
	in := g.incoming
	g.incoming = nil
	g.applied, g.appliedTerm = m.GetIndex(), m.GetTerm()
	g.handed, g.truncated, g.logBytes = m.GetIndex(), m.GetIndex(), 0
	g.logged = max(g.logged, m.GetIndex())
	g.conf = m.GetConfState()
	g.reload, g.differsFrom = true, 0
	in.done(nil)
}
