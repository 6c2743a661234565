package worker

import (
	"cmp"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	jobs "banyan/core/job"

	peerv1 "banyan/api/banyan/peer/v1"

	"google.golang.org/protobuf/proto"
)

// Key names one attempt in the cluster.
type Key struct {
	Job     banyan.JobID
	Task    uint32
	Attempt uint64
}

func keyOf(k *peerv1.AttemptKey) Key {
	return Key{banyan.JobID(k.GetJobId()), k.GetTask(), k.GetAttempt()}
}

func (k Key) proto() *peerv1.AttemptKey {
	return &peerv1.AttemptKey{JobId: string(k.Job), Task: k.Task, Attempt: k.Attempt}
}

// Start tells the driver to run an attempt in a slot.
type Start struct {
	Key     Key
	Slot    int // from 1
	Attempt *peerv1.Attempt
	Job     *peerv1.JobHeader
}

// Effects is what the driver has to do, in this order.
type Effects struct {
	Stop  []Key // kill; the attempt still has to be given to Finish
	Start []Start
	Told  []Key // of those given to Lost: need not be kept any more
}

// Core is the worker without its goroutines: which attempts it holds, which of
// them run, what it owes to which controller. It reads no clock; now is
// microseconds on any clock that does not go back. It is not safe for
// concurrent use.
//
// An attempt waits, runs and is finished; a finished one is kept until its
// controller says it is recorded. Each belongs to the controller that leads its
// job's shard, as far as this worker knows; that may change at any time.
type Core struct {
	node    banyan.NodeID
	offer   banyan.Resources // to all controllers together
	slots   []*attempt       // what runs; one that occupies several slots has the number of one
	taken   banyan.Resources // by what runs
	shardOf func(partition []byte) banyan.ShardID
	view    map[banyan.ShardID]banyan.NodeID // as last told
	leaders map[banyan.ShardID]banyan.NodeID // view, and what starts have taught since
	learned map[banyan.ShardID]int64         // since when leaders differs from view

	controllers []*controller // connected, by node
	attempts    map[Key]*attempt
	waiting     []*attempt // oldest first
	results     []*attempt // finished, oldest first
	pace        pace
	scarce      scarce
	lost        []Lost   // what a controller has yet to record
	turns       *attempt // the suspect that waits for its controller's word; nil: none
	draining    bool
	stopped     bool
	effects     Effects
}

type attempt struct {
	key    Key
	demand banyan.Resources
	shard  banyan.ShardID
	from   banyan.NodeID // whose present stream brought it; 0: that stream is gone
	msg    *peerv1.Attempt
	job    *peerv1.JobHeader
	since  int64 // it has waited or run since

	slot    int // from 1; 0: it does not run
	suspect bool
	asked   banyan.NodeID // it, to let the suspect begin
	begun   bool          // it has

	killed  bool          // the driver was told
	dropped bool          // its result is not wanted
	unknown banyan.NodeID // by this controller, which knows nothing of it; 0: it is recorded

	result *banyanv1.TaskResult
	bytes  int           // of result, about
	epoch  uint64        // of sweeping, before what result refers to was touched
	sentTo banyan.NodeID // 0: not sent
	sentAt int64
}

// controller is one connected stream.
type controller struct {
	node     banyan.NodeID
	hello    bool // due
	helloAt  int64
	extra    int              // hellos to repeat soon: the first may come before it knows that it leads
	leads    []banyan.ShardID // of the hello before
	jobs     map[banyan.JobID]*peerv1.JobHeader
	demand   []demand
	rejected []Key
	credit   banyan.Resources
	told     *told // by the last message; nil: none yet

	ahead      *peerv1.ThenFiles // came ahead of the start they belong to
	aheadBytes int
}

// demand is a number of attempts that a controller could give away, all alike.
type demand struct {
	each     banyan.Resources
	attempts int
}

// told is what a controller was told of this worker's room.
type told struct {
	credit   banyan.Resources
	draining bool
}

