// Package placement decides which node holds which replica. Plan is pure: from
// what the nodes and shards are to the next small step of each shard, so that
// carrying out steps and planning again reaches the target from any state.
//
// A shard's own Raft configuration is the only record of where it lives; there
// is no second copy of that truth to disagree with it.
//
// Voters go 1 → 3 → 5 in joint changes, each once all learners it needs have
// caught up, never through two where three are meant. A dead voter is replaced
// by a caught-up learner in one joint change. A leader moves off a draining node
// before anything else. What is only uneven is mended last, and little at a time.
//
// Two nodes cannot have more than one voter that survives anything. The other
// one keeps a copy, as a learner: no write waits for it, but a shard whose voter
// is lost for good can be recovered from it.
package placement

import (
	"cmp"
	"slices"

	"banyan"
)

// Node is what Plan needs to know of one node.
type Node struct {
	ID       banyan.NodeID
	Zone     string
	Alive    bool
	Draining bool  // leads nothing and is given nothing; what it holds stays
	Leaving  bool  // drains, and is to lose what it holds: it will be removed
	DeadMs   int64 // how long it has not been heard of; 0 while alive
	Low      bool  // its disk is low: leads nothing, is given nothing, and what it holds moves away where it can
	Tight    bool  // its disk would soon be low: it is given nothing
}

// Shard is the state of one shard as its leader tells it.
type Shard struct {
	ID       banyan.ShardID
	Leader   banyan.NodeID
	Voters   []banyan.NodeID
	Learners []banyan.NodeID
	Behind   map[banyan.NodeID]uint64 // log entries a replica has yet to store
	Joint    bool                     // a change is under way: plan nothing
	Load     uint64                   // changes a second: what leading it costs
	LedMs    int64                    // how long its leader has led it
}

// Policy is what an operator may choose.
type Policy struct {
	Voters      int   // wanted per shard when there are enough nodes: odd
	DeadAfterMs int64 // a node silent for longer has its replicas replaced
	LeadRestMs  int64 // a leader is not moved before it has led for so long, if nothing is wrong
}

// DefaultPolicy keeps three voters, replaces a dead node's after five minutes and
// lets a leader stay for half a minute.
func DefaultPolicy() Policy {
	return Policy{Voters: 3, DeadAfterMs: 5 * 60 * 1000, LeadRestMs: 30 * 1000}
}

// CaughtUp is how many entries a learner may be behind when it becomes a voter.
const CaughtUp = 64

// Step is one change. Exactly one of Transfer (≠ 0) and Voters is set.
type Step struct {
	Shard    banyan.ShardID
	Transfer banyan.NodeID // hand leadership to this voter
	Voters   []banyan.NodeID
	Learners []banyan.NodeID
	Why      string
	Balance  bool // can wait: nothing is wrong, only uneven
}

type planner struct {
	nodes    map[banyan.NodeID]Node
	usable   []Node // alive, to be given replicas; sorted by id
	replicas map[banyan.NodeID]int
	leaders  map[banyan.NodeID]uint64 // weight of the shards it leads
	unit     uint64                   // weight of a shard without load
	margin   uint64                   // of weight, below which unevenness is noise
	moving   bool                     // replicas are on the move somewhere
	policy   Policy
}

// Plan gives at most one step for each shard, in shard order.
func Plan(nodes []Node, shards []Shard, policy Policy) []Step {
	p := newPlanner(nodes, shards, policy)
	var steps []Step
	for _, s := range slices.SortedFunc(slices.Values(shards), func(a, b Shard) int { return cmp.Compare(a.ID, b.ID) }) {
		if s.Leader == 0 || s.Joint || len(s.Voters) == 0 {
			continue
		}
		if step, ok := p.next(s); ok {
			step.Shard = s.ID
			steps = append(steps, step)
		}
	}
	return steps
}

