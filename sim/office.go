package sim

import (
	"context"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/harness"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/layer/work"
)

// office is a process's controllers of jobs: the core and the seats of work,
// without work.Service.
type office struct {
	shell
	core     *work.Core
	talks    map[banyan.NodeID]*talk
	sessions uint64
	missing  map[banyan.NodeID]time.Duration // since when a node was not heard of
}

// ledJobs is a shard led here.
type ledJobs struct {
	*chair
	*work.Seat
	o     *office
	since int64
}

const (
	officeTick  = 50 * time.Millisecond
	membersTick = 250 * time.Millisecond
	missedFor   = 800 * time.Millisecond // until gossip calls a node dead
)

func (p *process) openOffice() {
	o := &office{
		shell: shell{
			p: p, mark: 0xff, chairs: map[banyan.ShardID]*chair{},
			stale: "batch of results refused by its term", reread: "controller read its rows again",
		},
		core: work.NewCore(p.w.shardOf), talks: map[banyan.NodeID]*talk{}, missing: map[banyan.NodeID]time.Duration{},
	}
	o.shell.now = func() harness.Time { return harness.Time{Now: o.now(), Wall: p.n.clock().UnixMilli()} }
	o.open = func(c *chair) seat {
		l := &ledJobs{c, work.NewSeat(o.core, c.shard), o, o.now() - work.HelloGraceMs}
		if p.w.plan.sweeps {
			p.after(0, l.removals)
		}
		return l
	}
	o.core.Fenced = p.w.plan.sweeps
	p.office = o
	p.every(officeTick, func() { o.core.Tick(o.now()); o.act() })
	p.every(membersTick, o.members)
}

// every does something at intervals while the process lives.
func (p *process) every(d time.Duration, do func()) {
	p.after(p.w.between(d/2, d*3/2), func() {
		do()
		p.every(d, do)
	})
}

// now is the machine's monotonic clock; what the wall clock does is no matter.
func (o *office) now() int64 { return 1 + o.p.clock().Milliseconds() }

// load gives the core the unfinished jobs as the rows say.
func (l *ledJobs) load() error {
	o := l.o
	o.members()
	jobs, err := work.Load(context.Background(), rows{o.p}, l.shard)
	if err != nil {
		return l.readable("jobs", err)
	}
	runs := make([]*work.Run, len(jobs))
	for i, j := range jobs {
		runs[i] = j.Run
		o.p.w.reach("job taken over")
	}
	l.Reset()
	o.core.Lose(l.shard)
	o.core.Lead(o.now(), l.shard, l.term, l.since, runs, nil)
	o.act()
	return nil
}

func (l *ledJobs) gone() {
	l.o.core.Lose(l.shard)
	l.o.act()
}

// Next gives the core's next command, and does what the core wants beside it.
func (l *ledJobs) Next(t harness.Time) *mvcc.Command {
	defer l.o.act()
	return l.Seat.Next(t)
}

// Committed tells the core, and does what it wants then.
func (l *ledJobs) Committed(t harness.Time, res mvcc.Result) error {
	defer l.o.act()
	err := l.Seat.Committed(t, res)
	if b := l.Untouched(); b != nil {
		l.retouch(b)
	}
	return err
}

// rows reads what a process has applied.
type rows struct{ p *process }

var _ work.Reader = rows{}

func (r rows) Range(_ context.Context, shard banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	view, err := r.p.store.View(shard)
	if err != nil {
		return nil, false, err
	}
	defer view.Close()
	return mvcc.Range(view, q)
}

func (r rows) Bounds(_ context.Context, shard banyan.ShardID) (lo, hi []byte, err error) {
	view, err := r.p.store.View(shard)
	if err != nil {
		return nil, nil, err
	}
	defer view.Close()
	return mvcc.BoundsOf(view)
}

