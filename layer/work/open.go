package work

import (
	"slices"

	"banyan"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// A job may be submitted open: its source goes on, and inputs are appended in
// chunks, each a row, which are given out as soon as they are durable. How many
// tasks it has is fixed when its source closes; only then can it end, and only
// then is the task behind the last its then step.
//
// The chunks say how many tasks there are so far: the last one's first task and
// length. So appending writes nothing else, and what a caller repeats is known
// by where it begins.
//
// Who follows such a job may say up to which task it needs no results any more.
// Then they are trimmed, from the front: the results of tasks that succeeded and
// the chunks of inputs that no failed task needs are removed, and the row
// TrimKey counts what is gone. What failed stays, so that it can be tried again.
// Of a job with a then step nothing is trimmed, for it needs what came back.

const (
	// SourceSilenceMs is for how long an open source may say nothing. Then who
	// fed it is taken for gone, and the job goes on with what it has: else it
	// would never end.
	SourceSilenceMs = 3_600_000
	// trimStep is how many tasks are trimmed at once at least, or it would be a
	// command for every small chunk. At most it is trimMax, so that one command may
	// remove the results, and trimChunksMax chunks, whose values it holds in memory.
	trimStep      = job.InputChunkTasks
	trimMax       = banyan.DeleteRowsMax
	trimChunksMax = 128
	// trimFailedMax bounds the failed tasks, which stay, among those that one
	// command trims: each parts a range in two.
	trimFailedMax = 256
)

// feed begins an OpFeed. b.op stays nil if there is nothing to commit.
func (c *Core) feed(s *shard, b *Batch, op *Op) error {
	r := c.jobs[op.Job]
	if r == nil {
		return banyan.Errorf(banyan.NotFound, "job %s is not among the unfinished jobs of shard %d", op.Job, s.id)
	}
	r.fedAt = c.now
	r.closing = r.closing && !op.closing
	if op.count > 0 && op.first+op.count <= r.tasks { // a repetition
		op.count, op.inputs = 0, nil
	}
	switch {
	case op.count > 0 && !r.source:
		return banyan.Errorf(banyan.Conflict, "the source of job %s is closed, after %d inputs: nothing can be appended; submit another job", r.id, r.tasks)
	case op.count > 0 && op.first != r.tasks:
		return banyan.Errorf(banyan.Conflict, "job %s has %d inputs so far, and what is to be appended begins behind %d: go on where it is", r.id, r.tasks, op.first)
	case op.closing && r.source && op.first != r.tasks:
		return banyan.Errorf(banyan.Conflict, "job %s has %d inputs, not %d: its source is not closed", r.id, r.tasks, op.first)
	}
	c.putTrim(b, r, op)
	kept := r.tasks - r.trim.Succeeded
	if b.trim != nil {
		kept = r.tasks - b.trim.Succeeded
	}
	if op.count > 0 && (kept+op.count > banyan.JobTasksMax || r.tasks+op.count > banyan.StreamTasksMax) {
		return banyan.Errorf(banyan.Exhausted, "job %s has %d tasks that are not done, or whose results are kept (JobTasksMax): append more when there are fewer", r.id, kept)
	}
	for _, in := range op.inputs {
		b.Cmd.Muts = append(b.Cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.InputKey(r.id, in.First), Value: in.Value})
	}
	if op.closing && r.source {
		c.putClose(b, r)
	}
	if len(b.Cmd.Muts) == 0 {
		c.answer(op, c.Snapshot(c.now, r), nil)
		return nil
	}
	b.op = op
	return nil
}

// putClose closes a job's source, which may end the job.
func (c *Core) putClose(b *Batch, r *Run) {
	r.source = false // for what end and with say; fed makes it so
	state, over := r.end(0, 0, r.thenResult)
	if !over {
		state = r.header.State
	}
	b.header = r.with(state, c.wall, nil)
	if over {
		b.header.Progress = c.Progress(c.now, r)
	}
	r.source = true
	putHeader(b.Cmd, r, b.header)
}

// putTrim removes what nobody needs, if it is enough to be worth a row.
func (c *Core) putTrim(b *Batch, r *Run, op *Op) {
	if r.then || op.done <= r.trim.Tasks || r.retrying {
		return
	}
	from := r.trim.Tasks
	until := r.recorded.firstClear(from, min(op.done, r.tasks, from+trimMax))
	// Whole chunks. In memory those from the mark on begin where the one before ends.
	chunks, _ := slices.BinarySearch(op.starts, banyan.TaskIndex(from))
	end := func(i int) uint32 { // of a chunk
		if i+1 < len(op.starts) {
			return uint32(op.starts[i+1])
		}
		return r.tasks
	}
	last := chunks
	for last < len(op.starts) && last-chunks < trimChunksMax && end(last) <= until {
		last++
	}
	if last == chunks {
		return
	}
	until = end(last - 1)
	failed := r.failedIn(from, until)
	if len(failed) > trimFailedMax {
		cut := banyan.TaskIndex(failed[trimFailedMax])
		for last--; last > chunks && banyan.TaskIndex(end(last-1)) > cut; last-- {
		}
		if last == chunks {
			return // so many fail that there is little to trim
		}
		until = end(last - 1)
		failed = r.failedIn(from, until)
	}
	if until-from < trimStep && last-chunks < trimChunksMax && !op.full {
		return
	}
	t := &job.Trim{Tasks: until, Succeeded: r.trim.Succeeded, Retried: r.trim.Retried, Repeated: r.repeated, Done: r.done}
	b.trim, b.gone = t, nil
	at := 0
	for i := chunks; i < last; i++ {
		if at < len(failed) && failed[at] < end(i) {
			for at < len(failed) && failed[at] < end(i) {
				at++
			}
			continue // some of it are failed tasks' inputs
		}
		b.gone = append(b.gone, op.starts[i])
	}
	c.putTrimmed(b, r, from, failed)
}

