package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// follow says which job to follow and how.
type follow struct {
	job      banyan.JobID
	show     showFlags
	seen     bitmap                               // results recorded before: they are not printed, their files are fetched
	streamed bool                                 // the job may have more than banyan.JobTasksMax
	mute     bool                                 // results are neither printed nor fetched
	back     asked                                // the files that may come back
	feed     *feeder                              // gives the job its inputs; nil: it has them
	then     bool                                 // the job has a then step: its files come back, not those of the tasks
	on       func(*banyanv1.FollowResponse) error // told of every message; its error ends the following
}

// follow prints a job's results and progress until it has ended, and gives the
// error that makes the process exit as the job ended. The first signal holds
// the job, the second leaves at once. The end of ctx is of no matter.
func (a *app) follow(ctx context.Context, sig *interrupts, s *session, f follow) error {
	whole := context.WithoutCancel(ctx)
	ctx, cancel := context.WithCancel(whole)
	var holdErr error
	held := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		if !sig.next(ctx.Done()) {
			return
		}
		held = true
		hold, stop := sig.untilFirst(whole)
		defer stop()
		_, holdErr = s.Jobs().Hold(hold, f.job)
		if hold.Err() != nil {
			a.leave(exitInterrupted)
		}
		cancel()
	}()
	fw := a.newFollower(s, f)
	fed := make(chan error, 1)
	go func() {
		var err error
		if f.feed != nil {
			if err = f.feed.run(ctx); err != nil {
				cancel()
			}
		}
		fed <- err
	}()
	err := fw.run(ctx)
	cancel()
	<-done
	feedErr := <-fed
	fw.bar.clear()
	switch {
	case !held && feedErr != nil && !errors.Is(feedErr, context.Canceled) && !ended(fw.state):
		return errors.Join(fw.flush(), fw.fail(whole, feedErr))
	case held && holdErr != nil && !ended(fw.state):
		return &exit{code: exitInterrupted, err: fmt.Errorf("job %s could not be held: %w: 'banyan cancel%s %s' ends it", f.job, holdErr, s.hint, f.job)}
	case held && !ended(fw.state):
		return fw.heldExit(whole)
	case err != nil:
		return err
	}
	return fw.finish(whole)
}

// watch is follow without signals: the end of ctx ends the watching.
func (a *app) watch(ctx context.Context, s *session, f follow) error {
	fw := a.newFollower(s, f)
	err := fw.run(ctx)
	fw.bar.clear()
	if err != nil {
		return err
	}
	return fw.finish(ctx)
}

// heldExit tells how to go on with a held job, and how far it is: what was
// followed may be behind.
func (f *follower) heldExit(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if j, err := f.s.Jobs().Get(ctx, f.job); err == nil && j.GetProgress() != nil {
		f.progress = j.Progress
	}
	rest := ""
	if f.progress.GetOpen() {
		rest = ", without the inputs that were not read"
	}
	fmt.Fprintf(f.app.Err, "banyan: job %s is held, %d of %d tasks done: 'banyan resume%s %s' goes on%s\n", f.job, f.doneTasks(), f.progress.GetTasks(), f.s.hint, f.job, rest)
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

	got      bitmap
	state    banyanv1.JobState
	progress *banyanv1.Progress
	thenDone *banyanv1.TaskResult
	nodes    map[uint64]string // last state of each
	returned returned
	outDir   outDir
	idle     time.Time // since when no node takes work; zero: one does
	toldIdle bool

	toldDropped bool // of files that did not come back
}

func (a *app) newFollower(s *session, f follow) *follower {
	fw := &follower{follow: f, app: a, s: s, bar: a.newProgress(f.show.progress), nodes: map[uint64]string{}, outDir: outDir{name: f.show.outDir}, returned: returned{whole: f.back.whole}}
	fw.out = bufio.NewWriterSize(fw.bar.through(a.Out), 64<<10)
	fw.errs = bufio.NewWriterSize(fw.bar.through(a.Err), 16<<10)
	fw.p = &printer{out: fw.out, err: fw.errs, tag: f.show.tag, json: f.show.format.json(), chunks: s.Blobs().Download, files: s.Jobs().Returned}
	if f.show.keep {
		fw.keep = &order{quiet: f.seen, emit: fw.emit, reread: fw.reread}
	}
	return fw
}

