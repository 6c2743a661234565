package work

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

const jobID = "j0000000000001"

// bench is a Service over machines in memory, with workers that are functions.
type bench struct {
	t    testing.TB
	rows *fakeShards
	ctx  context.Context
	wg   sync.WaitGroup
}

func newBench(t testing.TB) *bench {
	ctx, cancel := context.WithCancel(context.Background())
	b := &bench{t: t, rows: newFakeShards(1, 2), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		b.wg.Wait()
	})
	return b
}

func (b *bench) service(node banyan.NodeID, change func(*Config)) *Service {
	cfg := Config{
		Node: node, Led: b.rows, Committer: anywhere{b.rows}, Logger: slog.New(slog.DiscardHandler),
		ShardOf: func(p []byte) banyan.ShardID { return 1 + banyan.ShardID(p[len(p)-1]%2) },
	}
	if change != nil {
		change(&cfg)
	}
	s := New(cfg)
	b.wg.Go(func() { s.Run(b.ctx) })
	return s
}

// lead makes s the leader of both shards.
func (b *bench) lead(s *Service, term uint64) {
	for _, id := range []banyan.ShardID{1, 2} {
		b.rows.setTerm(id, term)
		s.Lead(id, term)
	}
}

// pipe is a stream within the process.
type pipe struct {
	ctx  context.Context
	up   chan *peerv1.WorkerMessage
	down chan *peerv1.ControllerMessage
}

func (p pipe) Receive() (*peerv1.WorkerMessage, error) {
	select {
	case m := <-p.up:
		return m, nil
	case <-p.ctx.Done():
		return nil, io.EOF
	}
}

func (p pipe) Send(m *peerv1.ControllerMessage) error {
	select {
	case p.down <- m:
		return nil
	case <-p.ctx.Done():
		return io.EOF
	}
}

// fakeWorker keeps what it holds until it is told that it is recorded, and
// reports every result twice.
type fakeWorker struct {
	b      *bench
	node   banyan.NodeID
	window uint32
	run    func(*peerv1.Attempt) *banyanv1.TaskResult // nil: never ends

	mu    sync.Mutex
	holds map[Key]*peerv1.Attempt
	specs map[string]*peerv1.JobHeader
}

func (b *bench) worker(node banyan.NodeID, window uint32, run func(*peerv1.Attempt) *banyanv1.TaskResult) *fakeWorker {
	return &fakeWorker{b: b, node: node, window: window, run: run, holds: map[Key]*peerv1.Attempt{}, specs: map[string]*peerv1.JobHeader{}}
}

// connect opens a stream to s; the answer ends it.
func (w *fakeWorker) connect(s *Service) (cut func()) {
	ctx, cancel := context.WithCancel(w.b.ctx)
	p := pipe{ctx, make(chan *peerv1.WorkerMessage, 16), make(chan *peerv1.ControllerMessage, 16)}
	done := make(chan struct{})
	w.b.wg.Go(func() {
		defer cancel()
		s.Serve(ctx, p)
	})
	w.b.wg.Go(func() {
		defer close(done)
		w.talk(p)
	})
	return func() { cancel(); <-done }
}

func (w *fakeWorker) talk(p pipe) {
	say := func(m *peerv1.WorkerMessage) {
		m.Credit = &banyanv1.Resources{Slots: w.window}
		select {
		case p.up <- m:
		case <-p.ctx.Done():
		}
	}
	say(w.hello())
	for {
		select {
		case m := <-p.down:
			if m.SayHello {
				say(w.hello())
			}
			if up := w.take(m); len(up.Finished) > 0 {
				say(proto.Clone(up).(*peerv1.WorkerMessage))
				say(up)
			}
		case <-p.ctx.Done():
			return
		}
	}
}

func (w *fakeWorker) hello() *peerv1.WorkerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := &peerv1.WorkerMessage{Hello: &peerv1.Hello{
		Node: uint64(w.node), Offer: &banyanv1.Resources{Slots: w.window}, Protocol: banyan.ProtocolVersion, Leads: []uint32{1, 2},
	}}
	for _, a := range w.holds {
		m.Hello.Running = append(m.Hello.Running, a.Key)
		if r := w.run(a); r != nil {
			m.Finished = append(m.Finished, &peerv1.Finished{Key: a.Key, Result: r})
		}
	}
	return m
}