const (
	helloAgain  = 500_000   // µs, while attempts are held that the stream did not start
	helloSoon   = 150_000   // µs, between the hellos after a controller's shards have grown
	helloExtra  = 3         // of those
	believeFor  = 1_000_000 // µs, that a start counts more than what is said of leaders
	lostAgain   = 1_000_000 // µs, until a loss is recorded
	resultAgain = 2_000_000 // µs, until a result is recorded
	stuckAfter  = 100_000   // µs without any start or end, then what waits is handed back
	messageMax  = 2 << 20   // bytes of results in one message, about
)

// NewCore makes a worker that holds nothing.
func NewCore(node banyan.NodeID, offer banyan.Resources, shardOf func([]byte) banyan.ShardID) *Core {
	return &Core{
		node: node, offer: offer, slots: make([]*attempt, offer.Slots), shardOf: shardOf,
		leaders:  map[banyan.ShardID]banyan.NodeID{},
		learned:  map[banyan.ShardID]int64{},
		attempts: map[Key]*attempt{},
	}
}

// Take gives what there is to do and forgets it.
func (c *Core) Take() Effects {
	e := c.effects
	c.effects = Effects{}
	return e
}

// Lead says who leads which shard; call it also when jobs are of other shards than
// before. Only what differs from the call before counts: a controller that sent a
// start is believed over an old view, for a while.
func (c *Core) Lead(view map[banyan.ShardID]banyan.NodeID) {
	for shard, node := range view {
		if c.view[shard] != node {
			c.leaders[shard] = node
			delete(c.learned, shard)
		}
	}
	for shard := range c.view {
		if _, ok := view[shard]; !ok {
			delete(c.leaders, shard)
			delete(c.learned, shard)
		}
	}
	c.view = view
	c.place()
	c.greet()
	c.grant()
}

// place looks up the shard of each attempt anew: it may have been split since the
// attempt came. What an old leader was sent of it the new one gets, too.
func (c *Core) place() {
	for _, a := range c.attempts { // each by itself: the order does not show
		a.shard = c.shardOf([]byte(a.key.Job))
	}
}

// greet says hello to controllers that lead more than they were told: a new
// controller begins once every worker has said what it holds, be it nothing.
func (c *Core) greet() {
	for _, x := range c.controllers {
		for _, shard := range c.leadsOf(x) {
			if !slices.Contains(x.leads, shard) {
				x.hello, x.extra = true, helloExtra
			}
		}
	}
}

// leadsOf lists the shards that a controller leads, as far as this worker knows.
func (c *Core) leadsOf(x *controller) []banyan.ShardID {
	var leads []banyan.ShardID
	for shard, node := range c.leaders {
		if node == x.node {
			leads = append(leads, shard)
		}
	}
	slices.Sort(leads)
	return leads
}

// Connect says that a stream to a controller is open; its first message will
// be a Hello.
func (c *Core) Connect(node banyan.NodeID) {
	c.Disconnect(node)
	c.controllers = append(c.controllers, &controller{node: node, hello: true, jobs: map[banyan.JobID]*peerv1.JobHeader{}})
	slices.SortFunc(c.controllers, func(a, b *controller) int { return cmp.Compare(a.node, b.node) })
	c.greet()
	c.grant()
}

// Disconnect says that the stream to a controller is gone. What it started goes on.
func (c *Core) Disconnect(node banyan.NodeID) {
	c.controllers = slices.DeleteFunc(c.controllers, func(x *controller) bool { return x.node == node })
	for _, a := range c.held() {
		if a.from == node {
			a.from = 0
		}
	}
	c.unsent(node)
	c.unasked(node)
	c.grant()
}

// unsent has results go out again that a controller was sent.
func (c *Core) unsent(to banyan.NodeID) {
	for _, a := range c.results {
		if a.sentTo == to {
			a.sentTo = 0
		}
	}
}

