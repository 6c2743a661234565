package worker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/engine/blob"
	"banyan/node/exec"
	"banyan/obs"
)

// notRun is the exit code of an attempt whose command was not even looked for.
const notRun = 126

// running is an attempt that occupies a slot.
type running struct {
	cancel context.CancelCauseFunc
	place  atomic.Pointer[exec.Place] // nil: not ready yet
	done   chan struct{}              // closed when its process is gone
	full   bool                       // it was stopped because the disk is nearly full; under Worker.mu

	epoch   uint64 // of sweeping, before what it wrote was stored
	starved error  // it could not begin for want of something that others use
}

// start runs an attempt in a goroutine of its own; w.mu is held.
func (w *Worker) start(s Start) {
	ctx, cancel := context.WithCancelCause(context.Background())
	r := &running{cancel: cancel, done: make(chan struct{})}
	w.running[s.Key] = r
	w.count.Add(1)
	w.attempts.Go(func() {
		result := w.attempt(ctx, s, r)
		if errors.Is(context.Cause(ctx), errShutdown) && result.State == banyanv1.TaskState_TASK_STATE_CANCELED {
			result = nil
		}
		if result.GetState() == banyanv1.TaskState_TASK_STATE_FAILED && w.atFault(ctx, s.Key) {
			result = nil
		}
		starved := r.starved != nil
		if starved {
			result = nil
			w.hungry(ctx, s.Key, r.starved)
		}
		cancel(nil)
		w.meter.attempted(result)
		w.do(func() {
			delete(w.running, s.Key)
			w.count.Add(-1)
			if starved {
				w.core.Scarce(w.now())
			}
			w.ledger.end(s.Key)
			w.core.Touched(s.Key, r.epoch)
			w.core.Finish(w.now(), s.Key, result)
		})
	})
}

// hungryPause holds a slot that could not be used, so that others end meanwhile
// or other nodes get the attempt.
const hungryPause = 100 * time.Millisecond

func (w *Worker) hungry(ctx context.Context, k Key, why error) {
	w.cfg.Logger.Warn("attempt handed back: this node is short of files, processes or memory", "job", k.Job, "task", k.Task+1, "error", why)
	select {
	case <-ctx.Done():
	case <-time.After(hungryPause):
	}
}

// sickPause holds a slot whose disk is sick, so that others get the attempts.
const sickPause = time.Second

// atFault says whether an attempt may have failed because this node's disk
// takes no writes: then it says nothing about the task, and is handed back.
func (w *Worker) atFault(ctx context.Context, k Key) bool {
	err := w.cfg.Runner.Writable()
	if err == nil {
		return false
	}
	w.cfg.Logger.Error("attempt handed back: the disk takes no writes", "job", k.Job, "task", k.Task+1, "error", err)
	select {
	case <-ctx.Done():
	case <-time.After(sickPause):
	}
	return true
}

// attempt does all there is to do for an attempt and says how it went.
func (w *Worker) attempt(ctx context.Context, s Start, r *running) *banyanv1.TaskResult {
	result := &banyanv1.TaskResult{
		Task: s.Key.Task, Attempt: s.Attempt.GetTry(), Node: uint64(w.cfg.Node), Slot: uint32(s.Slot),
		StartMs: time.Now().UnixMilli(), Stdout: &banyanv1.Output{}, Stderr: &banyanv1.Output{},
	}
	began := time.Now()
	ctx, span := obs.Start(obs.WithTraceparent(ctx, s.Attempt.GetTraceparent()), "attempt",
		slog.String("job", string(s.Key.Job)), slog.Int("task", int(s.Key.Task)+1), slog.Int("try", int(result.Attempt)), slog.Int("slot", s.Slot))
	err := w.perform(ctx, s, r, result)
	full, isFull := diskFull(context.Cause(ctx))
	if isFull {
		err = full
	}
	if result.DurationUs == 0 {
		result.DurationUs = time.Since(began).Microseconds()
	}
	switch ran := result.State != banyanv1.TaskState_TASK_STATE_UNSPECIFIED; {
	case err == nil:
	case isFull:
		result.State = banyanv1.TaskState_TASK_STATE_FAILED
	case ctx.Err() != nil:
		result.State = banyanv1.TaskState_TASK_STATE_CANCELED
	case !ran && exec.Starved(err):
		r.starved = err
	case !ran:
		result.State, result.ExitCode = banyanv1.TaskState_TASK_STATE_FAILED, notRun
	case result.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED:
		result.State = banyanv1.TaskState_TASK_STATE_FAILED
	}
	if err != nil {
		result.Error = err.Error()
	}
	span.Set(slog.String("state", result.State.String()), slog.Int("exit_code", int(result.ExitCode)))
	span.End(err)
	return result
}