func (w *fakeWorker) take(m *peerv1.ControllerMessage) *peerv1.WorkerMessage {
	w.mu.Lock()
	defer w.mu.Unlock()
	up := &peerv1.WorkerMessage{}
	for _, h := range m.Jobs {
		w.specs[h.JobId] = h
	}
	for _, k := range append(m.Recorded, m.Unknown...) {
		delete(w.holds, keyOf(k))
	}
	for _, k := range m.Stop {
		up.Finished = append(up.Finished, &peerv1.Finished{Key: k, Result: &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_CANCELED}})
	}
	for _, a := range m.Start {
		if w.specs[a.Key.JobId] == nil {
			w.b.t.Errorf("%v was started without its job", a.Key)
		}
		w.holds[keyOf(a.Key)] = a
		if r := w.run(a); r != nil {
			up.Finished = append(up.Finished, &peerv1.Finished{Key: a.Key, Result: r})
		}
	}
	return up
}

func succeed(a *peerv1.Attempt) *banyanv1.TaskResult {
	return &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Attempt: a.Try}
}

func fail(a *peerv1.Attempt) *banyanv1.TaskResult {
	return &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_FAILED, Attempt: a.Try, ExitCode: 1}
}

func never(*peerv1.Attempt) *banyanv1.TaskResult { return nil }

func inputsOf(n int) []*banyanv1.Input {
	out := make([]*banyanv1.Input, n)
	for i := range out {
		out[i] = banyanv1.NewInput(fmt.Sprintf("in-%d", i))
	}
	return out
}

// messages feeds Submit.
func messages(id string, spec *banyanv1.JobSpec, inputs []*banyanv1.Input, end error) func() (*banyanv1.SubmitRequest, error) {
	const each = 1000
	first := true
	return func() (*banyanv1.SubmitRequest, error) {
		m := &banyanv1.SubmitRequest{JobId: id}
		if first {
			m.Spec, m.Nonce = spec, 1
		} else if len(inputs) == 0 {
			return nil, end
		}
		first = false
		n := min(each, len(inputs))
		m.Inputs, inputs = inputs[:n], inputs[n:]
		return m, nil
	}
}

func (b *bench) submit(s *Service, id string, tasks int, change func(*banyanv1.JobSpec)) {
	b.t.Helper()
	spec := header("", 0, change).Spec
	if _, err := s.Submit(b.ctx, messages(id, spec, inputsOf(tasks), io.EOF)); err != nil {
		b.t.Fatal(err)
	}
}

// followed is what a follower has heard.
type followed struct {
	results  []*banyanv1.TaskResult
	state    banyanv1.JobState
	revision uint64
	last     *banyanv1.FollowResponse
}

var errEnough = errors.New("enough")

// follow follows a job from where f is to its end, or until stop says so.
func (f *followed) follow(ctx context.Context, s *Service, id string, stop func() bool) error {
	return s.Follow(ctx, &banyanv1.FollowRequest{JobId: id, AfterRevision: f.revision}, func(m *banyanv1.FollowResponse) error {
		f.results = append(f.results, m.Results...)
		f.state, f.revision, f.last = m.State, m.Revision, m
		if stop != nil && stop() {
			return errEnough
		}
		return nil
	})
}

// check demands every task once, in the order of recording, with its input.
func (f *followed) check(t testing.TB, tasks int) {
	t.Helper()
	seen := map[uint32]bool{}
	last := uint64(0)
	for _, r := range f.results {
		if seen[r.Task] {
			t.Fatalf("task %d came twice", r.Task)
		}
		seen[r.Task] = true
		if r.Revision < last {
			t.Fatalf("revision %d came after %d", r.Revision, last)
		}
		last = r.Revision
		if want := fmt.Sprintf("in-%d", r.Task); r.Input == nil || string(r.Input.Columns[0]) != want {
			t.Fatalf("task %d has input %v", r.Task, r.Input)
		}
	}
	if len(seen) != tasks {
		t.Fatalf("%d results, want %d", len(seen), tasks)
	}
}

// versions demands that every result of a job was written once.
func (b *bench) versions(id string, tasks int) {
	b.t.Helper()
	lo, hi := job.ResultRange(banyan.JobID(id), 0)
	n := 0
	err := scan(b.ctx, b.rows, 1+banyan.ShardID(id[len(id)-1]%2), mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		if row.Version != 1 {
			b.t.Errorf("%q was written %d times", row.Key, row.Version)
		}
		n++
		return nil
	})
	if err != nil || n != tasks {
		b.t.Errorf("%d results are recorded, want %d (%v)", n, tasks, err)
	}
}