// Receive takes a controller's message. An error means that the stream is no
// good and must be closed and opened anew.
func (c *Core) Receive(now int64, node banyan.NodeID, m *peerv1.ControllerMessage) error {
	from := c.controller(node)
	if from == nil {
		return nil
	}
	from.demand = demandsOf(m.GetDemand())
	if m.GetSayHello() {
		from.hello = true
		c.unsent(node) // it may not have led yet when they came
		c.unasked(node)
	}
	for _, k := range m.GetRecorded() {
		c.unwanted(keyOf(k), 0)
	}
	for _, k := range m.GetUnknown() {
		c.unwanted(keyOf(k), node)
	}
	for _, k := range m.GetStop() {
		c.stop(now, keyOf(k))
	}
	for _, k := range m.GetBegin() {
		c.begin(keyOf(k))
	}
	if m.GetForgetJobs() {
		clear(from.jobs) // attempts that are here keep theirs
	}
	err := from.learn(m.GetJobs())
	for _, f := range m.GetThenFiles() {
		if err == nil {
			err = from.keepFiles(f)
		}
	}
	for _, s := range m.GetStart() {
		if err == nil {
			err = c.accept(now, from, s)
		}
	}
	c.fill(now)
	return err
}

// learn keeps job headers until the controller says that they are forgotten.
func (x *controller) learn(jobs []*peerv1.JobHeader) error {
	for _, j := range jobs {
		if len(x.jobs) >= banyan.WorkerJobsMax {
			return banyan.Errorf(banyan.Exhausted, "%s has announced %d jobs at once (WorkerJobsMax): opening a new stream", x.node, len(x.jobs))
		}
		x.jobs[banyan.JobID(j.GetJobId())] = j
	}
	return nil
}

// keepFiles keeps a part of the files of a then step until its start comes, which
// is next: a controller sends the parts of one after those of the other.
func (x *controller) keepFiles(f *peerv1.ThenFiles) error {
	if a := x.ahead; a == nil || keyOf(a.GetKey()) != keyOf(f.GetKey()) {
		x.ahead, x.aheadBytes = &peerv1.ThenFiles{Key: f.GetKey()}, 0
	}
	if x.aheadBytes += proto.Size(f); x.aheadBytes > 2*banyan.ThenFilesBytesMax {
		x.ahead = nil
		return banyan.Errorf(banyan.Exhausted, "%s has sent a list of files of more than %d bytes for one task: opening a new stream", x.node, 2*banyan.ThenFilesBytesMax)
	}
	x.ahead.Files = append(x.ahead.Files, f.GetFiles()...)
	x.ahead.Lists = append(x.ahead.Lists, f.GetLists()...)
	return nil
}

// takeFiles completes a start with the files that came ahead of it.
func (x *controller) takeFiles(s *peerv1.Attempt) {
	if a := x.ahead; a != nil && keyOf(a.GetKey()) == keyOf(s.GetKey()) {
		s.InputsFromTasks = append(a.Files, s.InputsFromTasks...)
		s.ListsFromTasks = append(a.Lists, s.ListsFromTasks...)
	}
	x.ahead = nil
}

func (c *Core) accept(now int64, from *controller, s *peerv1.Attempt) error {
	k := keyOf(s.GetKey())
	from.takeFiles(s)
	if c.attempts[k] != nil {
		return nil
	}
	job := from.jobs[k.Job]
	if job.GetSpec() == nil || s.GetKey().GetTask() > job.GetTasks() {
		return banyan.Errorf(banyan.Invalid, "%s started task %d of job %s without saying what the job is: opening a new stream", from.node, k.Task, k.Job)
	}
	if c.draining || c.stopped || len(c.waiting) >= banyan.WorkerBacklogMax+len(c.slots) {
		from.rejected = append(from.rejected, k)
		return nil
	}
	a := &attempt{key: k, demand: jobs.Demand(job.GetSpec()), shard: c.shardOf([]byte(k.Job)), from: from.node, msg: s, job: job, since: now, suspect: s.GetSuspect()}
	if c.leaders[a.shard] != from.node {
		c.leaders[a.shard], c.learned[a.shard] = from.node, now
		c.greet()
	}
	c.attempts[k] = a
	c.waiting = append(c.waiting, a)
	return nil
}

// stop cancels on behalf of the job: the result says so.
func (c *Core) stop(now int64, k Key) {
	a := c.attempts[k]
	switch {
	case a == nil || a.result != nil:
	case a.slot > 0:
		c.kill(a)
	default:
		c.unqueue(a)
		a.finish(&banyanv1.TaskResult{
			Task: k.Task, Attempt: a.msg.GetTry(), Node: uint64(c.node),
			State: banyanv1.TaskState_TASK_STATE_CANCELED, Error: "canceled before it began",
		})
		c.results = append(c.results, a)
	}
}

