package work

import (
	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// OpKind is what somebody asks for.
type OpKind uint8

// The kinds of operation.
const (
	OpWrite  OpKind = iota // commit Cmd
	OpSubmit               // commit Cmd, which writes the header of Run, and start it
	OpHold                 // start no more of Job and stop what runs
	OpResume               // go on with Job; with Retry also with what failed
	OpCancel               // end Job
	OpFeed                 // append tasks to Job, trim it, or close its source
)

// Op is a change that somebody waits for. It is done in its turn, between
// batches of results of its shard.
type Op struct {
	ID    uint64 // names the Answer; 0: nobody wants one
	Kind  OpKind
	Shard banyan.ShardID
	Job   banyan.JobID
	Cmd   *mvcc.Command
	Run   *Run
	Retry bool

	first   uint32             // of OpFeed: the number of tasks before
	inputs  []job.Chunk        // of OpFeed: those to append
	count   uint32             // of OpFeed: how many they are
	done    uint32             // of OpFeed: tasks before this one may be trimmed
	starts  []banyan.TaskIndex // of OpFeed: where the chunks begin that there are
	closing bool               // of OpFeed: there are no more
	full    bool               // of OpFeed: trim what can be, however little

	begun bool
	left  []uint32 // failures yet to take back

	spec   *banyanv1.JobSpec // of OpSubmit, for the driver
	chunks []banyan.TaskIndex
	sizes  []uint32 // of chunks
}

// Answer says what became of an Op.
type Answer struct {
	Op     uint64
	Result mvcc.Result   // of OpWrite and OpSubmit; its conditions may not have held
	Job    *banyanv1.Job // of the others: the job as it is now
	Err    error
}

// Do queues an operation. The shard must be led here, else it is refused.
func (c *Core) Do(op *Op) {
	at, ok := c.findShard(op.Shard)
	if !ok {
		c.answer(op, nil, banyan.Errorf(banyan.NotLeader, "shard %d is not led here", op.Shard))
		return
	}
	s := c.shards[at]
	if len(s.ops) >= banyan.ProposalsMax {
		c.answer(op, nil, banyan.Errorf(banyan.Exhausted, "shard %d has %d requests about jobs waiting: ask again later", op.Shard, len(s.ops)))
		return
	}
	s.ops = append(s.ops, op)
	if r := c.jobs[op.Job]; r != nil && (op.Kind == OpHold || op.Kind == OpCancel) {
		r.freezing = true
		c.want(r)
	}
	c.commits(s)
}

// Restore puts an ended job back in memory, so that OpResume finds it.
func (c *Core) Restore(r *Run) {
	if s := c.shardFor(r.id); s != nil && c.jobs[r.id] == nil {
		r.settled = true
		c.insert(s, r)
	}
}

// begin turns an operation into a command. b.op stays nil if there is nothing
// to commit; then it has been answered.
func (c *Core) begin(s *shard, b *Batch, op *Op) error {
	switch op.Kind {
	case OpSubmit:
		if s.jobs >= banyan.JobsUnfinishedMax {
			return banyan.Errorf(banyan.Exhausted, "shard %d has %d unfinished jobs (JobsUnfinishedMax): wait for some to end, or cancel them", s.id, s.jobs)
		}
		fallthrough
	case OpWrite:
		b.op, b.Cmd = op, op.Cmd
		return nil
	case OpFeed:
		return c.feed(s, b, op)
	}
	r := c.jobs[op.Job]
	if r == nil {
		return banyan.Errorf(banyan.NotFound, "job %s is not among the unfinished jobs of shard %d", op.Job, s.id)
	}
	if op.Kind == OpResume && op.Retry && !op.begun {
		op.begun, op.left = true, r.failedTasks()
		r.retrying = len(op.left) > 0
	}
	state := r.header.State
	to := map[OpKind]banyanv1.JobState{
		OpHold: banyanv1.JobState_JOB_STATE_HELD, OpResume: banyanv1.JobState_JOB_STATE_ACTIVE, OpCancel: banyanv1.JobState_JOB_STATE_CANCELED,
	}[op.Kind]
	if state == to && len(op.left) == 0 {
		c.answer(op, c.Snapshot(c.now, r), nil)
		return nil
	}
	if state != to {
		if !job.JobMay(state, to) || state == banyanv1.JobState_JOB_STATE_FAILED && len(op.left) == 0 {
			c.discard(r)
			return conflict(r.id, state, op.Kind)
		}
		b.header = r.with(to, c.wall, nil)
		if job.Ended(to) {
			b.header.Progress = c.Progress(c.now, r)
			b.header.Progress.Pending += b.header.Progress.Running
			b.header.Progress.Running = 0
		}
		putHeader(b.Cmd, r, b.header)
	}
	n := min(len(op.left), resultsPerCommand)
	b.tasks, op.left = op.left[:n], op.left[n:]
	for _, t := range b.tasks {
		b.Cmd.Muts = append(b.Cmd.Muts,
			mvcc.Mutation{Op: mvcc.Delete, Key: job.ResultKey(r.id, banyan.TaskIndex(t))},
			mvcc.Mutation{Op: mvcc.Delete, Key: job.FailureKey(r.id, banyan.TaskIndex(t))})
		if _, lost := r.losses[t]; lost {
			b.Cmd.Muts = append(b.Cmd.Muts, mvcc.Mutation{Op: mvcc.Delete, Key: job.LossKey(r.id, banyan.TaskIndex(t))})
		}
	}
	b.op = op
	return nil
}

// conflict says why a job that has ended cannot be changed so.
func conflict(id banyan.JobID, s banyanv1.JobState, k OpKind) error {
	remedy := "there is nothing left to stop"
	switch {
	case k == OpResume && s == banyanv1.JobState_JOB_STATE_FAILED:
		remedy = "every task has a result; resume it with --retry-failed to run the failed ones again"
	case k == OpResume:
		remedy = "submit it again"
	}
	verb := "has "
	if s == banyanv1.JobState_JOB_STATE_CANCELED {
		verb = "was "
	}
	return banyan.Errorf(banyan.Conflict, "job %s %s%s: %s", id, verb, job.Word(s), remedy)
}

// discard forgets a job that was only restored for an operation.
func (c *Core) discard(r *Run) {
	if job.Ended(r.header.State) {
		c.remove(r)
	}
}

// conclude takes the outcome of an operation's command.
func (c *Core) conclude(s *shard, b *Batch, res mvcc.Result) (ok bool) {
	op := b.op
	switch op.Kind {
	case OpSubmit:
		if res.OK {
			op.Run.mod, op.Run.settled = res.Revision, true
			c.insert(s, op.Run)
		}
		fallthrough
	case OpWrite:
		c.effects.Answers = append(c.effects.Answers, Answer{Op: op.ID, Result: res})
		return true
	}
	if op.Kind == OpFeed && !res.OK && res.More { // no condition, so nothing is wrong with what is in memory
		c.answer(op, nil, banyan.Errorf(banyan.Internal, "job %s: one command may not trim so much", op.Job))
		return true
	}
	r := c.jobs[op.Job]
	if !res.OK || r == nil {
		c.answer(op, nil, banyan.Errorf(banyan.Unavailable, "job %s was changed by somebody else: ask again", op.Job))
		return false
	}
	if op.Kind == OpFeed {
		c.fed(r, b, res)
		return true
	}
	for _, t := range b.tasks {
		r.forget(t)
	}
	if b.header != nil {
		r.header, r.mod = b.header, res.Revision
		c.effects.Changes = append(c.effects.Changes, Change{r.id, b.header})
		c.enter(r)
	}
	if len(op.left) > 0 {
		s.ops = append([]*Op{op}, s.ops...)
		return true
	}
	r.retrying = false
	j := c.Snapshot(c.now, r)
	if job.Ended(r.header.State) {
		c.remove(r)
	}
	c.answer(op, j, nil)
	return true
}

// enter does what a job's new state asks for.
func (c *Core) enter(r *Run) {
	if r.header.State == banyanv1.JobState_JOB_STATE_HELD {
		for _, task := range r.openTasks() {
			if a := r.open[task]; a.state == job.AttemptSent {
				c.stop(r, a)
				c.giveBack(r, a)
			}
		}
	}
	c.want(r)
}
