package sim

import (
	"bytes"
	"errors"
	"log/slog"
	"strconv"
	"time"

	"banyan"
	"banyan/core/placement"
	"banyan/engine/replica"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
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
	wall       time.Duration // what its wall clock is ahead
	draining   bool
	leaving    bool    // drained, to be let go
	gone       bool    // for ever
	unreadable float64 // chance that a read fails
	flipped    bool    // a bit on its disk
	speaks     uint32  // of the release that is installed
	putBack    bool    // it was a newer one before
	doom       doom

	chunks    map[banyan.Hash]bool   // on its disk
	condemned map[banyan.Hash]uint64 // as its disk has it

	capacity int64               // of its disk, while all are filled; 0: no limit
	level    placement.DiskLevel // as others know it
	ranFull  bool                // it ran into its capacity
	taken    bool                // another program has taken its room at once; no mark helps against that
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

func (w *world) addNode() *node {
	n := &node{w: w, id: banyan.NodeID(len(w.nodes) + 1), disk: simdisk.New(w.rng.Uint64()), slow: 1, slowDisk: 1, chunks: map[banyan.Hash]bool{}, condemned: map[banyan.Hash]uint64{}}
	n.drift = 1 + w.plan.drift*(w.rng.Float64()-0.5)
	if n.drift != 1 {
		w.fault(clockDrift)
	}
	w.releases.choose(n)
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

// bootstrap starts a new machine: with shards it makes a cluster of one, with
// none it is empty.
func (n *node) bootstrap(shards []banyan.ShardID) {
	st, err := n.open()
	if err == nil && shards != nil {
		err = st.Bootstrap(shards, n.id)
	}
	if err != nil {
		n.w.fail("%v cannot begin: %v", n.id, err)
		return
	}
	n.start(st)
}

// stageBytes makes most snapshots too large to be held in memory.
const stageBytes = 512

func (n *node) open() (*store.Store, error) {
	kv, err := n.disk.Open()
	if err != nil {
		return nil, err
	}
	n.kv = kv
	return store.New(kv, store.Options{StageBytes: stageBytes})
}

// restart starts a process on what the disk has.
func (n *node) restart() {
	if n.proc != nil || n.gone {
		return
	}
	st, err := n.open()
	if err != nil {
		n.refuse("start again", err)
		return
	}
	n.start(st)
}

// refuse is what becomes of a machine that finds its disk unreadable: if it is
// only for now, a process starts again later; if it is damage that was done, it
// is put aside and an empty machine takes its place.
func (n *node) refuse(what string, err error) {
	if p := n.proc; p != nil {
		n.die(kill, "cannot "+what)
	} else {
		_ = n.kv.Close()
	}
	switch {
	case n.flipped && (banyan.IsKind(err, banyan.Corrupt) || banyan.IsKind(err, banyan.TooNew)):
		n.w.reach("damage refused")
		n.gone = true
		n.w.addNode().bootstrap(nil)
	case errors.Is(err, errUnreadable):
		n.w.reach("unreadable disk refused")
		n.w.after(n.w.between(100*time.Millisecond, time.Second), n.restart)
	default:
		n.w.fail("%v cannot %s: %v", n.id, what, err)
	}
}

func (n *node) start(st *store.Store) {
	acts, err := n.protocolOn(st)
	switch {
	case err != nil:
		n.refuse("start", err)
		return
	case acts > n.speaks:
		n.tooNew("a cluster at protocol " + strconv.Itoa(int(acts)))
		return
	}
	core, err := replica.NewCore(replica.CoreConfig{
		Node: n.id, Store: st, ElectionTicks: 10, HeartbeatTicks: 1,
		Protocol: acts, LogEntriesKept: n.w.plan.keep, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		n.refuse("start", err)
		return
	}
	hub := replica.NewHub(st)
	p := &process{
		w: n.w, n: n, store: st, core: core, hub: hub, applier: replica.NewApplier(st, hub, n.w.plan.window), batch: st.NewBatch(), speaks: n.speaks,
		began: n.w.now, views: map[banyan.ShardID]replica.View{}, receiving: map[banyan.ShardID]bool{},
		tallies: map[banyan.ShardID]*tally{}, proposals: map[banyan.ShardID]int{}, reads: map[banyan.ShardID]int{},
		kept: map[banyan.ShardID]kept{}, snapshotTo: map[banyan.NodeID]time.Duration{},
		rates: placement.NewRates(loadOver.Milliseconds()), since: map[banyan.ShardID]leadSince{},
	}
	if err := p.applier.Load(); err != nil {
		n.refuse("load", err)
		return
	}
	n.proc, n.pausedTill = p, 0
	n.w.note("start", uint64(n.id))
	p.openOffice()
	p.openDesk()
	p.openCrew()
	p.openChunks()
	p.tick(1)
	p.wake()
	p.tap()
	p.drainTaps()
	if acts < n.w.releases.acts {
		p.hearOfProtocol()
	}
}

// clock is the machine's wall clock.
func (n *node) clock() time.Time {
	return time.Unix(1_700_000_000, 0).Add(n.wall + time.Duration(float64(n.w.now)*n.drift))
}

// die ends the process.
func (n *node) die(how death, why string) {
	p := n.proc
	if p == nil {
		return
	}
	n.w.note("die "+string(how)+" "+why, uint64(n.id))
	p.dead, n.proc, n.doom, n.taken = true, nil, doom{}, false
	p.hangUp()
	n.arm()
	n.disk.SetCapacity(n.capacity)
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

var errUnreadable = errors.New("the simulated disk cannot be read")

// arm makes the disk fail as doom and unreadable say.
func (n *node) arm() {
	n.disk.Inject(func(op simdisk.Op) error {
		switch {
		case op == simdisk.Write && n.pass("write") || op == simdisk.Sync && n.pass("sync"):
			return errors.New("the simulated disk failed")
		case op == simdisk.Read && n.w.chance(n.unreadable):
			return errUnreadable
		}
		return nil
	})
}

// inspect reads the disk as nobody in the cluster can: without its errors.
func (n *node) inspect(look func()) {
	chance := n.unreadable
	n.unreadable = 0
	look()
	n.unreadable = chance
}

// flip turns one bit of a log, or of a block of state.
func (n *node) flip(d dice) bool {
	if !n.w.operator.bears() {
		return false
	}
	at, key := n.somewhere(d, d.chance(0.5))
	if key == nil {
		return false
	}
	n.w.lossy, n.flipped = true, true
	if key[0] == 's' {
		n.disk.Spoil(key)
		n.w.reach("bit of a state block flipped")
		return true
	}
	n.disk.Flip(at)
	n.w.reach("bit of a log flipped")
	n.die(pick(d, []death{kill, power, powerLost}), "") // what is in memory hides it
	return true
}

// somewhere draws a row of state, or of the logs: there rather one of the last,
// which will be applied again.
func (n *node) somewhere(d dice, log bool) (at int, key []byte) {
	for range 200 {
		i := d.IntN(1 << 30)
		k := n.disk.Key(i)
		if len(k) < 8 || log == (k[0] == 's') {
			continue
		}
		if !log {
			return i, k
		}
		if key == nil || bytes.Compare(k[len(k)-8:], key[len(key)-8:]) > 0 {
			at, key = i, k
		}
	}
	return at, key
}
