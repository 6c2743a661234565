package cli

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"connectrpc.com/connect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
)

// streamJobs is a job service for one open job whose tasks end as soon as they
// are there, each with its input as its output.
type streamJobs struct {
	banyanv1connect.UnimplementedJobsHandler
	hide uint32 // this task has no result until the source is closed

	mu     sync.Mutex
	inputs [][]byte
	open   bool
	fed    bool // by Feed, at least once
	held   bool
	closed bool // by Feed
	done   uint32
	ahead  uint32 // inputs without a result, at most
	sent   uint32
	refuse int // so many calls are refused as too many
	moved  chan struct{}
}

func newStreamJobs(t testing.TB, f *streamJobs) *session {
	f.moved = make(chan struct{}, 1)
	mux := http.NewServeMux()
	mux.Handle(banyanv1connect.NewJobsHandler(f, connect.WithInterceptors(wireErrors{})))
	s := sessionAt(t, mux)
	s.local = true
	return s
}

func (f *streamJobs) take(inputs []*banyanv1.Input) {
	for _, in := range inputs {
		f.inputs = append(f.inputs, in.Columns[0])
	}
	f.ahead = max(f.ahead, uint32(len(f.inputs))-f.sent)
	select {
	case f.moved <- struct{}{}:
	default:
	}
}

