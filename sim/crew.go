package sim

import (
	"maps"
	"slices"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/layer/work"
	"banyan/node/worker"
)

const (
	slotsPerNode  = 3
	memoryPerNode = 8
)

var offerPerNode = banyan.Resources{Slots: slotsPerNode, Memory: memoryPerNode}

// crew is a process's worker: what worker.Worker does with goroutines.
type crew struct {
	p       *process
	core    *worker.Core
	talks   map[banyan.NodeID]*talk
	running map[worker.Key]*attempt
}

// attempt is a task that runs.
type attempt struct {
	demand banyan.Resources
	killed bool
}

func (p *process) openCrew() {
	c := &crew{p: p, core: worker.NewCore(p.n.id, offerPerNode, p.w.shardOf), talks: map[banyan.NodeID]*talk{}, running: map[worker.Key]*attempt{}}
	p.crew = c
	p.every(50*time.Millisecond, func() { c.core.Tick(c.now()); c.act() })
	p.every(150*time.Millisecond, c.follow)
}

func (c *crew) now() int64 { return (c.p.w.now - c.p.began).Microseconds() }

// follow takes who leads what, and opens a stream to each of them.
func (c *crew) follow() {
	view, leaders := map[banyan.ShardID]banyan.NodeID{}, map[banyan.NodeID]bool{}
	for shard, l := range c.p.w.jobs.led {
		view[shard] = l.node
		leaders[l.node] = true
	}
	c.core.Lead(view)
	for _, id := range slices.Sorted(maps.Keys(c.talks)) {
		if t := c.talks[id]; !leaders[id] {
			t.close()
		}
	}
	for _, id := range slices.Sorted(maps.Keys(leaders)) {
		if c.talks[id] == nil {
			c.open(id)
		}
	}
	c.act()
}

// act carries out the core's effects.
func (c *crew) act() {
	e := c.core.Take()
	for _, k := range e.Stop {
		if a := c.running[k]; a != nil && !a.killed {
			a.killed = true
			c.p.after(c.p.work(10*time.Millisecond), func() { c.finish(k, banyanv1.TaskState_TASK_STATE_CANCELED) })
		}
	}
	for _, s := range e.Start {
		c.start(s)
	}
	for _, id := range slices.Sorted(maps.Keys(c.talks)) {
		t := c.talks[id]
		if due, urgent := c.core.Due(id); due && !t.sending {
			t.sending = true
			d := 100 * time.Microsecond
			if !urgent {
				d = 5 * time.Millisecond
			}
			c.p.after(c.p.work(d), func() { c.send(t) })
		}
	}
}

func (c *crew) send(t *talk) {
	t.sending = false
	if t.closed {
		return
	}
	if m := c.core.Message(c.now(), t.controller.n.id); m != nil {
		c.p.w.note("worker says", uint64(c.p.n.id), uint64(t.controller.n.id), bit(m.Hello != nil), m.Credit.GetMemory()<<32|uint64(m.Credit.GetSlots()), uint64(len(m.Finished)), uint64(len(m.Rejected)))
		t.toController(m)
	}
	c.act()
}

// start runs an attempt.
func (c *crew) start(s worker.Start) {
	w, a := c.p.w, &attempt{demand: job.Demand(s.Job.GetSpec())}
	c.running[s.Key] = a
	c.checkRoom()
	w.jobs.all[s.Key.Job].begun[s.Key.Task]++
	took := c.p.work(20 * time.Millisecond)
	if w.chance(0.05) {
		took = w.between(0, 2*time.Second)
	}
	state := banyanv1.TaskState_TASK_STATE_SUCCEEDED
	if w.chance(0.05) {
		state = banyanv1.TaskState_TASK_STATE_FAILED
	}
	c.p.after(took, func() {
		switch {
		case a.killed:
		case w.plan.sweeps && state == banyanv1.TaskState_TASK_STATE_SUCCEEDED && w.chunks.dice.chance(0.5):
			c.finishLarge(s.Key)
		default:
			c.finish(s.Key, state)
		}
	})
}

