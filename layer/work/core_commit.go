package work

import (
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// report is a result waiting to be recorded.
type report struct {
	run    *Run
	at     *attempt
	result *banyanv1.TaskResult
	final  bool      // its task gets it; else only the failed try is counted
	count  uint32    // failed tries, this one included
	row    []byte    // encoded, once final
	loss   *job.Loss // as it is now; without a result: all there is
	begin  bool      // loss says that a suspect begins
	epoch  uint64    // of sweeping, before what result refers to was touched
}

func (rep *report) failure() job.Failure {
	return job.Failure{Count: rep.count, Final: rep.final, Last: rep.at.key.Attempt}
}

// Batch is one command on its way. The core gives out one a shard at a time.
type Batch struct {
	Shard banyan.ShardID
	Cmd   *mvcc.Command

	fence   int // behind the condition that what is referred to was touched lately; 0: none
	op      *Op
	tasks   []uint32           // whose failure OpResume takes back
	trim    *job.Trim          // as OpFeed makes it
	gone    []banyan.TaskIndex // the chunks of inputs that it removes
	header  *banyanv1.Job
	reports []*report
	ends    []ending
}

// ending is a job that a batch ends.
type ending struct {
	run    *Run
	header *banyanv1.Job
}

// report queues a result: of a success, of a failure without tries left, or
// only that a try failed.
func (c *Core) report(s *shard, r *Run, a *attempt, result *banyanv1.TaskResult, epoch uint64) {
	result.Task, result.Node = a.key.Task, uint64(a.node)
	result.Input, result.Revision = nil, 0
	result.Attempt, result.AttemptId, result.Lost = a.number, a.key.Attempt, r.losses[a.key.Task].Count
	job.Fit(result) // as the worker has, which may be another release
	rep := &report{run: r, at: a, result: result, final: true, epoch: epoch}
	switch result.State {
	case banyanv1.TaskState_TASK_STATE_SUCCEEDED:
	case banyanv1.TaskState_TASK_STATE_FAILED, banyanv1.TaskState_TASK_STATE_TIMED_OUT:
		rep.count = r.failures[a.key.Task].Count + 1
		rep.final = rep.count >= r.tries || a.doomed
	default:
		result.Error = "node " + a.node.String() + " reported the state " + result.State.String() + ", which is no end"
		result.State = banyanv1.TaskState_TASK_STATE_FAILED
		rep.count, rep.final = r.failures[a.key.Task].Count+1, true
	}
	if rep.final {
		rep.row = encode(r, a, result)
	}
	if a.doomed {
		l := r.losses[a.key.Task]
		rep.loss = &l
	}
	s.queue = append(s.queue, rep)
	c.commits(s)
}

// encode makes the row of a result that fits into one (job.Fit).
func encode(r *Run, a *attempt, result *banyanv1.TaskResult) []byte {
	meta := job.Meta{State: result.State, Node: a.node, Repeats: r.lost[a.key.Task], Bytes: job.StoredBytes(result)}
	row, err := job.EncodeResult(meta, result)
	if err != nil {
		panic("work: " + err.Error()) // job.Fit has made every text UTF-8
	}
	return row
}

func (c *Core) commits(s *shard) {
	if s.inflight == nil {
		c.effects.Commits = append(c.effects.Commits, s.id)
	}
}

// NextBatch gives the next command of a shard, nil if there is nothing to
// commit or the one before has not been answered. wall is the time of day, as
// the end of a job is told.
func (c *Core) NextBatch(now, wall int64, id banyan.ShardID) *Batch {
	c.now, c.wall = now, wall
	at, ok := c.findShard(id)
	if !ok || c.shards[at].inflight != nil {
		return nil
	}
	s := c.shards[at]
	b := &Batch{Shard: id, Cmd: &mvcc.Command{}}
	for len(s.ops) > 0 && b.op == nil {
		op := s.ops[0]
		s.ops = s.ops[1:]
		if err := c.begin(s, b, op); err != nil {
			c.answer(op, nil, err)
		}
	}
	if b.op == nil {
		c.gather(s, b)
	}
	if b.op == nil && len(b.reports) == 0 {
		return nil
	}
	b.Cmd.Term = s.term
	s.inflight = b
	return b
}

// gather fills a batch with results.
func (c *Core) gather(s *shard, b *Batch) {
	tallies := map[*Run]*tally{}
	bytes, n := 0, 0
	for ; n < len(s.queue) && len(b.reports) < resultsPerCommand && bytes < commandBytes; n++ {
		rep := s.queue[n]
		r := rep.run
		if c.jobs[r.id] != r {
			c.unknown(c.find(rep.at.node), rep.at.key)
			continue
		}
		b.reports = append(b.reports, rep)
		bytes += c.put(b.Cmd, rep)
		if !rep.final {
			continue
		}
		t := tallies[r]
		if t == nil {
			t = &tally{}
			tallies[r] = t
		}
		t.add(r, rep)
		if state, ok := r.end(t.succeeded, t.failed, t.then); ok {
			bytes += c.putEnd(b, r, state, t)
		}
	}
	s.queue = append([]*report(nil), s.queue[n:]...)
	if c.Fenced {
		b.fenced()
	}
}

// tally is what a batch adds to a job.
type tally struct {
	succeeded, failed uint32
	then              banyanv1.TaskState
	bytes             int64 // of their outputs and files
	done              map[banyan.NodeID]uint32
}

func (t *tally) add(r *Run, rep *report) {
	t.bytes += job.StoredBytes(rep.result)
	if rep.at.key.Task == r.tasks {
		t.then = rep.result.State
		return
	}
	if t.done == nil {
		t.done = map[banyan.NodeID]uint32{}
	}
	t.done[rep.at.node]++
	if rep.result.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED {
		t.succeeded++
	} else {
		t.failed++
	}
}

// put adds what a report changes, and gives its size.
func (c *Core) put(cmd *mvcc.Command, rep *report) int {
	id, task := rep.run.id, banyan.TaskIndex(rep.at.key.Task)
	if rep.final {
		key := job.ResultKey(id, task)
		cmd.Conds = append(cmd.Conds, mvcc.Cond{Key: key, Test: mvcc.Missing})
		cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: key, Value: rep.row})
	}
	if rep.count > 0 {
		row := job.EncodeFailure(rep.failure())
		cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.FailureKey(id, task), Value: row})
	}
	if rep.loss != nil {
		cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.LossKey(id, task), Value: job.EncodeLoss(*rep.loss)})
	}
	return len(rep.row) + 128
}

