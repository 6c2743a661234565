// Package sched decides which job's task goes to which node next.
//
// It is pure: a snapshot of demand and of room goes in, a plan comes out, and
// the same snapshot gives the same plan. A plan never gives a node more than it
// asked for or a job more than it has pending, shares room evenly among jobs,
// spreads over nodes by how full they are, and leaves no room unused that some
// job could use, unless the bound on its length stops it.
package sched

// Job is one job's demand.
type Job struct {
	Pending    int   // tasks that could start now
	Running    int   // its attempts on all nodes
	PerNodeMax int   // its attempts on one node at once; 0: no bound
	OnNode     []int // with PerNodeMax: its attempts on each node of the snapshot
}

// Node is one node's room.
type Node struct {
	Free  int // attempts it will take beyond those it holds
	Holds int // attempts it holds, of all jobs
	Slots int // attempts it runs at once
}

// Assignment sends one task of a job to a node, both by their place in the snapshot.
type Assignment struct{ Job, Node int }

// Plan appends at most limit assignments to dst, in the order in which tasks
// are to be taken. Each goes to the job with the fewest attempts (the first of
// equals) and from there to the node with the smallest part of its slots taken.
// It keeps neither slice and changes only dst. The work is bounded by
// limit × (jobs + nodes).
func Plan(dst []Assignment, jobs []Job, nodes []Node, limit int) []Assignment {
	p := plan{jobs: jobs, nodes: nodes, given: make([]int, len(jobs)), taken: make([]int, len(nodes))}
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
	given  []int // per job; negative: no node can take more of it
	taken  []int // per node
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
		p.given[j] = blocked
	}
}

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
		if p.taken[n] >= p.nodes[n].Free || p.full(j, n) {
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
	holdsA, holdsB := p.nodes[a].Holds+p.taken[a], p.nodes[b].Holds+p.taken[b]
	return holdsA*max(1, p.nodes[b].Slots) < holdsB*max(1, p.nodes[a].Slots)
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
	p.taken[a.Node]++
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
