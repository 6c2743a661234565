package work

import (
	"cmp"
	"maps"
	"slices"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// node is a member of the cluster, a connected worker, or both.
type node struct {
	id          banyan.NodeID
	name, state string
	alive       bool
	draining    bool // as a member
	offer       banyan.Resources
	lastContact int64

	session     uint64           // 0: not connected
	leaving     bool             // as the worker says
	left        bool             // so it said, and then its stream ended
	window      banyan.Resources // what it will hold at once
	holds       map[Key]uint64   // what counts against the window, and the session it was sent or last claimed on
	helloAt     int64
	leads       []banyan.ShardID // of the latest hello, without those that were sent something since
	claimed     []Key            // of the latest hello
	dismissed   map[Key]struct{} // see dismiss
	named       []*peerv1.Lost   // of the latest hello
	given       []Key            // given to others while it had no stream, see givenLost
	missingTill int64            // it is dead, and till then what it may say of a suspect is waited for; 0: nothing
	graceUntil  int64            // what earlier sessions hold is kept till then; 0: nothing
	out         Message
	early       bool // it has sent a result to a controller that is not here, or not yet
	told        bool // that there is demand
	woken       bool // is in Effects.Wake, or the driver has not taken since
}

// release gives up attempts without saying so.
func (n *node) release(which func(Key) bool) {
	maps.DeleteFunc(n.holds, func(k Key, _ uint64) bool { return which(k) })
	n.out.Start = slices.DeleteFunc(n.out.Start, func(s Start) bool { return which(s.Key) })
	n.out.Begin = slices.DeleteFunc(n.out.Begin, which)
}

// outdate notes that the latest hello is no longer all that the node holds of a shard.
func (n *node) outdate(id banyan.ShardID) {
	if i := slices.Index(n.leads, id); i >= 0 {
		n.leads = slices.Delete(n.leads, i, i+1)
	}
}

// dismiss notes that the worker was told to forget an attempt whose task has no
// result. A hello that still lists the attempt was sent before the worker read
// that, and must not be taken for a claim: without the note the controller would
// count the attempt as running, and nobody would ever finish it. Once a hello no
// longer lists the attempt, the worker has forgotten it and so may the note. The
// controller asks for a hello when it has noted many.
func (n *node) dismiss(k Key) {
	if n.dismissed == nil {
		n.dismissed = map[Key]struct{}{}
	}
	n.dismissed[k] = struct{}{}
	if len(n.dismissed)%dismissedMany == 0 {
		n.out.SayHello = true
	}
}

const dismissedMany = 1024

// room is what a node would take beyond what it holds; nothing is negative.
func (c *Core) room(n *node) banyan.Resources {
	if n.session == 0 || !n.alive || n.draining || n.leaving {
		return banyan.Resources{}
	}
	r := n.window.Minus(c.held(n))
	return banyan.Resources{Slots: max(0, r.Slots), Memory: max(0, r.Memory)}
}

// held is what counts against a node's window.
func (c *Core) held(n *node) banyan.Resources {
	if c.large == 0 {
		return banyan.Resources{Slots: len(n.holds)}
	}
	var sum banyan.Resources
	for k := range n.holds { // a sum: the order does not show
		each := banyan.Resources{Slots: 1}
		if r := c.jobs[k.Job]; r != nil {
			each = r.demand
		}
		sum = sum.Plus(each)
	}
	return sum
}

// ahead is how many attempts the worker wants waiting beyond its slots. They
// wait beyond a job's bound on one node, too: the worker starts no more than
// the bound at once, and a slot must not idle for a round trip.
func (n *node) ahead() int { return max(0, n.window.Slots-n.offer.Slots) }

// find gives a node, nil if it is neither a member nor connected.
func (c *Core) find(id banyan.NodeID) *node {
	if at, ok := c.findNode(id); ok {
		return c.nodes[at]
	}
	return nil
}

func (c *Core) findNode(id banyan.NodeID) (int, bool) {
	return slices.BinarySearchFunc(c.nodes, id, func(n *node, id banyan.NodeID) int { return cmp.Compare(n.id, id) })
}

// meet finds a node, making it if it is new.
func (c *Core) meet(id banyan.NodeID) *node {
	at, ok := c.findNode(id)
	if !ok {
		c.nodes = slices.Insert(c.nodes, at, &node{id: id, name: id.String(), state: "alive", alive: true, holds: map[Key]uint64{}, lastContact: c.now})
	}
	return c.nodes[at]
}

// Members takes the list of members as known now. A node that is not alive, or
// no longer listed and not connected, loses its attempts at once.
func (c *Core) Members(now int64, members []NodeInfo) {
	c.now = now
	listed := map[banyan.NodeID]bool{}
	for _, m := range members {
		listed[m.ID] = true
		n := c.meet(m.ID)
		n.name, n.state, n.draining, n.lastContact = m.Name, m.State, m.Draining, now-m.Silent.Milliseconds()
		if n.session == 0 {
			n.offer = banyan.Resources{Slots: m.Slots, Memory: n.offer.Memory}
		}
		if n.alive = m.Alive; !n.alive {
			c.bury(n, dead)
		}
	}
	c.nodes = slices.DeleteFunc(c.nodes, func(n *node) bool {
		if listed[n.id] || n.session != 0 {
			return false
		}
		c.bury(n, gone)
		return true
	})
	c.schedule()
}

// bury gives everything a dead node had to others. Should it live after all,
// it has to open a new stream.
func (c *Core) bury(n *node, how lossEnd) {
	if n.leaving {
		n.left = true
	}
	if n.left && how == dead {
		how = departed
	}
	if n.session != 0 {
		c.effects.Close = append(c.effects.Close, Session{n.id, n.session})
	}
	c.disconnect(n)
	n.graceUntil = 0
	c.lose(n, how, func(Key, uint64) bool { return true })
	c.givenLost(n)
	for _, s := range c.shards {
		s.heard(n.id)
		c.settle(s)
	}
}

func (s *shard) heard(node banyan.NodeID) {
	s.awaiting = slices.DeleteFunc(s.awaiting, func(w await) bool { return w.node == node })
}

// Connect says that a worker has opened a stream. An older one of the same
// node is to be ended.
func (c *Core) Connect(now int64, s Session) {
	c.now = now
	n := c.meet(s.Node)
	if n.session != 0 {
		c.effects.Close = append(c.effects.Close, Session{n.id, n.session})
	}
	c.disconnect(n)
	n.session = s.ID
	c.wake(n)
}

// Disconnect says that a stream is gone. Its attempts have a moment to be
// claimed on a new one.
func (c *Core) Disconnect(now int64, s Session) {
	c.now = now
	if n := c.find(s.Node); n != nil && n.session == s.ID {
		c.disconnect(n)
	}
}

func (c *Core) disconnect(n *node) {
	n.left = n.left || n.leaving
	n.session, n.window, n.leaving, n.told, n.woken = 0, banyan.Resources{}, false, false, false
	n.helloAt, n.leads, n.claimed, n.dismissed, n.named = 0, nil, nil, nil, nil
	n.out = Message{}
	if len(n.holds) > 0 {
		n.graceUntil = c.now + HelloWindowMs
	}
}

// Receive takes a worker's message. It keeps the results in it.
func (c *Core) Receive(now int64, s Session, m *peerv1.WorkerMessage) {
	c.now = now
	n := c.find(s.Node)
	if n == nil || n.session != s.ID {
		return
	}
	n.lastContact = max(n.lastContact, now)
	n.window, n.leaving = job.ResourcesOf(m.Credit), m.Draining
	for _, f := range m.Finished {
		c.finished(n, keyOf(f.Key), f.Result, f.Epoch)
	}
	for _, k := range m.Rejected {
		c.returned(n, keyOf(k))
	}
	if m.Hello != nil {
		c.hello(n, m.Hello)
	}
	for _, k := range m.Begins {
		c.begins(n, keyOf(k))
	}
	c.schedule()
}

func keyOf(k *peerv1.AttemptKey) Key {
	return Key{banyan.JobID(k.GetJobId()), k.GetTask(), k.GetAttempt()}
}

// hello takes what a worker says it holds. For the shards in Leads that is
// complete: what it was sent on an earlier stream and does not claim is lost.
func (c *Core) hello(n *node, h *peerv1.Hello) {
	n.offer = job.ResourcesOf(h.Offer)
	first := n.helloAt == 0
	n.helloAt = c.now
	n.claimed, n.leads = make([]Key, len(h.Running)), make([]banyan.ShardID, len(h.Leads))
	for i, k := range h.Running {
		n.claimed[i] = keyOf(k)
	}
	for i, s := range h.Leads {
		n.leads[i] = banyan.ShardID(s)
	}
	still := map[Key]struct{}{}
	for _, k := range n.claimed {
		if _, ok := n.dismissed[k]; ok {
			still[k] = struct{}{}
		}
	}
	n.dismissed = still // what is not listed has been forgotten
	n.named, n.given, n.missingTill, n.left = h.Lost, nil, 0, false
	c.allNamed(n, func(banyan.ShardID) bool { return true })
	for _, k := range n.claimed {
		c.claim(n, k, first)
	}
	c.lose(n, unclaimed, func(k Key, session uint64) bool {
		return session != n.session && slices.Contains(n.leads, c.shardOf([]byte(k.Job)))
	})
	for _, s := range c.shards {
		if len(s.awaiting) > 0 && slices.Contains(n.leads, s.id) {
			s.heard(n.id)
			c.settle(s)
		}
	}
}

// claims repeats the claims of an earlier hello for a shard that is led only now.
func (c *Core) claims(n *node, keys []Key, id banyan.ShardID) {
	for _, k := range keys {
		if c.shardOf([]byte(k.Job)) == id {
			c.claim(n, k, true)
		}
	}
}

// claim takes up an attempt that a worker holds and this core may not know.
// gentle: its result may be on its way, so a rival is not a reason to kill it.
func (c *Core) claim(n *node, k Key, gentle bool) {
	if c.shardFor(k.Job) == nil {
		return
	}
	r := c.jobs[k.Job]
	if _, dismissed := n.dismissed[k]; dismissed || r == nil || !r.admits(k.Task) || r.failures[k.Task].Last >= k.Attempt {
		c.unknown(n, k)
		return
	}
	if r.recorded.has(k.Task) {
		c.recorded(n, k)
		return
	}
	a := r.live(k.Task)
	switch {
	case a != nil && a.key == k:
		if a.state == job.AttemptSent {
			n.holds[k] = n.session
		}
	case a != nil:
		if !gentle {
			c.unknown(n, k)
		}
	case r.header.State != banyanv1.JobState_JOB_STATE_ACTIVE:
		n.holds[k] = n.session
		n.out.Stop = append(n.out.Stop, k)
		c.wake(n)
	default:
		suspect := r.losses[k.Task].Count > 0 && k.Attempt > r.losses[k.Task].Last
		r.claim(k.Task, &attempt{key: k, node: n.id, state: job.AttemptSent, startMs: c.now, suspect: suspect})
		n.holds[k] = n.session
		c.want(r)
	}
}

// finished takes a result. The first one of a task is queued to be recorded,
// whichever attempt it comes from; later ones are not wanted.
func (c *Core) finished(n *node, k Key, result *banyanv1.TaskResult, epoch uint64) {
	delete(n.holds, k)
	s := c.shardFor(k.Job)
	if s == nil {
		n.early = true
		return
	}
	r := c.jobs[k.Job]
	if r == nil || !r.admits(k.Task) || result == nil {
		c.unknown(n, k)
		return
	}
	if r.recorded.has(k.Task) {
		c.recorded(n, k)
		return
	}
	a := r.live(k.Task)
	switch {
	case a != nil && a.state == job.AttemptFinished:
		return // repeated, or a second one: it will be asked again once the first is durable
	case result.State == banyanv1.TaskState_TASK_STATE_CANCELED,
		result.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED && r.failures[k.Task].Last >= k.Attempt: // counted already
		if a != nil && a.key == k {
			c.giveBack(r, a)
		}
		c.unknown(n, k)
		return
	case a != nil && a.key != k && result.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED:
		c.unknown(n, k)
		return
	case a != nil && a.key != k:
		c.stop(r, a)
		r.close(a, job.AttemptReturned)
		a = nil
	}
	if a == nil {
		a = &attempt{key: k, node: n.id, state: job.AttemptSent, startMs: c.now}
		r.claim(k.Task, a)
		c.want(r)
	}
	r.close(a, job.AttemptFinished)
	c.report(s, r, a, result, epoch)
}

// returned takes an attempt back that a worker did not start or had to end.
func (c *Core) returned(n *node, k Key) {
	delete(n.holds, k)
	n.claimed = slices.DeleteFunc(n.claimed, func(o Key) bool { return o == k })
	r := c.jobs[k.Job]
	if r == nil || k.Task > r.tasks {
		return
	}
	if a := r.open[k.Task]; a != nil && a.key == k && a.state == job.AttemptSent {
		c.giveBack(r, a)
	}
}

func compareKeys(a, b Key) int {
	return cmp.Or(cmp.Compare(a.Job, b.Job), cmp.Compare(a.Task, b.Task), cmp.Compare(a.Attempt, b.Attempt))
}

// stop tells the worker to end an attempt; one that was not sent yet is not sent.
func (c *Core) stop(r *Run, a *attempt) {
	if a.state != job.AttemptSent {
		return
	}
	n := c.find(a.node)
	if n == nil {
		return
	}
	if i := slices.IndexFunc(n.out.Start, func(s Start) bool { return s.Key == a.key }); i >= 0 {
		n.out.Start = slices.Delete(n.out.Start, i, i+1)
		delete(n.holds, a.key)
		return
	}
	if n.session != 0 {
		n.out.Stop = append(n.out.Stop, a.key)
		c.wake(n)
	}
}

func (c *Core) recorded(n *node, k Key) {
	if n != nil && n.session != 0 {
		n.out.Recorded = append(n.out.Recorded, k)
		c.wake(n)
	}
}

func (c *Core) unknown(n *node, k Key) {
	if n != nil && n.session != 0 {
		n.out.Unknown = append(n.out.Unknown, k)
		n.dismiss(k)
		c.wake(n)
	}
}

func (c *Core) wake(n *node) {
	if !n.woken {
		n.woken = true
		c.effects.Wake = append(c.effects.Wake, Session{n.id, n.session})
	}
}

// Unsent gives attempts back that the driver could not send.
func (c *Core) Unsent(now int64, s Session, keys []Key) {
	c.now = now
	if n := c.find(s.Node); n != nil && n.session == s.ID {
		for _, k := range keys {
			c.returned(n, k)
		}
	}
	c.schedule()
}

// Fail ends an attempt that cannot even be sent, for good.
func (c *Core) Fail(now int64, k Key, why string) {
	c.now = now
	r := c.jobs[k.Job]
	if r == nil || r.open[k.Task] == nil || r.open[k.Task].key != k {
		return
	}
	r.failures[k.Task] = job.Failure{Count: r.tries - 1}
	if n := c.find(r.open[k.Task].node); n != nil {
		c.finished(n, k, &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_FAILED, Error: why}, 0)
	}
	c.schedule()
}
