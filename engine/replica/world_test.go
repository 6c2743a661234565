package replica

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
)

// world is several Cores, their disks and the network between them, all moved
// by hand.
type world struct {
	t       testing.TB
	nodes   map[banyan.NodeID]*peer
	net     []Envelope
	cut     map[[2]banyan.NodeID]bool
	history map[[2]uint64]string // by shard and index: the first entry applied there
	lines   []string             // what happened, for scripts
	trace   bool                 // messages too
	keep    uint64               // LogEntriesKept
	acts    uint32               // Protocol
	strict  bool                 // a disk that fails is a fault of ours
}

// peer is one node of a world; core is nil while it is down.
type peer struct {
	w       *world
	id      banyan.NodeID
	disk    *simdisk.Disk
	store   *store.Store
	core    *Core
	applier *Applier
	hub     *Hub
	batch   *store.Batch
	now     time.Duration
	views   map[banyan.ShardID]View

	appends                        []*Append
	applies                        []*Apply
	snapshots                      []Envelope
	holdDisk, holdApply, holdSnaps bool
}

func newWorld(t testing.TB) *world {
	return &world{t: t, nodes: map[banyan.NodeID]*peer{}, cut: map[[2]banyan.NodeID]bool{}, history: map[[2]uint64]string{}}
}

func (w *world) ids() []banyan.NodeID { return slices.Sorted(maps.Keys(w.nodes)) }

func (w *world) say(format string, args ...any) {
	w.lines = append(w.lines, fmt.Sprintf(format, args...))
}

func (w *world) add(id banyan.NodeID, bootstrap ...banyan.ShardID) *peer {
	w.t.Helper()
	p := &peer{w: w, id: id, disk: simdisk.New(uint64(id))}
	w.nodes[id] = p
	p.open()
	if len(bootstrap) > 0 {
		if err := p.store.Bootstrap(bootstrap, id); err != nil {
			w.t.Fatal(err)
		}
	}
	p.start()
	return p
}

func (p *peer) open() {
	p.w.t.Helper()
	kv, err := p.disk.Open()
	if err == nil {
		p.store, err = store.New(kv, store.Options{})
	}
	if err != nil {
		p.w.t.Fatal(err)
	}
}

