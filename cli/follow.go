package cli

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"time"

	"connectrpc.com/connect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// follow says which job to follow and how.
type follow struct {
	job  banyan.JobID
	show showFlags
	seen bitmap // results recorded before: they are not printed, their files are fetched
	mute bool   // results are neither printed nor fetched
	then bool   // the job has a then step: its files come back, not those of the tasks
	on   func(*banyanv1.FollowResponse)
}

// Follow is opened again when the node that answered is lost: at once, then
// with growing pauses, for as long as reconnectMax without an answer.
const (
	reconnectFirst = 50 * time.Millisecond
	reconnectPause = time.Second
	reconnectMax   = 2 * time.Minute
)

// follow prints a job's results and progress until it has ended, and gives the
// error that makes the process exit as the job ended. The first signal holds
// the job, the second leaves at once.
func (a *app) follow(sig *interrupts, s *session, f follow) error {
	ctx, cancel := context.WithCancel(context.Background())
	var holdErr error
	held := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-ctx.Done():
			return
		case <-sig.c:
		}
		held = true
		hold, stop := sig.untilFirst(context.Background())
		defer stop()
		_, holdErr = s.jobs.Hold(hold, connect.NewRequest(&banyanv1.HoldRequest{JobId: string(f.job)}))
		if hold.Err() != nil {
			a.leave(exitInterrupted)
		}
		cancel()
	}()
	fw := a.newFollower(s, f)
	err := fw.run(ctx)
	cancel()
	<-done
	fw.bar.clear()
	switch {
	case held && holdErr != nil && !ended(fw.state):
		return &exit{code: exitInterrupted, err: fmt.Errorf("job %s could not be held: %w: 'banyan cancel%s %s' ends it", f.job, holdErr, s.hint, f.job)}
	case held && !ended(fw.state):
		return fw.heldExit()
	case err != nil:
		return err
	}
	return fw.finish()
}

// watch is follow without signals: the end of ctx ends the watching.
func (a *app) watch(ctx context.Context, s *session, f follow) error {
	fw := a.newFollower(s, f)
	err := fw.run(ctx)
	fw.bar.clear()
	if err != nil {
		return err
	}
	return fw.finish()
}

// heldExit tells how to go on with a held job.
func (f *follower) heldExit() error {
	fmt.Fprintf(f.app.Err, "banyan: job %s is held, %d of %d tasks done: 'banyan resume%s %s' goes on\n", f.job, f.doneTasks(), f.progress.GetTasks(), f.s.hint, f.job)
	return &exit{code: exitInterrupted}
}

func ended(s banyanv1.JobState) bool {
	switch s {
	case banyanv1.JobState_JOB_STATE_SUCCEEDED, banyanv1.JobState_JOB_STATE_FAILED, banyanv1.JobState_JOB_STATE_CANCELED:
		return true
	}
	return false
}

// follower is one following of one job.
type follower struct {
	follow
	app  *app
	s    *session
	out  *bufio.Writer
	errs *bufio.Writer
	p    *printer
	bar  progressBar
	keep *order

	after    uint64 // revision up to which results have come
	got      bitmap
	state    banyanv1.JobState
	progress *banyanv1.Progress
	thenDone *banyanv1.TaskResult
	nodes    map[uint64]string // last state of each
}

func (a *app) newFollower(s *session, f follow) *follower {
	fw := &follower{follow: f, app: a, s: s, out: bufio.NewWriterSize(a.Out, 64<<10), errs: bufio.NewWriterSize(a.Err, 16<<10), nodes: map[uint64]string{}}
	fw.p = &printer{out: fw.out, err: fw.errs, tag: f.show.tag, json: f.show.format.json(), chunks: s.readChunks}
	fw.bar = a.newProgress(f.show.progress)
	if f.show.keep {
		fw.keep = &order{quiet: f.seen, emit: fw.emit, reread: fw.reread}
	}
	return fw
}

