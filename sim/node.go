package sim

import (
	"errors"
	"log/slog"
	"time"

	"banyan"
	"banyan/replica"
	"banyan/store"
	"banyan/store/simdisk"
)

// node is a machine: its disk outlives the processes that run on it.
type node struct {
	w    *world
	id   banyan.NodeID
	disk *simdisk.Disk
	kv   *simdisk.KV // open while a process runs
	proc *process    // nil while none runs

	pausedTill time.Duration
	slow       int // factor, from 1
	slowDisk   int
	drift      float64
	draining   bool
	gone       bool // for ever
	doom       doom
}

// doom is a crash that waits for its moment.
type doom struct {
	point string // "": none
	left  int    // how often the point is passed before
	how   death
}

// death is how a process ends.
type death string

const (
	kill      death = "kill"       // the machine goes on: what was written stays
	power     death = "power"      // of what was not synced, a prefix stays
	powerLost death = "power lost" // nothing stays that was not synced
)

func (w *world) addNode(id banyan.NodeID) *node {
	n := &node{w: w, id: id, disk: simdisk.New(w.rng.Uint64()), slow: 1, slowDisk: 1}
	n.drift = 1 + w.plan.drift*(w.rng.Float64()-0.5)
	w.nodes = append(w.nodes, n)
	return n
}

func (w *world) node(id banyan.NodeID) *node { return w.nodes[id-1] }

// up lists the processes that run.
func (w *world) up() []*process {
	var out []*process
	for _, n := range w.nodes {
		if n.proc != nil {
			out = append(out, n.proc)
		}
	}
	return out
}

// bootstrap makes the first node a cluster and starts it; the others are empty.
func (n *node) bootstrap(shards []banyan.ShardID) {
	st, err := n.open()
	if err == nil && n.id == 1 {
		err = st.Bootstrap(shards, n.id)
	}
	if err != nil {
		n.w.fail("%v cannot begin: %v", n.id, err)
		return
	}
	n.start(st)
}

func (n *node) open() (*store.Store, error) {
	kv, err := n.disk.Open()
	if err != nil {
		return nil, err
	}
	n.kv = kv
	return store.New(kv, nil)
}

// restart starts a process on what the disk has.
func (n *node) restart() {
	if n.proc != nil || n.gone {
		return
	}
	st, err := n.open()
	if err != nil {
		n.w.fail("%v does not start again: %v", n.id, err)
		return
	}
	n.start(st)
}

func (n *node) start(st *store.Store) {
	core, err := replica.NewCore(replica.CoreConfig{
		Node: n.id, Store: st, ElectionTicks: 10, HeartbeatTicks: 1,
		LogEntriesKept: n.w.plan.keep, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		n.w.fail("%v does not start: %v", n.id, err)
		return
	}
	hub := replica.NewHub(st)
	p := &process{
		w: n.w, n: n, store: st, core: core, hub: hub, applier: replica.NewApplier(st, hub), batch: st.NewBatch(),
		began: n.w.now, views: map[banyan.ShardID]replica.View{}, receiving: map[banyan.ShardID]bool{},
		tallies: map[banyan.ShardID]*tally{},
	}
	if err := p.applier.Load(); err != nil {
		n.w.fail("%v does not load: %v", n.id, err)
		return
	}
	n.proc, n.pausedTill = p, 0
	n.w.note("start", uint64(n.id))
	p.tap()
	p.drainTaps()
	p.openOffice()
	p.openCrew()
	p.tick()
	p.wake()
}

// die ends the process.
func (n *node) die(how death, why string) {
	p := n.proc
	if p == nil {
		return
	}
	n.w.note("die "+string(how)+" "+why, uint64(n.id))
	p.dead, n.proc, n.doom = true, nil, doom{}
	p.hangUp()
	n.disk.Inject(nil)
	n.disk.SetCapacity(0)
	switch how {
	case power:
		n.disk.Crash()
	case powerLost:
		n.disk.LoseTail()
	default:
		_ = n.kv.Close() // what was written stays, synced or not
		n.w.net.refuse(n)
	}
	n.w.after(n.w.between(100*time.Millisecond, 3*time.Second), n.restart)
}

// pass says whether the crash that waits at a point happens now.
func (n *node) pass(point string) bool {
	if n.doom.point != point {
		return false
	}
	n.doom.left--
	return n.doom.left < 0
}

// arm makes the disk fail at the point that doom names.
func (n *node) arm() {
	n.disk.Inject(func(op simdisk.Op) error {
		if op == simdisk.Write && n.pass("write") || op == simdisk.Sync && n.pass("sync") {
			return errors.New("the simulated disk failed")
		}
		return nil
	})
}
