package work

import (
	"banyan"
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
	SayHello bool // ask what it holds
	Demand   int  // attempts that could go to this worker if it had room
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
	n.told = m.Demand > 0
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
		if n.session != 0 && n.told != (a.of(n) > 0) {
			c.wake(n)
		}
	}
}

// pass plans once and gives the number of attempts sent.
func (c *Core) pass() int {
	p := &c.plan
	p.nodes, p.at = p.nodes[:0], p.at[:0]
	for _, n := range c.nodes {
		if free := n.room(); free > 0 {
			p.nodes = append(p.nodes, sched.Node{Free: free, Holds: len(n.holds), Slots: n.slots})
			p.at = append(p.at, n)
		}
	}
	if len(p.nodes) == 0 {
		return 0
	}
	p.runs = append(p.runs[:0], c.wanting[:min(len(c.wanting), planJobsMax)]...)
	p.jobs = p.jobs[:0]
	for _, r := range p.runs {
		j := sched.Job{Pending: r.pending, Running: r.active, PerNodeMax: r.perNode}
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
	anywhere int    // attempts that any node may have
	limited  []*Run // jobs that bound their attempts on one node
	suspects func(*node) bool
}

func (c *Core) appetite() (a appetite) {
	for _, r := range c.wanting[:min(len(c.wanting), planJobsMax)] {
		if r.perNode == 0 {
			a.anywhere += r.pending
		} else {
			a.limited = append(a.limited, r)
		}
	}
	if c.suspicious() {
		a.suspects = func(n *node) bool { return !c.hasSuspect(n) }
	}
	return a
}

// of counts the attempts that could go to a node.
func (a appetite) of(n *node) int {
	if !n.alive || n.draining || n.leaving {
		return 0
	}
	d := a.anywhere
	if a.suspects != nil && a.suspects(n) {
		d++
	}
	for _, r := range a.limited {
		d += min(r.pending, max(0, r.perNode+n.ahead()-r.running[n.id]))
	}
	return d
}
