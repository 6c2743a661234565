package replica

// A replica that its shard's configuration names no more may be destroyed, and
// its machine switched off, only when the others can do without it for good.
// Raft uses a configuration when it is applied, and what is applied is not
// synced by itself, nor is a commit index: with the power gone, voters come back
// in the configuration before, and elect nobody if that needs one that is
// destroyed.
//
// So a leader calls its configuration settled when an entry is applied that it
// proposed after it had committed the change: a majority has that entry on its
// disks, and with it a commit index that covers the change (append keeps one
// back until the next entry). If nobody else proposes one, the leader does, an
// empty one: at once when it has applied a change, and a while after it began to
// lead, for it does not know what its predecessor saw to.

// settleTicks is how long a leader waits for an entry of somebody else's.
const settleTicks = 10

func (g *group) settled() bool {
	return g.announced && !joint(g.conf) && g.applied > g.settles
}

// settle sees to it that a leader's configuration gets settled; every tick.
func (g *group) settle() {
	if !g.announced || joint(g.conf) || g.settled() {
		g.unsettled = 0
		return
	}
	if g.unsettled++; g.unsettled%settleTicks == 0 {
		_ = g.rn.Propose(nil) // not while leadership is handed over: next time
	}
}
