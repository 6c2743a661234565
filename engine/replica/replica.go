// Package replica drives etcd's raft for the shards of one node: many groups,
// one disk write for all that are ready, one applier, snapshots, linearizable
// reads, watches.
//
// Core is the deterministic part: it orders disk, messages and apply, and is
// what simulations run. Host drives a Core with goroutines, a clock and a
// network, and is what the rest of Banyan calls.
package replica

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
	"banyan/obs/metric"
)

// Config of a Host. Node, Store and Send are needed; zero is a working default
// for the rest, but without SendSnapshot no replica can be added.
type Config struct {
	Node  banyan.NodeID
	Store *store.Store
	// Send takes a message for another node. It may drop it, must not block or
	// modify it, and is called from several goroutines.
	Send func(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message)
	// SendSnapshot streams view, and m that goes with it, to the other node's
	// ReceiveSnapshot, and returns when that has, or when there is no progress.
	// At most SnapshotSendsMax run at a time. It does not close view.
	SendSnapshot func(ctx context.Context, to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message, view *store.View) error

	TickMs         int // 100
	ElectionTicks  int // 10: an election after one to two seconds without a leader
	HeartbeatTicks int // 1

	LogEntriesKept uint64 // LogEntriesKept
	LogBytesKept   uint64 // LogBytesKept
	Protocol       uint32 // at which the cluster acts (Host.Act); banyan.ProtocolMin
	Logger         *slog.Logger
	NowMs          func() int64 // the wall clock, since 1970, recorded in commands
	Metrics        *metric.Set  // nil: none
}

// SnapshotSendsMax is how many snapshots one node sends at a time.
const SnapshotSendsMax = 2

// Host runs the replicas of one node. Its methods may be called concurrently,
// before, during and after Run; nothing is answered but while it runs.
type Host struct {
	cfg     Config
	core    *Core // the loop's
	applier *Applier
	hub     *Hub
	board   *board
	start   time.Time
	meter   meter
	acts    atomic.Uint32

	in      *inbox
	appends *queue[*Append]
	applies *queue[*Apply]
	sends   *queue[Envelope]
	reads   *queue[*readThen]
	proved  []*readThen   // the loop's: on their way to reads
	moved   chan struct{} // of one: a leader has changed
	stopped chan struct{} // closed when nothing will be answered any more

	mu    sync.RWMutex
	slots map[banyan.ShardID]*slot
	// receiving has the shards whose snapshot is coming in: one at a time, or
	// the store would refuse one that raft has accepted.
	receiving map[banyan.ShardID]bool
}

