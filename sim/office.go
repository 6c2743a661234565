package sim

import (
	"context"
	"encoding/binary"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/layer/work"
)

// office is a process's controllers: what work.Service does with goroutines,
// in the same order.
type office struct {
	p        *process
	core     *work.Core
	leads    map[banyan.ShardID]*lead
	talks    map[banyan.NodeID]*talk
	sessions uint64
	requests uint64
	heardAt  time.Duration                   // when the latest word of leadership arrives
	missing  map[banyan.NodeID]time.Duration // since when a node was not heard of
}

// lead is a shard led here.
type lead struct {
	shard      banyan.ShardID
	term       uint64
	since      int64
	committing bool
}

const (
	officeTick  = 50 * time.Millisecond
	membersTick = 250 * time.Millisecond
	missedFor   = 800 * time.Millisecond // until gossip calls a node dead
)

func (p *process) openOffice() {
	o := &office{
		p: p, core: work.NewCore(p.w.shardOf), leads: map[banyan.ShardID]*lead{},
		talks: map[banyan.NodeID]*talk{}, missing: map[banyan.NodeID]time.Duration{},
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

// hear brings word of leadership, in order, and sometimes late: until then a
// controller goes on in a term that is over.
func (o *office) hear(l replica.Leadership) {
	d := o.p.work(100 * time.Microsecond)
	if o.p.w.chance(0.3) {
		d = o.p.w.between(0, 3*time.Second)
	}
	o.heardAt = max(o.heardAt+1, o.p.w.now+d)
	o.p.after(o.heardAt-o.p.w.now, func() { o.lead(l) })
}

// lead follows leadership as server does.
func (o *office) lead(l replica.Leadership) {
	if o.leads[l.Shard] != nil {
		delete(o.leads, l.Shard)
		o.core.Lose(l.Shard)
		o.act()
	}
	if !l.Leading {
		return
	}
	x := &lead{shard: l.Shard, term: l.Term, since: o.now() - work.HelloGraceMs}
	o.leads[l.Shard] = x
	o.p.after(o.p.work(time.Millisecond), func() { o.load(x) })
	if o.p.w.plan.sweeps {
		o.removals(x)
	}
}

func (o *office) current(x *lead) bool { return o.leads[x.shard] == x }

// load gives the core the unfinished jobs as the rows say.
func (o *office) load(x *lead) {
	if !o.current(x) {
		return
	}
	o.members()
	jobs, err := work.Load(context.Background(), rows{o.p}, x.shard)
	switch {
	case o.p.unread(err), banyan.IsKind(err, banyan.NotFound): // the replica goes
		o.p.after(10*time.Millisecond, func() { o.load(x) })
		return
	case err != nil:
		o.p.w.fail("%v: shard %d: jobs: %v", o.p.n.id, x.shard, err)
		return
	}
	runs := make([]*work.Run, len(jobs))
	for i, j := range jobs {
		runs[i] = j.Run
		o.p.w.reach("job taken over")
	}
	o.core.Lose(x.shard)
	o.core.Lead(o.now(), x.shard, x.term, x.since, runs, nil)
	o.act()
	o.commit(x)
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
		if x := o.leads[id]; x != nil {
			o.p.after(o.p.work(50*time.Microsecond), func() { o.commit(x) })
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
	if err != nil || row != nil || o.leads[s.shard] == nil || s.removed {
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

// commit commits what the core has for a shard, one command at a time.
func (o *office) commit(x *lead) {
	if !o.current(x) || x.committing {
		return
	}
	b := o.core.NextBatch(o.now(), o.p.n.clock().UnixMilli(), x.shard)
	o.act()
	if b == nil {
		return
	}
	x.committing = true
	o.identify(b)
	o.try(x, b, 5*time.Millisecond)
}

// identify gives a batch a request id that no other has.
func (o *office) identify(b *work.Batch) {
	o.requests++
	binary.BigEndian.PutUint64(b.Cmd.Request[:], o.p.w.cfg.Seed<<16|uint64(o.p.n.id)<<8|0xff)
	binary.BigEndian.PutUint64(b.Cmd.Request[8:], uint64(o.p.began)<<16|o.requests)
}

// try asks under the same request id until it is clear what became of a batch.
func (o *office) try(x *lead, b *work.Batch, wait time.Duration) {
	o.p.propose(x.shard, b.Cmd, func(res mvcc.Result, err error) {
		o.p.after(0, func() { o.answer(x, b, wait, res, err) })
	})
}

func (o *office) answer(x *lead, b *work.Batch, wait time.Duration, res mvcc.Result, err error) {
	switch {
	case !o.current(x):
	case err == nil && b.Stale(res):
		o.retouch(x, b)
	case err == nil && !res.Stale:
		x.committing = false
		if !o.core.Committed(o.now(), b, res) {
			o.p.w.reach("controller read its rows again")
			o.load(x)
			return
		}
		o.act()
		o.commit(x)
	case err == nil || banyan.IsKind(err, banyan.Stale):
		o.p.w.reach("batch of results refused by its term")
		o.core.Lose(x.shard)
		o.act()
	default:
		o.p.after(wait, func() {
			if o.current(x) {
				o.try(x, b, min(2*wait, 500*time.Millisecond))
			}
		})
	}
}