func newPlanner(nodes []Node, shards []Shard, policy Policy) *planner {
	p := &planner{nodes: map[banyan.NodeID]Node{}, replicas: map[banyan.NodeID]int{}, leaders: map[banyan.NodeID]uint64{}, policy: policy}
	for _, n := range nodes {
		n.Draining = n.Draining || n.Leaving
		p.nodes[n.ID] = n
		if n.Alive && !n.Draining && !n.Low && !n.Tight {
			p.usable = append(p.usable, n)
		}
	}
	slices.SortFunc(p.usable, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	p.weigh(shards)
	for _, s := range shards {
		p.leaders[s.Leader] += p.weight(s)
		for _, n := range replicasOf(s) {
			p.replicas[n]++
		}
		p.moving = p.moving || s.Joint || len(s.Learners) > 0
	}
	return p
}

// weigh chooses what a shard without load weighs, so that those are spread as
// well, and how much unevenness is left alone, so that loads that waver do not
// move leaders to and fro.
func (p *planner) weigh(shards []Shard) {
	var load uint64
	for _, s := range shards {
		load += s.Load
	}
	p.unit = max(1, load/uint64(10*max(1, len(shards))))
	if load > 0 {
		p.margin = load / uint64(4*max(1, len(p.usable)))
	}
}

func (p *planner) weight(s Shard) uint64 { return s.Load + p.unit }

func replicasOf(s Shard) []banyan.NodeID { return append(slices.Clone(s.Voters), s.Learners...) }

// next is the order of importance: leadership off a draining node, learners
// that will not come, promotion, new learners, voters too many, balance.
func (p *planner) next(s Shard) (Step, bool) {
	if lead := p.nodes[s.Leader]; lead.Draining || lead.Low {
		if to := p.successor(s); to != 0 {
			p.moveLeader(s, to)
			why := "its leader is draining"
			if !lead.Draining {
				why = "its leader's disk is low"
			}
			return Step{Transfer: to, Why: why}, true
		}
	}
	bad := p.bad(s)
	settled := len(bad) == 0 && len(s.Voters) == p.wanted(s, bad)
	alone := settled && len(s.Voters) == 1 && p.policy.Voters > 1
	if kept := p.keep(s, alone); len(kept) < len(s.Learners) {
		return Step{Voters: s.Voters, Learners: kept, Why: "a learner's node is gone"}, true
	}
	switch {
	case !settled:
		return p.mend(s, bad)
	case alone:
		return p.copied(s)
	}
	if step, ok := p.balanceReplicas(s); ok {
		return step, true
	}
	return p.balanceLeaders(s)
}

// keep drops learners whose nodes are dead, draining or unknown. The copy of a
// voter that is alone stays as a voter would: until it is to be replaced, and
// is or can be.
func (p *planner) keep(s Shard, alone bool) []banyan.NodeID {
	out := []banyan.NodeID{}
	for _, id := range s.Learners {
		n, ok := p.nodes[id]
		stays := alone && !n.Leaving && (!p.isBad(id) || p.copyOf(s) == 0 && len(p.choose(s, 1)) == 0)
		if ok && (n.Alive && !n.Draining || stays) {
			out = append(out, id)
		}
	}
	return out
}

// copyOf is the learner that is a lone voter's copy: the best of those on live
// nodes, 0 if there is none.
func (p *planner) copyOf(s Shard) (best banyan.NodeID) {
	rank := func(id banyan.NodeID) int {
		behind, known := s.Behind[id]
		switch caughtUp := known && behind <= CaughtUp; {
		case caughtUp && !p.nodes[id].Draining:
			return 3
		case caughtUp:
			return 2
		}
		return 1
	}
	for _, id := range s.Learners {
		if p.nodes[id].Alive && (best == 0 || rank(id) > rank(best)) {
			best = id
		}
	}
	return best
}

// copied keeps one copy of a shard whose voter is alone on a live node, beside
// those on nodes that may come back.
func (p *planner) copied(s Shard) (Step, bool) {
	best := p.copyOf(s)
	if best == 0 {
		if found := p.choose(s, 1); len(found) == 1 {
			p.replicas[found[0]]++
			return Step{Voters: s.Voters, Learners: append(slices.Clone(s.Learners), found...), Why: "its voter is alone: another disk keeps a copy"}, true
		}
		return Step{}, false
	}
	kept := slices.DeleteFunc(slices.Clone(s.Learners), func(id banyan.NodeID) bool { return id != best && p.nodes[id].Alive })
	if len(kept) < len(s.Learners) {
		return Step{Voters: s.Voters, Learners: kept, Why: "a learner is not needed any more"}, true
	}
	return Step{}, false
}

// bad lists voters to replace: leaving, forgotten, dead for too long; and one on
// a low disk, if there is a node for it: one at a time, for each copy costs the
// others room.
func (p *planner) bad(s Shard) []banyan.NodeID {
	var out []banyan.NodeID
	for _, id := range s.Voters {
		if p.isBad(id) {
			out = append(out, id)
		}
	}
	if len(out) > 0 || len(s.Voters) < 2 {
		return out
	}
	for _, id := range s.Voters {
		if p.nodes[id].Low && id != s.Leader && (len(s.Learners) > 0 || len(p.choose(s, 1)) == 1) {
			return []banyan.NodeID{id}
		}
	}
	return nil
}

func (p *planner) isBad(id banyan.NodeID) bool {
	n, ok := p.nodes[id]
	return !ok || n.Leaving || (!n.Alive && n.DeadMs >= p.policy.DeadAfterMs)
}

// mend brings the shard towards its wanted voters. A change waits until all
// learners it needs are there, so that it goes from odd to odd in one step.
func (p *planner) mend(s Shard, bad []banyan.NodeID) (Step, bool) {
	want := p.wanted(s, bad)
	good := without(s.Voters, bad)
	missing := want - len(good)
	if len(s.Voters) == 1 && len(good) == 0 {
		missing = 1 // away first, then grow
	}
	if missing <= 0 {
		if len(s.Learners) > 0 {
			return Step{Voters: s.Voters, Learners: nil, Why: "a learner is not needed any more"}, true
		}
		return p.shrink(s, bad, good, want)
	}
	if add := missing - len(s.Learners); add > 0 {
		if found := p.choose(s, add); len(found) == add {
			for _, n := range found {
				p.replicas[n]++
			}
			return Step{Voters: s.Voters, Learners: append(slices.Clone(s.Learners), found...), Why: "it needs more replicas"}, true
		}
		return Step{}, false
	}
	if !p.caughtUp(s) {
		return Step{}, false
	}
	voters := append(slices.Clone(good), s.Learners[:missing]...)
	if slices.Contains(bad, s.Leader) {
		if len(s.Voters) == 1 {
			return p.moveAlone(s)
		}
		return p.moveAll(s, good, want)
	}
	return Step{Voters: sorted(voters), Why: "its learners have caught up"}, true
}

// moveAlone moves a shard whose only voter is on a leaving node, through two
// voters: its leader cannot leave it, nobody else can lead it, and it has never
// been on more than one disk.
func (p *planner) moveAlone(s Shard) (Step, bool) {
	if len(s.Voters) != 1 || len(s.Learners) == 0 {
		return Step{}, false
	}
	if len(s.Learners) > 1 {
		return Step{Voters: s.Voters, Learners: s.Learners[:1], Why: "a learner is not needed any more"}, true
	}
	return Step{Voters: sorted([]banyan.NodeID{s.Leader, s.Learners[0]}), Why: "its only voter's node is leaving"}, true
}

// moveAll moves a shard whose leader has nobody to hand over to, because all
// voters leave or are away: the leader stays, beside learners that take the
// others' places and can lead next.
func (p *planner) moveAll(s Shard, good []banyan.NodeID, want int) (Step, bool) {
	voters := append([]banyan.NodeID{s.Leader}, good...)
	come := want - len(voters)
	if p.successor(s) != 0 || come <= 0 || come > len(s.Learners) || len(voters)+come < 3 {
		return Step{}, false
	}
	return Step{Voters: sorted(append(voters, s.Learners[:come]...)), Why: "all its voters' nodes are leaving"}, true
}

// wanted is the number of voters the shard can have now, always odd: the
// policy's when there are nodes enough. With fewer it goes down to three by
// itself, so that a majority is easily had, and to one only when an operator
// removes nodes.
func (p *planner) wanted(s Shard, bad []banyan.NodeID) int {
	able := len(p.usable)
	least := 3
	for _, id := range s.Voters {
		n, known := p.nodes[id]
		if n.Leaving || !known {
			least = 1
		}
		if !slices.Contains(bad, id) && (!n.Alive || n.Draining || n.Low || n.Tight) { // a voter away for a while still counts
			able++
		}
	}
	return max(odd(min(p.policy.Voters, able)), odd(min(least, len(s.Voters), p.policy.Voters)), 1)
}

func odd(n int) int { return n - (n+1)%2 }

// shrink leaves the shard with its leader and the voters that, of those that
// are good, spread it best.
func (p *planner) shrink(s Shard, bad, good []banyan.NodeID, want int) (Step, bool) {
	if slices.Contains(bad, s.Leader) {
		return Step{}, false // leadership moves first
	}
	good = slices.Clone(good)
	why := "a voter's node is gone"
	for len(good) > want {
		drop := p.leastNeeded(s, good)
		good = without(good, []banyan.NodeID{drop})
		p.replicas[drop]--
		why = "it needs fewer replicas"
	}
	return Step{Voters: sorted(good), Why: why}, true
}

// leastNeeded is the voter, not the leader, without which the rest is in as
// many zones, else the one that cannot be reached or drains, else the one whose
// node holds most.
func (p *planner) leastNeeded(s Shard, voters []banyan.NodeID) banyan.NodeID {
	var best banyan.NodeID
	rank := func(id banyan.NodeID) (away, zones, replicas int) {
		if n := p.nodes[id]; !n.Alive || n.Draining {
			away = 1
		}
		return away, p.zones(without(voters, []banyan.NodeID{id})), p.replicas[id]
	}
	for _, id := range voters {
		if id == s.Leader {
			continue
		}
		a, z, r := rank(id)
		ba, bz, br := rank(best)
		if best == 0 || cmp.Or(cmp.Compare(a, ba), cmp.Compare(z, bz), cmp.Compare(r, br)) > 0 {
			best = id
		}
	}
	return best
}

// zones counts the zones of nodes.
func (p *planner) zones(ids []banyan.NodeID) int {
	seen := map[string]bool{}
	for _, id := range ids {
		seen[p.nodes[id].Zone] = true
	}
	return len(seen)
}

func (p *planner) caughtUp(s Shard) bool {
	for _, id := range s.Learners {
		behind, known := s.Behind[id]
		if !known || behind > CaughtUp {
			return false
		}
	}
	return true
}

// choose picks n nodes that do not hold the shard: zones not yet used first,
// then those with the fewest replicas, then by id. Fewer than n means none.
func (p *planner) choose(s Shard, n int) []banyan.NodeID {
	taken := replicasOf(s)
	zones := map[string]bool{}
	for _, id := range taken {
		zones[p.nodes[id].Zone] = true
	}
	var out []banyan.NodeID
	for len(out) < n {
		best := -1
		for i, cand := range p.usable {
			if slices.Contains(taken, cand.ID) {
				continue
			}
			if best < 0 || p.better(cand, p.usable[best], zones) {
				best = i
			}
		}
		if best < 0 {
			return nil
		}
		pick := p.usable[best]
		out = append(out, pick.ID)
		taken = append(taken, pick.ID)
		zones[pick.Zone] = true
	}
	return out
}

func (p *planner) better(a, b Node, zones map[string]bool) bool {
	if fa, fb := !zones[a.Zone], !zones[b.Zone]; fa != fb {
		return fa
	}
	return p.replicas[a.ID] < p.replicas[b.ID]
}

// successor is the live voter with the least to lead, or 0.
func (p *planner) successor(s Shard) banyan.NodeID {
	var best banyan.NodeID
	for _, id := range s.Voters {
		n := p.nodes[id]
		if id == s.Leader || !n.Alive || n.Draining || n.Low {
			continue
		}
		if best == 0 || p.leaders[id] < p.leaders[best] {
			best = id
		}
	}
	return best
}

// balanceLeaders moves a leader when its node would still lead no less than the
// successor then: the move makes things strictly more even. A leader that has just
// come stays: how long it leads is what its node says, so that this holds whoever
// plans next, as when the root shard itself moved.
func (p *planner) balanceLeaders(s Shard) (Step, bool) {
	if s.LedMs < p.policy.LeadRestMs {
		return Step{}, false
	}
	to, w := p.successor(s), p.weight(s)
	if to == 0 || s.Behind[to] > CaughtUp {
		return Step{}, false
	}
	if from := p.leaders[s.Leader]; from < p.leaders[to]+max(2*w, p.margin) {
		return Step{}, false
	}
	p.moveLeader(s, to)
	return Step{Transfer: to, Balance: true, Why: "its leader's node leads more than its share"}, true
}

func (p *planner) moveLeader(s Shard, to banyan.NodeID) {
	p.leaders[s.Leader] -= p.weight(s)
	p.leaders[to] += p.weight(s)
}

func without(ids, drop []banyan.NodeID) []banyan.NodeID {
	return slices.DeleteFunc(slices.Clone(ids), func(id banyan.NodeID) bool { return slices.Contains(drop, id) })
}

func sorted(ids []banyan.NodeID) []banyan.NodeID {
	slices.Sort(ids)
	return ids
}
