package worker

import (
	"context"
	"errors"
	"io"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/node/exec"
)

const (
	tailEvery = 50 * time.Millisecond
	tailBytes = 64 << 10
)

// Tail sends the output of an attempt that runs here, from the given offsets
// to the present end or, with follow, until its process has ended; then the
// last message says so. Attempt 0 asks for whichever runs. NotFound when none
// does: it waits, has finished, or is elsewhere. Tail blocks in send and keeps
// neither message nor data.
func (w *Worker) Tail(ctx context.Context, req *peerv1.TailRequest, send func(*peerv1.TailResponse) error) error {
	k := keyOf(req.GetKey())
	r := w.find(k)
	if r == nil {
		return banyan.Errorf(banyan.NotFound, "task %d of job %s does not run on node %s now", k.Task+1, k.Job, w.cfg.Node)
	}
	for r.place.Load() == nil && req.GetFollow() && !closed(r.done) {
		if err := pause(ctx, r.done); err != nil {
			return err
		}
	}
	place := r.place.Load()
	if place == nil { // not begun, or it never came to run
		return send(&peerv1.TailResponse{Ended: closed(r.done)})
	}
	if !place.Retain() {
		return send(&peerv1.TailResponse{Ended: true})
	}
	defer place.Release()
	at := [2]int64{max(0, req.GetStdoutFrom()), max(0, req.GetStderrFrom())}
	for {
		last := closed(r.done) // before reading, so that nothing written is missed
		for i, out := range [2]exec.Output{place.Stdout(), place.Stderr()} {
			if err := copyFrom(ctx, out, &at[i], i == 1, send); err != nil {
				return err
			}
		}
		if last {
			return send(&peerv1.TailResponse{Ended: true})
		}
		if !req.GetFollow() {
			return nil
		}
		if err := pause(ctx, r.done); err != nil {
			return err
		}
	}
}

// find gives the running attempt of a key, with attempt 0 the task's latest.
func (w *Worker) find(k Key) *running {
	w.mu.Lock()
	defer w.mu.Unlock()
	if k.Attempt != 0 {
		return w.running[k]
	}
	var latest Key
	for have := range w.running {
		if have.Job == k.Job && have.Task == k.Task && have.Attempt >= latest.Attempt {
			latest = have
		}
	}
	return w.running[latest]
}

// copyFrom sends what there is beyond an offset and moves it on.
func copyFrom(ctx context.Context, out exec.Output, at *int64, stderr bool, send func(*peerv1.TailResponse) error) error {
	buf := make([]byte, tailBytes)
	for ctx.Err() == nil {
		n, err := out.ReadAt(buf, *at)
		if n > 0 {
			*at += int64(n)
			if err := send(&peerv1.TailResponse{Data: buf[:n], Stderr: stderr}); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return ctx.Err()
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func pause(ctx context.Context, done <-chan struct{}) error {
	select {
	case <-time.After(tailEvery):
	case <-done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
