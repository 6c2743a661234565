package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// interrupts hands on SIGINT, SIGTERM and, unless nohup took it away, SIGHUP,
// which comes when the terminal goes. The channel holds two, so that the
// impatient second one is not lost.
type interrupts struct {
	app  *app
	c    chan os.Signal
	last time.Time // when next gave the one before
}

// echoMax is how long after a signal another one is taken for the same: shells,
// terminals and timeout(1) send to the process and then to its group.
const echoMax = 250 * time.Millisecond

// listen takes the signals over until stop.
func (a *app) listen() *interrupts {
	i := &interrupts{app: a, c: make(chan os.Signal, 2)}
	signal.Notify(i.c, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(i.c, syscall.SIGHUP)
	}
	return i
}

func (i *interrupts) stop() { signal.Stop(i.c) }

// next waits for a signal; false: done came first. One goroutine at a time.
func (i *interrupts) next(done <-chan struct{}) bool {
	for {
		select {
		case <-i.c:
			if time.Since(i.last) > echoMax {
				i.last = time.Now()
				return true
			}
		case <-done:
			return false
		}
	}
}

// untilFirst gives a context that the next signal ends, telling the app. After the cancel
// function has returned no signal is taken any more.
func (i *interrupts) untilFirst(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		if i.next(ctx.Done()) {
			i.app.signaled.Store(true)
			cancel()
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// interruptible gives a context that the first signal ends; a second one ends
// the process as if nobody listened.
func (a *app) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	i := a.listen()
	ctx, cancel := i.untilFirst(ctx)
	context.AfterFunc(ctx, func() { time.Sleep(echoMax); i.stop() })
	return ctx, cancel
}

// surviveClosedPipes has this process outlive the reader of its log: a write to
// a closed pipe on standard output or error would else end it (os/signal,
// SIGPIPE). The signal is taken, not ignored: what is ignored stays so in tasks.
func surviveClosedPipes() {
	if len(sigpipe) > 0 { // of none, Notify makes all
		signal.Notify(make(chan os.Signal, 1), sigpipe...)
	}
}
