// Package worker is a node's loop over the work it is given: it offers its
// slots to the nodes that lead shards, runs the attempts they send, and reports.
//
// Core is the loop without goroutines, clock or network: credits, claims,
// results (core.go, credit.go, message.go); tests script it and the simulation
// may run it. Worker drives it: one Work stream to each node that leads a
// shard (stream.go), one goroutine to each attempt (attempt.go), files in and
// out through the blob store (files.go).
//
// A worker outlives its controllers. When one goes away its attempts go on;
// whoever leads their jobs next hears what runs here and what has finished, and
// nothing is forgotten before it is recorded.
package worker

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/engine/blob"
	"banyan/node/exec"
	"banyan/obs/metric"
)

// Runner gives places to run in and runs commands there; exec.Runner is one.
type Runner interface {
	// Open gives a place; the worker releases it. workDir "" asks for an
	// empty directory of its own.
	Open(workDir string) (*exec.Place, error)
	// Run blocks until the command and all it started are gone; when ctx ends
	// it kills them.
	Run(ctx context.Context, p *exec.Place, c exec.Command) exec.Result
	// Writable says what keeps the disk under the places from taking a write.
	Writable() error
}

var _ Runner = (*exec.Runner)(nil)

// Leaders tells which node leads which shard, as far as this node knows.
type Leaders interface {
	// ShardOf gives the shard of a job id.
	ShardOf(partition []byte) banyan.ShardID
	// Leaders gives the leader of every shard that is known to have one, and a
	// channel that is closed when that changes. The caller owns the map.
	Leaders() (byShard map[banyan.ShardID]banyan.NodeID, changed <-chan struct{})
}

// Config is what a worker needs. All fields but Env, Logger and
// Metrics are required.
type Config struct {
	Node    banyan.NodeID
	Slots   int   // attempts at once; 0: it takes none
	Memory  int64 // bytes, for attempts that say how much they need
	Runner  Runner
	Blobs   blob.Store
	Leaders Leaders
	// Dial gives a client to a node, this one included. Its errors are
	// *banyan.Error (wire.ClientInterceptor).
	Dial func(banyan.NodeID) (peerv1connect.PeerClient, error)
	// Chunks touches what results refer to while they wait to be recorded; nil:
	// what they refer to is never removed.
	Chunks Chunks
	// Env is what tasks get of the environment where their job sets nothing,
	// as KEY=value. Nil: PATH, HOME, LANG and the like of this process.
	Env []string
	// Ledger is the file that says, after this process has ended without
	// warning, what ran here; "": none.
	Ledger  string
	Logger  *slog.Logger
	Metrics *metric.Set // nil: none
}

const (
	tickEvery     = 50 * time.Millisecond
	calmEvery     = time.Second // when there is nothing to look at
	backoffMin    = 50 * time.Millisecond
	backoffMax    = 500 * time.Millisecond
	gatherFor     = 5 * time.Millisecond // results wait for company while there is enough to do
	farewellMax   = time.Second          // to hand back and hand over at shutdown
	blobPatience  = 15 * time.Second     // for enough nodes to store or give a chunk
	outputStoring = 30 * time.Second     // of an attempt that was canceled
)

// Worker runs attempts. Its methods may be called by many goroutines at once.
type Worker struct {
	cfg   Config
	env   []string
	blobs blob.Store
	began time.Time
	meter meter

	mu      sync.Mutex
	core    *Core
	ledger  *ledger
	streams map[banyan.NodeID]*stream
	running map[Key]*running

	calm   bool          // the next tick is far
	lively chan struct{} // it no longer should be

	pinning  bool // under mu
	attempts sync.WaitGroup
	count    atomic.Int64
}

