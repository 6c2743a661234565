package replica

import (
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"
)

// age knows since when a replica's applied state may be outdated.
//
// A leader's state is the newest as of the moment by which a quorum has last
// answered it. It tells its followers how long ago that was and what it has
// committed, in two fields that raft leaves empty: RejectHint of MsgApp and
// MsgHeartbeat is 1 + that age in milliseconds (0: nothing is known), and
// Index of MsgHeartbeat is the commit index, which raft itself lowers there to
// what the follower is known to have. A follower that has applied so much is
// as fresh as the leader was. Messages are taken to travel in no time.
type age struct {
	fresh time.Duration
	wait  mark // applied has not reached it
	next  mark // the newest one behind wait
	heard map[uint64]time.Duration
}

// mark says: who has applied commit is as fresh as at.
type mark struct {
	set    bool
	commit uint64
	at     time.Duration
}

// outdatedAfter is how old a replica may be that is asked without need.
const outdatedAfter = 3 * time.Second

// ageMaxMs bounds what a message may say.
const ageMaxMs = 1 << 40

// lead begins a term as leader.
func (a *age) lead(*group) { a.heard = map[uint64]time.Duration{} }

// heard notes a message that raft has stepped.
func (g *group) heard(m *raftpb.Message) {
	if m.GetTerm() < g.term {
		return
	}
	a := &g.age
	switch m.GetType() {
	case raftpb.MsgAppResp, raftpb.MsgHeartbeatResp:
		if g.leader && m.GetTerm() == g.term {
			a.heard[m.GetFrom()] = g.core.now
			a.quorum(g)
		}
	case raftpb.MsgApp:
		a.note(g, m.GetCommit(), m.GetRejectHint())
	case raftpb.MsgHeartbeat:
		a.note(g, m.GetIndex(), m.GetRejectHint())
	}
}

// quorum takes the moment by which a majority had answered, of both
// configurations if there are two.
func (a *age) quorum(g *group) {
	if !g.announced {
		return
	}
	at := a.majority(g, g.conf.GetVoters())
	if joint(g.conf) {
		at = min(at, a.majority(g, g.conf.GetVotersOutgoing()))
	}
	a.fresh = max(a.fresh, at)
}

func (a *age) majority(g *group, voters []uint64) time.Duration {
	times := make([]time.Duration, len(voters))
	for i, id := range voters {
		times[i] = a.heard[id]
		if id == uint64(g.core.cfg.Node) {
			times[i] = g.core.now
		}
	}
	if len(times) == 0 {
		return 0
	}
	slices.Sort(times)
	return times[(len(times)-1)/2] // a majority is at least as late
}

func (a *age) note(g *group, commit, hint uint64) {
	if hint == 0 {
		return
	}
	at := g.core.now - time.Duration(min(hint-1, ageMaxMs))*time.Millisecond
	if a.wait.set {
		a.next = mark{true, commit, at}
	} else {
		a.wait = mark{true, commit, at}
	}
	a.settle(g.applied)
}

// settle takes the marks that applied has reached.
func (a *age) settle(applied uint64) {
	for a.wait.set && a.wait.commit <= applied {
		a.fresh = max(a.fresh, a.wait.at)
		a.wait, a.next = a.next, mark{}
	}
}

// old is how long ago a leader's state was the newest for certain.
func (a *age) old(g *group) time.Duration {
	if soleVoter(g.conf, g.core.cfg.Node) {
		return 0
	}
	return g.core.now - a.fresh
}

// stamp tells a follower how fresh the leader is.
func (a *age) stamp(g *group, m *raftpb.Message) {
	t := m.GetType()
	if !g.announced || t != raftpb.MsgApp && t != raftpb.MsgHeartbeat {
		return
	}
	m.RejectHint = new(1 + uint64(a.old(g).Milliseconds()))
	if t == raftpb.MsgHeartbeat {
		m.Index = new(g.commit)
	}
}