// unwanted forgets an attempt, killing it if it runs. If it is only that a
// controller does not know it (unknown ≠ 0), others may: it is handed back to
// them, because the one may lead no more.
func (c *Core) unwanted(k Key, unknown banyan.NodeID) {
	a := c.attempts[k]
	if a == nil {
		c.told(k)
		return
	}
	a.dropped, a.unknown = true, unknown
	if a.slot > 0 {
		c.kill(a)
		return
	}
	c.unqueue(a)
	c.dropped(a)
}

func (c *Core) dropped(a *attempt) {
	if a.unknown != 0 {
		c.reject(a)
	} else {
		c.forget(a)
	}
}

// Finish says how a started attempt ended. A nil result hands it back: it was
// killed because this worker stops, and somebody else has to do it.
func (c *Core) Finish(now int64, k Key, result *banyanv1.TaskResult) {
	a := c.attempts[k]
	if a == nil || a.slot == 0 {
		return
	}
	c.slots[a.slot-1], a.slot = nil, 0
	c.taken = c.taken.Minus(a.demand)
	if !a.killed {
		c.pace.ended(now, now-a.since)
	}
	switch {
	case a.dropped:
		c.dropped(a)
	case result == nil:
		c.reject(a)
	default:
		a.finish(result)
		c.results = append(c.results, a)
	}
	c.fill(now)
}

// Touched says that what an attempt's result refers to was touched by this node,
// which knew an epoch before.
func (c *Core) Touched(k Key, epoch uint64) {
	if a := c.attempts[k]; a != nil {
		a.epoch = epoch
	}
}

// Unpinned gives the results that refer to chunks and were touched before an epoch.
func (c *Core) Unpinned(epoch uint64) map[Key]*banyanv1.TaskResult {
	var out map[Key]*banyanv1.TaskResult
	for _, a := range c.results {
		if a.epoch < epoch && jobs.Refers(a.result) {
			if out == nil {
				out = map[Key]*banyanv1.TaskResult{}
			}
			out[a.key] = a.result
		}
	}
	return out
}

// Drain stops taking attempts, or takes them again. What runs goes on to its end.
func (c *Core) Drain(on bool) {
	c.draining = on
	if on {
		c.rejectWaiting(0)
	}
	c.grant()
}

// Stop ends the worker: it takes nothing more, what waits is handed back and
// what runs is killed, to be handed back by Finish.
func (c *Core) Stop() {
	c.stopped = true
	c.rejectWaiting(0)
	for _, a := range c.slots {
		if a != nil {
			c.kill(a)
		}
	}
	c.grant()
}

// Tick lets time pass; a few times in 100 ms will do.
func (c *Core) Tick(now int64) {
	for shard, since := range c.learned {
		if now-since >= believeFor { // it was the last word of an old leader
			delete(c.learned, shard)
			c.leaders[shard] = c.view[shard]
			c.greet()
		}
	}
	for _, a := range c.results {
		if a.sentTo != 0 && now-a.sentAt >= resultAgain {
			a.sentTo = 0
		}
	}
	for _, a := range c.held() {
		if x := c.owner(a); x != nil && a.from != x.node && now-x.helloAt >= helloAgain {
			x.hello = true
		}
	}
	for _, x := range c.controllers {
		if len(c.lost) > 0 && now-x.helloAt >= lostAgain && slices.ContainsFunc(c.lost, func(l Lost) bool { return c.leads(x, l) }) {
			x.hello = true
		}
		if x.extra > 0 && len(x.leads) > 0 && now-x.helloAt >= helloSoon {
			x.hello, x.extra = true, x.extra-1
		}
	}
	if now-c.pace.moved >= stuckAfter {
		c.rejectWaiting(c.ahead(now))
	}
	c.pace.now = now
	c.relax(now)
	c.grant()
}

// Calm says whether Tick has nothing to look at until something else happens.
func (c *Core) Calm(now int64) bool {
	return len(c.attempts) == 0 && len(c.lost) == 0 && len(c.learned) == 0 && c.scarce.most == 0 && c.pace.ahead(now, len(c.slots)) == 0 &&
		!slices.ContainsFunc(c.controllers, func(x *controller) bool { return x.extra > 0 })
}