func TestAJobFromSubmissionToEnd(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	w1, w2 := b.worker(1, 2, succeed), b.worker(2, 3, succeed)
	w1.connect(s)
	w2.connect(s)
	const tasks = 700
	b.submit(s, jobID, tasks, func(spec *banyanv1.JobSpec) { spec.Name = "n" })
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	f.check(t, tasks)
	b.versions(jobID, tasks)
	if f.state != banyanv1.JobState_JOB_STATE_SUCCEEDED || f.last.Progress.Succeeded != tasks || f.last.Progress.Pending != 0 {
		t.Errorf("it ended as %v", f.last)
	}
	done := uint32(0)
	for _, n := range f.last.Progress.Nodes {
		done += n.Done
	}
	if done != tasks {
		t.Errorf("the nodes have done %d", done)
	}
	var again followed
	if err := again.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	again.check(t, tasks)
	half := again.results[tasks/2].Revision
	part := followed{revision: half}
	if err := part.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range part.results {
		if r.Revision <= half {
			t.Errorf("revision %d was asked not to come", r.Revision)
		}
	}
	g, err := s.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID})
	if err != nil || g.Job.State != f.state || g.Job.Spec.Name != "n" || g.Job.Progress.Succeeded != tasks || g.Job.EndMs == 0 {
		t.Errorf("Get: %v, %v", g, err)
	}
	if s.Active() != 0 {
		t.Error("it is still active")
	}
}

func TestThenGetsEveryReturnedFile(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	var got []string
	b.worker(1, 4, func(a *peerv1.Attempt) *banyanv1.TaskResult {
		r := succeed(a)
		if a.Input != nil {
			r.Returned = []*banyanv1.FileRef{{Path: append(a.Input.Columns[0], ".png"...)}}
			return r
		}
		for _, f := range a.InputsFromTasks {
			got = append(got, string(f.Path))
		}
		r.ExitCode, r.State = 7, banyanv1.TaskState_TASK_STATE_FAILED
		return r
	}).connect(s)
	b.submit(s, jobID, 9, func(spec *banyanv1.JobSpec) {
		spec.Then, spec.Return = spec.Command, banyanv1.Bytes("{}.png")
	})
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	f.check(t, 9)
	if len(got) != 9 || got[0] != "in-0.png" || got[8] != "in-8.png" {
		t.Errorf("then got %q", got)
	}
	if f.state != banyanv1.JobState_JOB_STATE_FAILED || f.last.ThenResult.GetExitCode() != 7 || f.last.ThenResult.Task != 9 {
		t.Errorf("it ended as %v", f.last)
	}
	page, err := s.Tasks(b.ctx, &banyanv1.TasksRequest{JobId: jobID, From: 9, Limit: 1})
	if err != nil || len(page.Results) != 1 || page.Results[0].ExitCode != 7 {
		t.Errorf("the then step's result: %v, %v", page, err)
	}
}

func TestLeadershipMovesWhileTasksRun(t *testing.T) {
	b := newBench(t)
	members := func(c *Config) {
		c.Nodes = func() []NodeInfo {
			return []NodeInfo{{ID: 1, Alive: true}, {ID: 2, Alive: true}}
		}
	}
	now := func(c *Config) { c.Now = clock; members(c) }
	a, z := b.service(1, now), b.service(2, now)
	b.lead(a, 3)
	w1, w2 := b.worker(1, 4, succeed), b.worker(2, 4, succeed)
	cut1, cut2 := w1.connect(a), w2.connect(a)
	const tasks = 3000
	b.submit(a, jobID, tasks, nil)
	var f followed
	err := f.follow(b.ctx, a, jobID, func() bool { return len(f.results) > 50 })
	if !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	from, to := a, z
	for i := 0; i < 6 && !job.Ended(f.state); i++ {
		b.rows.setTerm(1, uint64(4+i)) // from does not know yet: what it commits is stale
		b.rows.setTerm(2, uint64(4+i))
		cut1()
		cut2()
		from.Unlead(1)
		from.Unlead(2)
		b.lead(to, uint64(4+i))
		cut1, cut2 = w1.connect(to), w2.connect(to)
		got := len(f.results)
		err := f.follow(b.ctx, to, jobID, func() bool { return len(f.results) > got })
		if err != nil && !errors.Is(err, errEnough) {
			t.Fatal(err)
		}
		from, to = to, from
	}
	if !job.Ended(f.state) {
		if err := f.follow(b.ctx, from, jobID, nil); err != nil {
			t.Fatal(err)
		}
	}
	f.check(t, tasks)
	b.versions(jobID, tasks)
	if f.state != banyanv1.JobState_JOB_STATE_SUCCEEDED {
		t.Error(f.last)
	}
	if _, err := to.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID}); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("who does not lead says %v", err)
	}
}