// putEnd adds the end of a job, in the command that records its last results.
func (c *Core) putEnd(b *Batch, r *Run, state banyanv1.JobState, t *tally) int {
	p := c.Progress(c.now, r)
	p.Succeeded += t.succeeded
	p.Failed += t.failed
	p.Pending, p.Running, p.ThenRunning, p.RatePerS = 0, 0, false, 0
	for _, n := range p.Nodes {
		n.Done += t.done[banyan.NodeID(n.Node)]
		n.Running = 0
	}
	header := r.with(state, c.wall, p)
	header.StoredBytes += t.bytes
	b.ends = append(b.ends, ending{r, header})
	return putHeader(b.Cmd, r, header)
}

// putHeader replaces a job's header.
func putHeader(cmd *mvcc.Command, r *Run, header *banyanv1.Job) int {
	muts := Header(header)
	cmd.Conds = append(cmd.Conds, mvcc.Cond{Key: muts[0].Key, Test: mvcc.ModEquals, Number: uint64(r.mod)})
	cmd.Muts = append(cmd.Muts, muts...)
	return len(muts[0].Value) + 128
}

// Header gives what puts a job's header, with the row that a job has until it
// ends and the one that it has from then on.
func Header(header *banyanv1.Job) []mvcc.Mutation {
	id := banyan.JobID(header.Id)
	unended := mvcc.Mutation{Op: mvcc.Put, Key: job.ActiveKey(id)}
	ended := mvcc.Mutation{Op: mvcc.Delete, Key: job.EndedKey(id)}
	if job.Ended(header.State) {
		unended.Op = mvcc.Delete
		ended.Op, ended.Value = mvcc.Put, job.NewPast(header).Encode()
	}
	return []mvcc.Mutation{{Op: mvcc.Put, Key: job.HeaderKey(id), Value: job.EncodeHeader(header)}, unended, ended}
}

