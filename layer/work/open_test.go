package work

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

func TestPagesOfABitmap(t *testing.T) {
	var b, whole bitmap
	for i := range uint32(3 * pageTasks) {
		b.set(i)
	}
	whole.fill(3*pageTasks + 5)
	for i := range b.pages {
		if b.pages[i].bits != nil || whole.pages[i].bits != nil {
			t.Errorf("page %d is full and has bits", i)
		}
	}
	if n := whole.firstClear(0, 1<<31); n != 3*pageTasks+5 {
		t.Errorf("the first clear one is %d", n)
	}
	b.clear(pageTasks + 7)
	b.clear(3*pageTasks - 1)
	if at := b.firstClear(0, 3*pageTasks); at != pageTasks+7 || b.firstClear(at+1, 3*pageTasks) != 3*pageTasks-1 {
		t.Errorf("the first clear one is %d", at)
	}
	if b.last(3*pageTasks) != 3*pageTasks-2 || b.last(pageTasks+8) != pageTasks+6 || b.last(0) != 0 {
		t.Errorf("the last ones are %d and %d", b.last(3*pageTasks), b.last(pageTasks+8))
	}
	b.set(pageTasks + 7)
	if b.pages[1].bits != nil {
		t.Error("a page that is full again has bits")
	}
}

