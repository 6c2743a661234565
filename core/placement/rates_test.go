package placement

import (
	"testing"

	"banyan"
)

// crowd is three nodes with six shards of three voters, each node with a process
// of its own that measures rates, and none that remembers a decision.
type crowd struct {
	shards []Shard
	rates  map[banyan.NodeID]*Rates
	led    []int64           // since when each shard's leader leads
	rev    []banyan.Revision // by shard
	moves  []int             // by shard
	policy Policy
}

const crowdOverMs, crowdStepMs = 30_000, 100

func newCrowd() *crowd {
	c := &crowd{rates: map[banyan.NodeID]*Rates{}, policy: DefaultPolicy()}
	for i := range 6 {
		c.shards = append(c.shards, Shard{ID: banyan.ShardID(i), Leader: banyan.NodeID(i%3 + 1), Voters: ids(1, 2, 3)})
	}
	for _, id := range ids(1, 2, 3) {
		c.rates[id] = NewRates(crowdOverMs)
	}
	c.led, c.rev, c.moves = make([]int64, 6), make([]banyan.Revision, 6), make([]int, 6)
	return c
}

// run lets a second pass in steps, in which the shards get so many changes each.
func (c *crowd) run(t *testing.T, nowMs int64, perSecond func(shard int) int) {
	for end := nowMs + 1000; nowMs < end; nowMs += crowdStepMs {
		for i := range c.shards {
			s := &c.shards[i]
			c.rev[i] += banyan.Revision(perSecond(i) * crowdStepMs / 1000)
			for id, r := range c.rates {
				if load := r.Note(s.ID, c.rev[i], nowMs); id == s.Leader {
					s.Load, s.LedMs = load, nowMs-c.led[i]
				}
			}
		}
		for _, step := range Plan(nodes(3), c.shards, c.policy) {
			i := int(step.Shard)
			c.moves[i]++
			carryOut(t, &c.shards[i], step)
			c.led[i] = nowMs
		}
	}
}

func (c *crowd) total() (n int) {
	for _, m := range c.moves {
		n += m
	}
	return n
}

// TestLeadersStayWhileHeatWanders: one partition after the other is hot for eight
// seconds. Whoever decides has just begun to: there is nothing but what nodes say.
func TestLeadersStayWhileHeatWanders(t *testing.T) {
	c := newCrowd()
	for s := range int64(240) {
		c.run(t, s*1000, func(shard int) int {
			if shard == int(s/8*5%6) {
				return 5000
			}
			return 50
		})
		for i, m := range c.moves {
			if most := 1 + s*1000/c.policy.LeadRestMs; int64(m) > most {
				t.Fatalf("after %d s shard %d has moved %d times, more than %d", s, i, m, most)
			}
		}
	}
	if n := c.total(); n > 12 {
		t.Errorf("leaders moved %d times in four minutes", n)
	}
}

// TestALastingDifferenceMovesOnce: the other shard of the hot one's node leaves it,
// some make room for it where it comes to, and everything stays then.
func TestALastingDifferenceMovesOnce(t *testing.T) {
	c := newCrowd()
	for s := range int64(300) {
		c.run(t, s*1000, func(shard int) int {
			switch shard {
			case 0:
				return 5000
			case 3:
				return 1500 // led beside it
			}
			return 100
		})
	}
	for i, m := range c.moves {
		if m > 1 || m != 1 && i == 3 || m != 0 && i == 0 {
			t.Errorf("moves by shard: %v", c.moves)
		}
	}
}

// TestALeaderThatJustMovedStays until it has rested, but leaves a draining node.
func TestALeaderThatJustMovedStays(t *testing.T) {
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}, {ID: 2, Leader: 1, Voters: ids(1, 2, 3)}, {ID: 3, Leader: 1, Voters: ids(1, 2, 3)}}
	policy := DefaultPolicy()
	if steps := Plan(nodes(3), shards, policy); len(steps) != 0 {
		t.Errorf("moved at once: %+v", steps)
	}
	shards[1].LedMs = policy.LeadRestMs
	if steps := Plan(nodes(3), shards, policy); len(steps) != 1 || steps[0].Shard != 2 || !steps[0].Balance {
		t.Errorf("steps %+v, want shard 2 moved, which rested", steps)
	}
	ns := nodes(3)
	ns[0].Draining = true
	if steps := Plan(ns, shards, policy); len(steps) != 3 {
		t.Errorf("steps %+v off a draining node", steps)
	}
}

func TestRates(t *testing.T) {
	r := NewRates(1000)
	for i := range int64(200) {
		if got := r.Note(1, banyan.Revision(i*10), i*100); i == 199 && (got < 95 || got > 100) {
			t.Errorf("a hundred changes a second are %d", got)
		}
	}
	if got := r.Note(1, 5, 20_100); got != 0 {
		t.Errorf("%d of a shard that begins anew", got)
	}
	for i := range int64(100) {
		if got := r.Note(2, banyan.Revision(i), i*100); got != 0 {
			t.Errorf("noise is %d", got)
		}
	}
}
