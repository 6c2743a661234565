// Package sched decides which job's task goes to which node next.
//
// It is pure: a snapshot of demand and of room goes in, a plan comes out, and
// the same snapshot gives the same plan. A plan never gives a node more than it
// asked for or a job more than it has pending, shares room evenly among jobs,
// spreads over nodes by how full they are, and leaves no room unused that some
// job could use, unless the bound on its length stops it or a large task waits
// for the rest of a node (Plan).
package sched

import "banyan"

// Job is one job's demand.
type Job struct {
	Demand     banyan.Resources // of each of its tasks, at least one slot
	Pending    int              // tasks that could start now
	Running    int              // its attempts on all nodes
	PerNodeMax int              // its attempts on one node at once; 0: no bound
	OnNode     []int            // with PerNodeMax: its attempts on each node of the snapshot
}

// Node is one node's room.
type Node struct {
	Free  banyan.Resources // what it will take beyond what it holds
	Holds int              // slots of the attempts that it holds, of all jobs
	Offer banyan.Resources // what it has
}

// Assignment sends one task of a job to a node, both by their place in the snapshot.
type Assignment struct{ Job, Node int }

// Plan appends at most limit assignments to dst, in the order in which tasks
// are to be taken. Each goes to the job with the fewest attempts (the first of
// equals) and from there to the node with the smallest part of its slots taken.
// It keeps neither slice and changes only dst. The work is bounded by
// limit × (jobs + nodes).
//
// A task that needs more than is free anywhere now, of a job of which nothing
// runs, reserves a node that is large enough: nobody else gets what is free
// there. Otherwise small tasks, which fit into each slot as it becomes free,
// would keep the large one waiting for ever.
func Plan(dst []Assignment, jobs []Job, nodes []Node, limit int) []Assignment {
	p := plan{jobs: jobs, nodes: nodes, given: make([]int, len(jobs)), taken: make([]banyan.Resources, len(nodes))}
	for ; limit > 0; limit-- {
		a, ok := p.next()
		if !ok {
			break
		}
		dst = append(dst, a)
		p.give(a)
	}
	return dst
}

type plan struct {
	jobs   []Job
	nodes  []Node
	given  []int              // per job; negative: no node can take more of it
	taken  []banyan.Resources // per node
	onNode [][]int
}

const blocked = -1

func (p *plan) next() (Assignment, bool) {
	for {
		j := p.hungriest()
		if j < 0 {
			return Assignment{}, false
		}
		if n := p.emptiest(j); n >= 0 {
			return Assignment{j, n}, true
		}
		if p.jobs[j].Running+p.given[j] == 0 {
			p.reserve(j)
		}
		p.given[j] = blocked
	}
}

// reserve keeps the freest node that could ever run a task of the job from others.
func (p *plan) reserve(j int) {
	best := -1
	for n := range p.nodes {
		if free := p.free(n).Slots; free > 0 && p.jobs[j].Demand.FitsIn(p.nodes[n].Offer) && !p.full(j, n) && (best < 0 || free > p.free(best).Slots) {
			best = n
		}
	}
	if best >= 0 {
		p.taken[best] = p.nodes[best].Free
	}
}

func (p *plan) free(n int) banyan.Resources { return p.nodes[n].Free.Minus(p.taken[n]) }

func (p *plan) hungriest() int {
	best := -1
	for j := range p.jobs {
		if p.given[j] == blocked || p.given[j] >= p.jobs[j].Pending {
			continue
		}
		if best < 0 || p.jobs[j].Running+p.given[j] < p.jobs[best].Running+p.given[best] {
			best = j
		}
	}
	return best
}

func (p *plan) emptiest(j int) int {
	best := -1
	for n := range p.nodes {
		if !p.jobs[j].Demand.FitsIn(p.free(n)) || p.full(j, n) {
			continue
		}
		if best < 0 || p.emptier(n, best) {
			best = n
		}
	}
	return best
}

// emptier compares held ÷ slots without dividing.
func (p *plan) emptier(a, b int) bool {
	holdsA, holdsB := p.nodes[a].Holds+p.taken[a].Slots, p.nodes[b].Holds+p.taken[b].Slots
	return holdsA*max(1, p.nodes[b].Offer.Slots) < holdsB*max(1, p.nodes[a].Offer.Slots)
}

func (p *plan) full(j, n int) bool {
	job := &p.jobs[j]
	if job.PerNodeMax == 0 {
		return false
	}
	on := 0
	if job.OnNode != nil {
		on = job.OnNode[n]
	}
	if p.onNode != nil && p.onNode[j] != nil {
		on += p.onNode[j][n]
	}
	return on >= job.PerNodeMax
}

func (p *plan) give(a Assignment) {
	p.given[a.Job]++
	p.taken[a.Node] = p.taken[a.Node].Plus(p.jobs[a.Job].Demand)
	if p.jobs[a.Job].PerNodeMax == 0 {
		return
	}
	if p.onNode == nil {
		p.onNode = make([][]int, len(p.jobs))
	}
	if p.onNode[a.Job] == nil {
		p.onNode[a.Job] = make([]int, len(p.nodes))
	}
	p.onNode[a.Job][a.Node]++
}
