package cli

import (
	"context"
	"os"
	"os/signal"
	"syscall"
)

// interrupts hands on SIGINT, SIGTERM and, unless nohup took it away, SIGHUP,
// which comes when the terminal goes. The channel holds two, so that the
// impatient second one is not lost.
type interrupts struct {
	app *app
	c   chan os.Signal
}

// listen takes the signals over until stop.
func (a *app) listen() *interrupts {
	i := &interrupts{a, make(chan os.Signal, 2)}
	signal.Notify(i.c, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) {
		signal.Notify(i.c, syscall.SIGHUP)
	}
	return i
}

func (i *interrupts) stop() { signal.Stop(i.c) }

// untilFirst gives a context that the next signal ends, telling the app. After the cancel
// function has returned no signal is taken any more.
func (i *interrupts) untilFirst(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		select {
		case <-i.c:
			i.app.signaled.Store(true)
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(); <-done }
}

// interruptible gives a context that the first signal ends; a second one ends
// the process as if nobody listened.
func (a *app) interruptible(ctx context.Context) (context.Context, context.CancelFunc) {
	i := a.listen()
	ctx, cancel := i.untilFirst(ctx)
	context.AfterFunc(ctx, i.stop)
	return ctx, cancel
}