func TestAnswersThatGetLostAreAskedForAgain(t *testing.T) {
	b := newBench(t)
	n := 0
	b.rows.before = func(banyan.ShardID, *mvcc.Command) (bool, error) {
		if n++; n == 1 || n%3 == 0 {
			return n%2 == 1, banyan.Errorf(banyan.Unavailable, "try again")
		}
		return false, nil
	}
	s := b.service(1, nil)
	b.lead(s, 3)
	b.worker(1, 3, succeed).connect(s)
	b.submit(s, jobID, 100, nil)
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	f.check(t, 100)
	b.versions(jobID, 100)
}

func TestAControllerThatIsDeposedRecordsNothing(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	release := make(chan struct{})
	b.worker(1, 3, func(a *peerv1.Attempt) *banyanv1.TaskResult { <-release; return succeed(a) }).connect(s)
	b.submit(s, jobID, 10, nil)
	b.rows.setTerm(1, 4)
	b.rows.setTerm(2, 4)
	close(release)
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("a follower hears %v", err)
	}
	b.versions(jobID, 0)
}

func TestARowFromElsewhereMakesTheControllerReadAgain(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	release := make(chan struct{})
	b.worker(1, 3, func(a *peerv1.Attempt) *banyanv1.TaskResult { <-release; return succeed(a) }).connect(s)
	b.submit(s, jobID, 10, nil)
	row, _ := job.EncodeResult(job.Meta{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Node: 9}, &banyanv1.TaskResult{Task: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Node: 9})
	b.rows.put(1+banyan.ShardID(jobID[13]%2), job.ResultKey(jobID, 1), row)
	close(release)
	var f followed
	for {
		err := f.follow(b.ctx, s, jobID, nil)
		if err == nil {
			break
		}
		if !banyan.IsKind(err, banyan.NotLeader) && !banyan.IsKind(err, banyan.Unavailable) {
			t.Fatal(err)
		}
	}
	f.check(t, 10)
	b.versions(jobID, 10)
}

func TestHoldResumeCancel(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	var mu sync.Mutex
	run := never
	w := b.worker(1, 2, func(a *peerv1.Attempt) *banyanv1.TaskResult {
		mu.Lock()
		defer mu.Unlock()
		return run(a)
	})
	w.connect(s)
	b.submit(s, jobID, 20, func(spec *banyanv1.JobSpec) { spec.AttemptsMax = 2 })
	h, err := s.Hold(b.ctx, &banyanv1.HoldRequest{JobId: jobID})
	if err != nil || h.Job.State != banyanv1.JobState_JOB_STATE_HELD || h.Job.Progress.Running != 0 {
		t.Fatalf("Hold: %v, %v", h, err)
	}
	mu.Lock()
	run = fail
	mu.Unlock()
	if _, err := s.Resume(b.ctx, &banyanv1.ResumeRequest{JobId: jobID}); err != nil {
		t.Fatal(err)
	}
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil || f.state != banyanv1.JobState_JOB_STATE_FAILED {
		t.Fatal(f.state, err)
	}
	if p := f.last.Progress; p.Failed != 20 || p.Retried != 20 {
		t.Errorf("progress %v", p)
	}
	bad, err := s.Tasks(b.ctx, &banyanv1.TasksRequest{JobId: jobID, FailedOnly: true, Limit: 7, From: 5})
	if err != nil || len(bad.Results) != 7 || !bad.More || bad.Next != 12 || bad.Results[0].Task != 5 || bad.Results[0].Attempt != 2 {
		t.Errorf("failures: %v, %v", bad, err)
	}
	if _, err := s.Resume(b.ctx, &banyanv1.ResumeRequest{JobId: jobID}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("resuming what has failed: %v", err)
	}
	mu.Lock()
	run = succeed
	mu.Unlock()
	if _, err := s.Resume(b.ctx, &banyanv1.ResumeRequest{JobId: jobID, RetryFailed: true}); err != nil {
		t.Fatal(err)
	}
	f = followed{revision: f.revision}
	if err := f.follow(b.ctx, s, jobID, nil); err != nil || f.state != banyanv1.JobState_JOB_STATE_SUCCEEDED {
		t.Fatal(f.state, err)
	}
	f.check(t, 20)
	if _, err := s.Cancel(b.ctx, &banyanv1.CancelRequest{JobId: jobID}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("canceling what has succeeded: %v", err)
	}
	mu.Lock()
	run = never
	mu.Unlock()
	other := "j0000000000002"
	b.submit(s, other, 5, nil)
	for range 2 {
		c, err := s.Cancel(b.ctx, &banyanv1.CancelRequest{JobId: other})
		if err != nil || c.Job.State != banyanv1.JobState_JOB_STATE_CANCELED {
			t.Errorf("Cancel: %v, %v", c, err)
		}
	}
	if _, err := s.Hold(b.ctx, &banyanv1.HoldRequest{JobId: "j0000000000009"}); !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("holding what is not there: %v", err)
	}
}

