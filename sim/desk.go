package sim

import (
	"encoding/binary"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/coord"
	"banyan/mvcc"
	"banyan/replica"
)

// desk is a process's controllers of locks: what coord.Service does with
// goroutines, in the same order.
type desk struct {
	p        *process
	leads    map[banyan.ShardID]*ledLocks
	heardAt  time.Duration // when the latest word of leadership arrives
	requests uint64
}

// ledLocks is one shard led here.
type ledLocks struct {
	shard      banyan.ShardID
	term       uint64
	core       *coord.Core // nil until the rows are read
	calls      map[uint64]func(coord.Answer, error)
	lastOp     uint64
	committing bool
}

func (p *process) openDesk() {
	d := &desk{p: p, leads: map[banyan.ShardID]*ledLocks{}}
	p.desk = d
	p.every(50*time.Millisecond, func() {
		for _, shard := range p.w.shards() {
			if l := d.leads[shard]; l != nil && l.core != nil {
				l.core.Tick(d.now())
				d.act(l)
			}
		}
	})
}

// now is the machine's monotonic clock.
func (d *desk) now() int64 { return d.p.clock().Milliseconds() }

// hear brings word of leadership, in order, and sometimes late.
func (d *desk) hear(l replica.Leadership) {
	after := d.p.work(100 * time.Microsecond)
	if d.p.w.chance(0.3) {
		after = d.p.w.between(0, 3*time.Second)
	}
	d.heardAt = max(d.heardAt+1, d.p.w.now+after)
	d.p.after(d.heardAt-d.p.w.now, func() {
		d.unlead(d.leads[l.Shard])
		if l.Leading {
			x := &ledLocks{shard: l.Shard, term: l.Term, calls: map[uint64]func(coord.Answer, error){}}
			d.leads[l.Shard] = x
			d.p.after(d.p.work(time.Millisecond), func() { d.load(x) })
		}
	})
}

func (d *desk) unlead(l *ledLocks) {
	if l != nil && d.leads[l.shard] == l {
		delete(d.leads, l.shard)
		l.refuse(banyan.Errorf(banyan.NotLeader, "shard %d is not led here", l.shard))
	}
}

// refuse answers everybody who waits.
func (l *ledLocks) refuse(err error) {
	for op := uint64(1); op <= l.lastOp; op++ {
		if reply := l.calls[op]; reply != nil {
			delete(l.calls, op)
			reply(coord.Answer{}, err)
		}
	}
}

// load makes the core of what the rows say.
func (d *desk) load(l *ledLocks) {
	if d.leads[l.shard] != l {
		return
	}
	lo, hi := coord.Range()
	core, err := (*coord.Core)(nil), error(nil)
	view, err := d.p.store.View(l.shard)
	if err == nil {
		var rows []mvcc.Row
		if rows, _, err = mvcc.Range(view, mvcc.Query{Lo: lo, Hi: hi}); err == nil {
			core, err = coord.Open(d.now(), l.term, rows)
		}
		view.Close()
	}
	switch {
	case err == nil:
		l.core = core
		if leases, _ := core.Counts(); leases > 0 {
			d.p.w.reach("locks taken over")
		}
		d.act(l)
	case d.p.unread(err), banyan.IsKind(err, banyan.NotFound):
		d.p.after(10*time.Millisecond, func() { d.load(l) })
	default:
		d.p.w.fail("%v: shard %d: locks: %v", d.p.n.id, l.shard, err)
	}
}

// act passes on the core's answers and commits what it has decided.
func (d *desk) act(l *ledLocks) {
	for _, a := range l.core.Answers() {
		if reply := l.calls[a.Op]; reply != nil {
			delete(l.calls, a.Op)
			d.p.after(0, func() { reply(a, nil) })
		}
	}
	if l.committing {
		return
	}
	if cmd := l.core.Next(); cmd != nil {
		l.committing = true
		d.requests++
		binary.BigEndian.PutUint64(cmd.Request[:], d.p.w.cfg.Seed<<16|uint64(d.p.n.id)<<8|0xfe)
		binary.BigEndian.PutUint64(cmd.Request[8:], uint64(d.p.began)<<16|d.requests)
		d.commit(l, cmd, 5*time.Millisecond)
	}
}