// members tells the core who is alive, as gossip does: late, and sometimes
// wrong about a node that is only slow.
func (o *office) members() {
	w := o.p.w
	var infos []work.NodeInfo
	for _, n := range w.nodes {
		if n.gone {
			continue
		}
		since, missed := o.missing[n.id]
		switch {
		case n == o.p.n || n.proc != nil && n.pausedTill <= w.now && !w.net.isCut(n.id, o.p.n.id) && !w.net.isCut(o.p.n.id, n.id):
			delete(o.missing, n.id)
			missed = false
		case !missed:
			o.missing[n.id], since, missed = w.now, w.now, true
		}
		info := work.NodeInfo{ID: n.id, Name: n.id.String(), State: "alive", Alive: true, Draining: n.draining, Slots: slotsPerNode}
		if missed {
			info.Silent = w.now - since
			info.Alive = w.now-since < missedFor
		}
		infos = append(infos, info)
	}
	o.core.Members(o.now(), infos)
	o.act()
}

// act does what the core wants.
func (o *office) act() {
	e := o.core.Effects()
	for _, s := range e.Close {
		if t := o.talks[s.Node]; t != nil && t.session == s {
			t.close()
		}
	}
	for _, s := range e.Wake {
		o.p.after(o.p.work(50*time.Microsecond), func() { o.send(s) })
	}
	for _, id := range e.Commits {
		if c := o.chairs[id]; c != nil {
			c.wake()
		}
	}
}

// send tells a worker what there is to tell.
func (o *office) send(s work.Session) {
	t := o.talks[s.Node]
	if t == nil || t.session != s {
		return
	}
	m, ok := o.core.Take(s)
	if !ok {
		return
	}
	msg := &peerv1.ControllerMessage{
		Stop: protoKeys(m.Stop), Recorded: protoKeys(m.Recorded), Unknown: protoKeys(m.Unknown), Demand: work.DemandProto(m.Demand), SayHello: m.SayHello, Begin: protoKeys(m.Begin),
	}
	for _, st := range m.Start {
		r := o.core.Run(st.Key.Job)
		if r == nil {
			continue
		}
		header := o.p.w.jobs.all[st.Key.Job].header
		if !t.told[st.Key.Job] {
			t.told[st.Key.Job] = true
			msg.Jobs = append(msg.Jobs, &peerv1.JobHeader{JobId: string(st.Key.Job), Spec: header.Spec, Tasks: header.Tasks})
		}
		msg.Start = append(msg.Start, &peerv1.Attempt{Key: protoKey(st.Key), Try: st.Try, Suspect: st.Suspect})
	}
	o.p.w.note("controller says", uint64(o.p.n.id), uint64(s.Node), uint64(len(msg.Start)), uint64(len(msg.Stop)), uint64(len(msg.Recorded)), uint64(len(msg.Unknown)), uint64(len(msg.Demand)))
	t.toWorker(msg)
}

func protoKey(k work.Key) *peerv1.AttemptKey {
	return &peerv1.AttemptKey{JobId: string(k.Job), Task: k.Task, Attempt: k.Attempt}
}

func protoKeys(keys []work.Key) []*peerv1.AttemptKey {
	out := make([]*peerv1.AttemptKey, len(keys))
	for i, k := range keys {
		out[i] = protoKey(k)
	}
	return out
}

// submit stores a job, or finds it stored.
func (o *office) submit(s *submitted) {
	row, err := mvcc.Get(o.p.store.Shard(s.shard).Latest(), job.HeaderKey(s.id), 0)
	if err != nil || row != nil || o.chairs[s.shard] == nil || s.removed {
		return
	}
	key := job.HeaderKey(s.id)
	o.core.Do(&work.Op{
		Kind: work.OpSubmit, Shard: s.shard, Job: s.id, Run: work.NewRun(s.header, 0),
		Cmd: &mvcc.Command{
			Conds: []mvcc.Cond{{Key: key, Test: mvcc.Missing}},
			Muts:  work.Header(s.header),
		},
	})
	o.act()
}
