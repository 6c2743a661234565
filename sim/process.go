package sim

import (
	"errors"
	"slices"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/placement"
	"banyan/core/sweep"
	"banyan/engine/replica"
	"banyan/engine/store"
)

// process is one life of a node: what Host does with goroutines is done here by
// events. It writes, sends and applies through the same calls as Host.
type process struct {
	w       *world
	n       *node
	store   *store.Store
	core    *replica.Core
	applier *replica.Applier
	hub     *replica.Hub
	batch   *store.Batch
	began   time.Duration
	dead    bool
	speaks  uint32 // of its release

	in      []func(*replica.Core)
	woken   bool
	ticked  bool
	ticks   int           // until the next
	ticking int           // counts tickers: only the last one ticks
	timerAt time.Duration // of the earliest timer planned; 0: none
	eff     replica.Effects
	views   map[banyan.ShardID]replica.View

	appends   []*replica.Append
	writing   bool
	applies   []*replica.Apply
	applying  bool
	snapshots []replica.Envelope
	sending   int
	receiving map[banyan.ShardID]bool

	proposals, reads map[banyan.ShardID]int // waiting for their answer
	kept             map[banyan.ShardID]kept
	snapshotTo       map[banyan.NodeID]time.Duration // when the latest was sent or ended

	rates *placement.Rates
	since map[banyan.ShardID]leadSince

	taps    []*listener
	tallies map[banyan.ShardID]*tally
	office  *office
	desk    *desk
	crew    *crew

	holder   *sweep.Holder
	sweptIn  uint64
	sweeping bool
}

const tickEvery = 100 * time.Millisecond

// after plans something this process does. It does not happen if the process
// is dead by then, and waits if it is paused.
func (p *process) after(d time.Duration, do func()) {
	p.w.after(d, func() { p.resume(do) })
}

func (p *process) resume(do func()) {
	switch till := p.n.pausedTill; {
	case p.dead:
	case till > p.w.now:
		p.w.after(till-p.w.now, func() { p.resume(do) })
	default:
		do()
	}
}

// clock is the Core's time.
func (p *process) clock() time.Duration {
	return time.Duration(float64(p.w.now-p.began)*p.n.drift) + 1
}

// work is how long something takes on this machine that takes d on an idle one.
func (p *process) work(d time.Duration) time.Duration {
	return p.w.between(d/2, d*3/2) * time.Duration(p.n.slow)
}

// tick moves raft's clock; while paused, ticks are missed, as a Ticker's are.
func (p *process) tick(ticks int) {
	p.ticks = ticks
	p.ticking++
	p.tickAgain(p.ticking)
}

func (p *process) tickAgain(ticker int) {
	p.after(time.Duration(float64(p.ticks)*float64(tickEvery)/p.n.drift), func() {
		if ticker == p.ticking {
			p.ticked = true
			p.wake()
			p.tickAgain(ticker)
		}
	})
}

// input hands something to the core.
func (p *process) input(f func(*replica.Core)) {
	p.in = append(p.in, f)
	p.wake()
}

// finished hands in what the disk or the applier has done. As in Host, that
// wakes nobody who does not wait for it.
func (p *process) finished(f func(*replica.Core)) {
	p.in = append(p.in, f)
	if p.core.Waiting() {
		p.wake()
	}
}

func (p *process) wake() {
	if !p.woken {
		p.woken = true
		p.after(p.work(50*time.Microsecond), p.turn)
	}
}

// turn is one round of Host's loop.
func (p *process) turn() {
	p.woken = false
	p.measure()
	defer func() {
		switch thrown := recover().(type) {
		case nil:
		case *replica.StorageError:
			p.diskFailed("turn", thrown)
		default:
			panic(thrown)
		}
	}()
	p.core.Advance(p.clock())
	if p.ticked {
		p.ticked = false
		p.core.Tick(p.ticks)
	}
	in := p.in
	p.in = nil
	for _, f := range in {
		f(p.core)
	}
	p.core.Process(&p.eff)
	p.carryOut()
	p.measure()
	if n := p.core.TickIn(); n != p.ticks {
		p.tick(n)
	}
	if at, ok := p.core.NextTimer(); ok && (p.timerAt == 0 || at < p.timerAt) {
		p.timerAt = at
		p.after(max(at-p.clock(), time.Millisecond), func() { p.timerAt = 0; p.wake() })
	}
}

func (p *process) carryOut() {
	for _, e := range p.eff.Send {
		p.w.net.send(p.n, e)
	}
	p.appends = append(p.appends, p.eff.Appends...)
	p.applies = append(p.applies, p.eff.Applies...)
	p.snapshots = append(p.snapshots, p.eff.Snapshots...)
	p.write()
	p.apply()
	p.sendSnapshots()
	for _, v := range p.eff.Views {
		p.rested(p.views[v.Shard], v)
		if p.views[v.Shard] = v; v.Gone {
			delete(p.views, v.Shard)
		}
	}
	for _, l := range p.eff.Leadership {
		p.w.note("leads", uint64(p.n.id), uint64(l.Shard), l.Term, bit(l.Leading))
		p.w.truth[l.Shard].leads(p.n.id, l)
		p.lead(l)
		p.heardLead(l)
		p.w.jobs.announce(p.n.id, l)
		p.office.hear(l)
		p.desk.hear(l)
	}
	p.eff.Reset()
}

