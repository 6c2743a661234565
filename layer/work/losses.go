package work

import (
	"fmt"
	"maps"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// A task may be what ends nodes: it takes all memory, or kills its parent. Its
// first loss with a node makes it a suspect. A node runs one suspect at a time,
// in its turn, and a suspect begins only when a row says where. If its node
// ends while it is that one, that is the second loss, and the task has failed.
//
// A loss is heard of in two ways, and may be in both: the members' list says
// that the node is dead, or the node comes back and its first hello names what
// ran when it ended. Each attempt is counted once: the task's Loss.Last is the
// attempt that was counted last, attempts of a task have rising numbers, and
// nothing is counted of one that is not above Last. A loss is a row before the
// task is given out again.
//
// A dead node may be cut off and its attempts alive. For a first loss that is no
// matter: the task runs again, as a suspect. The loss of a suspect would fail a
// task that is well, so its controller waits LossPatienceMs for the node to come
// back. If it does, its hello decides: it claims the attempt (which goes on),
// names it as lost (counted), or neither (it was handed back: not counted).

// lossEnd is how an attempt left its node, as far as this controller knows.
type lossEnd uint8

const (
	unclaimed lossEnd = iota // the node's hello is complete and does not list it
	silent                   // the node is alive, but has no stream
	dead                     // the node is dead; it may come back
	gone                     // the node will not come back
	departed                 // the node has ended as planned
)

// lose ends what a node holds no more.
func (c *Core) lose(n *node, how lossEnd, which func(k Key, session uint64) bool) {
	for _, k := range slices.SortedFunc(maps.Keys(n.holds), compareKeys) {
		if !which(k, n.holds[k]) {
			continue
		}
		r := c.jobs[k.Job]
		if r == nil || r.open[k.Task] == nil || r.open[k.Task].key != k || r.open[k.Task].state != job.AttemptSent {
			delete(n.holds, k)
			continue
		}
		a := r.open[k.Task]
		if a.begun && (how == silent || how == dead) {
			if how == dead && n.missingTill == 0 {
				n.missingTill = c.now + LossPatienceMs
			}
			continue
		}
		delete(n.holds, k)
		switch {
		case how == departed:
			c.free(r, a, job.AttemptReturned)
		case a.begun && how == gone, !a.suspect && (how == dead || how == gone):
			c.lost(r, a)
		default:
			if how == silent && !a.suspect {
				n.given = append(n.given, k)
			}
			c.free(r, a, job.AttemptLost)
		}
		c.want(r)
	}
}

// givenLost counts, when a node is dead, what it held when its stream had been gone
// for long: that was given to others before anybody knew.
func (c *Core) givenLost(n *node) {
	for _, k := range n.given {
		if r := c.jobs[k.Job]; r != nil && r.losses[k.Task].Count == 0 {
			c.named(n, k, false)
		}
	}
	n.given = nil
}

// giveBack makes the task of an attempt that was not lost pending again.
func (c *Core) giveBack(r *Run, a *attempt) {
	c.free(r, a, job.AttemptReturned)
	c.want(r)
}

// free makes the task of an attempt pending again, without counting a loss. If
// a row says that it begins, the row is changed first: a later controller would
// look for the attempt.
func (c *Core) free(r *Run, a *attempt, to job.AttemptState) {
	r.close(a, to)
	if to == job.AttemptLost {
		r.lost[a.key.Task]++
		r.repeated++
	}
	if !a.begins {
		r.reopen(a)
		return
	}
	l := r.losses[a.key.Task]
	l.Last = max(l.Last, a.key.Attempt)
	c.note(r, a, l, false)
}

// lost counts the loss of an open attempt with its node.
func (c *Core) lost(r *Run, a *attempt) {
	l := r.losses[a.key.Task]
	if l.Last >= a.key.Attempt || l.Count > 0 && !a.begun {
		c.free(r, a, job.AttemptLost)
		return
	}
	l.Count, l.Last = l.Count+1, a.key.Attempt
	r.close(a, job.AttemptLost)
	r.lost[a.key.Task]++
	r.repeated++
	if l.Count == 1 {
		c.note(r, a, l, false)
		return
	}
	r.losses[a.key.Task] = l
	c.doom(r, a)
}

// doom makes the loss of a suspect its task's result.
func (c *Core) doom(r *Run, a *attempt) {
	a.doomed = true
	a.move(job.AttemptFinished)
	node := a.node.String()
	if n := c.find(a.node); n != nil && n.name != node {
		node += " (" + n.name + ")"
	}
	c.report(r.shard, r, a, &banyanv1.TaskResult{
		State: banyanv1.TaskState_TASK_STATE_FAILED, ExitCode: lostExit,
		Error: fmt.Sprintf("lost with its node twice, the second time with node %s, where it was the one suspect: the task may be what ends nodes (memory?), so it is not tried again; when that is mended, resume the job with --retry-failed", node),
	}, 0)
}

// lostExit is the exit code of a task that was lost with its node.
const lostExit = 255

// note has the losses of a task written; what waits for it goes on in noted.
func (c *Core) note(r *Run, a *attempt, l job.Loss, begin bool) {
	r.losses[a.key.Task] = l
	r.shard.queue = append(r.shard.queue, &report{run: r, at: a, loss: &l, begin: begin})
	c.commits(r.shard)
}

// noted goes on once the losses of a task are a row.
func (c *Core) noted(rep *report) {
	r, a := rep.run, rep.at
	n := c.find(a.node)
	if !rep.begin {
		c.recorded(n, a.key)
		r.reopen(a)
		c.want(r)
		return
	}
	if r.open[a.key.Task] == a && a.state == job.AttemptSent {
		a.begun = true
		c.letBegin(n, a)
	}
}

func (c *Core) letBegin(n *node, a *attempt) {
	if n != nil && n.session != 0 {
		n.out.Begin = append(n.out.Begin, a.key)
		c.wake(n)
	}
}

// begins takes it that a suspect's turn has come at its worker.
func (c *Core) begins(n *node, k Key) {
	if c.shardFor(k.Job) == nil {
		return // it will be asked to say so again
	}
	r := c.jobs[k.Job]
	if r == nil || r.open[k.Task] == nil || r.open[k.Task].key != k || r.open[k.Task].state != job.AttemptSent {
		c.unknown(n, k)
		return
	}
	a := r.open[k.Task]
	switch {
	case a.begun:
		c.letBegin(n, a)
	case !a.begins:
		a.suspect, a.begins = true, true
		l := r.losses[k.Task]
		l.Begun, l.Node = k.Attempt, n.id
		c.note(r, a, l, true)
	}
}

// named takes it that an attempt ran on a node when that ended without warning.
func (c *Core) named(n *node, k Key, suspect bool) {
	s := c.shardFor(k.Job)
	if s == nil {
		return // it will be named again
	}
	r := c.jobs[k.Job]
	if r == nil || k.Task > r.tasks || r.recorded.has(k.Task) || r.failures[k.Task].Last >= k.Attempt {
		c.recorded(n, k)
		return
	}
	if r.losses[k.Task].Last >= k.Attempt {
		if !s.noting(k) {
			c.recorded(n, k)
		}
		return
	}
	delete(n.holds, k)
	a := r.live(k.Task)
	switch {
	case a != nil && a.state == job.AttemptFinished:
		return // its result is on the way into a row
	case a != nil && a.key == k:
		a.suspect, a.begun = a.suspect || suspect, a.begun || suspect
		c.lost(r, a)
	case a != nil && (r.losses[k.Task].Count == 0 || !suspect):
		l := r.losses[k.Task]
		l.Count, l.Last = max(l.Count, 1), k.Attempt
		c.note(r, &attempt{key: k, node: n.id, state: job.AttemptLost}, l, false)
	default:
		if a != nil {
			c.stop(r, a)
			r.close(a, job.AttemptReturned)
		}
		a = &attempt{key: k, node: n.id, state: job.AttemptSent, startMs: c.now, suspect: suspect, begins: true, begun: suspect}
		r.claim(k.Task, a)
		c.lost(r, a)
	}
	c.want(r)
}

// noting says whether a loss of an attempt is on its way into a row.
func (s *shard) noting(k Key) bool {
	is := func(rep *report) bool { return rep.loss != nil && rep.at.key == k }
	return slices.ContainsFunc(s.queue, is) || s.inflight != nil && slices.ContainsFunc(s.inflight.reports, is)
}

// allNamed takes what the hello of a node that came back names, of one shard or
// of all.
func (c *Core) allNamed(n *node, of func(banyan.ShardID) bool) {
	for _, l := range n.named {
		if k := keyOf(l.Key); of(c.shardOf([]byte(k.Job))) {
			c.named(n, k, l.Suspect)
		}
	}
}

// adopt takes up the suspects that a controller before this one let begin: they
// run where their rows say until the node says otherwise, or is gone.
func (c *Core) adopt(r *Run) {
	for _, task := range slices.Sorted(maps.Keys(r.losses)) {
		l := r.losses[task]
		if !l.Pending() || r.recorded.has(task) || r.failures[task].Last >= l.Begun || !r.admits(task) {
			continue
		}
		k := Key{r.id, task, l.Begun}
		r.claim(task, &attempt{key: k, node: l.Node, state: job.AttemptSent, startMs: c.now, suspect: true, begins: true, begun: true})
		n := c.meet(l.Node)
		n.holds[k] = 0
		if !n.alive && n.missingTill == 0 {
			n.missingTill = c.now + LossPatienceMs
		}
	}
}

// missed gives up waiting for a dead node to come back.
func (c *Core) missed(n *node) {
	switch {
	case n.missingTill == 0 || c.now < n.missingTill:
	case n.alive:
		n.missingTill = 0 // its hello will come
	default:
		n.missingTill = 0
		c.lose(n, gone, func(Key, uint64) bool { return true })
	}
}

// hasSuspect says whether a node holds a suspect of a controller here.
func (c *Core) hasSuspect(n *node) bool {
	for k := range n.holds { // any will do: the order does not show
		if r := c.jobs[k.Job]; r != nil && r.open[k.Task] != nil && r.open[k.Task].key == k && r.open[k.Task].suspect {
			return true
		}
	}
	return false
}

// sendSuspects gives each node that has room and no suspect one that waits,
// those of the oldest jobs first.
func (c *Core) sendSuspects() {
	for _, r := range slices.Clone(c.wanting[:min(len(c.wanting), planJobsMax)]) {
		for at := 0; len(r.suspects) > 0 && at < len(c.nodes) && len(r.shard.queue) < banyan.ResultQueueMax; at++ {
			n := c.nodes[at]
			if r.demand.FitsIn(c.room(n)) && (r.perNode == 0 || r.running[n.id] < r.perNode) && !c.hasSuspect(n) {
				c.send(r, n, r.suspects[0], true)
			}
		}
	}
}

// suspicious says whether a job has a suspect for a node.
func (c *Core) suspicious() bool {
	return slices.ContainsFunc(c.wanting[:min(len(c.wanting), planJobsMax)], func(r *Run) bool { return len(r.suspects) > 0 })
}