func (f *streamJobs) Submit(_ context.Context, st *connect.ClientStream[banyanv1.SubmitRequest]) (*connect.Response[banyanv1.SubmitResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for st.Receive() {
		f.open = f.open || st.Msg().Open
		f.take(st.Msg().Inputs)
	}
	return connect.NewResponse(&banyanv1.SubmitResponse{JobId: testJob}), st.Err()
}

func (f *streamJobs) Feed(_ context.Context, req *connect.Request[banyanv1.FeedRequest]) (*connect.Response[banyanv1.FeedResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse > 0 {
		f.refuse--
		return nil, banyan.Errorf(banyan.Exhausted, "too many")
	}
	if int(req.Msg.First) != len(f.inputs) {
		return nil, banyan.Errorf(banyan.Conflict, "there are %d, not %d", len(f.inputs), req.Msg.First)
	}
	f.fed, f.done = true, max(f.done, req.Msg.Done)
	if f.done > f.sent {
		return nil, banyan.Errorf(banyan.Invalid, "%d are done of %d that were sent", f.done, f.sent)
	}
	if req.Msg.Close {
		f.open, f.closed = false, true
	}
	f.take(req.Msg.Inputs)
	return connect.NewResponse(&banyanv1.FeedResponse{Tasks: uint32(len(f.inputs)), Open: f.open}), nil
}

func (f *streamJobs) Get(context.Context, *connect.Request[banyanv1.GetJobRequest]) (*connect.Response[banyanv1.GetJobResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return connect.NewResponse(&banyanv1.GetJobResponse{Job: &banyanv1.Job{
		Id: testJob, Tasks: uint32(len(f.inputs)), Open: f.open, Streamed: true, State: active, Spec: &banyanv1.JobSpec{Command: banyanv1.NewCommand("x")},
	}}), nil
}

func (f *streamJobs) Tasks(context.Context, *connect.Request[banyanv1.TasksRequest]) (*connect.Response[banyanv1.TasksResponse], error) {
	return connect.NewResponse(&banyanv1.TasksResponse{}), nil
}

func (f *streamJobs) Hold(context.Context, *connect.Request[banyanv1.HoldRequest]) (*connect.Response[banyanv1.HoldResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = true
	return connect.NewResponse(&banyanv1.HoldResponse{}), nil
}

func (f *streamJobs) Resume(context.Context, *connect.Request[banyanv1.ResumeRequest]) (*connect.Response[banyanv1.ResumeResponse], error) {
	return connect.NewResponse(&banyanv1.ResumeResponse{}), nil
}

func (f *streamJobs) Follow(ctx context.Context, _ *connect.Request[banyanv1.FollowRequest], st *connect.ServerStream[banyanv1.FollowResponse]) error {
	const each = 1000
	hidden := f.hide > 0
	for {
		f.mu.Lock()
		m := &banyanv1.FollowResponse{State: active}
		for len(m.Results) < each && int(f.sent) < len(f.inputs) {
			if !hidden || f.sent != f.hide {
				r := result(f.sent, 0, string(f.inputs[f.sent])+"\n", "")
				r.Input = banyanv1.NewInput(string(f.inputs[f.sent]))
				m.Results = append(m.Results, r)
			}
			f.sent++
		}
		more, over := int(f.sent) < len(f.inputs), !f.open && int(f.sent) == len(f.inputs)
		if over && hidden {
			m.Results = append(m.Results, result(f.hide, 0, string(f.inputs[f.hide])+"\n", ""))
		}
		if over {
			m.State = succeeded
		}
		m.Progress = &banyanv1.Progress{Tasks: uint32(len(f.inputs)), Succeeded: f.sent, Open: f.open}
		f.mu.Unlock()
		if err := st.Send(m); err != nil || over {
			return err
		}
		if more {
			continue
		}
		select {
		case <-f.moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// runWith is `banyan run` with a standard input and output of the test's.
func runWith(t testing.TB, s *session, in io.Reader, out io.Writer, args ...string) (errs string, code int) {
	t.Helper()
	var e bytes.Buffer
	a := &app{IO: IO{In: in, Out: out, Err: &e, Env: func(string) string { return "" }}, now: time.Now, leave: func(int) {}}
	a.opens = func(context.Context, need) (*session, error) { return s, nil }
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(t.Context())
	code = a.finish(cmd, err)
	return e.String(), code
}

// numbers is so many lines, made as they are read.
type numbers struct {
	n, to int
	rest  []byte
}

func (r *numbers) Read(p []byte) (int, error) {
	for len(r.rest) < len(p) && r.n < r.to {
		r.n++
		r.rest = append(strconv.AppendInt(r.rest, int64(r.n), 10), '\n')
	}
	n := copy(p, r.rest)
	if r.rest = append(r.rest[:0], r.rest[n:]...); n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func TestRunBeginsWhileItsInputGoesOn(t *testing.T) {
	f := &streamJobs{}
	s := newStreamJobs(t, f)
	in, lines := io.Pipe()
	results, out := io.Pipe()
	ended := make(chan string)
	go func() {
		errs, code := runWith(t, s, in, out, "run", "echo")
		out.Close()
		ended <- fmt.Sprint(code, errs)
	}()
	read := bufio.NewReader(results)
	for _, line := range []string{"a\n", "b\n", "c\n"} { // each is printed before the next one is there
		fmt.Fprint(lines, line)
		if got, err := read.ReadString('\n'); got != line || err != nil {
			t.Fatalf("%q, %v, want %q", got, err, line)
		}
	}
	lines.Close()
	if end := <-ended; end != "0" || !f.closed {
		t.Errorf("it ended with %q; closed: %v", end, f.closed)
	}
}

func TestRunSubmitsAtOnceWhatIsSoonThere(t *testing.T) {
	f := &streamJobs{}
	if errs, code := runWith(t, newStreamJobs(t, f), strings.NewReader("a\nb\n"), io.Discard, "run", "echo"); code != 0 || f.fed || len(f.inputs) != 2 {
		t.Errorf("%d %s: %v", code, errs, f.inputs)
	}
}

// TestRunStaysNearTheTasks: it does not read ahead without bound, says what is
// printed so that it is trimmed, and goes on where the cluster has no room.
func TestRunStaysNearTheTasks(t *testing.T) {
	const lines = 400_000
	for _, flags := range []string{"", "-k"} {
		f := &streamJobs{refuse: 2}
		var out bytes.Buffer
		args := append(append([]string{"run", "--progress", "none"}, strings.Fields(flags)...), "echo")
		errs, code := runWith(t, newStreamJobs(t, f), &numbers{to: lines}, &out, args...)
		if code != 0 || len(f.inputs) != lines || bytes.Count(out.Bytes(), []byte("\n")) != lines {
			t.Fatalf("%q: exit %d, %d inputs: %s", flags, code, len(f.inputs), errs)
		}
		if f.done < lines/2 || f.ahead > streamTasks+aheadTasks+banyan.FeedInputsMax {
			t.Errorf("%q: %d are said to be done, at most %d were ahead", flags, f.done, f.ahead)
		}
	}
}

// TestATaskThatTakesLongKeepsItsResult: what is behind it is not said to be done
// before it is printed.
func TestATaskThatTakesLongKeepsItsResult(t *testing.T) {
	f := &streamJobs{hide: 150_000}
	errs, code := runWith(t, newStreamJobs(t, f), &numbers{to: 300_000}, io.Discard, "run", "--progress", "none", "echo")
	if code != 0 || f.done > f.hide || f.done < 100_000 {
		t.Errorf("exit %d, %d are said to be done: %s", code, f.done, errs)
	}
}

func TestRunKeepsWhatItIsToKeep(t *testing.T) {
	for _, flags := range [][]string{{"--keep", "7d"}, {"--then", "true"}} {
		f := &streamJobs{}
		errs, code := runWith(t, newStreamJobs(t, f), &numbers{to: 200_000}, io.Discard, append(append([]string{"run", "--progress", "none"}, flags...), "echo")...)
		if code != 0 || f.done != 0 || !f.fed {
			t.Errorf("%v: exit %d, %d are said to be done: %s", flags, code, f.done, errs)
		}
	}
}

func TestRunReadsAllWhatWantsToKnowAll(t *testing.T) {
	f := &streamJobs{}
	if errs, code := runWith(t, newStreamJobs(t, f), &numbers{to: 200_000}, io.Discard, "run", "--progress", "none", "echo {0#}"); code != 0 || f.fed {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// A line that is no input, behind many that are: those go on by resume.
func TestRunHoldsAJobWhoseInputBreaksOff(t *testing.T) {
	f := &streamJobs{}
	in := io.MultiReader(&numbers{to: 200_000}, strings.NewReader("no\x00input\n"))
	errs, code := runWith(t, newStreamJobs(t, f), in, io.Discard, "run", "--progress", "none", "echo")
	if code != exitOther || !f.held || !strings.Contains(errs, "line 200001 holds a NUL byte") || !strings.Contains(errs, "banyan resume") {
		t.Errorf("exit %d, held %v: %s", code, f.held, errs)
	}
	errs, code = runWith(t, newStreamJobs(t, f), nil, io.Discard, "resume", "--progress", "none", testJob)
	if code != 0 || !f.closed || !strings.Contains(errs, "200000 inputs that were read, and no more") {
		t.Errorf("resume: exit %d, closed %v: %s", code, f.closed, errs)
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("the disk is gone") }

func TestRunSaysWhatIsWrongWithTheFirstInputs(t *testing.T) {
	f := &streamJobs{}
	for in, want := range map[io.Reader]string{strings.NewReader("a\n\x00\n"): "NUL", broken{}: "the disk is gone", strings.NewReader(""): "no inputs"} {
		if errs, code := runWith(t, newStreamJobs(t, f), in, io.Discard, "run", "echo"); code != exitOther || !strings.Contains(errs, want) || f.inputs != nil {
			t.Errorf("%d %s, want %q", code, errs, want)
		}
	}
}

func TestBitmapWithoutGaps(t *testing.T) {
	var b bitmap
	for i := range uint32(1000) {
		b.set(i)
	}
	b.set(2000)
	if b.prefix() != 1000 || b.len() != 1001 || !b.has(999) || b.has(1000) || !b.has(2000) || b.whole != 15 {
		t.Errorf("%d, %d, %+v", b.prefix(), b.len(), b)
	}
	b.fill(1990)
	if b.prefix() != 1990 || !b.has(2000) || b.has(1995) {
		t.Errorf("filled: %d", b.prefix())
	}
	var c bitmap
	c.fill(130)
	if c.prefix() != 130 || c.len() != 130 {
		t.Errorf("filled: %d, %d", c.prefix(), c.len())
	}
}
