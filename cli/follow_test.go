package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

const testJob = "j0123456789abc"

// result is the result of a task whose input is its number.
func result(task uint32, code int32, out, errs string) *banyanv1.TaskResult {
	r := &banyanv1.TaskResult{
		Task: task, Attempt: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, ExitCode: code, Node: 1,
		Stdout: &banyanv1.Output{Bytes: int64(len(out)), Inline: []byte(out)},
		Stderr: &banyanv1.Output{Bytes: int64(len(errs)), Inline: []byte(errs)},
		Input:  banyanv1.NewInput(fmt.Sprintf("in%d", task+1)),
	}
	if code != 0 {
		r.State = banyanv1.TaskState_TASK_STATE_FAILED
	}
	return r
}

// message is a message of the stream with the progress after its results.
func message(tasks, good, bad uint32, state banyanv1.JobState, results ...*banyanv1.TaskResult) *banyanv1.FollowResponse {
	return &banyanv1.FollowResponse{Results: results, State: state, Progress: &banyanv1.Progress{Tasks: tasks, Succeeded: good, Failed: bad}}
}

const (
	active    = banyanv1.JobState_JOB_STATE_ACTIVE
	succeeded = banyanv1.JobState_JOB_STATE_SUCCEEDED
	failed    = banyanv1.JobState_JOB_STATE_FAILED
)

// outOfOrder is a job of three tasks that end as 2, 3, 1.
func outOfOrder() *fakeJobs {
	return &fakeJobs{follow: []*banyanv1.FollowResponse{
		message(3, 1, 0, active, result(1, 0, "two\nzwei\n", "e2\n")),
		message(3, 2, 0, active, result(1, 0, "again\n", ""), result(2, 0, "three\n", "")),
		message(3, 3, 0, succeeded, result(0, 0, "one", "")),
	}}
}

func TestRunPrintsEachResultOnce(t *testing.T) {
	for _, c := range []struct {
		flags, out, errs string
	}{
		{"", "two\nzwei\nthree\none", "e2\n"},
		{"-k", "onetwo\nzwei\nthree\n", "e2\n"},
		{"--tag", "in2\ttwo\nin2\tzwei\nin3\tthree\nin1\tone", "in2\te2\n"},
		{"-k --tag", "in1\tonein2\ttwo\nin2\tzwei\nin3\tthree\n", "in2\te2\n"},
	} {
		f := outOfOrder()
		args := append(append([]string{"run"}, strings.Fields(c.flags)...), "echo", ":::", "in1", "in2", "in3")
		out, errs, code := do(t, f.session(t), args...)
		if out != c.out || errs != c.errs || code != 0 {
			t.Errorf("run %s: exit %d\n%q, want\n%q\n%q, want %q", c.flags, code, out, c.out, errs, c.errs)
		}
		if len(f.inputs) != 3 || string(f.inputs[2].Columns[0]) != "in3" || len(f.spec.Command.Args) != 1 || f.spec.Command.Shell {
			t.Errorf("submitted %v with %v", f.spec, f.inputs)
		}
	}
}

func TestRunAsJSON(t *testing.T) {
	f := outOfOrder()
	f.follow[2].Results[0].Stdout = &banyanv1.Output{Bytes: 1 << 30, Chunks: [][]byte{make([]byte, 32)}}
	out, _, code := do(t, f.session(t), "run", "-k", "-o", "json", "echo", ":::", "in1", "in2", "in3")
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if code != 0 || len(lines) != 3 {
		t.Fatalf("exit %d:\n%s", code, out)
	}
	var first, second resultJSON
	if json.Unmarshal([]byte(lines[0]), &first) != nil || json.Unmarshal([]byte(lines[1]), &second) != nil {
		t.Fatalf("not JSON:\n%s", out)
	}
	if first.Seq != 1 || first.Stdout != nil || first.StdoutBytes != 1<<30 {
		t.Errorf("a large output is not left out: %+v", first)
	}
	if second.Seq != 2 || *second.Stdout != "two\nzwei\n" || second.Input[0] != "in2" || second.State != "succeeded" || second.Node != "n1" {
		t.Errorf("got %s", lines[1])
	}
}

