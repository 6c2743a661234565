package placement

import (
	"slices"

	"banyan"
)

// balanceReplicas moves a voter to a node in a zone that the shard is not in
// yet, or to one that holds at least two replicas less. It adds a learner, and
// in a later step, when that has caught up, puts it in the voter's place. Only
// one shard at a time moves so: nothing is wrong, and a copy costs others time.
func (p *planner) balanceReplicas(s Shard) (Step, bool) {
	if len(s.Learners) > 0 {
		return p.swap(s)
	}
	if p.moving {
		return Step{}, false
	}
	for _, to := range p.usable {
		if slices.Contains(s.Voters, to.ID) || p.surplus(s, to.ID, 2) == 0 {
			continue
		}
		p.moving = true
		p.replicas[to.ID]++
		return Step{Voters: s.Voters, Learners: []banyan.NodeID{to.ID}, Balance: true, Why: "its replicas are spread unevenly"}, true
	}
	return Step{}, false
}

// swap finishes such a move, or gives it up when it makes nothing better any
// more.
func (p *planner) swap(s Shard) (Step, bool) {
	to := s.Learners[0]
	from := p.surplus(s, to, 1) // the learner counts already
	if from == 0 || len(s.Learners) > 1 {
		return Step{Voters: s.Voters, Why: "a learner is not needed any more"}, true
	}
	if !p.caughtUp(s) {
		return Step{}, false
	}
	p.replicas[from]--
	return Step{Voters: sorted(append(without(s.Voters, []banyan.NodeID{from}), to)), Why: "its replicas are spread unevenly"}, true
}

// surplus is the voter, not the leader, whose place to would better take: the
// shard would be in more zones, or in as many while to holds fewer replicas by
// gap or more. 0: there is none.
func (p *planner) surplus(s Shard, to banyan.NodeID, gap int) banyan.NodeID {
	var best banyan.NodeID
	now, most := p.zones(s.Voters), 0
	for _, id := range s.Voters {
		if id == s.Leader {
			continue
		}
		then := p.zones(append(without(s.Voters, []banyan.NodeID{id}), to))
		if then < max(now, most) || then == now && p.replicas[id] < p.replicas[to]+gap {
			continue
		}
		if best == 0 || then > most || p.replicas[id] > p.replicas[best] {
			best, most = id, then
		}
	}
	return best
}
