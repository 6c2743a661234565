package work

import (
	"math"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/job"
	"banyan/core/sched"
)

// planLimit bounds one planning pass; passes are repeated while they are full.
const planLimit = 1024

// planJobsMax bounds the jobs that one pass looks at, the oldest first.
const planJobsMax = 256

// Start is one attempt to send.
type Start struct {
	Key     Key
	Try     uint32 // from 1
	Suspect bool
}

// Message is what to tell one worker.
type Message struct {
	Start    []Start
	Stop     []Key
	Recorded []Key
	Begin    []Key // suspects
	Unknown  []Key
	SayHello bool     // ask what it holds
	Demand   []Demand // attempts that could go to this worker if it had room
}

// Demand is a number of attempts that occupy the same.
type Demand struct {
	Each     banyan.Resources
	Attempts int
}

// Take gives the next message to a worker and forgets it. ok is false if the
// session has ended.
func (c *Core) Take(s Session) (m Message, ok bool) {
	n := c.find(s.Node)
	if n == nil || n.session != s.ID {
		return Message{}, false
	}
	m, n.out, n.woken = n.out, Message{}, false
	m.Demand = c.appetite().of(n)
	n.told = len(m.Demand) > 0
	return m, true
}

// planner keeps the slices of a plan from one to the next.
type planner struct {
	runs  []*Run
	jobs  []sched.Job
	nodes []sched.Node
	at    []*node
	out   []sched.Assignment
}

// schedule sends what fits into the workers' windows, and tells those whose
// demand begins or ends.
func (c *Core) schedule() {
	if c.suspicious() {
		c.sendSuspects()
	}
	for len(c.wanting) > 0 && c.pass() == planLimit {
	}
	a := c.appetite()
	for _, n := range c.nodes {
		if n.session != 0 && n.told != (len(a.of(n)) > 0) {
			c.wake(n)
		}
	}
}

// pass plans once and gives the number of attempts sent.
func (c *Core) pass() int {
	p := &c.plan
	p.nodes, p.at = p.nodes[:0], p.at[:0]
	for _, n := range c.nodes {
		if free := c.room(n); free.Slots > 0 {
			p.nodes = append(p.nodes, sched.Node{Free: free, Holds: c.held(n).Slots, Offer: n.offer})
			p.at = append(p.at, n)
		}
	}
	if len(p.nodes) == 0 {
		return 0
	}
	p.runs = append(p.runs[:0], c.wanting[:min(len(c.wanting), planJobsMax)]...)
	p.jobs = p.jobs[:0]
	for _, r := range p.runs {
		j := sched.Job{Demand: r.demand, Pending: r.pending, Running: r.active, PerNodeMax: r.perNode}
		if len(r.shard.queue) >= banyan.ResultQueueMax {
			j.Pending = 0
		}
		if j.PerNodeMax > 0 {
			for _, n := range p.at {
				j.OnNode = append(j.OnNode, r.running[n.id]-n.ahead())
			}
		}
		p.jobs = append(p.jobs, j)
	}
	p.out = sched.Plan(p.out[:0], p.jobs, p.nodes, planLimit)
	for _, a := range p.out {
		c.send(p.runs[a.Job], p.at[a.Node], p.runs[a.Job].next(), false)
	}
	return len(p.out)
}

func (c *Core) send(r *Run, n *node, task uint32, suspect bool) {
	r.shard.attempts++
	if r.active == 0 {
		r.rate.start(c.now)
	}
	k := Key{r.id, task, r.shard.term<<32 | r.shard.attempts}
	a := &attempt{key: k, node: n.id, state: job.AttemptSent, startMs: c.now, suspect: suspect}
	r.claim(task, a)
	n.holds[k] = n.session
	n.outdate(r.shard.id)
	n.out.Start = append(n.out.Start, Start{Key: k, Try: a.number, Suspect: suspect})
	c.wake(n)
	c.want(r)
}

// appetite is what could be started if there were room.
type appetite struct {
	anywhere []Demand // attempts that any node may have that is large enough
	limited  []*Run   // jobs that bound their attempts on one node
	suspects []*Run
	has      func(*node) bool // a suspect: it gets no second one
}

func (c *Core) appetite() (a appetite) {
	for _, r := range c.wanting[:min(len(c.wanting), planJobsMax)] {
		if r.perNode == 0 {
			a.anywhere = addDemand(a.anywhere, r.demand, r.pending)
		} else {
			a.limited = append(a.limited, r)
		}
		if len(r.suspects) > 0 {
			a.suspects = append(a.suspects, r)
		}
	}
	a.has = c.hasSuspect
	return a
}

// DemandProto is demands as a worker is told them.
func DemandProto(all []Demand) []*peerv1.Demand {
	var out []*peerv1.Demand
	for _, d := range all {
		out = append(out, &peerv1.Demand{Each: job.ResourcesProto(d.Each), Attempts: uint32(min(d.Attempts, math.MaxInt32))})
	}
	return out
}

// addDemand counts attempts with those that occupy the same. Kinds beyond the
// limit are left out: their turn comes when others are done.
func addDemand(all []Demand, each banyan.Resources, attempts int) []Demand {
	if attempts <= 0 {
		return all
	}
	for i := range all {
		if all[i].Each == each {
			all[i].Attempts += attempts
			return all
		}
	}
	if len(all) == banyan.DemandKindsMax {
		return all
	}
	return append(all, Demand{each, attempts})
}

// of lists the attempts that could go to a node.
func (a appetite) of(n *node) []Demand {
	if !n.alive || n.draining || n.leaving {
		return nil
	}
	var all []Demand
	for _, d := range a.anywhere {
		if d.Each.FitsIn(n.offer) {
			all = append(all, d)
		}
	}
	if len(a.suspects) > 0 && !a.has(n) {
		for _, r := range a.suspects {
			if r.demand.FitsIn(n.offer) {
				all = addDemand(all, r.demand, 1)
			}
		}
	}
	for _, r := range a.limited {
		if r.demand.FitsIn(n.offer) {
			all = addDemand(all, r.demand, min(r.pending, max(0, r.perNode+n.ahead()-r.running[n.id])))
		}
	}
	return all
}