// open submits an open job with its first inputs.
func (b *bench) open(s *Service, inputs []*banyanv1.Input, change func(*banyanv1.JobSpec)) {
	b.t.Helper()
	next := messages(jobID, header("", 0, change).Spec, inputs, io.EOF)
	_, err := s.Submit(b.ctx, func() (*banyanv1.SubmitRequest, error) {
		m, err := next()
		if m != nil {
			m.Open = true
		}
		return m, err
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

func feedOf(all []*banyanv1.Input, from, to int) *banyanv1.FeedRequest {
	return &banyanv1.FeedRequest{JobId: jobID, First: uint32(from), Inputs: all[from:to]}
}

func TestAnOpenJobRunsWhatItHas(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	var mu sync.Mutex
	var thens []uint32
	b.worker(1, 4, func(a *peerv1.Attempt) *banyanv1.TaskResult {
		if a.Then {
			mu.Lock()
			thens = append(thens, a.Key.Task)
			mu.Unlock()
		}
		return succeed(a)
	}).connect(s)
	all := inputsOf(20)
	b.open(s, all[:3], func(spec *banyanv1.JobSpec) { spec.Then = banyanv1.NewShell("true") })
	var f followed
	until := func(n int) {
		t.Helper()
		if err := f.follow(b.ctx, s, jobID, func() bool { return len(f.results) >= n }); !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
	}
	until(3) // before anything more is there
	for range 2 {
		if r, err := s.Feed(b.ctx, feedOf(all, 3, 10)); err != nil || r.Tasks != 10 || !r.Open {
			t.Fatal(r, err)
		}
	}
	until(10)
	if _, err := s.Feed(b.ctx, feedOf(all, 11, 12)); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("with a gap: %v", err)
	}
	if _, err := s.Feed(b.ctx, &banyanv1.FeedRequest{JobId: jobID, First: 9, Close: true}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("closed where it does not end: %v", err)
	}

	// Another leader goes on.
	s2 := b.service(2, nil)
	s.Unlead(1)
	s.Unlead(2)
	b.lead(s2, 4)
	b.worker(2, 4, succeed).connect(s2)
	s = s2
	if _, err := s.Feed(b.ctx, feedOf(all, 10, 20)); err != nil {
		t.Fatal(err)
	}
	until(20)
	if g, err := s.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID}); err != nil || !g.Job.Open || g.Job.Tasks != 20 || !g.Job.Progress.Open {
		t.Errorf("%v, %v", g, err)
	}
	for range 2 {
		if r, err := s.Feed(b.ctx, &banyanv1.FeedRequest{JobId: jobID, First: 20, Close: true}); err != nil || r.Tasks != 20 || r.Open {
			t.Fatal(r, err)
		}
		if err := f.follow(b.ctx, s, jobID, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.check(t, 20)
	if f.state != banyanv1.JobState_JOB_STATE_SUCCEEDED || f.last.ThenResult.GetTask() != 20 {
		t.Errorf("it ended as %v", f.last)
	}
	if len(thens) != 0 {
		t.Errorf("a then step ran before the source closed: %v", thens)
	}
	if _, err := s.Feed(b.ctx, &banyanv1.FeedRequest{JobId: jobID, First: 20, Inputs: all[:1]}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("after the end: %v", err)
	}
}

func TestClosingASourceEndsAJobThatIsDone(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	b.worker(1, 4, fail).connect(s)
	b.open(s, inputsOf(2), nil)
	var f followed
	_ = f.follow(b.ctx, s, jobID, func() bool { return len(f.results) >= 2 })
	if _, err := s.Feed(b.ctx, &banyanv1.FeedRequest{JobId: jobID, First: 2, Close: true}); err != nil {
		t.Fatal(err)
	}
	if err := f.follow(b.ctx, s, jobID, nil); err != nil || f.state != banyanv1.JobState_JOB_STATE_FAILED || f.last.Progress.Failed != 2 {
		t.Errorf("%v, %v", f.last, err)
	}
}

func TestAnOpenJobCannotCountItsTasks(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	next := messages(jobID, &banyanv1.JobSpec{Command: banyanv1.NewCommand("echo", "{0#}")}, inputsOf(1), io.EOF)
	_, err := s.Submit(b.ctx, func() (*banyanv1.SubmitRequest, error) {
		m, err := next()
		if m != nil {
			m.Open = true
		}
		return m, err
	})
	if !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("%v", err)
	}
}

// kinds counts the rows of a job by kind: 'r' are results.
func (b *bench) kinds(id string) map[byte]int {
	b.t.Helper()
	n := map[byte]int{}
	for _, kind := range []byte{'i', 'r', 'k', 'f'} {
		lo, hi := map[byte]func() ([]byte, []byte){
			'i': func() ([]byte, []byte) { return job.InputRange(banyan.JobID(id)) },
			'r': func() ([]byte, []byte) { return job.ResultRange(banyan.JobID(id), 0) },
			'k': func() ([]byte, []byte) { return job.KeptRange(banyan.JobID(id)) },
			'f': func() ([]byte, []byte) { return job.FailureRange(banyan.JobID(id), 0) },
		}[kind]()
		err := scan(b.ctx, b.rows, 1+banyan.ShardID(id[len(id)-1]%2), mvcc.Query{Lo: lo, Hi: hi, KeysOnly: true}, func(mvcc.Row) error {
			n[kind]++
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return n
}

// TestAnOpenJobIsTrimmed: what its follower has acknowledged goes, but for what
// failed; another leader in the middle counts as if nothing were gone.
func TestAnOpenJobIsTrimmed(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	var mu sync.Mutex
	healed := false
	work := func(a *peerv1.Attempt) *banyanv1.TaskResult {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case a.Key.Task%10_000 == 1234 && !healed:
			return fail(a)
		case a.Key.Task%1000 == 7 && a.Try == 1:
			return fail(a) // and succeeds in the second try
		}
		return succeed(a)
	}
	b.worker(1, 64, work).connect(s)
	const tasks, each = 60_000, banyan.FeedInputsMax
	all := inputsOf(tasks)
	spec := func(spec *banyanv1.JobSpec) { spec.AttemptsMax = 2 }
	b.open(s, all[:each], spec)
	most := map[byte]int{}
	var f followed
	for at := each; at < tasks; {
		if err := f.follow(b.ctx, s, jobID, func() bool { return len(f.results) >= at }); !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		if at == 8*each { // leadership moves
			s.Unlead(1)
			s.Unlead(2)
			s = b.service(2, nil)
			b.lead(s, 4)
			b.worker(2, 64, work).connect(s)
		}
		to := min(at+each, tasks)
		req := feedOf(all, at, to)
		if at > 6*each { // it is behind at first, by more than one command may trim
			req.Done = uint32(at)
		}
		if _, err := s.Feed(b.ctx, req); err != nil {
			t.Fatal(err)
		}
		at = to
		for kind, n := range b.kinds(jobID) {
			most[kind] = max(most[kind], n)
		}
	}
	if most['r'] > 9*each+10 || most['i'] > 10+7 {
		t.Errorf("rows at most: %d results, %d chunks", most['r'], most['i'])
	}
	if err := f.follow(b.ctx, s, jobID, func() bool { return len(f.results) >= tasks }); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	f.check(t, tasks)
	if _, err := s.Feed(b.ctx, &banyanv1.FeedRequest{JobId: jobID, First: tasks, Close: true, Done: tasks}); err != nil {
		t.Fatal(err)
	}
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	p := f.last.Progress
	if f.state != banyanv1.JobState_JOB_STATE_FAILED || p.Tasks != tasks || p.Failed != 6 || p.Succeeded != tasks-6 || p.Retried != 6+60 {
		t.Errorf("it ended as %v", f.last)
	}
	done := uint32(0)
	for _, n := range p.Nodes {
		done += n.Done
	}
	if done != tasks {
		t.Errorf("the nodes have done %d", done)
	}
	if n := b.kinds(jobID); n['k'] == 0 || n['r'] > trimStep+each+6 {
		t.Errorf("rows at the end: %v", n)
	}

	// What failed can be tried again, and by yet another leader.
	page, err := s.Tasks(b.ctx, &banyanv1.TasksRequest{JobId: jobID, FailedOnly: true})
	if err != nil || len(page.Results) != 6 || string(page.Results[0].Input.GetColumns()[0]) != "in-1234" {
		t.Fatalf("%v, %v", page, err)
	}
	mu.Lock()
	healed = true
	mu.Unlock()
	if _, err := s.Resume(b.ctx, &banyanv1.ResumeRequest{JobId: jobID, RetryFailed: true}); err != nil {
		t.Fatal(err)
	}
	s.Unlead(1)
	s.Unlead(2)
	s = b.service(3, nil)
	b.lead(s, 5)
	b.worker(3, 64, work).connect(s)
	var again followed
	if err := again.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	if p := again.last.Progress; again.state != banyanv1.JobState_JOB_STATE_SUCCEEDED || p.Succeeded != tasks || p.Failed != 0 {
		t.Errorf("tried again it ended as %v", again.last)
	}
}

func TestAnOpenJobIsBounded(t *testing.T) {
	c := NewCore(func([]byte) banyan.ShardID { return 1 })
	h := header("a", banyan.JobTasksMax-1, nil)
	h.Open, h.Streamed = true, true
	r := NewRun(h, 1)
	c.Lead(1, 1, 1, 1, []*Run{r}, nil)
	feed := func(op *Op) error {
		op.Kind, op.Shard, op.Job = OpFeed, 1, "a"
		b := &Batch{Cmd: &mvcc.Command{}}
		err := c.feed(c.shards[0], b, op)
		if err == nil && b.op != nil {
			c.fed(r, b, mvcc.Result{OK: true, Revision: 2})
		}
		return err
	}
	one := []job.Chunk{{Value: []byte{1}}}
	if err := feed(&Op{first: banyan.JobTasksMax - 1, count: 1, inputs: one}); err != nil {
		t.Fatal(err)
	}
	if err := feed(&Op{first: banyan.JobTasksMax, count: 1, inputs: one}); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("one too many: %v", err)
	}
}

// TestASilentSourceIsClosed, and not one that says from time to time that it is there.
func TestASilentSourceIsClosed(t *testing.T) {
	c := NewCore(func([]byte) banyan.ShardID { return 1 })
	now := int64(1000)
	c.Lead(now, 1, 1, 1, nil, nil)
	h := header("a", 1, nil)
	h.Open, h.Streamed = true, true
	commit := func() {
		for b := c.NextBatch(now, now, 1); b != nil; b = c.NextBatch(now, now, 1) {
			c.Committed(now, b, mvcc.Result{OK: true, Revision: 7})
		}
	}
	c.Do(&Op{Kind: OpSubmit, Shard: 1, Job: "a", Cmd: submitCommand(h), Run: NewRun(h, 0)})
	commit()
	for range 3 {
		now += SourceSilenceMs - 1
		c.Tick(now)
		c.Do(&Op{Kind: OpFeed, Shard: 1, Job: "a", first: 1})
		commit()
		if r := c.Run("a"); !r.source {
			t.Fatal("it was closed though it is there")
		}
	}
	now += SourceSilenceMs + 1
	c.Tick(now)
	commit()
	if r := c.Run("a"); r.source || r.header.Open {
		t.Error("it is open still")
	}
}

// source feeds a job of a small world of faults: it repeats what was not
// answered, and says what is done as far as rows say it.
type source struct {
	x      *faults
	id     banyan.JobID
	total  uint32
	fed    uint32
	done   uint32 // see prefix
	waits  int    // steps since the call under way; 0: none
	call   uint64
	closed bool
}

func (s *source) trim() (t job.Trim) {
	row, err := get(context.Background(), s.x.rows, 1, job.TrimKey(s.id))
	if err == nil && row != nil {
		t, err = job.DecodeTrim(row.Value)
	}
	if err != nil {
		s.x.t.Fatal(err)
	}
	return t
}

// prefix is the first task that is not done.
func (s *source) prefix() uint32 {
	for ; s.done < s.total; s.done++ { // what is trimmed was counted before
		if row, _ := get(context.Background(), s.x.rows, 1, job.ResultKey(s.id, banyan.TaskIndex(s.done))); row == nil {
			break
		}
	}
	return s.done
}

func (s *source) step() {
	x := s.x
	for _, a := range x.answers {
		if s.waits == 0 || a.Op != s.call {
			continue
		}
		s.waits = 0
		switch {
		case a.Err == nil && s.fed < s.total:
			s.fed += s.size()
		case a.Err == nil:
			s.closed = true
		case !banyan.IsKind(a.Err, banyan.NotLeader) && !banyan.IsKind(a.Err, banyan.NotFound): // which is that it has ended
			x.t.Fatalf("seed %d: at %d of %d: %v", x.seed, s.fed, s.total, a.Err)
		}
	}
	x.answers = nil
	if s.waits > 0 {
		if s.waits++; s.waits < 50 {
			return
		}
	}
	if s.closed || x.rng.IntN(4) > 0 {
		return
	}
	if s.waits == 0 && s.fed < s.total && s.fed-s.prefix() > 12 {
		return // not far ahead of the tasks, or nothing would be trimmed
	}
	s.call++
	s.waits = 1
	op := &Op{ID: s.call, Kind: OpFeed, Shard: 1, Job: s.id, first: s.fed, done: uint32(x.rng.IntN(int(s.prefix()) + 1)), full: true}
	var err error
	if op.starts, err = readChunkList(context.Background(), x.rows, 1, s.id); err != nil {
		x.t.Fatal(err)
	}
	if s.fed == s.total {
		op.closing = true
	} else {
		op.count = s.size()
		if _, err := cutFeed(op, x.jobs[s.id].Spec, inputsOf(int(s.total))[s.fed:s.fed+op.count]); err != nil {
			x.t.Fatal(err)
		}
	}
	x.core.Do(op)
}

// size is how many inputs come behind those that were fed, always the same.
func (s *source) size() uint32 { return min(1+s.fed*7%13, s.total-s.fed) }

// TestAnOpenJobUnderRandomFaults: leaders, workers and answers get lost while a
// job is fed and trimmed; each of its tasks counts once.
func TestAnOpenJobUnderRandomFaults(t *testing.T) {
	trims, kept := 0, 0
	for seed := range uint64(seeds / 2) {
		x := newFaults(t, seed)
		s := &source{x: x, id: "open", total: 30 + uint32(x.rng.IntN(100)), fed: 3, call: 1 << 32}
		h := header(s.id, 3, func(spec *banyanv1.JobSpec) {
			spec.AttemptsMax = uint32(x.rng.IntN(3))
			if seed%4 == 0 {
				spec.Then = spec.Command
			}
		})
		h.Open, h.Streamed = true, true
		first := &Op{}
		if _, err := cutFeed(first, h.Spec, inputsOf(3)); err != nil {
			t.Fatal(err)
		}
		cmd := submitCommand(h)
		cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: job.InputKey(s.id, 0), Value: first.inputs[0].Value})
		x.core.Do(&Op{ID: 1, Kind: OpSubmit, Shard: 1, Job: s.id, Cmd: cmd, Run: NewRun(h, 0)})
		for x.core.Run(s.id) == nil {
			x.commit(false)
		}
		model := header(s.id, int(s.total), nil)
		model.Spec = h.Spec
		x.jobs[s.id] = model
		for range 500 {
			x.step(true)
			s.step()
		}
		for n := 0; !x.over(); n++ {
			if n > 40_000 {
				t.Fatalf("seed %d: not over, %d of %d fed, closed %v:\n%s", seed, s.fed, s.total, s.closed, x.describe())
			}
			x.step(false)
			s.step()
			if n < 4000 && n%101 == 0 {
				x.elect() // with more of it trimmed each time
			}
		}
		end, _, err := readHeader(context.Background(), x.rows, 1, s.id)
		if err != nil {
			t.Fatal(err)
		}
		gone := s.trim()
		good, bad := x.recorded(s.id, banyanv1.TaskState_TASK_STATE_SUCCEEDED), x.recorded(s.id, banyanv1.TaskState_TASK_STATE_FAILED)
		p := end.Progress
		if end.Open || end.Tasks != s.total || int(p.Succeeded) != good+int(gone.Succeeded) || int(p.Failed) != bad || p.Succeeded+p.Failed != s.total {
			t.Errorf("seed %d: %d good and %d bad rows, %+v: ended as %v", seed, good, bad, gone, end)
		}
		lo, hi := job.ResultKey(s.id, 0), job.ResultKey(s.id, banyan.TaskIndex(gone.Tasks))
		rows, _, err := x.rows.Range(context.Background(), 1, mvcc.Query{Lo: lo, Hi: hi})
		for _, row := range rows {
			if m, _, _ := job.DecodeMeta(row.Value); m.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED {
				t.Errorf("seed %d: %q is there though it is trimmed", seed, row.Key)
			}
		}
		if gone.Tasks-gone.Succeeded != uint32(len(rows)) || err != nil {
			t.Errorf("seed %d: of %+v %d rows are kept (%v)", seed, gone, len(rows), err)
		}
		if h.Spec.Then != nil && gone.Tasks > 0 {
			t.Errorf("seed %d: trimmed though its then step needs all", seed)
		}
		trims, kept = trims+int(gone.Tasks), kept+len(rows)
		delete(x.jobs, s.id)
		x.verify()
	}
	if trims == 0 || kept == 0 {
		t.Errorf("nothing was trimmed (%d), or nothing of it kept (%d)", trims, kept)
	}
}

func BenchmarkFeed(b *testing.B) {
	x := newBench(b)
	s := x.service(1, nil)
	x.lead(s, 3)
	x.worker(1, 256, succeed).connect(s)
	inputs := make([]*banyanv1.Input, banyan.FeedInputsMax)
	for i := range inputs {
		inputs[i] = banyanv1.NewInput(fmt.Sprint(i))
	}
	x.open(s, inputs, nil)
	var f followed
	for at := uint32(len(inputs)); b.Loop(); at += uint32(len(inputs)) {
		if err := f.follow(x.ctx, s, jobID, func() bool { f.results = nil; return f.last.Progress.GetSucceeded() >= at }); !errors.Is(err, errEnough) {
			b.Fatal(err)
		}
		if _, err := s.Feed(x.ctx, &banyanv1.FeedRequest{JobId: jobID, First: at, Inputs: inputs, Done: at}); err != nil {
			b.Fatal(err)
		}
	}
}
