package exec

import (
	"context"
	"os"
	"sync"
	"time"

	"banyan"
)

// attempt is a tree of processes that runs, and what may end it.
type attempt struct {
	r         *Runner
	tree      tree
	place     *Place
	began     time.Time
	outputMax int64

	// Of the watchdog alone.
	exposed, guarded bool
	used             time.Time // when its usage was last looked at

	mu      sync.Mutex
	outcome Outcome
	err     error       // of Exceeded
	ended   time.Time   // when somebody ended it
	over    bool        // it has ended by itself
	force   *time.Timer // kills what does not heed
}

// end ends the attempt, unless that was done or it is over: at once when it went
// over a limit, else asking first.
func (a *attempt) end(o Outcome, why error) {
	a.mu.Lock()
	if a.over || a.outcome != Exited {
		a.mu.Unlock()
		return
	}
	a.outcome, a.err, a.ended = o, why, time.Now()
	grace := a.r.cfg.Grace
	if o == Exceeded {
		grace = 0
	}
	a.force = time.AfterFunc(grace, a.tree.kill)
	a.mu.Unlock()
	if o != Exceeded {
		a.tree.terminate()
	}
}

// run waits until everything of the attempt is gone, ending it when it must end,
// and fills in what is known of its end. It is an error if it did not begin.
func (a *attempt) run(ctx context.Context, timeout time.Duration, res *Result) error {
	stop := context.AfterFunc(ctx, func() { a.end(Canceled, nil) })
	defer stop()
	var late *time.Timer
	if timeout > 0 {
		late = time.AfterFunc(timeout, func() { a.end(TimedOut, nil) })
	}
	notBegun := a.tree.first()
	if late != nil {
		late.Stop()
	}
	var left rest
	if notBegun == nil {
		left = a.settle()
	}
	a.mu.Lock()
	a.over = true
	if a.force != nil {
		a.force.Stop()
	}
	res.Outcome, res.Err = a.outcome, a.err
	a.mu.Unlock()
	if notBegun != nil {
		return notBegun
	}
	if res.Outcome == Exited {
		res.Killed, res.KilledCount = left.names, left.count
	}
	var err error
	if res.ExitCode, res.Signal, err = a.tree.release(); err != nil && res.Outcome == Exited {
		res.Err = err
	}
	return nil
}

const (
	settleMin = time.Millisecond
	settleMax = 50 * time.Millisecond
)

// settle returns when the rest of the attempt is gone too, and gives what it had
// to kill. Processes that hold the output may go on for a while, those of an
// attempt that was ended until their grace is over.
func (a *attempt) settle() rest {
	outputs := [2]*os.File{a.place.out[0].read, a.place.out[1].read}
	began := time.Now()
	for wait := settleMin; ; wait = min(2*wait, settleMax) {
		left := a.tree.rest(outputs)
		if left.count == 0 {
			return rest{}
		}
		until := a.until(began, left.holds)
		more := time.Until(until)
		if more <= 0 {
			a.tree.kill()
			return left
		}
		time.Sleep(min(wait, more))
	}
}

// until says how long what is left may go on.
func (a *attempt) until(firstEnded time.Time, holds bool) time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case a.outcome == Exceeded:
		return a.ended
	case a.outcome != Exited:
		return a.ended.Add(a.r.cfg.Grace)
	case holds:
		return firstEnded.Add(a.r.cfg.Linger)
	}
	return firstEnded
}

// tooMuch says that the attempt has written more than it may.
func (a *attempt) tooMuch(what string) error {
	return banyan.Errorf(banyan.Exhausted, "the task %s more output than its %d bytes (--output-max): have it write to a file and --return that, or allow more", what, a.outputMax)
}
