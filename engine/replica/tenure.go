package replica

import (
	"google.golang.org/protobuf/proto"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// A replica can be taken out of its shard, destroyed, and placed on the same
// node again, empty, while messages about the one before are still on their
// way. Raft knows a replica by its node alone: a late acknowledgement would
// make the leader count on a log that is gone, and promote an empty learner.
//
// So each membership has a number: the index of the change that began it, 0 if
// that was before the present leader's term. The leader puts it into what it
// sends, the replica into its acknowledgements, both in Vote, which these
// messages leave empty; an acknowledgement with another number is dropped.
// Messages of earlier terms raft drops itself.
//
// And an empty replica does not vote. One that was here before may have made
// up the majority for a configuration that a candidate has not heard of; the
// empty one would elect that candidate. No voter is ever empty: it was a learner
// that has caught up.

// Tenure is what a replica has last heard about its membership.
type Tenure struct {
	Term  uint64
	Since uint64
}

// tenure is kept by a group: as a leader of its replicas, else of itself.
type tenure struct {
	began map[uint64]uint64 // leader: by node, 0 if not there
	heard uint64            // from the leader
}

// changeConf takes a configuration change that was applied at index to raft.
func (g *group) changeConf(cc *raftpb.ConfChangeV2, index uint64) {
	before := map[uint64]bool{}
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, _ progress) { before[id] = true })
	g.rn.ApplyConfChange(cc)
	g.rn.WithProgress(func(id uint64, _ raft.ProgressType, _ progress) {
		if g.leader && !before[id] {
			g.tenure.began[id] = index
		}
	})
	g.proveAgain()
}

// put marks a message on its way out.
func (t *tenure) put(m *raftpb.Message) {
	var mark uint64
	switch m.GetType() {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		mark = t.began[m.GetTo()]
	case raftpb.MsgAppResp:
		mark = t.heard
	}
	if mark != 0 {
		m.Vote = &mark
	}
}

// admit takes the mark of a message that came in, and gives the message as
// raft may see it, nil if it must not.
func (g *group) admit(m *raftpb.Message) *raftpb.Message {
	switch m.GetType() {
	case raftpb.MsgAppResp:
		if g.leader && m.GetTerm() == g.term && m.GetVote() != g.tenure.began[m.GetFrom()] {
			return nil
		}
	case raftpb.MsgVote, raftpb.MsgPreVote:
		if g.applied == 0 {
			return nil
		}
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
		if m.GetTerm() >= g.term {
			g.tenure.heard = m.GetVote()
		}
	}
	if m.GetType() == raftpb.MsgHeartbeat && g.applied == 0 && m.GetCommit() > 0 {
		// It was meant for a replica that was here before: this one is empty,
		// and raft would take its missing log for a lost one.
		m = proto.CloneOf(m)
		m.Commit = nil
	}
	return m
}

// heardLast is the tenure as of now.
func (g *group) heardLast() Tenure {
	return Tenure{Term: g.rn.BasicStatus().GetTerm(), Since: g.tenure.heard}
}

// errHeardMore refuses to remove a replica that may be counted on again.
func errHeardMore(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.Unavailable, "the replica of shard %d has heard from its leader since: ask again whether it is still named", shard)
}