// rested notices what becomes of shards in which nothing happens.
func (p *process) rested(before, now replica.View) {
	switch {
	case now.Quiet == before.Quiet || now.Gone || now.Always || before.Always:
	case now.Quiet:
		p.w.reach("shard at rest")
	case now.Leader != 0:
		p.w.reach("shard at rest woken")
	default:
		p.w.reach("leader of a shard at rest missed")
	}
}

func bit(b bool) uint64 {
	if b {
		return 1
	}
	return 0
}

// write is Host's goroutine of that name.
func (p *process) write() {
	if p.writing || len(p.appends) == 0 {
		return
	}
	p.writing = true
	appends := p.appends
	p.appends = nil
	p.after(min(p.work(time.Millisecond)*time.Duration(p.n.slowDisk), time.Second), func() { p.written(appends) })
}

func (p *process) written(appends []*replica.Append) {
	halted := false
	err := replica.Persist(p.batch, appends, func(e replica.Envelope) {
		if halted = halted || p.n.pass("send"); !halted {
			p.w.net.send(p.n, e)
		}
	})
	p.w.note("written", uint64(p.n.id), uint64(len(appends)), bit(err == nil))
	switch {
	case err != nil:
		p.diskFailed("write", err)
		return
	case halted || p.n.pass("written"):
		p.n.die(p.n.doom.how, "between disk and network")
		return
	}
	p.writing = false
	p.finished(func(c *replica.Core) {
		for _, a := range appends {
			c.Appended(a)
		}
	})
	p.write()
}

// diskFailed ends the process, as it ends a real one.
func (p *process) diskFailed(what string, err error) {
	if !errors.Is(err, store.ErrFatal) || p.n.kv.Err() != nil && banyan.IsKind(p.n.kv.Err(), banyan.Corrupt) {
		p.n.refuse(what, err)
		return
	}
	if p.n.capacity != 0 && !p.n.taken && banyan.IsKind(p.n.kv.Err(), banyan.Exhausted) {
		p.n.ranFull = true
	}
	how := p.n.doom.how
	if how == "" {
		how = kill
	}
	p.n.die(how, "in "+what)
}

// unread says whether reading failed because the disk does, and ends the
// process if what it read is damaged: then the store has stopped.
func (p *process) unread(err error) bool {
	switch {
	case errors.Is(err, errUnreadable):
		return true
	case p.n.flipped && banyan.IsKind(err, banyan.Corrupt):
		if p.n.kv.Err() != nil {
			p.n.refuse("read", err)
		}
		return true
	}
	return false
}

// apply is Host's goroutine of that name.
func (p *process) apply() {
	if p.applying || len(p.applies) == 0 {
		return
	}
	p.applying = true
	applies := p.applies
	p.applies = nil
	p.after(p.work(100*time.Microsecond), func() { p.applied(applies) })
}

func (p *process) applied(applies []*replica.Apply) {
	if !p.understands(applies) {
		return
	}
	if err := p.applier.Apply(applies); err != nil {
		p.diskFailed("apply", err)
		return
	}
	for _, a := range applies {
		if n := len(a.Entries); n > 0 {
			p.w.note("applied", uint64(p.n.id), uint64(a.Shard), a.Entries[n-1].GetIndex(), a.Entries[n-1].GetTerm())
		}
	}
	p.drainTaps()
	if p.n.pass("applied") {
		p.n.die(p.n.doom.how, "between apply and acknowledgement")
		return
	}
	p.applying = false
	p.finished(func(c *replica.Core) {
		for _, a := range applies {
			p.shrinking(a)
			c.Applied(a)
		}
	})
	p.apply()
}

// shrinking notices that a leader is left alone while it proves that it leads:
// nobody else will answer.
func (p *process) shrinking(a *replica.Apply) {
	conf := p.store.Shard(a.Shard).ConfState()
	if len(conf.GetVoters()) != 1 || len(conf.GetVotersOutgoing()) > 0 || conf.GetVoters()[0] != uint64(p.n.id) {
		return
	}
	if !slices.ContainsFunc(a.Entries, func(e *raftpb.Entry) bool { return e.GetType() == raftpb.EntryConfChangeV2 }) {
		return
	}
	for _, st := range p.w.operator.statuses(p) {
		if st.Shard == a.Shard && st.Proving > 0 && (len(st.Voters) > 1 || st.Joint) {
			p.w.reach("voters shrink to one while a read proof is under way")
		}
	}
}
