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
	"slices"
	"strings"
	"time"
)

// Config says which run. What is zero, the seed says; the rest makes the run
// smaller, so that a failure can be understood.
type Config struct {
	Seed    uint64
	Twist   uint64        `json:",omitempty"` // other timing under the same plan
	Nodes   int           `json:",omitempty"` // at the start, 3 to 7
	Shards  int           `json:",omitempty"`
	Clients int           `json:",omitempty"`
	Length  time.Duration `json:",omitempty"` // of the trouble
	Without []string      `json:",omitempty"` // kinds of Kinds that are left out
	Only    []int         `json:",omitempty"` // faults that are injected, by number; nil: all
	Trace   io.Writer     `json:"-"`          // gets a line for everything that happens; nil: nothing does
}

// String is the configuration as flags of banyansim.
func (c Config) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "-seed %d", c.Seed)
	flag := func(name string, value any, given bool) {
		if given {
			fmt.Fprintf(&b, " -%s %v", name, value)
		}
	}
	flag("twist", c.Twist, c.Twist != 0)
	flag("nodes", c.Nodes, c.Nodes != 0)
	flag("shards", c.Shards, c.Shards != 0)
	flag("clients", c.Clients, c.Clients != 0)
	flag("length", c.Length, c.Length != 0)
	flag("without", "'"+strings.Join(c.Without, ",")+"'", len(c.Without) > 0)
	flag("only", strings.Trim(strings.ReplaceAll(fmt.Sprint(c.Only), " ", ","), "[]"), c.Only != nil)
	return b.String()
}

func (c *Config) without(kind string) bool { return slices.Contains(c.Without, kind) }

// Report is what became of a run.
type Report struct {
	Config  Config
	Plan    Config        // with what the seed said: nodes, shards, clients, length
	Planned []int         // the faults that were injected, by number
	Hash    uint64        // of everything that happened, in order
	Time    time.Duration // simulated
	Events  int
	Ops     int            // of clients, answered
	Faults  map[string]int // injected, by kind
	Reached map[string]int // of Points, and others
	Longest map[string]int // queues, by name
	Unsure  int            // histories too hard to check in the time given
	Failure string         // what was found wrong, "" if nothing
	Kind    string         // of failure: what stays the same when other names and numbers fail
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
		key[8+i] = byte(cfg.Twist >> (8 * i))
	}
	crand.Reader = seededReader{rand.NewChaCha8(key)}

	w := newWorld(cfg)
	rep = &Report{Config: cfg, Faults: w.faults, Reached: w.reached, Longest: w.longest}
	rep.Config.Trace = nil
	rep.Plan = Config{Nodes: w.plan.nodes, Shards: w.plan.shards, Clients: w.plan.clients, Length: w.plan.length}
	func() {
		defer func() {
			if r := recover(); r != nil {
				w.fail("panic: %v\n%s", r, debug.Stack())
			}
		}()
		w.begin()
		w.run()
	}()
	if w.failure == "" {
		w.checkHistories()
	}
	rep.Hash, rep.Time, rep.Events, rep.Ops, rep.Planned = w.hash, w.now, w.events, w.history.answered, w.injected
	rep.Unsure, rep.Failure, rep.Kind = w.history.unsure, w.failure, w.failureKind
	return rep
}

// Replay is the command that runs the same again and shows what happens.
func (r *Report) Replay() string { return "go run ./sim/banyansim " + r.Config.String() + " -v" }

// NewReport is the sum of no runs.
func NewReport() *Report {
	return &Report{Faults: map[string]int{}, Reached: map[string]int{}, Longest: map[string]int{}}
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
	for name, n := range o.Longest {
		r.Longest[name] = max(r.Longest[name], n)
	}
}

// Missing lists the faults that were never injected and the points that were
// never reached: over many seeds, parts of the simulation that test nothing.
func (r *Report) Missing() []string {
	var out []string
	for _, kind := range Kinds {
		if older := kind == olderRelease || kind == putBack; older && !mixes {
			continue // there is no older release to be of one cluster with
		}
		if r.Faults[kind] == 0 {
			out = append(out, "never injected: "+kind)
		}
	}
	for _, name := range Points {
		if r.Reached[name] == 0 {
			out = append(out, "never reached: "+name)
		}
	}
	return out
}