// putTrimmed removes the rows of what b.trim trims, from a task on.
func (c *Core) putTrimmed(b *Batch, r *Run, from uint32, failed []uint32) {
	t := b.trim
	add := func(op mvcc.Op, k, to []byte) {
		b.Cmd.Muts = append(b.Cmd.Muts, mvcc.Mutation{Op: op, Key: k, End: to})
	}
	for task, f := range r.failures { // put in order below
		if task >= from && task < t.Tasks && !f.Final {
			b.tasks = append(b.tasks, task)
		}
	}
	slices.Sort(b.tasks)
	b.tasks = b.tasks[:min(len(b.tasks), trimChunksMax)] // what is left counts tries and does no harm
	for _, task := range b.tasks {
		t.Retried += r.failures[task].Count
		add(mvcc.Delete, job.FailureKey(r.id, banyan.TaskIndex(task)), nil)
	}
	remove := func(to uint32) { // the results of [from, to), all of which succeeded
		if from < to {
			add(mvcc.DeleteRange, job.ResultKey(r.id, banyan.TaskIndex(from)), job.ResultKey(r.id, banyan.TaskIndex(to)))
			t.Succeeded += to - from
		}
	}
	for _, f := range failed {
		remove(f)
		from = f + 1
		b.Cmd.Muts = append(b.Cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.KeptKey(r.id, banyan.TaskIndex(f)), Value: []byte{1}})
	}
	remove(t.Tasks)
	for _, start := range b.gone {
		add(mvcc.Delete, job.InputKey(r.id, start), nil)
	}
	b.Cmd.Muts = append(b.Cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.TrimKey(r.id), Value: job.EncodeTrim(*t)})
}

// failedIn lists the tasks of [from, to) whose failure is recorded, in order.
func (r *Run) failedIn(from, to uint32) []uint32 {
	var out []uint32
	for task, f := range r.failures {
		if f.Final && task >= from && task < to {
			out = append(out, task)
		}
	}
	slices.Sort(out)
	return out
}

// fed takes it that an OpFeed is durable.
func (c *Core) fed(r *Run, b *Batch, res mvcc.Result) {
	if b.trim != nil {
		r.trim = *b.trim
		r.unstore()
		for _, task := range b.tasks {
			delete(r.failures, task)
		}
	}
	r.grow(b.op.count)
	if b.header != nil {
		r.header, r.mod, r.source = b.header, res.Revision, false
		r.shard.sources--
		c.effects.Changes = append(c.effects.Changes, Change{r.id, b.header})
		r.admitThen()
	}
	c.want(r)
	j := c.Snapshot(c.now, r)
	if job.Ended(r.header.State) {
		c.remove(r)
	}
	c.answer(b.op, j, nil)
}

// grow appends pending tasks.
func (r *Run) grow(n uint32) {
	if n == 0 {
		return
	}
	r.taken.clear(r.tasks) // it stood for the then step
	r.cursor = min(r.cursor, r.tasks)
	r.tasks += n
	r.pending += int(n)
	r.taken.set(r.tasks)
}

// store counts what a recorded result holds in outputs and files.
func (r *Run) store(task uint32, bytes int64) {
	r.stored += bytes
	if r.header.Streamed && bytes > 0 {
		if r.storedIn == nil {
			r.storedIn = map[uint32]int64{}
		}
		r.storedIn[task/pageTasks] += bytes
	}
}

// unstore counts no longer what results held that are trimmed: by pages, so that
// it is not to the byte.
func (r *Run) unstore() {
	for page, n := range r.storedIn {
		if (page+1)*pageTasks <= r.trim.Tasks {
			r.stored -= n
			delete(r.storedIn, page)
		}
	}
}

// trimmed takes up what is gone of a job while it is rebuilt from its rows.
func (r *Run) trimmed(t job.Trim) {
	r.trim = t
	r.recorded.fill(t.Tasks)
	r.taken.fill(t.Tasks)
	r.pending -= int(t.Tasks)
	r.succeeded += t.Succeeded
	r.retried += t.Retried
	r.repeated += t.Repeated
	for node, n := range t.Done {
		r.done[node] += n
	}
}

// kept takes up that a task before the mark is not trimmed: it failed.
func (r *Run) kept(task uint32) {
	if task < r.trim.Tasks && r.recorded.has(task) {
		r.recorded.clear(task)
		r.taken.clear(task)
		r.pending++
		r.cursor = 0
	}
}

// closeSilent closes the sources that have said nothing for too long.
func (c *Core) closeSilent() {
	for _, s := range c.shards {
		if s.sources == 0 {
			continue
		}
		for _, r := range c.runsOf(s) {
			if r.source && !r.closing && c.now-r.fedAt > SourceSilenceMs {
				r.closing = true
				c.Do(&Op{Kind: OpFeed, Shard: s.id, Job: r.id, first: r.tasks, closing: true})
			}
		}
	}
}