// commit asks under the same request id until it is clear what became of it.
func (d *desk) commit(l *ledLocks, cmd *mvcc.Command, wait time.Duration) {
	d.p.propose(l.shard, cmd, func(res mvcc.Result, err error) {
		d.p.after(0, func() {
			switch {
			case d.leads[l.shard] != l:
			case err == nil && res.Stale, banyan.IsKind(err, banyan.Stale):
				d.p.w.reach("decision about locks refused by its term")
				d.unlead(l)
			case err == nil && !res.OK:
				d.p.w.fail("%v: shard %d: a command of locks was refused: %+v", d.p.n.id, l.shard, res)
			case err == nil:
				l.committing = false
				l.core.Committed(res.Revision)
				d.act(l)
			default:
				d.p.after(wait, func() {
					if d.leads[l.shard] == l {
						d.commit(l, cmd, min(2*wait, 500*time.Millisecond))
					}
				})
			}
		})
	})
}

// ask puts a question to the core of a shard, and sees to it that the answer
// is this node's to give.
func (d *desk) ask(shard banyan.ShardID, question func(l *ledLocks, op uint64), reply func(coord.Answer, error)) *ledLocks {
	l := d.leads[shard]
	if l == nil || l.core == nil {
		reply(coord.Answer{}, banyan.Errorf(banyan.NotLeader, "shard %d is not led here", shard))
		return nil
	}
	l.lastOp++
	l.calls[l.lastOp] = func(a coord.Answer, err error) {
		if err != nil || !a.Confirm {
			reply(a, err)
			return
		}
		d.p.read(shard, func(err error) { reply(a, err) })
	}
	question(l, l.lastOp)
	d.act(l)
	return l
}

// acquire claims a lock and waits for it, if wait is not 0.
func (d *desk) acquire(shard banyan.ShardID, req *banyanv1.AcquireRequest, wait time.Duration, reply func(coord.Answer, error)) {
	wall := d.p.n.clock().UnixMilli()
	l := d.ask(shard, func(l *ledLocks, op uint64) { l.core.Acquire(d.now(), op, req, wall, wait > 0) }, reply)
	if l == nil || wait == 0 {
		return
	}
	op := l.lastOp
	d.p.after(wait, func() {
		if l.calls[op] == nil || d.leads[shard] != l {
			return
		}
		delete(l.calls, op)
		l.core.Forget(op, req.Lease, req.Name)
		still := &banyanv1.AcquireRequest{Name: req.Name, Lease: req.Lease, Shared: req.Shared, Permits: req.Permits}
		d.acquire(shard, still, 0, reply)
	})
}

func (d *desk) release(shard banyan.ShardID, lease uint64, name string, reply func(coord.Answer, error)) {
	d.ask(shard, func(l *ledLocks, op uint64) { l.core.Release(d.now(), op, lease, name) }, reply)
}

// keepAlive is Service.KeepAlive of one lease.
func (d *desk) keepAlive(shard banyan.ShardID, partition string, lease uint64, reply func(ended bool, err error)) {
	l := d.leads[shard]
	if l == nil || l.core == nil {
		reply(false, banyan.Errorf(banyan.NotLeader, "shard %d is not led here", shard))
		return
	}
	gone := l.core.KeepAlive(d.now(), []uint64{lease})
	d.p.read(shard, func(err error) {
		if err != nil || len(gone) > 0 {
			reply(true, err)
			return
		}
		row, err := mvcc.Get(d.p.store.Shard(shard).Latest(), coord.LeaseRow(partition, lease), 0)
		d.p.unread(err)
		reply(row == nil, err)
	})
}