// run reads the stream until the job ended or is held.
func (f *follower) run(ctx context.Context) error {
	pause := time.Duration(0)
	last := f.app.now()
	for {
		before := f.after
		err := f.stream(ctx)
		if ended(f.state) || f.state == banyanv1.JobState_JOB_STATE_HELD || ctx.Err() != nil {
			return err
		}
		if f.after != before {
			last, pause = f.app.now(), 0
		}
		if err != nil && (f.s.local || !passing(err)) {
			return err
		}
		if f.app.now().Sub(last) > reconnectMax {
			return banyan.Errorf(banyan.Unavailable, "job %s cannot be followed: %w: it goes on in the cluster, 'banyan wait%s %s' waits for it", f.job, err, f.s.hint, f.job)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		pause = min(max(2*pause, reconnectFirst), reconnectPause)
	}
}

// passing says whether an error may go away by itself.
func passing(err error) bool {
	switch banyan.KindOf(err) {
	case banyan.Unavailable, banyan.NotLeader, banyan.Stale, banyan.Timeout:
		return true
	}
	return false
}

func (f *follower) stream(ctx context.Context) error {
	st, err := f.s.jobs.Follow(ctx, connect.NewRequest(&banyanv1.FollowRequest{JobId: string(f.job), AfterRevision: f.after}))
	if err != nil {
		return err
	}
	defer st.Close()
	for st.Receive() {
		if err := f.take(ctx, st.Msg()); err != nil {
			return err
		}
		if ended(f.state) || f.state == banyanv1.JobState_JOB_STATE_HELD {
			return nil
		}
	}
	return st.Err()
}

// take handles one message: results first, then the progress that counts them.
func (f *follower) take(ctx context.Context, m *banyanv1.FollowResponse) error {
	for _, r := range m.Results {
		if f.got.has(r.Task) {
			continue
		}
		if err := f.result(ctx, r); err != nil {
			return err
		}
		f.got.set(r.Task)
	}
	f.after = max(f.after, m.Revision)
	if m.State != banyanv1.JobState_JOB_STATE_UNSPECIFIED {
		f.state = m.State
	}
	if m.ThenResult != nil {
		f.thenDone = m.ThenResult
	}
	if m.Progress != nil {
		f.progress = m.Progress
		f.notice(m.Progress.Nodes)
	}
	if f.on != nil {
		f.on(m)
	}
	if err := f.flush(); err != nil {
		return err
	}
	if m.Progress != nil && !ended(f.state) {
		f.bar.show(m.Progress)
	}
	return nil
}

func (f *follower) result(ctx context.Context, r *banyanv1.TaskResult) error {
	if f.mute {
		return nil
	}
	if !f.then {
		if err := f.s.download(ctx, f.show.outDir, r.Returned, f.seen.has(r.Task)); err != nil {
			return err
		}
	}
	switch {
	case f.keep != nil:
		return f.keep.add(ctx, r)
	case f.seen.has(r.Task):
		return nil
	}
	return f.emit(ctx, r)
}

func (f *follower) emit(ctx context.Context, r *banyanv1.TaskResult) error {
	return f.p.result(ctx, r, false)
}

// rereadMax is how many results -k reads again at once.
const rereadMax = 1000

func (f *follower) reread(ctx context.Context, from uint32) ([]*banyanv1.TaskResult, error) {
	r, err := f.s.jobs.Tasks(ctx, connect.NewRequest(&banyanv1.TasksRequest{JobId: string(f.job), From: from, Limit: rereadMax}))
	if err != nil {
		return nil, err
	}
	return r.Msg.Results, nil
}

// notice tells when a node's state changed while the job runs.
func (f *follower) notice(nodes []*banyanv1.NodeProgress) {
	for _, n := range nodes {
		before := f.nodes[n.Node]
		f.nodes[n.Node] = n.State
		if before == "" || before == n.State || n.State == "" || f.show.progress == "none" {
			continue
		}
		what := ""
		if n.State == "dead" {
			what = ": its tasks go to others"
		}
		fmt.Fprintf(f.errs, "banyan: node %v (%s) is %s%s\n", banyan.NodeID(n.Node), n.Name, n.State, what)
	}
}

// flush writes what was printed, with the progress out of its way.
func (f *follower) flush() error {
	if f.out.Buffered() == 0 && f.errs.Buffered() == 0 {
		return nil
	}
	f.bar.clear()
	if err := f.out.Flush(); err != nil {
		return banyan.Errorf(banyan.Internal, "standard output cannot be written: %w: 'banyan logs%s %s' shows the rest", err, f.s.hint, f.job)
	}
	return f.errs.Flush()
}

func (f *follower) doneTasks() uint32 {
	return f.progress.GetSucceeded() + f.progress.GetFailed()
}

// finish prints what comes last and gives the exit as the job ended.
func (f *follower) finish() error {
	ctx := context.Background()
	if f.state == banyanv1.JobState_JOB_STATE_HELD {
		return f.heldExit()
	}
	if f.keep != nil {
		if err := f.keep.advance(ctx); err != nil {
			return err
		}
	}
	if r := f.thenDone; r != nil && !f.mute {
		if err := f.p.result(ctx, r, true); err != nil {
			return err
		}
		if err := f.s.download(ctx, f.show.outDir, r.Returned, false); err != nil {
			return err
		}
	}
	f.summary(f.errs)
	if err := f.flush(); err != nil {
		return err
	}
	return outcome(f.state, int(f.progress.GetFailed()), f.thenDone)
}

// summary says on one line what went wrong, and how to look at it.
func (f *follower) summary(w io.Writer) {
	switch failed := f.progress.GetFailed(); {
	case f.state == banyanv1.JobState_JOB_STATE_CANCELED:
		fmt.Fprintf(w, "banyan: job %s was canceled, %d of %d tasks done\n", f.job, f.doneTasks(), f.progress.GetTasks())
	case failed > 0:
		fmt.Fprintf(w, "banyan: %d of %d tasks failed: 'banyan job show%s %s' lists them, 'banyan resume --retry-failed%s %s' tries them again\n",
			failed, f.progress.GetTasks(), f.s.hint, f.job, f.s.hint, f.job)
	case f.thenDone != nil && f.state == banyanv1.JobState_JOB_STATE_FAILED:
		fmt.Fprintf(w, "banyan: the --then step failed with exit code %d: 'banyan job show%s %s' shows it\n", f.thenDone.ExitCode, f.s.hint, f.job)
	}
}