func TestAnEmbeddedNodeHoldsWhatItFinds(t *testing.T) {
	b := newBench(t)
	first := b.service(1, nil)
	b.lead(first, 3)
	b.submit(first, jobID, 5, nil)
	first.Unlead(1)
	first.Unlead(2)
	s := b.service(1, func(c *Config) { c.HoldUnfinished = true })
	b.lead(s, 4)
	b.worker(1, 2, succeed).connect(s)
	h, err := s.Hold(b.ctx, &banyanv1.HoldRequest{JobId: jobID}) // waits its turn behind the holding
	if err != nil || h.Job.Progress.Pending != 5 {
		t.Fatal(h, err)
	}
	if _, err := s.Resume(b.ctx, &banyanv1.ResumeRequest{JobId: jobID}); err != nil {
		t.Fatal(err)
	}
	b.lead(s, 5) // elected again in the same process: it goes on
	var f followed
	for {
		err := f.follow(b.ctx, s, jobID, nil)
		if err == nil {
			break
		}
		if !banyan.IsKind(err, banyan.NotLeader) {
			t.Fatal(err)
		}
	}
	f.check(t, 5)
}

func TestSubmitRefusesBeforeAnythingIsKept(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	spec := header("", 0, nil).Spec
	three := proto.Clone(spec).(*banyanv1.JobSpec)
	three.Command.Args = banyanv1.Bytes("cp", "{3}")
	long := append(inputsOf(200_000), banyanv1.NewInput(strings.Repeat("x", banyan.InputBytesMax+1)))
	for name, c := range map[string]struct {
		next func() (*banyanv1.SubmitRequest, error)
		kind banyan.Kind
		says string
	}{
		"nothing":        {func() (*banyanv1.SubmitRequest, error) { return nil, io.EOF }, banyan.Invalid, "empty submission"},
		"bad id":         {messages("x", spec, inputsOf(1), io.EOF), banyan.Invalid, "bad job id"},
		"no inputs":      {messages(jobID, spec, nil, io.EOF), banyan.Invalid, "no inputs"},
		"missing column": {messages(jobID, three, inputsOf(1), io.EOF), banyan.Invalid, "column 3"},
		"long input":     {messages(jobID, spec, long, io.EOF), banyan.Exhausted, "input 200001"},
		"gave up":        {messages(jobID, spec, inputsOf(200_000), banyan.Errorf(banyan.Canceled, "gone")), banyan.Canceled, "gone"},
	} {
		_, err := s.Submit(b.ctx, c.next)
		if !banyan.IsKind(err, c.kind) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v, want %v with %q", name, err, c.kind, c.says)
		}
	}
	// An operation behind the clearing away finds nothing left.
	s.do(b.ctx, &Op{Kind: OpWrite, Shard: 2, Cmd: &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte("x"), Value: []byte("x")}}}})
	rows, _, err := b.rows.Range(b.ctx, 2, mvcc.Query{})
	if err != nil || len(rows) != 1 {
		t.Errorf("%d rows are left, %v", len(rows), err)
	}
	if s.Active() != 0 || len(s.touched) != 0 {
		t.Error("a refused job is remembered")
	}
}

func TestSubmitIsAppliedOnce(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	spec := header("", 0, func(spec *banyanv1.JobSpec) {
		for i := range 9000 {
			spec.Send = append(spec.Send, &banyanv1.FileRef{Path: fmt.Appendf(nil, "directory/of/files/file-%d", i), Chunks: [][]byte{make([]byte, 32)}})
		}
	}).Spec
	for range 2 {
		r, err := s.Submit(b.ctx, messages(jobID, spec, inputsOf(150_000), io.EOF))
		if err != nil || r.Tasks != 150_000 {
			t.Fatal(r, err)
		}
	}
	if s.Active() != 1 {
		t.Error(s.Active())
	}
	if rec := s.record(jobID); len(rec.spec.Send) != 9000 || len(rec.chunks) < 2 {
		t.Error("the record is not complete")
	}
	b.lead(s, 4)
	if _, _, err := s.led(b.ctx, jobID); err != nil {
		t.Fatal(err)
	}
	if rec := s.record(jobID); len(rec.spec.Send) != 9000 || rec.tasks != 150_000 {
		t.Error("what was read again is not complete")
	}
	in, err := s.inputs.get(b.ctx, 2, jobID, s.record(jobID).chunks, 149_999)
	if err != nil || string(in.Columns[0]) != "in-149999" {
		t.Error(in, err)
	}
}

