package work

import (
	"fmt"
	"maps"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// Key names one attempt in the cluster.
type Key struct {
	Job     banyan.JobID
	Task    uint32
	Attempt uint64
}

// attempt is one try at a task that is on a worker, or whose result waits to
// be recorded.
type attempt struct {
	key     Key
	node    banyan.NodeID
	state   job.AttemptState
	startMs int64  // by the core's clock
	number  uint32 // of the task's attempts, from 1, as people count

	suspect bool // see losses.go
	begins  bool // its begin is on its way into a row, or there
	begun   bool // it is there: the worker was told
	doomed  bool // its end is the task's, whatever tries are left
}

// move changes an attempt's state, as the table of package job allows.
func (a *attempt) move(to job.AttemptState) {
	if !job.AttemptMay(a.state, to) {
		panic(fmt.Sprintf("work: an attempt at task %d of job %s goes from state %d to %d", a.key.Task, a.key.Job, a.state, to))
	}
	a.state = to
}

// Run is one unfinished job in memory. Tasks are bits; only what is open, has
// failed or was lost has an entry of its own.
type Run struct {
	id     banyan.JobID
	header *banyanv1.Job // as committed; never changed, only replaced
	mod    banyan.Revision
	shard  *shard

	tasks    uint32
	then     bool // the task behind the last is the then step
	source   bool // is open: more tasks may come, see open.go
	closing  bool // a command that closes it waits or is under way
	fedAt    int64
	trim     job.Trim
	tries    uint32
	perNode  int
	demand   banyan.Resources // of each attempt
	settled  bool             // who runs what is known
	freezing bool             // about to be held or canceled
	retrying bool             // failed results are being taken back
	wants    bool             // is in Core.wanting

	taken    bitmap // running, finished or recorded; the then step also until it may run
	recorded bitmap
	cursor   uint32 // no task below it is pending
	pending  int

	open     map[uint32]*attempt
	failures map[uint32]job.Failure
	losses   map[uint32]job.Loss
	suspects []uint32              // those of losses that are pending, in order; they count as taken
	lost     map[uint32]uint32     // attempts of unrecorded tasks that were lost
	running  map[banyan.NodeID]int // open attempts that have not reported
	active   int                   // sum of running
	done     map[banyan.NodeID]uint32

	succeeded, failed, retried, repeated uint32
	thenResult                           banyanv1.TaskState // unspecified until recorded
	sent                                 int64              // bytes of the files that it was given
	stored                               int64              // bytes of recorded outputs and files; of those taken back too
	storedIn                             map[uint32]int64   // of a job that streams: the same by page of tasks
	rate                                 rate
}

// NewRun makes a job nothing of which is done. It keeps header, which must not
// change afterwards; mod is the revision that wrote it.
func NewRun(header *banyanv1.Job, mod banyan.Revision) *Run {
	r := &Run{
		id: banyan.JobID(header.Id), header: header, mod: mod,
		tasks: header.Tasks, then: header.Spec.Then != nil, source: header.Open, sent: header.StoredBytes,
		tries: uint32(job.Tries(header.Spec)), perNode: int(header.Spec.PerNodeMax), demand: job.Demand(header.Spec),
		pending: int(header.Tasks),
		open:    map[uint32]*attempt{}, failures: map[uint32]job.Failure{}, lost: map[uint32]uint32{}, losses: map[uint32]job.Loss{},
		running: map[banyan.NodeID]int{}, done: map[banyan.NodeID]uint32{},
	}
	r.taken.set(r.tasks)
	return r
}

// large says whether an attempt occupies anything but one slot.
func (r *Run) large() bool { return r.demand != banyan.Resources{Slots: 1} }

// ID is the job's id.
func (r *Run) ID() banyan.JobID { return r.id }

// rebuilt says that the rows of a job have been taken up. The header of one that
// has ended counts its results too.
func (r *Run) rebuilt() {
	if job.Ended(r.header.State) {
		r.sent = max(0, r.sent-r.stored)
	}
}

// Result takes up a recorded result while a job is rebuilt from its rows.
func (r *Run) Result(task uint32, m job.Meta) {
	if task > r.tasks || r.recorded.has(task) {
		return
	}
	r.take(task)
	r.repeated += m.Repeats
	r.store(task, m.Bytes)
	r.record(task, m.State, m.Node)
}

// Failure takes up a count of failed tries while a job is rebuilt.
func (r *Run) Failure(task uint32, f job.Failure) {
	if task > r.tasks {
		return
	}
	r.failures[task] = f
	r.retried += f.Count
	if f.Final && f.Count > 0 {
		r.retried--
	}
}

// Loss takes up the losses of a task while a job is rebuilt.
func (r *Run) Loss(task uint32, l job.Loss) {
	if task > r.tasks {
		return
	}
	r.losses[task] = l
	if l.Count > 0 && !r.taken.has(task) {
		r.take(task)
		r.suspect(task)
	}
}

// suspect notes that a task waits to run as a suspect.
func (r *Run) suspect(task uint32) {
	if at, found := slices.BinarySearch(r.suspects, task); !found {
		r.suspects = slices.Insert(r.suspects, at, task)
	}
}

// moveTask demands that the table of package job allows a change of a task's state.
func (r *Run) moveTask(task uint32, from, to banyanv1.TaskState) {
	if !job.TaskMay(from, to) {
		panic(fmt.Sprintf("work: task %d of job %s goes from %v to %v", task, r.id, from, to))
	}
}

// stateOf is a task's state as far as it matters here: of the ends, those that
// can be taken back are told by their failure.
func (r *Run) stateOf(task uint32) banyanv1.TaskState {
	switch {
	case r.recorded.has(task) && r.failures[task].Final:
		return banyanv1.TaskState_TASK_STATE_FAILED
	case r.recorded.has(task):
		return banyanv1.TaskState_TASK_STATE_SUCCEEDED
	case r.open[task] != nil:
		return banyanv1.TaskState_TASK_STATE_RUNNING
	}
	return banyanv1.TaskState_TASK_STATE_PENDING
}

// live gives the open attempt of a task, unless it only waits for its end to be
// recorded without a result; nil if there is none.
func (r *Run) live(task uint32) *attempt {
	if a := r.open[task]; a != nil && (a.state == job.AttemptSent || a.state == job.AttemptFinished) {
		return a
	}
	return nil
}

// number counts an attempt as people do: those before it failed, or were lost
// with their node.
func (r *Run) number(k Key) uint32 {
	l := r.losses[k.Task]
	n := r.failures[k.Task].Count + l.Count + 1
	if l.Count > 0 && k.Attempt <= l.Last {
		n--
	}
	return n
}

// admits says whether the job has such a task and it may have been started.
func (r *Run) admits(task uint32) bool {
	return task < r.tasks || task == r.tasks && r.then && !r.source && r.succeeded == r.tasks
}

func (r *Run) take(task uint32) {
	if !r.taken.has(task) {
		r.taken.set(task)
		r.pending--
		return
	}
	if at, found := slices.BinarySearch(r.suspects, task); found {
		r.suspects = slices.Delete(r.suspects, at, at+1)
	}
}

// untake makes a task pending again.
func (r *Run) untake(task uint32) {
	if !r.taken.has(task) || r.recorded.has(task) {
		return
	}
	if r.losses[task].Count > 0 {
		r.suspect(task)
	} else {
		r.taken.clear(task)
		r.pending++
		r.cursor = min(r.cursor, task)
	}
}

// next gives the first pending task; there must be one.
func (r *Run) next() uint32 {
	r.cursor = r.taken.firstClear(r.cursor, r.tasks+1)
	return r.cursor
}

// record notes that a task has a durable result.
func (r *Run) record(task uint32, state banyanv1.TaskState, node banyan.NodeID) {
	r.moveTask(task, r.stateOf(task), state)
	r.recorded.set(task)
	delete(r.lost, task)
	if task == r.tasks {
		r.thenResult = state
		return
	}
	if node != 0 { // else it is in what was counted before
		r.done[node]++
	}
	if state == banyanv1.TaskState_TASK_STATE_SUCCEEDED {
		r.succeeded++
	} else {
		r.failed++
	}
	r.admitThen()
}

// admitThen makes the then step pending once every task has succeeded.
func (r *Run) admitThen() {
	if r.then && !r.source && r.succeeded == r.tasks && r.open[r.tasks] == nil {
		r.untake(r.tasks)
	}
}

// forget takes a failed result back.
func (r *Run) forget(task uint32) {
	r.moveTask(task, r.stateOf(task), banyanv1.TaskState_TASK_STATE_PENDING)
	r.recorded.clear(task)
	delete(r.failures, task)
	delete(r.losses, task)
	if task == r.tasks {
		r.thenResult = banyanv1.TaskState_TASK_STATE_UNSPECIFIED
		r.admitThen()
		return
	}
	r.failed--
	r.untake(task)
}

// end tells the state the job ends in once so many more tasks have succeeded
// and failed, and the then step has ended as given. ok is false if it goes on.
func (r *Run) end(succeeded, failed uint32, then banyanv1.TaskState) (state banyanv1.JobState, ok bool) {
	succeeded, failed = succeeded+r.succeeded, failed+r.failed
	switch {
	case r.retrying || r.source || succeeded+failed < r.tasks:
		return 0, false
	case failed > 0:
		return banyanv1.JobState_JOB_STATE_FAILED, true
	case !r.then || then == banyanv1.TaskState_TASK_STATE_SUCCEEDED:
		return banyanv1.JobState_JOB_STATE_SUCCEEDED, true
	case then == banyanv1.TaskState_TASK_STATE_UNSPECIFIED:
		return 0, false
	}
	return banyanv1.JobState_JOB_STATE_FAILED, true
}

// with gives a new header that differs in its state.
func (r *Run) with(state banyanv1.JobState, wall int64, p *banyanv1.Progress) *banyanv1.Job {
	h := &banyanv1.Job{
		Id: r.header.Id, Spec: r.header.Spec, State: state, Tasks: r.tasks, SubmitMs: r.header.SubmitMs, Progress: p,
		Nonce: r.header.Nonce, StoredBytes: r.sent, Open: r.source, Streamed: r.header.Streamed, Trimmed: r.trim.Tasks,
	}
	if job.Ended(state) {
		h.EndMs = wall
		h.StoredBytes += r.stored
	}
	return h
}

// claim opens an attempt of a task.
func (r *Run) claim(task uint32, a *attempt) {
	if r.live(task) != nil || r.recorded.has(task) {
		r.moveTask(task, r.stateOf(task), banyanv1.TaskState_TASK_STATE_RUNNING)
	}
	a.number = r.number(a.key)
	r.take(task)
	r.open[task] = a
	r.running[a.node]++
	r.active++
}

// close ends the running of an open attempt, if it still runs.
func (r *Run) close(a *attempt, to job.AttemptState) {
	if a.state != job.AttemptSent {
		return
	}
	a.move(to)
	r.active--
	if r.running[a.node]--; r.running[a.node] == 0 {
		delete(r.running, a.node)
	}
}

// recordOpen notes that the result of an open attempt is durable.
func (r *Run) recordOpen(a *attempt, state banyanv1.TaskState) {
	r.record(a.key.Task, state, a.node)
	delete(r.open, a.key.Task)
}

// reopen forgets an open attempt that has no result and makes its task pending.
func (r *Run) reopen(a *attempt) {
	if r.open[a.key.Task] == a {
		r.moveTask(a.key.Task, banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_PENDING)
		delete(r.open, a.key.Task)
		r.untake(a.key.Task)
	}
}

// assumeLost counts what a controller before this one had given out and nobody
// claims: tasks go out in order, so that is what is missing below the last one
// known to have gone out.
func (r *Run) assumeLost() {
	last := r.taken.last(r.tasks)
	for i := r.taken.firstClear(0, last); i < last; i = r.taken.firstClear(i+1, last) {
		if r.failures[i].Count == 0 {
			r.lost[i]++
			r.repeated++
		}
	}
}

// openTasks lists the tasks with an open attempt, in order.
func (r *Run) openTasks() []uint32 { return slices.Sorted(maps.Keys(r.open)) }

// failedTasks lists the tasks whose failure is recorded, in order.
func (r *Run) failedTasks() []uint32 {
	var out []uint32
	for task, f := range r.failures {
		if f.Final {
			out = append(out, task)
		}
	}
	slices.Sort(out)
	return out
}

// rate counts what was recorded in each of the last seconds.
type rate struct {
	since   int64 // ms; 0: nothing was counted yet
	seconds [rateSeconds]struct {
		at int64
		n  uint32
	}
}

const rateSeconds = 5

// start says that work begins after a pause: the time until the first result
// counts, or the first results would look like thousands a second.
func (r *rate) start(now int64) {
	if r.perSecond(now) == 0 {
		r.since = now
	}
}

func (r *rate) add(now int64, n uint32) {
	if r.since == 0 {
		r.since = now
	}
	s := &r.seconds[now/1000%rateSeconds]
	if s.at != now/1000 {
		s.at, s.n = now/1000, 0
	}
	s.n += n
}

// perSecond is the mean over the last seconds, the present one included.
func (r *rate) perSecond(now int64) float64 {
	n := uint32(0)
	for _, s := range r.seconds {
		if s.at > now/1000-rateSeconds {
			n += s.n
		}
	}
	if n == 0 {
		return 0
	}
	span := min(now-r.since, (rateSeconds-1)*1000+now%1000)
	return float64(n) * 1000 / float64(max(span, 100))
}