func TestExitCodesCountFailures(t *testing.T) {
	then := &banyanv1.TaskResult{Task: 3, State: banyanv1.TaskState_TASK_STATE_FAILED, ExitCode: 9}
	for _, c := range []struct {
		name  string
		state banyanv1.JobState
		bad   uint32
		then  *banyanv1.TaskResult
		want  int
	}{
		{"all well", succeeded, 0, nil, 0},
		{"one", failed, 1, nil, 1},
		{"a hundred", failed, 100, nil, 100},
		{"more", failed, 101, nil, 101},
		{"many more", failed, 100_000, nil, 101},
		{"then", failed, 0, then, 1},
		{"canceled", banyanv1.JobState_JOB_STATE_CANCELED, 0, nil, 255},
		{"held", banyanv1.JobState_JOB_STATE_HELD, 0, nil, 130},
	} {
		last := message(200_000, 0, c.bad, c.state)
		last.ThenResult = c.then
		_, errs, code := do(t, (&fakeJobs{follow: []*banyanv1.FollowResponse{last}}).session(t), "run", "echo", ":::", "1")
		if code != c.want || (code != 0) != strings.HasPrefix(errs, "banyan: ") {
			t.Errorf("%s: exit %d, want %d: %s", c.name, code, c.want, errs)
		}
	}
}

func TestFailuresThatOutputCannotTell(t *testing.T) {
	lost, late := result(0, 127, "", ""), result(1, 143, "part\n", "")
	lost.Error = "no-such-program is not found on node n2"
	late.State, late.DurationUs = banyanv1.TaskState_TASK_STATE_TIMED_OUT, 2_000_000
	f := &fakeJobs{follow: []*banyanv1.FollowResponse{message(2, 0, 2, failed, lost, late)}}
	out, errs, code := do(t, f.session(t), "run", "x", ":::", "1", "2")
	want := "banyan: task 1 (in1) could not be run: no-such-program is not found on node n2\n" +
		"banyan: task 2 (in2) was killed on n1 after 2s: it took longer than --timeout allows\n" +
		"banyan: 2 of 2 tasks failed: 'banyan job show "
	if code != 2 || out != "part\n" || !strings.HasPrefix(errs, want) {
		t.Errorf("exit %d, %q, standard error:\n%s", code, out, errs)
	}
}

