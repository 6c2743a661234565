package replica

import (
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// What one replica has committed, every other one has at the same place, or
// will have. It is otherwise when a disk has lost what its node had
// acknowledged: a majority that counted on it can elect a leader which lacks
// committed entries. Raft does not look for that. A replica that has more
// acknowledges more than its leader has, and then follows nobody, in silence.
//
// So what cannot come from a sound leader, or replica, is kept from raft and is
// an alarm: in the log once a term, and in the Status until the term ends.
//
//   - An acknowledgement of more than the leader's log has.
//   - Entries in the place of committed ones, of another term than those.
//
// A commit index beyond the end of the log is this replica's own loss: the
// leader sends none that was not acknowledged. Raft would end the process; here
// the node ends, and says why.

// differs says whether m shows that this replica and its sender have committed
// different things. m has been admitted.
func (g *group) differs(m *raftpb.Message) bool {
	from := m.GetFrom()
	switch m.GetType() {
	case raftpb.MsgAppResp:
		if !g.leader || m.GetTerm() != g.term || m.GetReject() || m.GetIndex() <= g.end() {
			return false
		}
		g.alarm(from, m.GetIndex(), "a replica has committed what its leader does not have: one of the two nodes has lost acknowledged writes")
		return true
	case raftpb.MsgApp:
		at, ok := g.replaces(m)
		if !ok {
			return false
		}
		g.alarm(from, at, "the leader has another entry where this replica has a committed one: one of the two nodes has lost acknowledged writes")
		return true
	case raftpb.MsgHeartbeat:
		if m.GetTerm() >= g.term && m.GetCommit() > g.end() {
			panic(&StorageError{banyan.Errorf(banyan.Corrupt,
				"shard %d: %v knows this node to have had the log up to entry %d, and it ends at %d: this disk has lost what it had acknowledged; move the node's directory away and let the machine join as a new node",
				g.shard, banyan.NodeID(from), m.GetCommit(), g.end())})
		}
	}
	return false
}

// end is the index of the last entry that raft has, on the disk or not.
func (g *group) end() uint64 {
	last, err := storage{g.core.cfg.Store.Shard(g.shard)}.LastIndex()
	if err != nil {
		return g.logged
	}
	return max(last, g.logged)
}

// replaces gives the first entry of m that stands where another one is committed.
func (g *group) replaces(m *raftpb.Message) (at uint64, ok bool) {
	if m.GetTerm() < g.term || m.GetIndex() > g.commit {
		return 0, false
	}
	st := storage{g.core.cfg.Store.Shard(g.shard)}
	other := func(index, term uint64) bool {
		have, err := st.Term(index) // ErrCompacted: it cannot be told any more
		return err == nil && index > 0 && have != term
	}
	if other(m.GetIndex(), m.GetLogTerm()) {
		return m.GetIndex(), true
	}
	for _, e := range m.GetEntries() {
		if e.GetIndex() > g.commit {
			break
		}
		if other(e.GetIndex(), e.GetTerm()) {
			return e.GetIndex(), true
		}
	}
	return 0, false
}

// alarm tells of it, once a term.
func (g *group) alarm(other, at uint64, what string) {
	if g.differsFrom == other {
		return
	}
	g.differsFrom = other
	g.core.cfg.Logger.Error("a replica and its leader have committed different things", "what", what, "shard", g.shard, "from", banyan.NodeID(other), "entry", at, "term", g.term, "committed", g.commit)
}