func TestAnotherSubmissionOfAnIDIsRefused(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	submit := func(nonce uint64, tasks int) error {
		next := messages(jobID, header("", 0, nil).Spec, inputsOf(tasks), io.EOF)
		_, err := s.Submit(b.ctx, func() (*banyanv1.SubmitRequest, error) {
			m, err := next()
			if m != nil {
				m.Nonce = nonce
			}
			return m, err
		})
		return err
	}
	if err := submit(7, 3); err != nil {
		t.Fatal(err)
	}
	if err := submit(7, 3); err != nil {
		t.Errorf("the same again: %v", err)
	}
	for _, nonce := range []uint64{8, 0} {
		if err := submit(nonce, 4); !banyan.IsKind(err, banyan.AlreadyExists) {
			t.Errorf("nonce %d: %v", nonce, err)
		}
	}
}

// Two submissions of one id write their inputs to the same rows: the first to
// be complete must not be made of the other's.
func TestASubmissionIsNotMadeOfAnothersInputs(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	other := messages(jobID, header("", 0, nil).Spec, inputsOf(150_000), io.EOF)
	next, n := messages(jobID, header("", 0, nil).Spec, inputsOf(150_000), io.EOF), 0
	_, err := s.Submit(b.ctx, func() (*banyanv1.SubmitRequest, error) {
		m, err := next()
		if n++; n == 150 { // its first rows are there: now the other comes, and gives up
			if _, err := s.Submit(b.ctx, func() (*banyanv1.SubmitRequest, error) {
				m, err := other()
				if m != nil && m.Spec != nil {
					m.Nonce = 2
				}
				if err != nil {
					err = errEnough
				}
				return m, err
			}); !errors.Is(err, errEnough) {
				t.Error(err)
			}
		}
		return m, err
	})
	if !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("%v", err)
	}
}

// TestTheWallClockJumpsDuringATakeover sets the clock back by an hour while
// a new controller waits for a worker that does not say hello.
func TestTheWallClockJumpsDuringATakeover(t *testing.T) {
	b := newBench(t)
	var back atomic.Bool
	s := b.service(1, func(c *Config) {
		c.Now = func() time.Time {
			if back.Load() {
				return time.Now().Add(-time.Hour)
			}
			return time.Now()
		}
		c.Nodes = func() []NodeInfo {
			return []NodeInfo{{ID: 1, Alive: true}, {ID: 2, Alive: true, Silent: time.Since(time.Time{})}}
		}
	})
	b.lead(s, 3)
	b.submit(s, jobID, 3, nil)
	b.lead(s, 4)
	back.Store(true)
	w := b.worker(1, 2, succeed)
	w.connect(s)
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil || f.state != banyanv1.JobState_JOB_STATE_SUCCEEDED {
		t.Errorf("%v, %v", f.state, err)
	}
}

// TestAWorkerHearsOfManyJobsOverOneStream: what the two sides keep of a stream
// is bounded, and the stream goes on.
func TestAWorkerHearsOfManyJobsOverOneStream(t *testing.T) {
	s := New(Config{ShardOf: func([]byte) banyan.ShardID { return 1 }, Logger: slog.New(slog.DiscardHandler)})
	sent := &sentStream{}
	x := &session{ctx: t.Context(), stream: sent, jobs: map[banyan.JobID]struct{}{}}
	known := map[string]bool{}
	for i := range 3 * banyan.WorkerJobsMax {
		id := banyan.NewJobID(int64(i), 0)
		rec := &record{id: id, spec: header("", 0, nil).Spec} // its only task is the then step, which has no input
		msg := &peerv1.ControllerMessage{}
		if failed, err := s.start(x, msg, []start{{Start: Start{Key: Key{id, 0, 1}, Try: 1}, rec: rec, then: true}}); len(failed) > 0 || err != nil {
			t.Fatal(i, failed, err)
		}
		if msg.ForgetJobs {
			clear(known)
		}
		for _, j := range msg.Jobs {
			known[j.JobId] = true
		}
		if !known[string(id)] || len(known) > banyan.WorkerJobsMax || len(x.jobs) != len(known) {
			t.Fatalf("after %d jobs the worker knows %d, its controller believes %d", i, len(known), len(x.jobs))
		}
	}
}

// sentStream keeps what is sent to a worker.
type sentStream struct {
	Stream
	all []*peerv1.ControllerMessage
}

