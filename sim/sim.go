// Package sim runs a whole cluster in one loop from one seed: the cores that
// real nodes run (replica's Core and Applier over store and mvcc), on simulated
// disks and a simulated network, under simulated clients, with every fault that
// the seed asks for. Two runs of a seed are the same run, to the last message.
//
// While it runs and when it has come to rest, everything clients were told and
// everything replicas hold is checked: histories are linearizable, what was
// acknowledged is there, watchers heard each change once and in order, replicas
// are equal byte for byte, the cluster recovers.
//
// What is not simulated is what surrounds the cores in a real node: goroutines,
// sockets, Pebble, file systems. Those have tests with real processes.
package sim

import (
	crand "crypto/rand"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime/debug"
	"time"
)

// Config says which run.
type Config struct {
	Seed  uint64
	Nodes int       // 3 to 7; 0: the seed says
	Trace io.Writer // gets a line for everything that happens; nil: nothing does
}

// Report is what became of a run.
type Report struct {
	Seed    uint64
	Nodes   int           // at the start
	Hash    uint64        // of everything that happened, in order
	Time    time.Duration // simulated
	Events  int
	Ops     int            // of clients, answered
	Faults  map[string]int // injected, by kind
	Reached map[string]int // what a good set of seeds reaches, by name
	Unsure  int            // histories too hard to check in the time given
	Failure error          // what was found wrong, nil if nothing
}

// seededReader makes crypto/rand.Reader deterministic for one run: raft draws
// its election timeouts from it, and there is no other way in.
type seededReader struct{ *rand.ChaCha8 }

var _ io.Reader = seededReader{}

// Run runs one seed. It replaces crypto/rand.Reader while it runs: nothing else
// in the process may use that meanwhile, nor another Run.
func Run(cfg Config) (rep *Report) {
	before := crand.Reader
	defer func() { crand.Reader = before }()
	var key [32]byte
	for i := range 8 {
		key[i] = byte(cfg.Seed >> (8 * i))
	}
	crand.Reader = seededReader{rand.NewChaCha8(key)}

	w := newWorld(cfg)
	rep = &Report{Seed: cfg.Seed, Nodes: len(w.nodes), Faults: w.faults, Reached: w.reached}
	func() {
		defer func() {
			if r := recover(); r != nil {
				w.fail("panic: %v\n%s", r, debug.Stack())
			}
		}()
		w.begin()
		w.run()
	}()
	if w.failure == nil {
		w.checkHistories()
	}
	rep.Hash, rep.Time, rep.Events, rep.Ops = w.hash, w.now, w.events, w.history.answered
	rep.Unsure, rep.Failure = w.history.unsure, w.failure
	return rep
}

// Replay is the command that runs the seed again and shows what happens.
func (r *Report) Replay() string {
	return fmt.Sprintf("go run ./sim/banyansim -seed %d -seeds 1 -nodes %d -v", r.Seed, r.Nodes)
}

// Add adds up what other runs did.
func (r *Report) Add(o *Report) {
	r.Time, r.Events, r.Ops, r.Unsure = r.Time+o.Time, r.Events+o.Events, r.Ops+o.Ops, r.Unsure+o.Unsure
	for name, n := range o.Faults {
		r.Faults[name] += n
	}
	for name, n := range o.Reached {
		r.Reached[name] += n
	}
}
