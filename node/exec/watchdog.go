package exec

import (
	"sync"
	"time"

	"banyan"
)

const (
	outputEvery = 100 * time.Millisecond // the outputs of what runs are looked at
	outputLooks = 2000                   // at most in a second, of one attempt each
	usageEvery  = time.Second            // its memory and processes are
)

// watchdog looks at all attempts that run, and ends those that use more than
// they may. It runs while there are any.
type watchdog struct {
	r        *Runner
	mu       sync.Mutex
	attempts map[*attempt]bool
	running  bool
	closed   chan struct{}
	done     sync.WaitGroup
}

func (w *watchdog) add(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attempts[a] = true
	if !w.running {
		w.running = true
		w.done.Go(w.run)
	}
}

func (w *watchdog) remove(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.attempts, a)
}

func (w *watchdog) close() {
	close(w.closed)
	w.done.Wait()
}

// run ends when nothing has run for a while and nothing is left of what did.
func (w *watchdog) run() {
	idle, swept := 0, time.Now()
	for {
		list := w.list()
		every := max(w.r.outputEvery, time.Duration(len(list))*time.Second/outputLooks)
		select {
		case <-time.After(min(every, usageEvery)):
		case <-w.closed:
			return
		}
		now := time.Now()
		for _, a := range list {
			w.look(a, now)
		}
		if idle++; len(list) > 0 {
			idle = 0
		}
		if now.Sub(swept) >= usageEvery || idle == 1 {
			swept = now
			w.r.launcher.sweep()
		}
		w.mu.Lock()
		if idle > 20 && len(w.attempts) == 0 {
			w.running = false
			w.mu.Unlock()
			return
		}
		w.mu.Unlock()
	}
}

func (w *watchdog) list() []*attempt {
	w.mu.Lock()
	defer w.mu.Unlock()
	list := make([]*attempt, 0, len(w.attempts))
	for a := range w.attempts {
		list = append(list, a)
	}
	return list
}

// look sees to one attempt. It may have ended since it was listed.
func (w *watchdog) look(a *attempt, now time.Time) {
	if !a.place.Retain() {
		return
	}
	defer a.place.Release()
	if !a.exposed {
		a.exposed = true
		a.tree.expose()
	}
	if !a.guarded && now.Sub(a.began) >= w.r.guardAfter {
		a.guarded = true
		a.tree.guard()
	}
	out, err := a.place.Stdout().Size()
	if err == nil {
		var more int64
		more, err = a.place.Stderr().Size()
		out += more
	}
	if err == nil && out > a.outputMax {
		a.end(Exceeded, a.tooMuch("was killed: it wrote"))
		return
	}
	if now.Sub(a.began) < w.r.usageEvery || now.Sub(a.used) < w.r.usageEvery {
		return
	}
	a.used = now
	if u, ok := a.tree.usage(); ok {
		if err := w.r.cfg.over(u); err != nil {
			a.end(Exceeded, err)
		}
	}
}

// over says which limit is passed.
func (c Config) over(u usage) error {
	const killed = "the task was killed: its processes "
	switch {
	case u.outOfMemory:
		return banyan.Errorf(banyan.Exhausted, killed+"used more memory than the %d MiB that a task may have on node %s (banyan up --task-memory)", c.MemoryMax>>20, c.Node)
	case c.MemoryMax > 0 && u.memory > c.MemoryMax:
		return banyan.Errorf(banyan.Exhausted, killed+"used %d MiB of memory; a task may have %d MiB on node %s (banyan up --task-memory)", u.memory>>20, c.MemoryMax>>20, c.Node)
	case c.ProcessesMax > 0 && u.processes > c.ProcessesMax:
		return banyan.Errorf(banyan.Exhausted, killed+"were %d; a task may have %d on node %s (TaskProcessesMax)", u.processes, c.ProcessesMax, c.Node)
	}
	return nil
}