// isThen says whether an attempt is one at the job's then step. Controllers of
// before did not say so; then it is the task behind the last.
func isThen(s Start) bool { return s.Attempt.GetThen() || s.Key.Task == s.Job.GetTasks() }

// perform prepares, runs and collects. It fills in result as far as it comes;
// the error says why it came no further.
func (w *Worker) perform(ctx context.Context, s Start, r *running, result *banyanv1.TaskResult) error {
	ended := false
	end := func() {
		if !ended {
			ended = true
			close(r.done)
		}
	}
	defer end()
	spec, cmd := s.Job.GetSpec(), s.Job.GetSpec().GetCommand()
	if isThen(s) {
		cmd = spec.GetThen()
	}
	vars := job.Vars{Columns: banyanv1.Strings(s.Attempt.GetInput().GetColumns()), Seq: int(s.Key.Task) + 1, Slot: s.Slot, Tasks: int(s.Job.GetTasks())}
	args, err := job.Expand(cmd, vars)
	if err != nil {
		return err
	}
	place, err := w.cfg.Runner.Open(string(spec.GetWorkDir()))
	if err != nil {
		return err
	}
	defer place.Release()
	had, err := w.prepare(ctx, s, vars, place)
	if err != nil {
		return err
	}
	r.place.Store(place)
	res := w.cfg.Runner.Run(ctx, place, exec.Command{
		Args:    args,
		Env:     w.environment(s, spec, place.Dir(), obs.Traceparent(ctx)),
		Timeout: time.Duration(spec.GetTimeoutMs()) * time.Millisecond,

		OutputMax: spec.GetOutputBytesMax(),
	})
	end()
	r.epoch = w.epoch()
	if res.Outcome == exec.NotStarted && exec.Starved(res.Err) {
		return res.Err
	}
	result.StartMs, result.DurationUs = res.Start.UnixMilli(), max(1, res.Duration.Microseconds())
	result.ExitCode, result.Signal = res.ExitCode, res.Signal
	result.State = stateOf(res)
	result.Killed, result.KilledCount = res.Killed, uint32(res.KilledCount)
	return w.collect(ctx, s, vars, place, had, res, result)
}

func stateOf(res exec.Result) banyanv1.TaskState {
	switch {
	case res.OK():
		return banyanv1.TaskState_TASK_STATE_SUCCEEDED
	case res.Outcome == exec.TimedOut:
		return banyanv1.TaskState_TASK_STATE_TIMED_OUT
	case res.Outcome == exec.Canceled:
		return banyanv1.TaskState_TASK_STATE_CANCELED
	}
	return banyanv1.TaskState_TASK_STATE_FAILED
}

// prepare puts the files the attempt needs into its working directory.
func (w *Worker) prepare(ctx context.Context, s Start, vars job.Vars, place *exec.Place) (map[string]given, error) {
	fromTasks, err := w.fromTasks(ctx, s.Attempt)
	if err != nil {
		return nil, err
	}
	files, err := wanted(s.Job.GetSpec(), vars, fromTasks)
	if err != nil || len(files) == 0 {
		return nil, err
	}
	root, err := place.Root()
	if err != nil {
		return nil, fmt.Errorf("the task's working directory: %w", err)
	}
	defer root.Close()
	return fetch(ctx, w.blobs, root, files, place.Shared())
}