func TestReturnedFilesComeBack(t *testing.T) {
	dir := t.TempDir()
	f := &fakeJobs{}
	s := f.session(t)
	ref := func(name, content string) *banyanv1.FileRef {
		chunks, size, err := s.Blobs().Upload(t.Context(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		return &banyanv1.FileRef{Path: []byte(name), Mode: 0o644, Size: size, Chunks: chunks}
	}
	r := result(0, 0, "", "")
	r.Returned = []*banyanv1.FileRef{ref("sub/one.txt", "content")}
	f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
	if _, errs, code := do(t, s, "run", "--return", "sub/*.txt", "--outdir", dir, "x", ":::", "1"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "sub", "one.txt")); string(b) != "content" {
		t.Errorf("%q, %v", b, err)
	}

	r.Returned[0].Path = []byte("../escape.txt")
	_, errs, code := do(t, s, "run", "--return", "*.txt", "--outdir", filepath.Join(dir, "sub"), "x", ":::", "1")
	if _, err := os.Stat(filepath.Join(dir, "escape.txt")); code != exitFiles || err == nil || !strings.Contains(errs, "leads out of") {
		t.Errorf("exit %d: a file was written outside: %s", code, errs)
	}

	// With --then the pieces stay in the cluster and the whole comes back.
	r.Returned[0].Path = []byte("piece.txt")
	f.follow[0].ThenResult = &banyanv1.TaskResult{Task: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Returned: []*banyanv1.FileRef{ref("whole.txt", "whole")}}
	if _, errs, code := do(t, s, "run", "--return", "*.txt", "--then", "cat *", "--outdir", dir, "x", ":::", "1"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*.txt"))
	if len(left) != 1 || filepath.Base(left[0]) != "whole.txt" {
		t.Errorf("came back: %v", left)
	}
}

// TestNoReturnedFileOverwritesAnother: the first one stays, the user is told.
func TestNoReturnedFileOverwritesAnother(t *testing.T) {
	dir := t.TempDir()
	f := &fakeJobs{}
	s := f.session(t)
	var rs []*banyanv1.TaskResult
	for i, content := range []string{"one", "two", "one"} {
		chunks, size, err := s.Blobs().Upload(t.Context(), strings.NewReader(content))
		if err != nil {
			t.Fatal(err)
		}
		r := result(uint32(i), 0, "", "")
		r.Returned = []*banyanv1.FileRef{{Path: []byte("same"), Mode: 0o644, Size: size, Chunks: chunks}}
		rs = append(rs, r)
	}
	f.follow = []*banyanv1.FollowResponse{message(3, 3, 0, succeeded, rs...)}
	_, errs, code := do(t, s, "run", "--return", "same", "--outdir", dir, "x", ":::", "1", "2", "3")
	if b, err := os.ReadFile(filepath.Join(dir, "same")); string(b) != "one" {
		t.Errorf("%q, %v: another task's file took its place", b, err)
	}
	if code != exitFiles || !strings.Contains(errs, `banyan: task 2 returned "same": as task 1 did with other bytes: the first one stays`) || !strings.Contains(errs, "1 returned file did not come back") {
		t.Errorf("exit %d:\n%s", code, errs)
	}
}

func TestSentFilesAreNamedRelatively(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	os.MkdirAll("d/e", 0o755)
	for _, name := range []string{"a.txt", "b.txt", "d/e/f", "d/g"} {
		os.WriteFile(name, []byte(name), 0o600)
	}
	f := &fakeJobs{follow: []*banyanv1.FollowResponse{message(2, 2, 0, succeeded)}}
	if _, errs, code := do(t, f.session(t), "run", "--send", "{}", "--send", "./d", "cat", ":::", "a.txt", "b.txt"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	var names []string
	for _, r := range f.spec.Send {
		names = append(names, string(r.Path))
	}
	if got := strings.Join(names, " "); got != "a.txt b.txt d/e/f d/g" {
		t.Errorf("sent %s", got)
	}
	if got := strings.Join(banyanv1.Strings(f.spec.SendTemplates), " "); got != "{} d" {
		t.Errorf("templates %s", got)
	}
	if len(f.spec.WorkDir) > 0 {
		t.Errorf("tasks with files of their own run in %s", f.spec.WorkDir)
	}
}

func TestResumeIsSilentAboutWhatWasDone(t *testing.T) {
	f := outOfOrder()
	f.job = &banyanv1.Job{Id: testJob, Spec: &banyanv1.JobSpec{}}
	f.results = []*banyanv1.TaskResult{result(1, 0, "two\nzwei\n", "")}
	for flags, want := range map[string]string{"": "three\none", "-k": "onethree\n"} {
		out, errs, code := do(t, f.session(t), append(append([]string{"resume"}, strings.Fields(flags)...), testJob)...)
		if out != want || code != 0 || !f.resumed {
			t.Errorf("resume %s: exit %d, %q, want %q: %s", flags, code, out, want, errs)
		}
	}
}

func TestWaitIsMute(t *testing.T) {
	f := outOfOrder()
	f.follow[2].State, f.follow[2].Progress.Failed = failed, 2
	f.job = &banyanv1.Job{Id: testJob, State: failed}
	if out, _, code := do(t, f.session(t), "wait", "-o", "json", testJob); code != 2 || !strings.HasPrefix(out, `{"id":"`+testJob) {
		t.Errorf("exit %d: %q", code, out)
	}
	out, _, code := do(t, f.session(t), "wait", testJob)
	if out != "" || code != 2 {
		t.Errorf("exit %d: %q", code, out)
	}
}

// TestSignals sends them on the channel that the process's would come on.
func TestSignals(t *testing.T) {
	f := outOfOrder()
	f.follow[1].Progress.Succeeded = 1 // counted a moment ago
	f.pause = make(chan struct{})
	var out, errs bytes.Buffer
	env := func(string) string { return "" }
	left := false
	a := &app{IO: IO{Out: &out, Err: &errs, Env: env}, now: fixedClock(), leave: func(int) { left = true }}
	sig := &interrupts{app: a, c: make(chan os.Signal, 2)}
	show := showFlags{format: format{"text"}, progress: "none"}
	err := a.follow(t.Context(), sig, f.session(t), follow{job: testJob, show: show, on: func(m *banyanv1.FollowResponse) error {
		if len(m.Results) == 2 {
			sig.c <- syscall.SIGHUP
			sig.c <- syscall.SIGHUP // to its group, too: no impatience
		}
		return nil
	}})
	if code := a.finish(a.root(), err); code != exitInterrupted || !f.held || left {
		t.Errorf("exit %d, held %v, left at once %v", code, f.held, left)
	}
	if want := "banyan: job " + testJob + " is held, 2 of 3 tasks done: 'banyan resume " + testJob + "' goes on\n"; !strings.HasSuffix(errs.String(), want) {
		t.Errorf("standard error:\n%s", errs.String())
	}
	if out.String() != "two\nzwei\nthree\n" {
		t.Errorf("standard output: %q", out.String())
	}
}

func TestKeepOrderHoldsLittle(t *testing.T) {
	const tasks = 1000
	big := strings.Repeat("x", 64<<10)
	f := &fakeJobs{}
	s := f.session(t)
	var got []uint32
	o := &order{
		emit: func(_ context.Context, r *banyanv1.TaskResult) error {
			if len(r.Stdout.Inline) != len(big) {
				t.Fatalf("task %d lost its output", r.Task)
			}
			got = append(got, r.Task)
			return nil
		},
		reread: func(ctx context.Context, from uint32) ([]*banyanv1.TaskResult, error) {
			r, err := s.Jobs().Tasks(ctx, &banyanv1.TasksRequest{JobId: testJob, From: from, Limit: 100})
			return r.GetResults(), err
		},
	}
	bytes := []byte(big)
	for i := range uint32(tasks) {
		r := result(i, 0, "", "")
		r.Stdout.Inline = bytes
		f.results = append(f.results, r)
	}
	for i := tasks - 1; i >= 0; i-- { // the first task ends last
		if err := o.add(t.Context(), f.results[i]); err != nil {
			t.Fatal(err)
		}
		if o.bytes > heldBytesMax || len(o.held) > heldResultsMax {
			t.Fatalf("%d bytes of %d results are held", o.bytes, len(o.held))
		}
	}
	for i, task := range got {
		if task != uint32(i) {
			t.Fatalf("task %d came as number %d", task, i)
		}
	}
	if len(got) != tasks || f.reads < tasks/200 || f.reads > tasks/20 {
		t.Errorf("%d results, read again %d times", len(got), f.reads)
	}
}

func TestLogsOfAllTasks(t *testing.T) {
	f := &fakeJobs{job: &banyanv1.Job{Id: testJob, Tasks: 2}, results: []*banyanv1.TaskResult{result(0, 0, "one\n", "e1\n"), result(1, 0, "two\n\xff", "")}}
	for _, c := range []struct{ flags, out, errs string }{
		{"", "one\ntwo\n\xff", "e1\n"},
		{"--stdout", "one\ntwo\n\xff", ""},
		{"--stderr", "", "e1\n"},
		{"--stderr --stdout --tag", "in1\tone\nin2\ttwo\nin2\t\xff", "in1\te1\n"},
		{"-o json --tag", `{"seq":1,"stream":"stdout","data":"one\n"}` + "\n" + `{"seq":1,"stream":"stderr","data":"e1\n"}` + "\n" +
			`{"seq":2,"stream":"stdout","data":"two\n\ufffd","data_base64":"dHdvCv8="}` + "\n", ""},
	} {
		out, errs, code := do(t, f.session(t), append(append([]string{"logs"}, strings.Fields(c.flags)...), testJob)...)
		if out != c.out || errs != c.errs || code != 0 {
			t.Errorf("logs %s: exit %d\n%q, want\n%q\n%q, want %q", c.flags, code, out, c.out, errs, c.errs)
		}
	}
	if _, errs, code := do(t, f.session(t), "logs", testJob, "3"); code != 1 || !strings.Contains(errs, "has no task 3: it has 2 tasks") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if _, errs, code := do(t, f.session(t), "logs", testJob, "then"); code != 1 || !strings.Contains(errs, "has no --then step") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestAJobThatNobodyRunsIsHeld(t *testing.T) {
	f := &fakeJobs{job: &banyanv1.Job{Id: testJob, State: active, Tasks: 2, Progress: &banyanv1.Progress{Tasks: 2, Succeeded: 1}}}
	out, _, _ := do(t, f.session(t), "job", "show", "-o", "json", testJob)
	if !strings.Contains(out, `"state":"held"`) {
		t.Error(out)
	}
}

func TestJobShowListsFailuresFirst(t *testing.T) {
	running := result(1, 0, "", "")
	running.State = banyanv1.TaskState_TASK_STATE_RUNNING
	f := &fakeJobs{
		job:     &banyanv1.Job{Id: testJob, Tasks: 4, State: active, Progress: &banyanv1.Progress{Tasks: 4, Succeeded: 1, Failed: 1, Running: 1, Pending: 1}},
		results: []*banyanv1.TaskResult{result(0, 0, "", ""), running, result(2, 7, "", "")},
	}
	out, _, code := do(t, f.session(t), "job", "show", "-o", "json", testJob)
	var got jobShowJSON
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 {
		t.Fatalf("exit %d, %v: %s", code, err, out)
	}
	var order []string
	for _, r := range got.Results {
		order = append(order, fmt.Sprint(r.Seq, r.State))
	}
	if s := strings.Join(order, " "); s != "3failed 2running 1succeeded" || got.Failed != 1 || got.State != "active" {
		t.Errorf("order %q, %+v", s, got)
	}
	text, _, _ := do(t, f.session(t), "job", "show", "-n", "1", testJob)
	if !strings.Contains(text, "4: 1 succeeded, 1 failed, 1 running, 1 pending") || !strings.Contains(text, "'banyan logs "+testJob+" 3' shows") || strings.Contains(text, "in1") {
		t.Errorf("text:\n%s", text)
	}
	f.job.State = banyanv1.JobState_JOB_STATE_CANCELED // and what still runs is being killed
	if text, _, _ := do(t, f.session(t), "job", "show", testJob); !strings.Contains(text, "4: 1 succeeded, 1 failed, 2 not done\n") {
		t.Errorf("text of a canceled job:\n%s", text)
	}
}

func TestAFileThatWasNotSentIsNoticed(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := errors.Join(os.WriteFile("here.log", nil, 0o600), os.Mkdir("dir", 0o700)); err != nil {
		t.Fatal(err)
	}
	full, err := filepath.Abs("here.log")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		workDir   string
		sent, row []string
		want      string
	}{
		{"", nil, []string{"7", "here.log"}, "here.log"},
		{"/srv", nil, []string{"here.log"}, ""},
		{"", []string{"{}"}, []string{"here.log"}, ""},
		{"", nil, []string{"there.log", "dir", full, ""}, ""}, // a full path may be there
	} {
		in := &inputs{count: 2, groups: [][][]string{{c.row, {"here.log"}}}}
		if got := leftHere(&banyanv1.JobSpec{WorkDir: []byte(c.workDir)}, c.sent, in); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
}
