package work

import (
	"cmp"
	"maps"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// Core is every controller of one node without its goroutines: the unfinished
// jobs of the shards led here, the workers, and what is on its way between
// them. It reads no clock: now is milliseconds on any clock that does not go
// back, and never 0; the time of day is given only where people are told it. It is not safe for concurrent use. The same inputs in the same order
// give the same outputs.
//
// What it wants done comes out in four ways: Effects (after each input),
// Take (the next message to a worker), NextBatch (the next command of a shard)
// and the answers among the effects.
type Core struct {
	// Fenced has results that refer to chunks recorded only on the condition that
	// those were touched lately: see Batch.Stale.
	Fenced bool

	shardOf func(partition []byte) banyan.ShardID
	now     int64
	wall    int64 // the time of day, of the batch that is being made

	shards  []*shard                // led here and loaded, by id
	sent    map[banyan.ShardID]sent // by shards that were led here, in their last term
	jobs    map[banyan.JobID]*Run
	large   int     // of them: those an attempt of which occupies anything but one slot
	wanting []*Run  // those that could start something, oldest first
	nodes   []*node // by id
	effects Effects
	plan    planner
}

// Effects is what the driver has to do, in this order.
type Effects struct {
	Results []Recorded       // durable now
	Changes []Change         // job states that are durable now
	Answers []Answer         // to Do
	Close   []Session        // streams to end
	Wake    []Session        // streams with something to say (Take)
	Commits []banyan.ShardID // shards with something to commit (NextBatch)
}

// Recorded is results of one job that became durable at one revision.
type Recorded struct {
	Job      banyan.JobID
	Revision banyan.Revision
	Results  []*banyanv1.TaskResult // final ones; the then step's is last
}

// Change is a job's header that became durable, or its removal from this core.
type Change struct {
	Job    banyan.JobID
	Header *banyanv1.Job
}

// Session is one stream of a worker.
type Session struct {
	Node banyan.NodeID
	ID   uint64
}

// shard is one led shard.
type shard struct {
	id       banyan.ShardID
	term     uint64
	attempts uint64 // sent in this term
	jobs     int
	sources  int     // of jobs, that are open
	awaiting []await // nodes whose hello is waited for
	queue    []*report
	ops      []*Op
	inflight *Batch
}

// sent is how many attempts were sent in a term: a shard that is loaded again in
// the same term gives none of their numbers to another attempt.
type sent struct{ term, attempts uint64 }

type await struct {
	node  banyan.NodeID
	until int64
}

// NewCore makes a core that leads nothing and knows nobody.
func NewCore(shardOf func(partition []byte) banyan.ShardID) *Core {
	return &Core{shardOf: shardOf, sent: map[banyan.ShardID]sent{}, jobs: map[banyan.JobID]*Run{}}
}

// Effects gives what there is to do and forgets it.
func (c *Core) Effects() Effects {
	e := c.effects
	c.effects = Effects{}
	return e
}

// Lead starts the controller of a shard in a term, with the shard's unfinished
// jobs as its rows say. since is when leadership began: hellos said after it
// count. Jobs in hold are held before anything of them starts.
func (c *Core) Lead(now int64, id banyan.ShardID, term uint64, since int64, runs []*Run, hold func(banyan.JobID) bool) {
	c.now = now
	c.Lose(id)
	s := &shard{id: id, term: term}
	if before := c.sent[id]; before.term == term {
		s.attempts = before.attempts
	}
	at, _ := c.findShard(id)
	c.shards = slices.Insert(c.shards, at, s)
	for _, r := range runs {
		c.insert(s, r)
		c.adopt(r)
		if r.header.State == banyanv1.JobState_JOB_STATE_ACTIVE && hold != nil && hold(r.id) {
			c.Do(&Op{Kind: OpHold, Shard: id, Job: r.id})
		}
	}
	for _, n := range c.nodes {
		if !n.alive {
			continue
		}
		if n.early && n.session != 0 {
			n.early, n.out.SayHello = false, true // and say it again
			c.wake(n)
		}
		if n.session != 0 && n.helloAt >= since && slices.Contains(n.leads, id) {
			c.allNamed(n, func(of banyan.ShardID) bool { return of == id })
			c.claims(n, n.claimed, id)
			c.lose(n, unclaimed, func(k Key, session uint64) bool { return session != n.session && c.shardOf([]byte(k.Job)) == id })
			continue
		}
		if n.session != 0 {
			n.out.SayHello = true
			c.wake(n)
		}
		until := max(n.lastContact+HelloWindowMs, now+HelloGraceMs)
		s.awaiting = append(s.awaiting, await{n.id, min(until, now+HelloWindowMs)})
	}
	c.settle(s)
	c.schedule()
}

// Lose ends the controller of a shard. Requests in its queue are refused; what
// its jobs run goes on at the workers, for the next leader to claim.
func (c *Core) Lose(id banyan.ShardID) {
	at, led := c.findShard(id)
	if !led {
		return
	}
	s := c.shards[at]
	c.shards = slices.Delete(c.shards, at, at+1)
	c.sent[id] = sent{s.term, s.attempts}
	ops := s.ops
	if s.inflight != nil && s.inflight.op != nil {
		ops = append([]*Op{s.inflight.op}, ops...)
	}
	for _, op := range ops {
		c.answer(op, nil, banyan.Errorf(banyan.NotLeader, "leadership of shard %d moved before it was clear whether this was done: ask again", id))
	}
	for _, n := range c.nodes {
		n.release(func(k Key) bool { // by the job, if it is known: its shard may be another one by now
			if r := c.jobs[k.Job]; r != nil {
				return r.shard == s
			}
			return c.shardFor(k.Job) == nil
		})
	}
	c.wanting = slices.DeleteFunc(c.wanting, func(r *Run) bool { return r.shard == s })
	for jobID, r := range c.jobs { // only deletes: the order does not show
		if r.shard == s {
			c.drop(jobID)
		}
	}
}

// Leads says whether a shard's controller runs here, and in which term.
func (c *Core) Leads(id banyan.ShardID) (term uint64, ok bool) {
	at, ok := c.findShard(id)
	if !ok {
		return 0, false
	}
	return c.shards[at].term, true
}

// Queued counts the results and requests that wait to be committed.
func (c *Core) Queued() int {
	n := 0
	for _, s := range c.shards {
		n += len(s.queue) + len(s.ops)
	}
	return n
}

// Run gives an unfinished job that is led here, nil if there is none.
func (c *Core) Run(id banyan.JobID) *Run { return c.jobs[id] }

// Tick lets time pass: it ends the waiting for nodes that say nothing.
func (c *Core) Tick(now int64) {
	c.now = now
	for _, s := range c.shards {
		if len(s.awaiting) > 0 {
			s.awaiting = slices.DeleteFunc(s.awaiting, func(w await) bool { return now >= w.until })
			c.settle(s)
		}
	}
	c.closeSilent()
	for _, n := range c.nodes {
		if n.graceUntil != 0 && now >= n.graceUntil {
			n.graceUntil = 0
			c.lose(n, silent, func(_ Key, session uint64) bool { return session != n.session })
		}
		c.missed(n)
	}
	c.schedule()
}

// Calm says whether Tick has nothing to look at until something else happens.
func (c *Core) Calm() bool {
	return len(c.jobs) == 0 &&
		!slices.ContainsFunc(c.shards, func(s *shard) bool { return len(s.awaiting) > 0 }) &&
		!slices.ContainsFunc(c.nodes, func(n *node) bool { return n.graceUntil != 0 || n.missingTill != 0 })
}

// settle lets a shard's jobs start once every node has said what it runs.
func (c *Core) settle(s *shard) {
	if len(s.awaiting) > 0 {
		return
	}
	for _, r := range c.runsOf(s) {
		if r.settled {
			continue
		}
		r.settled = true
		if r.header.State == banyanv1.JobState_JOB_STATE_ACTIVE {
			r.assumeLost()
		}
		c.want(r)
	}
}

func (c *Core) insert(s *shard, r *Run) {
	r.shard = s
	s.jobs++
	if r.source {
		s.sources++
		r.fedAt = c.now
	}
	c.jobs[r.id] = r
	if r.large() {
		c.large++
	}
	c.want(r)
}

// remove forgets a job that has ended; attempts still open are stopped.
func (c *Core) remove(r *Run) {
	for _, task := range r.openTasks() {
		c.stop(r, r.open[task])
	}
	r.pending, r.suspects = 0, nil
	c.want(r)
	r.shard.jobs--
	if r.source {
		r.shard.sources--
	}
	c.drop(r.id)
}

func (c *Core) drop(id banyan.JobID) {
	if c.jobs[id].large() {
		c.large--
	}
	delete(c.jobs, id)
}

// want keeps the list of jobs that could start something.
func (c *Core) want(r *Run) {
	wants := r.pending+len(r.suspects) > 0 && r.settled && !r.freezing && r.header.State == banyanv1.JobState_JOB_STATE_ACTIVE
	if wants == r.wants {
		return
	}
	r.wants = wants
	at, found := slices.BinarySearchFunc(c.wanting, r.id, func(x *Run, id banyan.JobID) int { return cmp.Compare(x.id, id) })
	if wants {
		c.wanting = slices.Insert(c.wanting, at, r)
	} else if found {
		c.wanting = slices.Delete(c.wanting, at, at+1)
	}
}

// runsOf lists a shard's jobs, oldest first.
func (c *Core) runsOf(s *shard) []*Run {
	var runs []*Run
	for _, r := range c.jobs { // sorted below
		if r.shard == s {
			runs = append(runs, r)
		}
	}
	slices.SortFunc(runs, func(a, b *Run) int { return cmp.Compare(a.id, b.id) })
	return runs
}

func (c *Core) findShard(id banyan.ShardID) (int, bool) {
	return slices.BinarySearchFunc(c.shards, id, func(s *shard, id banyan.ShardID) int { return cmp.Compare(s.id, id) })
}

// shardFor gives the shard of a job if it is led here.
func (c *Core) shardFor(id banyan.JobID) *shard {
	at, ok := c.findShard(c.shardOf([]byte(id)))
	if !ok {
		return nil
	}
	return c.shards[at]
}

// Progress says how far a job is. Of the attempts that a node holds as many run
// as it has slots; the others wait there, and count as pending.
func (c *Core) Progress(now int64, r *Run) *banyanv1.Progress {
	p := &banyanv1.Progress{
		Tasks: r.tasks, Succeeded: r.succeeded, Failed: r.failed,
		Retried: r.retried, Repeated: r.repeated, RatePerS: r.rate.perSecond(now), Open: r.source,
	}
	p.TooLarge = r.header.Spec.Demand != nil // until one is found
	for _, n := range c.nodes {
		if p.TooLarge && n.session != 0 && n.alive && !n.draining && !n.leaving && r.demand.FitsIn(n.offer) {
			p.TooLarge = false
		}
		running := uint32(max(0, min(r.running[n.id], n.offer.Slots/r.demand.Slots)))
		p.Running += running
		if n.session != 0 && n.alive || r.running[n.id] > 0 || r.done[n.id] > 0 {
			p.Nodes = append(p.Nodes, &banyanv1.NodeProgress{
				Node: uint64(n.id), Name: n.name, Running: running, Done: r.done[n.id], Slots: uint32(n.offer.Slots), State: n.state,
			})
		}
	}
	if a := r.open[r.tasks]; a != nil && !r.source && a.state == job.AttemptSent {
		p.ThenRunning = true
		p.Running -= min(p.Running, 1)
	}
	p.Pending = r.tasks - min(r.tasks, r.succeeded+r.failed+p.Running)
	for _, id := range slices.Sorted(maps.Keys(r.done)) {
		if c.find(id) == nil {
			p.Nodes = append(p.Nodes, &banyanv1.NodeProgress{Node: uint64(id), Name: id.String(), Done: r.done[id], State: "gone"})
		}
	}
	return p
}

// Snapshot describes a job as it is now.
func (c *Core) Snapshot(now int64, r *Run) *banyanv1.Job {
	j := r.with(r.header.State, now, c.Progress(now, r))
	j.EndMs = r.header.EndMs
	j.Shard = uint32(r.shard.id)
	return j
}

// Locate gives the attempt that runs a task, and since when by the core's clock.
func (c *Core) Locate(id banyan.JobID, task uint32) (node banyan.NodeID, key Key, startMs int64, ok bool) {
	r := c.jobs[id]
	if r == nil || r.open[task] == nil || r.open[task].state != job.AttemptSent {
		return 0, Key{}, 0, false
	}
	a := r.open[task]
	return a.node, a.key, a.startMs, true
}