// collect stores what the attempt wrote and left. What was canceled still gets
// its output stored, for a while, unless this worker shuts down.
func (w *Worker) collect(ctx context.Context, s Start, vars job.Vars, place *exec.Place, had map[string]given, res exec.Result, result *banyanv1.TaskResult) error {
	if full, ok := diskFull(context.Cause(ctx)); ok { // to store its output would take what little room there is
		result.Stdout.Bytes, result.Stdout.Truncated = res.Stdout, res.Stdout > 0
		result.Stderr.Bytes, result.Stderr.Truncated = res.Stderr, res.Stderr > 0
		return full
	}
	if ctx.Err() != nil && !errors.Is(context.Cause(ctx), errShutdown) {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(context.WithoutCancel(ctx), outputStoring)
		defer cancel()
	}
	if res.Err != nil && res.Outcome != exec.Exceeded {
		return res.Err
	}
	most := cmp.Or(s.Job.GetSpec().GetOutputBytesMax(), banyan.OutputBytesDefault)
	err := errors.Join(
		w.keep(ctx, place.Stdout(), res.Stdout, most, result.Stdout),
		w.keep(ctx, place.Stderr(), res.Stderr, most, result.Stderr))
	if res.Err != nil {
		return errors.Join(res.Err, err)
	}
	if err != nil {
		return fmt.Errorf("the task ended (exit code %d) but its output could not be stored: %w", res.ExitCode, err)
	}
	then := isThen(s)
	patterns := s.Job.GetSpec().GetReturn()
	if res.OK() && !then && len(patterns) == 0 && !place.Shared() {
		result.Dropped, result.DroppedCount = dropped(place, had)
	}
	if !res.OK() || then && place.Shared() || !then && len(patterns) == 0 {
		return nil
	}
	root, err := place.Root()
	if err != nil {
		return fmt.Errorf("the task's working directory: %w", err)
	}
	defer root.Close()
	var list []returning
	if then {
		list, err = left(root, had)
	} else {
		expanded := make([]string, len(patterns))
		for i, p := range patterns {
			expanded[i] = job.ExpandString(string(p), vars)
		}
		list, err = match(root, expanded)
	}
	if err != nil {
		return err
	}
	refs, err := store(ctx, w.blobs, root, list)
	if err != nil {
		return err
	}
	return w.list(ctx, refs, result)
}

// keep puts an output into the result: small ones whole, others as a blob, and
// no more than the most. If it cannot be stored, the result refers to no chunks
// and says how much there was.
func (w *Worker) keep(ctx context.Context, o exec.Output, size, most int64, to *banyanv1.Output) error {
	if size > most {
		size, to.Truncated = most, true
	}
	to.Bytes = size
	if size == 0 {
		return nil
	}
	r := io.NewSectionReader(o, 0, size)
	if size <= banyan.OutputInlineMax {
		inline := make([]byte, size)
		if _, err := io.ReadFull(r, inline); err != nil {
			to.Truncated = true
			return err
		}
		to.Inline = inline
		return nil
	}
	chunks, _, err := blob.Write(ctx, w.blobs, r)
	if err != nil {
		to.Truncated = true
		return err
	}
	to.Chunks = rawHashes(chunks)
	return nil
}

// patient tries again while too few nodes answer.
type patient struct {
	blob.Store
	most time.Duration
}

func (p patient) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	return p.try(ctx, func() error { return p.Store.Put(ctx, h, data) })
}

func (p patient) Get(ctx context.Context, h banyan.Hash) (data []byte, err error) {
	err = p.try(ctx, func() error {
		data, err = p.Store.Get(ctx, h)
		return err
	})
	return data, err
}

func (p patient) try(ctx context.Context, once func() error) error {
	until := time.Now().Add(p.most)
	for wait := backoffMin; ; wait = min(2*wait, time.Second) {
		err := once()
		if !banyan.IsKind(err, banyan.Unavailable) || time.Now().After(until) {
			return err
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return err
		}
	}
}
