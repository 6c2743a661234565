// Package placement decides which node holds which replica. Plan is pure: from
// what the nodes and shards are to the next small step of each shard, so that
// carrying out steps and planning again reaches the target from any state.
//
// A shard's own Raft configuration is the only record of where it lives; there
// is no second copy of that truth to disagree with it.
//
// Voters go 1 → 3 in one joint change once two learners have caught up, never
// through two. A dead voter is replaced by a caught-up learner in one joint
// change. A leader moves off a draining node before anything else.
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
	Draining bool
	DeadMs   int64 // how long it has not been heard of; 0 while alive
}

// Shard is the state of one shard as its leader tells it.
type Shard struct {
	ID       banyan.ShardID
	Leader   banyan.NodeID
	Voters   []banyan.NodeID
	Learners []banyan.NodeID
	Behind   map[banyan.NodeID]uint64 // log entries a replica has yet to store
	Joint    bool                     // a change is under way: plan nothing
}

// Policy is what an operator may choose.
type Policy struct {
	Voters      int   // wanted per shard when there are enough nodes: odd
	DeadAfterMs int64 // a node silent for longer has its replicas replaced
}

// DefaultPolicy keeps three voters and replaces a dead node's after five minutes.
func DefaultPolicy() Policy { return Policy{Voters: 3, DeadAfterMs: 5 * 60 * 1000} }

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
	usable   []Node // alive, not draining; sorted by id
	replicas map[banyan.NodeID]int
	leaders  map[banyan.NodeID]int
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
	p := &planner{nodes: map[banyan.NodeID]Node{}, replicas: map[banyan.NodeID]int{}, leaders: map[banyan.NodeID]int{}, policy: policy}
	for _, n := range nodes {
		p.nodes[n.ID] = n
		if n.Alive && !n.Draining {
			p.usable = append(p.usable, n)
		}
	}
	slices.SortFunc(p.usable, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	for _, s := range shards {
		p.leaders[s.Leader]++
		for _, n := range replicasOf(s) {
			p.replicas[n]++
		}
	}
	return p
}

func replicasOf(s Shard) []banyan.NodeID { return append(slices.Clone(s.Voters), s.Learners...) }

// next is the order of importance: leadership off a draining node, learners
// that will not come, promotion, new learners, voters too many, balance.
func (p *planner) next(s Shard) (Step, bool) {
	if p.nodes[s.Leader].Draining {
		if to := p.successor(s); to != 0 {
			p.moveLeader(s.Leader, to)
			return Step{Transfer: to, Why: "its leader is draining"}, true
		}
	}
	if kept := p.keep(s.Learners); len(kept) < len(s.Learners) {
		return Step{Voters: s.Voters, Learners: kept, Why: "a learner's node is gone"}, true
	}
	bad := p.bad(s.Voters)
	if step, ok := p.grow(s, bad); ok {
		return step, true
	}
	return p.balance(s)
}

// keep drops nodes that are dead, draining or unknown.
func (p *planner) keep(ids []banyan.NodeID) []banyan.NodeID {
	out := []banyan.NodeID{}
	for _, id := range ids {
		if n, ok := p.nodes[id]; ok && n.Alive && !n.Draining {
			out = append(out, id)
		}
	}
	return out
}

// bad lists voters to replace: draining, forgotten, or dead for too long.
func (p *planner) bad(voters []banyan.NodeID) []banyan.NodeID {
	var out []banyan.NodeID
	for _, id := range voters {
		n, ok := p.nodes[id]
		if !ok || n.Draining || (!n.Alive && n.DeadMs >= p.policy.DeadAfterMs) {
			out = append(out, id)
		}
	}
	return out
}

// grow brings the shard towards its wanted voters. Growth from one voter waits
// until all learners it needs are there, so that there are never two voters.
func (p *planner) grow(s Shard, bad []banyan.NodeID) (Step, bool) {
	want := p.wanted(s, bad)
	good := without(s.Voters, bad)
	missing := want - len(good)
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
	voters := sorted(append(slices.Clone(good), s.Learners[:missing]...))
	if slices.Contains(bad, s.Leader) {
		return Step{}, false // leadership moves first
	}
	return Step{Voters: voters, Why: "its learners have caught up"}, true
}

// wanted is the number of voters the shard can have now: the policy's when
// there are nodes enough, else what it has; one voter grows only to an odd
// number of at least three.
func (p *planner) wanted(s Shard, bad []banyan.NodeID) int {
	able := len(p.usable)
	for _, id := range without(s.Voters, bad) { // a voter briefly away still counts
		if n := p.nodes[id]; !n.Alive {
			able++
		}
	}
	want := min(p.policy.Voters, able)
	if want%2 == 0 {
		want--
	}
	return max(want, min(len(s.Voters), p.policy.Voters), 1)
}

func (p *planner) shrink(s Shard, bad, good []banyan.NodeID, want int) (Step, bool) {
	if len(bad) == 0 || len(good) < want || slices.Contains(bad, s.Leader) {
		return Step{}, false
	}
	return Step{Voters: sorted(good), Why: "a voter's node is gone"}, true
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

// successor is the live voter with the fewest leaders, or 0.
func (p *planner) successor(s Shard) banyan.NodeID {
	var best banyan.NodeID
	for _, id := range s.Voters {
		n := p.nodes[id]
		if id == s.Leader || !n.Alive || n.Draining {
			continue
		}
		if best == 0 || p.leaders[id] < p.leaders[best] {
			best = id
		}
	}
	return best
}

// balance moves a leader when its node has at least two more than the
// successor: then the move makes things strictly more even.
func (p *planner) balance(s Shard) (Step, bool) {
	to := p.successor(s)
	if to == 0 || p.leaders[s.Leader] < p.leaders[to]+2 || s.Behind[to] > CaughtUp {
		return Step{}, false
	}
	p.moveLeader(s.Leader, to)
	return Step{Transfer: to, Balance: true, Why: "its leader leads more than its share"}, true
}

func (p *planner) moveLeader(from, to banyan.NodeID) {
	p.leaders[from]--
	p.leaders[to]++
}

func without(ids, drop []banyan.NodeID) []banyan.NodeID {
	return slices.DeleteFunc(slices.Clone(ids), func(id banyan.NodeID) bool { return slices.Contains(drop, id) })
}

func sorted(ids []banyan.NodeID) []banyan.NodeID {
	slices.Sort(ids)
	return ids
}