// errHeld ends the following of a job that is held: its stream would not end.
var errHeld = errors.New("the job is held")

// run follows the job until it has ended or is held.
func (f *follower) run(ctx context.Context) error {
	defer f.outDir.close()
	err := f.s.Jobs().Follow(ctx, f.job, 0, func(m *banyanv1.FollowResponse) error { return f.take(ctx, m) })
	if errors.Is(err, errHeld) {
		return nil
	}
	return err
}

// take handles one message: results first, then the progress that counts them.
func (f *follower) take(ctx context.Context, m *banyanv1.FollowResponse) error {
	for _, r := range m.Results {
		if r.Task >= f.tasksMax() {
			return banyan.Errorf(banyan.Corrupt, "a node told of task %d of job %s: no job has so many: 'banyan status' shows the nodes", r.Task, f.job)
		}
		if f.got.has(r.Task) {
			continue
		}
		if err := f.result(ctx, r); err != nil {
			return err
		}
		f.got.set(r.Task)
		if f.feed != nil {
			f.feed.forget(r.Task)
		}
	}
	if m.State != banyanv1.JobState_JOB_STATE_UNSPECIFIED {
		f.state = m.State
	}
	if m.ThenResult != nil {
		f.thenDone = m.ThenResult
	}
	if m.Progress != nil {
		f.progress = m.Progress
		f.notice(m.Progress.Nodes)
		f.noticeIdle(m.Progress)
	}
	if f.on != nil {
		if err := f.on(m); err != nil {
			return err
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	if f.feed != nil {
		printed := f.got.prefix()
		if f.keep != nil {
			printed = f.keep.next
		}
		f.feed.progress(f.got.len(), printed)
	}
	if f.state == banyanv1.JobState_JOB_STATE_HELD {
		return errHeld
	}
	if m.Progress != nil && !ended(f.state) {
		f.bar.show(m.Progress)
	}
	return nil
}

func (f *follower) tasksMax() uint32 {
	if f.feed != nil || f.streamed {
		return banyan.StreamTasksMax
	}
	return banyan.JobTasksMax
}

func (f *follower) result(ctx context.Context, r *banyanv1.TaskResult) error {
	if f.mute {
		return nil
	}
	if !f.then {
		files, err := f.s.Jobs().Returned(ctx, r)
		if err != nil {
			return err
		}
		mine, refused := f.returned.sort(r.Task, files, f.back.names(r))
		f.refused(fmt.Sprintf("task %d", r.Task+1), refused)
		if err := f.outDir.fetch(ctx, f.p.chunks, mine, f.seen.has(r.Task)); err != nil {
			return err
		}
	}
	f.dropped(r)
	switch {
	case f.keep != nil:
		return f.keep.add(ctx, r)
	case f.seen.has(r.Task):
		return nil
	}
	return f.emit(ctx, r)
}

// dropped tells once of files that a task made and nobody asked to have back.
func (f *follower) dropped(r *banyanv1.TaskResult) {
	if f.toldDropped || r.DroppedCount == 0 || f.seen.has(r.Task) {
		return
	}
	f.toldDropped = true
	var names []string
	for _, n := range r.Dropped {
		names = append(names, abbreviate(string(n), 60))
	}
	if more := int(r.DroppedCount) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	fmt.Fprintf(f.errs, "banyan: task %d made files that are gone with its directory: %s: --return brings files back, --workdir names a directory that stays\n", r.Task+1, strings.Join(names, ", "))
}

// refused tells of files that came and were not written.
func (f *follower) refused(who string, list []refusal) {
	for i, r := range list {
		if i == refusedMax {
			fmt.Fprintf(f.errs, "banyan: %s returned %d more files that were not written\n", who, len(list)-i)
			return
		}
		fmt.Fprintf(f.errs, "banyan: %s returned %.200q: %s\n", who, r.path, r.why)
	}
}

// refusedMax is how many files of one task are told of that were not written.
const refusedMax = 5

func (f *follower) emit(ctx context.Context, r *banyanv1.TaskResult) error {
	return f.p.result(ctx, r, false)
}

// rereadMax is how many results -k reads again at once.
const rereadMax = 1000

func (f *follower) reread(ctx context.Context, from uint32) ([]*banyanv1.TaskResult, error) {
	r, err := f.s.Jobs().Tasks(ctx, &banyanv1.TasksRequest{JobId: string(f.job), From: from, Limit: rereadMax})
	return r.GetResults(), err
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
		fmt.Fprintf(f.errs, "banyan: node %v (%s) is %s%s\n", banyan.NodeID(n.Node), inLine(n.Name), inLine(n.State), what)
	}
}

// idleAfter is for how long no node must take work before that is told: a node
// may only just have come.
const idleAfter = 2 * time.Second

// noticeIdle tells, once, why nothing happens when every node is draining, or none
// is large enough.
func (f *follower) noticeIdle(p *banyanv1.Progress) {
	drained := false
	why := "no node takes work: all are draining or gone: 'banyan drain --undo NODE' takes one back, or let another join"
	if p.TooLarge && p.Running == 0 {
		f.noticeWait(p, true, "none of the nodes has as many slots and as much memory as each of its tasks needs (run --slots, --memory; up --slots, --memory; 'banyan nodes')")
		return
	}
	for _, n := range p.Nodes {
		if n.State == "alive" || n.State == "suspect" || n.Running > 0 {
			f.idle = time.Time{}
			return
		}
		drained = drained || n.State == "draining"
	}
	f.noticeWait(p, drained, why)
}

func (f *follower) noticeWait(p *banyanv1.Progress, waits bool, why string) {
	now := f.app.now()
	switch {
	case !waits || p.Pending == 0:
		f.idle = time.Time{}
	case f.idle.IsZero():
		f.idle = now
	case !f.toldIdle && now.Sub(f.idle) >= idleAfter && f.show.progress != "none":
		f.toldIdle = true
		fmt.Fprintln(f.errs, "banyan: the job is waiting because "+why)
	}
}

// flush writes what was printed.
func (f *follower) flush() error {
	if err := f.out.Flush(); err != nil {
		return banyan.Errorf(banyan.Internal, "standard output cannot be written: %w: 'banyan logs%s %s' shows the rest", err, f.s.hint, f.job)
	}
	return f.errs.Flush()
}

func (f *follower) doneTasks() uint32 {
	return max(f.progress.GetSucceeded()+f.progress.GetFailed(), f.got.len())
}

// finish prints what comes last and gives the exit as the job ended.
func (f *follower) finish(ctx context.Context) error {
	if f.state == banyanv1.JobState_JOB_STATE_HELD {
		return f.heldExit(ctx)
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
		files, err := f.s.Jobs().Returned(ctx, r)
		if err != nil {
			return err
		}
		mine, refused := f.returned.sortThen(files)
		f.refused("the --then step", refused)
		defer f.outDir.close()
		if err := f.outDir.fetch(ctx, f.p.chunks, mine, false); err != nil {
			return err
		}
	}
	f.summary(f.errs)
	if err := f.flush(); err != nil {
		return err
	}
	if err := outcome(f.state, int(f.progress.GetFailed()), f.thenDone); err != nil {
		return err
	}
	if err := f.returned.err(); err != nil {
		return &exit{code: exitFiles, err: err}
	}
	return nil
}

// summary says on one line what went wrong, and how to look at it.
func (f *follower) summary(w io.Writer) {
	switch failed := f.progress.GetFailed(); {
	case f.state == banyanv1.JobState_JOB_STATE_CANCELED:
		fmt.Fprintf(w, "banyan: job %s was canceled, %d of %d tasks done\n", f.job, f.doneTasks(), f.progress.GetTasks())
	case failed > 0:
		fmt.Fprintf(w, "banyan: %d of %s failed: 'banyan job show%s %s' lists them, 'banyan resume --retry-failed%s %s' tries them again\n",
			failed, count(f.progress.GetTasks(), "task"), f.s.hint, f.job, f.s.hint, f.job)
	case f.thenDone != nil && f.state == banyanv1.JobState_JOB_STATE_FAILED:
		fmt.Fprintf(w, "banyan: the --then step failed with exit code %d: 'banyan job show%s %s' shows it\n", f.thenDone.ExitCode, f.s.hint, f.job)
	}
}