// Committed takes the outcome of a batch. ok is false if a condition did not
// hold, which only something outside this term can have caused: then the shard
// must be loaded anew (Lose, Lead).
func (c *Core) Committed(now int64, b *Batch, res mvcc.Result) (ok bool) {
	c.now = now
	at, led := c.findShard(b.Shard)
	if !led || c.shards[at].inflight != b {
		return true
	}
	s := c.shards[at]
	s.inflight = nil
	if b.op != nil {
		ok = c.conclude(s, b, res)
	} else if ok = res.OK; ok {
		c.apply(b, res.Revision)
	}
	if len(s.queue) > 0 || len(s.ops) > 0 {
		c.commits(s)
	}
	c.schedule()
	return ok
}

// Refused takes it that a batch can never be committed. ok is false if the
// shard must be loaded anew.
func (c *Core) Refused(b *Batch, err error) (ok bool) {
	at, led := c.findShard(b.Shard)
	if !led || c.shards[at].inflight != b {
		return true
	}
	s := c.shards[at]
	if b.op == nil || b.op.Kind != OpWrite && b.op.Kind != OpSubmit && b.op.Kind != OpFeed {
		return false
	}
	s.inflight = nil
	c.answer(b.op, nil, err)
	c.commits(s)
	return true
}

// apply makes a recorded batch of results the present.
func (c *Core) apply(b *Batch, rev banyan.Revision) {
	var runs []*Run
	results := map[*Run][]*banyanv1.TaskResult{}
	for _, rep := range b.reports {
		r, a := rep.run, rep.at
		if rep.result == nil {
			c.noted(rep)
			continue
		}
		task := a.key.Task
		a.move(job.AttemptRecorded)
		c.recorded(c.find(a.node), a.key)
		if rep.count > 0 {
			if n := c.find(a.node); n != nil && n.session != 0 {
				n.dismiss(a.key)
			}
			r.failures[task] = rep.failure()
		}
		if !rep.final {
			r.retried++
			r.reopen(a)
			c.want(r)
			continue
		}
		rep.result.Revision = uint64(rev)
		r.store(task, job.StoredBytes(rep.result))
		r.recordOpen(a, rep.result.State)
		if results[r] == nil {
			runs = append(runs, r)
		}
		results[r] = append(results[r], rep.result)
	}
	for _, r := range runs {
		r.rate.add(c.now, uint32(len(results[r])))
		c.effects.Results = append(c.effects.Results, Recorded{r.id, rev, results[r]})
		c.want(r)
	}
	for _, e := range b.ends {
		if !job.JobMay(e.run.header.State, e.header.State) {
			panic("work: job " + string(e.run.id) + " goes from " + job.Word(e.run.header.State) + " to " + job.Word(e.header.State))
		}
		e.run.header, e.run.mod = e.header, rev
		c.effects.Changes = append(c.effects.Changes, Change{e.run.id, e.header})
		c.remove(e.run)
	}
}

// answer ends an operation.
func (c *Core) answer(op *Op, j *banyanv1.Job, err error) {
	if r := c.jobs[op.Job]; r != nil {
		if op.Kind == OpHold || op.Kind == OpCancel {
			r.freezing = slices.ContainsFunc(r.shard.ops, func(o *Op) bool { return o.Job == op.Job && (o.Kind == OpHold || o.Kind == OpCancel) })
		}
		c.want(r)
	}
	if op.ID != 0 {
		c.effects.Answers = append(c.effects.Answers, Answer{Op: op.ID, Job: j, Err: err})
	}
}