// checkRoom holds the worker to its offer: all that runs fits in together.
func (c *crew) checkRoom() {
	var sum banyan.Resources
	for _, a := range c.running { // a sum: the order does not show
		sum = sum.Plus(a.demand)
	}
	if !sum.FitsIn(offerPerNode) {
		c.p.w.fail("%v runs attempts that need %+v, it has %+v", c.p.n.id, sum, offerPerNode)
	}
}

func (c *crew) finish(k worker.Key, state banyanv1.TaskState) {
	delete(c.running, k)
	c.p.w.jobs.all[k.Job].ran[work.Key(k)] = state
	c.core.Finish(c.now(), k, &banyanv1.TaskResult{Task: k.Task, Node: uint64(c.p.n.id), State: state})
	c.act()
}

// talk is one stream between a worker and a controller: in order, and nothing
// is lost but by its end, of which either side hears in its own time.
type talk struct {
	w          *world
	worker     *process
	controller *process
	session    work.Session
	told       map[banyan.JobID]bool
	sending    bool
	met        bool // the controller has had the first message
	closed     bool

	up, down time.Duration // when the latest message of each way arrives
}

// open connects to a node's controllers.
func (c *crew) open(id banyan.NodeID) {
	w := c.p.w
	to := w.node(id).proc
	if to == nil || w.net.isCut(c.p.n.id, id) || w.net.isCut(id, c.p.n.id) {
		return
	}
	t := &talk{w: w, worker: c.p, controller: to, told: map[banyan.JobID]bool{}}
	c.talks[id] = t
	c.core.Connect(id)
}

// alive closes the stream if its connection is gone.
func (t *talk) alive() bool {
	a, b := t.worker.n.id, t.controller.n.id
	if !t.closed && (t.worker.dead || t.controller.dead || t.w.net.isCut(a, b) || t.w.net.isCut(b, a)) {
		t.close()
	}
	return !t.closed
}

func (t *talk) toController(m *peerv1.WorkerMessage) {
	if !t.alive() {
		return
	}
	t.up = max(t.up+1, t.w.now+t.w.latency())
	t.w.after(t.up-t.w.now, func() {
		if t.alive() {
			t.controller.resume(func() { t.controller.office.receive(t, m) })
		}
	})
}

func (t *talk) toWorker(m *peerv1.ControllerMessage) {
	if !t.alive() {
		return
	}
	t.down = max(t.down+1, t.w.now+t.w.latency())
	t.w.after(t.down-t.w.now, func() {
		if !t.alive() {
			return
		}
		t.worker.resume(func() {
			c := t.worker.crew
			if t.closed {
				return
			}
			if err := c.core.Receive(c.now(), t.controller.n.id, m); err != nil {
				t.close()
			}
			c.act()
		})
	})
}

// receive takes a worker's message; the first opens a session.
func (o *office) receive(t *talk, m *peerv1.WorkerMessage) {
	if t.closed {
		return
	}
	node := t.worker.n.id
	if !t.met {
		t.met = true
		if old := o.talks[node]; old != nil {
			old.close()
		}
		o.sessions++
		t.session = work.Session{Node: node, ID: o.sessions}
		o.talks[node] = t
		o.core.Connect(o.now(), t.session)
	}
	o.core.Receive(o.now(), t.session, m)
	o.act()
}

// hangUp breaks the streams of a process that has died.
func (p *process) hangUp() {
	for _, talks := range []map[banyan.NodeID]*talk{p.office.talks, p.crew.talks} {
		for _, id := range slices.Sorted(maps.Keys(talks)) {
			talks[id].close()
		}
	}
}

// close ends the stream; each side hears of it later.
func (t *talk) close() {
	if t.closed {
		return
	}
	t.closed = true
	t.w.reach("work stream broken")
	c, o := t.worker, t.controller
	c.after(t.w.between(0, 300*time.Millisecond), func() {
		if c.crew.talks[o.n.id] == t {
			delete(c.crew.talks, o.n.id)
			c.crew.core.Disconnect(o.n.id)
			c.crew.act()
		}
	})
	o.after(t.w.between(0, 300*time.Millisecond), func() {
		if o.office.talks[c.n.id] == t {
			delete(o.office.talks, c.n.id)
			o.office.core.Disconnect(o.office.now(), t.session)
			o.office.act()
		}
	})
}
