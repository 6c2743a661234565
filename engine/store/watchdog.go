package store

import (
	"errors"
	"sync"
	"time"

	"banyan"
)

// hungLooks is how often an operation of the disk is seen under way before it
// counts as hung. What is counted is looks, not time: a process that was
// paused with one under way finds it finished when it looks again.
const hungLooks = 30

// watchdog finds operations of the disk that do not return.
type watchdog struct {
	every time.Duration
	quit  chan struct{}
	gone  chan struct{}

	mu  sync.Mutex
	ops map[*diskOp]struct{} // under way
}

type diskOp struct {
	what  string
	looks int
}

// watch calls hung once, for the first operation that hangs.
func watch(max time.Duration, hung func(what string, err error)) *watchdog {
	if max == 0 {
		max = banyan.DiskSilenceSecondsMax * time.Second
	}
	w := &watchdog{every: max / hungLooks, quit: make(chan struct{}), gone: make(chan struct{}), ops: map[*diskOp]struct{}{}}
	go func() {
		defer close(w.gone)
		look := time.NewTicker(w.every)
		defer look.Stop()
		for {
			select {
			case <-w.quit:
				return
			case <-look.C:
			}
			if what := w.look(); what != "" {
				hung(what, errors.New("it has not returned for "+max.String()+": the disk hangs"))
				return
			}
		}
	}()
	return w
}

func (w *watchdog) look() (hung string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for op := range w.ops {
		if op.looks++; op.looks > hungLooks {
			return op.what
		}
	}
	return ""
}

// begin notes that an operation begins, and gives what notes its end.
func (w *watchdog) begin(what string) (end func()) {
	op := &diskOp{what: what}
	w.mu.Lock()
	w.ops[op] = struct{}{}
	w.mu.Unlock()
	return func() {
		w.mu.Lock()
		delete(w.ops, op)
		w.mu.Unlock()
	}
}

func (w *watchdog) stop() {
	close(w.quit)
	<-w.gone
}