func (s *sentStream) Send(m *peerv1.ControllerMessage) error {
	s.all = append(s.all, m)
	return nil
}

// TestMessagesOfStartsAreBounded: many long inputs and a long list of files for a
// then step go out in messages that the worker's node takes.
func TestMessagesOfStartsAreBounded(t *testing.T) {
	s := New(Config{ShardOf: func([]byte) banyan.ShardID { return 1 }, Logger: slog.New(slog.DiscardHandler)})
	sent := &sentStream{}
	o := &outgoing{x: &session{stream: sent}, msg: &peerv1.ControllerMessage{Demand: []*peerv1.Demand{{Attempts: 7}}}}
	const tasks, files = 100, 20_000
	for i := range tasks {
		a := &peerv1.Attempt{Key: &peerv1.AttemptKey{JobId: "j", Task: uint32(i)}, Input: banyanv1.NewInput(strings.Repeat("x", banyan.InputBytesMax))}
		if err := o.add(s, nil, a); err != nil {
			t.Fatal(err)
		}
	}
	then := &peerv1.Attempt{Key: &peerv1.AttemptKey{JobId: "j", Task: tasks}}
	for range files {
		then.InputsFromTasks = append(then.InputsFromTasks, &banyanv1.FileRef{Path: make([]byte, 930)})
	}
	if err := cmp.Or(o.add(s, nil, then), o.flush(s)); err != nil {
		t.Fatal(err)
	}
	starts, came := 0, 0
	for _, m := range sent.all {
		if n := proto.Size(m); n > 2*outgoingBytes || m.Demand[0].Attempts != 7 {
			t.Errorf("a message of %d bytes with demand %v", n, m.Demand)
		}
		for _, f := range m.ThenFiles {
			came += len(f.Files)
		}
		for _, a := range m.Start {
			came += len(a.InputsFromTasks)
			starts++
		}
	}
	if starts != tasks+1 || came != files {
		t.Errorf("%d starts and %d files went out", starts, came)
	}
}

// TestStreamsOpenWhileTheServiceStops: whoever opens one is either refused or
// waited for. It is for the race detector.
func TestStreamsOpenWhileTheServiceStops(t *testing.T) {
	for range 50 {
		b := newBench(t)
		ctx, cancel := context.WithCancel(b.ctx)
		s := New(Config{Node: 1, Led: b.rows, Committer: anywhere{b.rows}, ShardOf: func([]byte) banyan.ShardID { return 1 }, Logger: slog.New(slog.DiscardHandler)})
		stopped := make(chan struct{})
		go func() { defer close(stopped); s.Run(ctx) }()
		for n := range banyan.NodeID(4) {
			b.worker(n+1, 1, succeed).connect(s)
		}
		cancel()
		<-stopped
	}
}

func TestListAndTasks(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	for i := range 6 {
		b.submit(s, fmt.Sprintf("j000000000000%d", i), 8, nil)
	}
	l, err := s.List(b.ctx, &banyanv1.ListJobsRequest{Limit: 4})
	if err != nil || len(l.Jobs) != 4 || !l.More || l.Jobs[0].Id != "j0000000000005" || l.Jobs[3].Id != "j0000000000002" {
		t.Errorf("List: %v, %v", l, err)
	}
	oldest := "j0000000000000"
	w := b.worker(1, 20, func(a *peerv1.Attempt) *banyanv1.TaskResult {
		if a.Key.JobId != oldest || a.Key.Task == 2 {
			return nil
		}
		return succeed(a)
	})
	w.connect(s)
	var f followed
	if err := f.follow(b.ctx, s, oldest, func() bool { return len(f.results) >= 2 }); !errors.Is(err, errEnough) {
		t.Fatal(err)
	}
	var got []string
	for from := uint32(0); ; {
		p, err := s.Tasks(b.ctx, &banyanv1.TasksRequest{JobId: oldest, From: from, Limit: 2, WithRunning: true})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range p.Results {
			got = append(got, fmt.Sprintf("%d=%s", r.Task, r.Input.Columns[0]))
			if r.Task == 2 && (r.State != banyanv1.TaskState_TASK_STATE_RUNNING || r.Node != 1) {
				t.Errorf("task 2 is %v", r)
			}
		}
		if from = p.Next; !p.More {
			break
		}
	}
	if !slices.IsSorted(got) || !slices.Contains(got, "2=in-2") || got[0] != "0=in-0" {
		t.Errorf("tasks %q", got)
	}
	if node, _, ok := s.Locate(banyan.JobID(oldest), 2); !ok || node != 1 {
		t.Error("Locate")
	}
}