// fill starts what fits into free slots. One that needs more than is free now
// keeps those behind it waiting: they would take each slot as it becomes free.
func (c *Core) fill(now int64) {
	c.turn()
	for i := 0; i < len(c.waiting) && !c.stopped; {
		slot := slices.Index(c.slots, nil)
		if slot < 0 || c.taken.Slots >= c.most() {
			break
		}
		a := c.waiting[i]
		if !c.mayStart(a) {
			i++
			continue
		}
		if room := (banyan.Resources{Slots: c.most(), Memory: c.offer.Memory}); !a.demand.FitsIn(room.Minus(c.taken)) && c.taken.Slots > 0 {
			break
		}
		c.unqueue(a)
		c.slots[slot] = a
		c.taken = c.taken.Plus(a.demand)
		a.slot, a.since = slot+1, now
		c.pace.moved = now
		c.effects.Start = append(c.effects.Start, Start{Key: a.key, Slot: a.slot, Attempt: a.msg, Job: a.job})
	}
	c.turn()
	c.pace.now = now
	c.grant()
}

func (c *Core) runningOf(job banyan.JobID) int {
	n := 0
	for _, a := range c.slots {
		if a != nil && a.key.Job == job {
			n++
		}
	}
	return n
}

// rejectWaiting hands back what waits beyond keep, the newest first.
func (c *Core) rejectWaiting(keep int) {
	for i := len(c.waiting) - 1; i >= keep; i-- {
		if a := c.waiting[i]; c.owner(a) != nil && (a != c.turns || c.drains()) {
			c.unqueue(a)
			c.reject(a)
		}
	}
}

// reject hands an attempt back, to each controller that may count on it: the one
// that leads the job's shard as this worker believes, the one that sent the
// attempt, and the one that the view of leaders names. They can differ: a start
// from an old leader that arrives late makes the worker believe in the old
// leader, while the new leader, which the view names, waits for the result.
// Without a stream to any of them nothing is sent: the next Hello does not list
// the attempt, which says the same.
func (c *Core) reject(a *attempt) {
	var told []*controller
	for _, x := range []*controller{c.owner(a), c.controller(a.from), c.controller(c.view[a.shard])} {
		if x != nil && x.node != a.unknown && !slices.Contains(told, x) {
			told = append(told, x)
			x.rejected = append(x.rejected, a.key)
		}
	}
	c.forget(a)
}

func (c *Core) kill(a *attempt) {
	if !a.killed {
		a.killed = true
		c.effects.Stop = append(c.effects.Stop, a.key)
	}
}

func (c *Core) unqueue(a *attempt) {
	if c.turns == a {
		c.turns = nil
	}
	if i := slices.Index(c.waiting, a); i >= 0 {
		c.waiting = slices.Delete(c.waiting, i, i+1)
	}
}

func (c *Core) forget(a *attempt) {
	delete(c.attempts, a.key)
	if i := slices.Index(c.results, a); i >= 0 {
		c.results = slices.Delete(c.results, i, i+1)
	}
}

func (a *attempt) finish(r *banyanv1.TaskResult) {
	jobs.Fit(r)
	a.result, a.bytes = r, proto.Size(r)
	a.msg, a.job = nil, nil
}

// held is what waits and runs.
func (c *Core) held() []*attempt {
	held := make([]*attempt, 0, len(c.slots)+len(c.waiting))
	for _, a := range c.slots {
		if a != nil {
			held = append(held, a)
		}
	}
	return append(held, c.waiting...)
}

// Holds counts what waits, runs, and is finished but not recorded.
func (c *Core) Holds() (waiting, running, unrecorded int) {
	for _, a := range c.slots {
		if a != nil {
			running++
		}
	}
	return len(c.waiting), running, len(c.results)
}

// owner is the connected controller that an attempt belongs to, nil for none.
func (c *Core) owner(a *attempt) *controller {
	if x := c.controller(c.leaders[a.shard]); x != nil {
		return x
	}
	return c.controller(a.from)
}

func (c *Core) controller(node banyan.NodeID) *controller {
	for _, x := range c.controllers {
		if x.node == node {
			return x
		}
	}
	return nil
}