// New checks the configuration and makes a worker that holds nothing.
func New(cfg Config) (*Worker, error) {
	if cfg.Slots < 0 || cfg.Slots > banyan.SlotsMax {
		return nil, banyan.Errorf(banyan.Invalid, "a worker with %d slots: give 0 to %d (SlotsMax)", cfg.Slots, banyan.SlotsMax)
	}
	if cfg.Node == 0 || cfg.Runner == nil || cfg.Blobs == nil || cfg.Leaders == nil || cfg.Dial == nil {
		return nil, banyan.Errorf(banyan.Internal, "the worker's configuration lacks a part")
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Env == nil {
		cfg.Env = inherited()
	}
	w := &Worker{
		cfg: cfg, env: cfg.Env, began: time.Now(),
		blobs:   patient{cfg.Blobs, blobPatience},
		core:    NewCore(cfg.Node, banyan.Resources{Slots: cfg.Slots, Memory: cfg.Memory}, cfg.Leaders.ShardOf),
		streams: map[banyan.NodeID]*stream{},
		running: map[Key]*running{},
		lively:  make(chan struct{}, 1),
		meter:   newMeter(cfg.Metrics),
	}
	var lost []Lost
	w.ledger, lost = openLedger(cfg.Ledger, cfg.Logger)
	w.core.Lost(lost)
	for _, l := range lost {
		cfg.Logger.Warn("this node ended without warning while a task ran here", "job", l.Key.Job, "task", l.Key.Task+1, "suspect", l.Suspect)
	}
	cfg.Metrics.Read(w.readMeter)
	return w, nil
}

// Run works until ctx ends. Then it hands back what it holds, kills what runs,
// reports what is finished, and returns when all of it is gone: within the
// runner's grace and about a second.
func (w *Worker) Run(ctx context.Context) error {
	every := tickEvery
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for ctx.Err() == nil {
		leaders, changed := w.cfg.Leaders.Leaders()
		w.follow(context.WithoutCancel(ctx), leaders)
		for same := true; same; {
			select {
			case <-ticker.C:
				w.do(func() { w.core.Tick(w.now()) })
				w.pin(ctx)
			case <-w.lively:
			case <-changed:
				same = false
			case <-ctx.Done():
				same = false
			}
			if d := w.tickIn(); d != every {
				every = d
				ticker.Reset(d)
			}
		}
	}
	w.shutdown()
	return nil
}

// tickIn is how long it may be until the next tick. act says when that is no
// longer so.
func (w *Worker) tickIn() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calm = w.core.Calm(w.now()); w.calm {
		return calmEvery
	}
	return tickEvery
}

// Drain stops taking attempts, or takes them again; what runs goes on.
func (w *Worker) Drain(on bool) { w.do(func() { w.core.Drain(on) }) }

// Running is the number of attempts that run now.
func (w *Worker) Running() int { return int(w.count.Load()) }

func (w *Worker) now() int64 { return time.Since(w.began).Microseconds() }

// do changes the core and carries out what follows from it.
func (w *Worker) do(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	w.act()
}

// act carries out the core's effects; w.mu is held.
func (w *Worker) act() {
	if w.calm && !w.core.Calm(w.now()) {
		w.calm = false
		select {
		case w.lively <- struct{}{}:
		default:
		}
	}
	effects := w.core.Take()
	for _, k := range effects.Stop {
		if r := w.running[k]; r != nil {
			r.cancel(errKilled)
		}
	}
	for _, k := range effects.Told {
		w.ledger.end(k)
	}
	w.ledger.begin(effects.Start)
	for _, s := range effects.Start {
		w.start(s)
	}
	for node, s := range w.streams {
		if due, _ := w.core.Due(node); due {
			s.poke()
		}
	}
}

// follow keeps one stream to each node that leads a shard.
func (w *Worker) follow(ctx context.Context, leaders map[banyan.ShardID]banyan.NodeID) {
	nodes := slices.Collect(maps.Values(leaders))
	var gone []*stream
	w.do(func() {
		w.core.Lead(leaders)
		for node, s := range w.streams {
			if !slices.Contains(nodes, node) {
				gone = append(gone, s)
				delete(w.streams, node)
			}
		}
		for _, node := range nodes {
			if node != 0 && w.streams[node] == nil {
				w.streams[node] = w.newStream(ctx, node)
			}
		}
	})
	for _, s := range gone {
		s.close()
	}
}

var (
	errKilled   = errors.New("killed on a controller's word")
	errShutdown = errors.New("the worker shuts down")
)

// shutdown ends everything in the order in which others depend on it.
func (w *Worker) shutdown() {
	w.do(func() {
		w.core.Stop()
		w.ledger.planned(w.core.Unrecorded())
		for _, r := range w.running {
			r.cancel(errShutdown)
		}
	})
	w.attempts.Wait()
	w.mu.Lock()
	streams := w.streams
	w.streams = map[banyan.NodeID]*stream{}
	w.mu.Unlock()
	for _, s := range streams {
		close(s.farewell)
		defer time.AfterFunc(farewellMax, s.cancel).Stop()
	}
	for _, s := range streams {
		<-s.done
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ledger.close()
}