func TestASlowFollowerMissesNothing(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	release := make(chan struct{})
	b.worker(1, 100, func(a *peerv1.Attempt) *banyanv1.TaskResult {
		if a.Key.Task > 100 {
			<-release
		}
		return succeed(a)
	}).connect(s)
	const tasks = 3 * banyan.FollowQueueMax
	b.submit(s, jobID, tasks, nil)
	var f, fast followed
	released := false
	err := f.follow(b.ctx, s, jobID, func() bool {
		if released {
			return false
		}
		released = true
		close(release) // and do not go on before everything is recorded
		if err := fast.follow(b.ctx, s, jobID, nil); err != nil {
			t.Error(err)
		}
		return false
	})
	if err != nil {
		t.Fatal(err)
	}
	f.check(t, tasks)
	fast.check(t, tasks)
}

func TestStreamsThatAreRefused(t *testing.T) {
	b := newBench(t)
	s := b.service(1, func(c *Config) { c.Caller = func(context.Context) banyan.NodeID { return 2 } })
	for _, c := range []struct {
		hello *peerv1.Hello
		kind  banyan.Kind
	}{
		{nil, banyan.Invalid},
		{&peerv1.Hello{Node: 2, Protocol: banyan.ProtocolVersion + 1}, banyan.TooNew},
		{&peerv1.Hello{Node: 1, Protocol: banyan.ProtocolVersion}, banyan.PermissionDenied},
	} {
		p := pipe{b.ctx, make(chan *peerv1.WorkerMessage, 1), nil}
		p.up <- &peerv1.WorkerMessage{Hello: c.hello}
		if err := s.Serve(b.ctx, p); !banyan.IsKind(err, c.kind) {
			t.Errorf("hello %v: got %v, want %v", c.hello, err, c.kind)
		}
	}
}

// slowSend is a stream whose Send takes its time.
type slowSend struct {
	pipe
	began chan struct{}
	free  chan struct{}
}

func (p slowSend) Send(*peerv1.ControllerMessage) error {
	p.began <- struct{}{}
	<-p.free
	return io.EOF
}

func TestNothingIsSentAfterServe(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	ctx, cancel := context.WithCancel(b.ctx)
	p := slowSend{pipe{ctx, make(chan *peerv1.WorkerMessage, 1), nil}, make(chan struct{}, 1), make(chan struct{})}
	p.up <- &peerv1.WorkerMessage{Hello: &peerv1.Hello{Node: 2, Protocol: banyan.ProtocolVersion}}
	ended := make(chan struct{})
	go func() { defer close(ended); s.Serve(ctx, p) }()
	<-p.began
	cancel()
	select {
	case <-ended:
		t.Error("Serve returned while Send still wrote to its stream")
	case <-time.After(50 * time.Millisecond):
	}
	close(p.free)
	<-ended
}

// BenchmarkTasks is the controller alone: submission, planning, streams,
// commands on rows in memory, one follower. 10,000 a second are promised.
func BenchmarkTasks(b *testing.B) {
	x := newBench(b)
	s := x.service(1, nil)
	x.lead(s, 3)
	for n := banyan.NodeID(1); n <= 3; n++ {
		x.worker(n, 64, succeed).connect(s)
	}
	const tasks = 20_000
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		id := string(banyan.NewJobID(int64(n), 0))
		x.submit(s, id, tasks, nil)
		var f followed
		if err := f.follow(x.ctx, s, id, nil); err != nil {
			b.Fatal(err)
		}
		f.check(b, tasks)
	}
	b.ReportMetric(float64(tasks)*float64(b.N)/b.Elapsed().Seconds(), "tasks/s")
}

// TestACalmServiceTicksAgain: a controller that begins waits for what the nodes
// say, at most for a while; that while must not last until the next calm tick.
func TestACalmServiceTicksAgain(t *testing.T) {
	s := New(Config{ShardOf: func([]byte) banyan.ShardID { return 1 }})
	defer s.cancel()
	s.input(func() { s.core.Members(s.now(), []NodeInfo{{ID: 2, Alive: true}}) })
	if every := s.tickIn(); every != calmMs || !s.calm {
		t.Fatalf("with nothing to do it ticks each %d ms", every)
	}
	s.mu.Lock()
	s.core.Lead(s.now(), 1, 5, s.now(), nil, nil)
	s.act()
	s.mu.Unlock()
	select {
	case <-s.lively:
	default:
		t.Error("nobody says that it is calm no more")
	}
	if every := s.tickIn(); every != tickMs {
		t.Errorf("it waits for node 2 to say what it runs, and ticks each %d ms", every)
	}
}