// New opens the replicas that are in the store.
func New(cfg Config) (*Host, error) {
	cfg.setDefaults()
	if cfg.Node == 0 || cfg.TickMs < 1 || cfg.HeartbeatTicks < 1 || cfg.ElectionTicks <= cfg.HeartbeatTicks {
		return nil, banyan.Errorf(banyan.Invalid, "replica: node %d, ticks of %d ms, heartbeats each %d, elections after %d: all must be positive, and elections take longer than heartbeats",
			cfg.Node, cfg.TickMs, cfg.HeartbeatTicks, cfg.ElectionTicks)
	}
	core, err := NewCore(CoreConfig{
		Node: cfg.Node, Store: cfg.Store,
		ElectionTicks: cfg.ElectionTicks, HeartbeatTicks: cfg.HeartbeatTicks,
		LogEntriesKept: cfg.LogEntriesKept, LogBytesKept: cfg.LogBytesKept,
		Protocol: cfg.Protocol, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	hub := NewHub(cfg.Store)
	h := &Host{
		cfg: cfg, core: core, hub: hub, applier: NewApplier(cfg.Store, hub, 0), board: newBoard(), start: time.Now(), meter: newMeter(cfg.Metrics),
		in: newInbox(), appends: newQueue[*Append](), applies: newQueue[*Apply](), sends: newQueue[Envelope](), reads: newQueue[*readThen](),
		moved: make(chan struct{}, 1), stopped: make(chan struct{}), slots: map[banyan.ShardID]*slot{}, receiving: map[banyan.ShardID]bool{},
	}
	h.acts.Store(core.cfg.Protocol)
	for _, shard := range cfg.Store.Shards() {
		h.show(View{Shard: shard})
	}
	cfg.Metrics.Read(h.readMeter)
	return h, h.applier.Load()
}

func (c *Config) setDefaults() {
	if c.TickMs == 0 {
		c.TickMs = 100
	}
	if c.ElectionTicks == 0 {
		c.ElectionTicks = 10
	}
	if c.HeartbeatTicks == 0 {
		c.HeartbeatTicks = 1
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.NowMs == nil {
		c.NowMs = func() int64 { return time.Now().UnixMilli() }
	}
	if c.SendSnapshot == nil {
		c.SendSnapshot = func(context.Context, banyan.NodeID, banyan.ShardID, *raftpb.Message, *store.View) error {
			return errors.New("this node sends no snapshots")
		}
	}
}

// Run drives the replicas until ctx ends (nil) or the store fails (its error):
// the process must end then. It returns when all it started has ended. It is
// called once.
func (h *Host) Run(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	worker := func(work func(context.Context) error) {
		wg.Go(func() {
			if err := work(ctx); err != nil {
				cancel(err)
			}
		})
	}
	worker(h.write)
	worker(h.apply)
	for range SnapshotSendsMax {
		worker(h.sendSnapshots)
	}
	for range readersMax {
		worker(h.serveReads)
	}
	if err := h.loop(ctx); err != nil {
		cancel(err)
	}
	close(h.stopped)
	h.hub.Stop()
	h.appends.close()
	h.applies.close()
	h.sends.close()
	h.reads.close()
	cause := context.Cause(ctx)
	cancel(nil)
	wg.Wait()
	h.abandon()
	if outer.Err() != nil {
		return nil
	}
	return cause
}

// abandon answers the proposals and reads that are left when everything has
// ended.
func (h *Host) abandon() {
	proposals, reads := h.in.close()
	for _, p := range proposals {
		p.p.Done(mvcc.Result{}, errStopping)
	}
	for _, r := range reads {
		r.done(errStopping)
	}
	for _, a := range h.applies.left() {
		for _, p := range a.proposals {
			p.done(mvcc.Result{}, errStopping)
		}
	}
	h.core.abandon(errStopping)
	for _, r := range append(h.reads.left(), h.proved...) {
		r.answer(errStopping)
	}
}

// clock is the Core's time.
func (h *Host) clock() time.Duration { return time.Since(h.start) }

// loop owns the Core.
func (h *Host) loop(ctx context.Context) (err error) {
	defer caught(&err)
	ticks := 1 // until the next
	period := func() time.Duration { return time.Duration(ticks*h.cfg.TickMs) * time.Millisecond }
	tick := time.NewTicker(period())
	defer tick.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	var in intake
	var eff Effects
	for {
		ticked := false
		select {
		case <-ctx.Done():
			return nil
		case <-h.in.wake:
		case <-timer.C:
		case <-tick.C:
			ticked = true
		}
		runtime.Gosched() // let those who were woken together hand in what they have
		h.core.Advance(h.clock())
		if ticked {
			h.core.Tick(ticks)
		}
		in = h.in.take(in)
		in.feed(h.core)
		h.core.Process(&eff)
		h.carryOut(&eff)
		h.in.want(h.core.Waiting())
		if n := h.core.TickIn(); n != ticks {
			ticks = n
			tick.Reset(period())
		}
		if at, ok := h.core.NextTimer(); ok {
			timer.Reset(at - h.clock())
		}
	}
}

func (h *Host) carryOut(eff *Effects) {
	for i := range eff.Send {
		e := &eff.Send[i]
		h.cfg.Send(e.To, e.Shard, e.Message)
	}
	h.appends.put(eff.Appends)
	h.applies.put(eff.Applies)
	h.sends.put(eff.Snapshots)
	h.reads.put(h.proved)
	clear(h.proved)
	h.proved = h.proved[:0]
	for _, v := range eff.Views {
		h.show(v)
	}
	h.board.post(eff.Leadership)
	h.note(eff.Leadership)
	eff.Reset()
}

// Bounds of one batch of each worker.
const (
	appendsAtOnce = 1024
	appliesAtOnce = 1024
)

// write owns the disk's end of the logs.
func (h *Host) write(context.Context) error {
	batch := h.cfg.Store.NewBatch()
	send := func(e Envelope) { h.cfg.Send(e.To, e.Shard, e.Message) }
	for {
		appends := h.appends.take(appendsAtOnce)
		if appends == nil {
			return nil
		}
		h.meter.wrote(appends)
		if err := Persist(batch, appends, send); err != nil {
			return err
		}
		h.in.finished(func(in *intake) { in.appended = append(in.appended, appends) })
	}
}

// apply owns the machines.
func (h *Host) apply(context.Context) error {
	for {
		applies := h.applies.take(appliesAtOnce)
		if applies == nil {
			return nil
		}
		began := h.clock()
		if err := h.applier.Apply(applies); err != nil {
			return err
		}
		h.meter.appliedBatch(applies, h.clock()-began)
		h.in.finished(func(in *intake) { in.applied = append(in.applied, applies) })
	}
}
