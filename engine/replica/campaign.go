package replica

import (
	"slices"
	"time"

	"banyan"
)

// Elections that do not wait for raft's timeout. They go through pre-vote, so
// one that is wrong does not disturb a leader whom a majority hears. A
// shard's voters start one after the other, in an order turned by the shard's
// number, so that they neither collide nor all fall to one node.
const (
	lostDelay  = 2 * time.Millisecond // after PeerLost: let the others hear of it too
	lostStep   = 60 * time.Millisecond
	startDelay = 150 * time.Millisecond // after a start: a living leader is heard before
	startStep  = 100 * time.Millisecond
	aloneStep  = 5 * time.Millisecond
	campaigns  = 8 // then raft's own timeout
)

// PeerLost takes strong evidence that a node's process is gone. Shards that it
// led elect another leader without waiting for the election timeout.
func (c *Core) PeerLost(node banyan.NodeID) {
	for _, g := range c.order {
		switch {
		case g.removal != nil:
		case g.leader:
			if g.rests[uint64(node)] {
				g.wake()
			}
			g.rn.ReportUnreachable(uint64(node))
			g.touch()
		case g.lead == uint64(node):
			g.abandonLeader()
		}
	}
}

// scheduleFirst plans the election after a start.
func (c *Core) scheduleFirst(g *group) {
	if soleVoter(g.conf, c.cfg.Node) {
		g.schedule(0, aloneStep, 0)
	} else {
		g.schedule(startDelay, startStep, 0)
	}
}

func (g *group) schedule(delay, step time.Duration, without uint64) {
	voters := slices.Concat(g.conf.GetVoters(), g.conf.GetVotersOutgoing())
	slices.Sort(voters)
	voters = slices.DeleteFunc(slices.Compact(voters), func(id uint64) bool { return id == without })
	i := slices.Index(voters, uint64(g.core.cfg.Node))
	if i < 0 {
		return
	}
	turn := (i + int(g.shard)) % len(voters)
	g.campaignAt = g.core.now + delay + time.Duration(turn)*step
	g.campaignStep = step * time.Duration(len(voters))
	g.campaigns = campaigns
}

// NextTimer is when Advance should be called even if nothing else happens.
func (c *Core) NextTimer() (at time.Duration, ok bool) {
	for _, g := range c.order {
		if g.campaigns > 0 && (!ok || g.campaignAt < at) {
			at, ok = g.campaignAt, true
		}
	}
	return at, ok
}

func (c *Core) campaignDue() {
	for _, g := range c.order {
		if g.campaigns == 0 || g.campaignAt > c.now {
			continue
		}
		if g.lead != 0 || g.removal != nil {
			g.campaigns = 0
			continue
		}
		g.campaigns--
		g.campaignAt = c.now + g.campaignStep
		_ = g.rn.Campaign() // what stands against it raft logs
		g.touch()
	}
}