func (p *peer) start() {
	p.w.t.Helper()
	log := slog.New(slog.DiscardHandler)
	if testing.Verbose() && p.w.trace {
		log = slog.New(slog.NewTextHandler(p.w.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", uint64(p.id))
	}
	core, err := NewCore(CoreConfig{Node: p.id, Store: p.store, ElectionTicks: 10, HeartbeatTicks: 1, Protocol: p.w.acts, LogEntriesKept: p.w.keep, Logger: log})
	if err != nil {
		p.w.t.Fatal(err)
	}
	p.core, p.hub, p.batch = core, NewHub(p.store), p.store.NewBatch()
	p.applier = NewApplier(p.store, p.hub, 0)
	p.views = map[banyan.ShardID]View{}
	if err := p.applier.Load(); err != nil {
		p.w.t.Fatal(err)
	}
	p.now = 0
	core.Advance(0)
}

// crash is a loss of power; with all, everything that was not synced is lost.
func (p *peer) crash(all bool) {
	for _, g := range p.core.groups {
		if g.incoming != nil {
			g.incoming.done(errors.New("connection lost")) // as the sender sees it
		}
	}
	if all {
		p.disk.LoseTail()
	} else {
		p.disk.Crash()
	}
	p.core, p.appends, p.applies, p.snapshots = nil, nil, nil, nil
}

func (p *peer) restart() {
	p.open()
	p.start()
}

// advance moves the node's clock, ticking each 100 ms.
func (p *peer) advance(d time.Duration) {
	for end := p.now + d; p.now < end; {
		p.now += 10 * time.Millisecond
		if p.core == nil {
			continue
		}
		p.core.Advance(p.now)
		if p.now%(100*time.Millisecond) == 0 {
			p.core.Tick(1)
		}
	}
}

// round lets the node act once on what it has; false: it had nothing.
func (p *peer) round() bool {
	if p.core == nil {
		return false
	}
	var eff Effects
	p.core.Process(&eff)
	p.w.send(p.id, eff.Send)
	p.appends = append(p.appends, eff.Appends...)
	p.applies = append(p.applies, eff.Applies...)
	p.snapshots = append(p.snapshots, eff.Snapshots...)
	for _, v := range eff.Views {
		p.views[v.Shard] = v
	}
	for _, l := range eff.Leadership {
		p.w.say("%v %s shard %d in term %d", p.id, map[bool]string{true: "leads", false: "no longer leads"}[l.Leading], l.Shard, l.Term)
	}
	busy := len(eff.Send)+len(eff.Views) > 0
	if !p.holdDisk && len(p.appends) > 0 {
		busy = true
		p.write()
	}
	if p.core != nil && !p.holdApply && len(p.applies) > 0 {
		busy = true
		p.apply()
	}
	if p.core != nil && !p.holdSnaps && len(p.snapshots) > 0 {
		busy = true
		for _, e := range p.snapshots {
			p.snapshot(e)
		}
		p.snapshots = nil
	}
	return busy
}

func (p *peer) write() {
	appends := p.appends
	p.appends = nil
	if err := WriteAppends(p.batch, appends); err != nil {
		p.w.say("%v stops: %v (fatal: %v)", p.id, err, errors.Is(err, store.ErrFatal))
		if p.w.strict {
			p.w.t.Errorf("%v: write: %v\n%s", p.id, err, p.w.status(0))
		}
		p.crash(false)
		return
	}
	for _, a := range appends {
		p.w.send(p.id, a.After)
		p.core.Appended(a)
	}
}

func (p *peer) apply() {
	applies := p.applies
	p.applies = nil
	if err := p.applier.Apply(applies); err != nil {
		p.w.t.Fatalf("%v: apply: %v", p.id, err)
	}
	for _, a := range applies {
		p.w.agree(p, a)
		p.core.Applied(a)
	}
}

// agree holds all replicas to one history: what one has applied at an index,
// every other applies there, too.
func (w *world) agree(p *peer, a *Apply) {
	for _, e := range a.Entries {
		got := fmt.Sprintf("term %d: %q", e.GetTerm(), e.GetData())
		at := [2]uint64{uint64(a.Shard), e.GetIndex()}
		if first, ok := w.history[at]; !ok {
			w.history[at] = got
		} else if first != got {
			w.t.Errorf("%v applies at %d\n%s\nwhere another has applied\n%s\n%s", p.id, e.GetIndex(), got, first, w.status(a.Shard))
			return
		}
	}
}

// snapshot carries one snapshot to where it should go, at once.
func (p *peer) snapshot(e Envelope) {
	to := p.w.nodes[e.To]
	if to == nil || to.core == nil || p.w.isCut(p.id, e.To) {
		p.core.ReportSnapshot(e.Shard, e.To, false)
		return
	}
	view, err := p.store.View(e.Shard)
	if err != nil {
		p.w.t.Fatal(err)
	}
	defer view.Close()
	p.carry(e, view)
}

// carry takes the rows of a view to where the snapshot should go.
func (p *peer) carry(e Envelope, view *store.View) {
	to := p.w.nodes[e.To]
	m, err := SnapshotMessage(e.Message, view)
	if err != nil {
		p.core.ReportSnapshot(e.Shard, e.To, false)
		return
	}
	rows, err := allRows(view)
	if err != nil {
		p.w.t.Fatal(err)
	}
	stage, err := to.store.Stage(e.Shard)
	if err != nil {
		p.w.say("%v refuses a snapshot: %v", e.To, err)
		p.core.ReportSnapshot(e.Shard, e.To, false)
		return
	}
	for k, v, err := rows(); err == nil; k, v, err = rows() {
		if err := stage.Put(k, v); err != nil {
			p.w.t.Fatal(err)
		}
	}
	core := p.core
	to.core.StepSnapshot(e.Shard, m, stage, func(err error) {
		if err != nil {
			stage.Abort()
		}
		p.w.say("%v got a snapshot of shard %d at %d from %v: %v", e.To, e.Shard, m.GetSnapshot().GetMetadata().GetIndex(), p.id, result(err))
		core.ReportSnapshot(e.Shard, e.To, err == nil || errors.Is(err, ErrNotTaken))
	})
}

func result(err error) string {
	if err == nil {
		return "ok"
	}
	return err.Error()
}

func (w *world) send(from banyan.NodeID, es []Envelope) {
	for _, e := range es {
		if w.trace {
			w.say("%v -> %v shard %d %s term %d index %d entries %d%s", from, e.To, e.Shard, strings.TrimPrefix(e.Message.GetType().String(), "Msg"),
				e.Message.GetTerm(), e.Message.GetIndex(), len(e.Message.GetEntries()), map[bool]string{true: " reject"}[e.Message.GetReject()])
		}
		w.net = append(w.net, e)
	}
}

func (w *world) isCut(a, b banyan.NodeID) bool { return w.cut[[2]banyan.NodeID{a, b}] }

// deliver brings all messages that are on the way to where they go.
func (w *world) deliver() bool {
	net := w.net
	w.net = nil
	for _, e := range net {
		p := w.nodes[e.To]
		if p != nil && p.core != nil && !w.isCut(banyan.NodeID(e.Message.GetFrom()), e.To) {
			p.core.Step(e.Shard, e.Message)
		}
	}
	return len(net) > 0
}

// pump moves everything until nothing moves.
func (w *world) pump() {
	for n := 0; ; n++ {
		busy := false
		for _, id := range w.ids() {
			busy = w.nodes[id].round() || busy
		}
		busy = w.deliver() || busy
		if !busy {
			return
		}
		if n > 10_000 {
			w.t.Fatal("the world does not come to rest")
		}
	}
}

// pass lets time go by everywhere, in small steps.
func (w *world) pass(d time.Duration) {
	for ; d > 0; d -= 10 * time.Millisecond {
		for _, id := range w.ids() {
			w.nodes[id].advance(10 * time.Millisecond)
		}
		w.pump()
	}
}

// propose hands a command to a node's core.
func (p *peer) propose(shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	if p.core == nil {
		done(mvcc.Result{}, errors.New("down"))
		return
	}
	own := *cmd
	if own.Term == 0 {
		own.Term = p.views[shard].Term
	}
	p.core.Propose(shard, &Proposal{Data: own.Encode(nil), Term: own.Term, Done: done})
}

// leader is the node that has announced that it leads, 0 if none or several.
func (w *world) leader(shard banyan.ShardID) *peer {
	var found *peer
	var term uint64
	for _, id := range w.ids() {
		if p := w.nodes[id]; p.core != nil && p.views[shard].Leading && p.views[shard].Term > term {
			found, term = p, p.views[shard].Term
		}
	}
	return found
}

func (w *world) status(shard banyan.ShardID) string {
	var b strings.Builder
	for _, id := range w.ids() {
		p := w.nodes[id]
		if p.core == nil {
			fmt.Fprintf(&b, "%v down\n", id)
			continue
		}
		g := p.core.groups[shard]
		if g == nil {
			fmt.Fprintf(&b, "%v has no replica\n", id)
			continue
		}
		s, err := g.status()
		if err != nil {
			w.t.Fatal(err)
		}
		fmt.Fprintf(&b, "%v term %d leader %v log %d..%d commit %d applied %d revision %d voters %v", id, s.Term, s.Leader, s.First, s.Last, s.Commit, s.Applied, p.hub.Revision(shard), s.Voters)
		if len(s.Learners) > 0 {
			fmt.Fprintf(&b, " learners %v", s.Learners)
		}
		if s.Joint {
			b.WriteString(" joint")
		}
		b.WriteByte('\n')
	}
	return b.String()
}

// grow makes a shard of node 1 one of three voters.
func (w *world) grow(shard banyan.ShardID) {
	w.t.Helper()
	w.pump()
	for _, step := range [][2][]banyan.NodeID{{{1}, {2, 3}}, {{1, 2, 3}, nil}} {
		err := errors.New("not answered")
		w.nodes[1].core.Reconfigure(shard, step[0], step[1], func(e error) { err = e })
		w.pump()
		if err != nil {
			w.t.Fatal(err)
		}
		w.pass(200 * time.Millisecond)
	}
}
