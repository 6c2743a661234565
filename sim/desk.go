package sim

import (
	"encoding/binary"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/layer/coord"
)

// desk is a process's controllers of locks: what coord.Service does with
// goroutines, in the same order.
type desk struct {
	p        *process
	leads    map[banyan.ShardID]*ledLocks
	lives    uint64
	heardAt  time.Duration // when the latest word of leadership arrives
	requests uint64
}

// ledLocks is one shard led here.
type ledLocks struct {
	shard  banyan.ShardID
	term   uint64
	core   *coord.Core // nil until the rows are read
	calls  map[uint64]func(coord.Answer, error)
	lastOp uint64
	flight []*deskCommand // in order
	failed bool           // one of them: when it is clear what became of the rest, the rows are read again
}

// deskCommand is one on its way.
type deskCommand struct {
	*mvcc.Command
	over bool
	at   banyan.Revision // 0: not committed
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
	core, err := (*coord.Core)(nil), error(nil)
	view, err := d.p.store.View(l.shard)
	if err == nil {
		var rows []mvcc.Row
		if rows, _, err = mvcc.Range(view, coord.All()); err == nil {
			d.lives++
			core, err = coord.Open(d.now(), l.term, d.lives, rows)
		}
		view.Close()
	}
	switch {
	case err == nil:
		l.core, l.failed = core, false
		l.refuse(banyan.Errorf(banyan.Unavailable, "the locks of shard %d were read anew", l.shard))
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
	if l.failed {
		return
	}
	for cmd := l.core.Next(); cmd != nil; cmd = l.core.Next() {
		d.requests++
		binary.BigEndian.PutUint64(cmd.Request[:], d.p.w.cfg.Seed<<16|uint64(d.p.n.id)<<8|0xfe)
		binary.BigEndian.PutUint64(cmd.Request[8:], uint64(d.p.began)<<16|d.requests)
		c := &deskCommand{Command: cmd}
		l.flight = append(l.flight, c)
		if len(l.flight) > 1 {
			d.p.w.reach("commands of locks under way together")
		}
		d.commit(l, c, 5*time.Millisecond)
	}
}

// commit asks under the same request id until it is clear what became of it.
func (d *desk) commit(l *ledLocks, c *deskCommand, wait time.Duration) {
	d.p.propose(l.shard, c.Command, func(res mvcc.Result, err error) {
		d.p.after(0, func() {
			switch {
			case d.leads[l.shard] != l:
			case err == nil && res.Stale, banyan.IsKind(err, banyan.Stale):
				d.p.w.reach("decision about locks refused by its term")
				d.unlead(l)
			case err == nil && !res.OK && len(c.Conds) == 0:
				d.p.w.fail("%v: shard %d: a command of locks was refused: %+v", d.p.n.id, l.shard, res)
			case err == nil:
				c.over = true
				if res.OK {
					c.at = res.Revision
				}
				d.settle(l)
			default:
				d.p.after(wait, func() {
					if d.leads[l.shard] == l {
						d.commit(l, c, min(2*wait, 500*time.Millisecond))
					}
				})
			}
		})
	})
}

// settle tells the core, in order, of commands that are committed, until one
// has failed; behind that, and when none is under way any more, it begins anew.
func (d *desk) settle(l *ledLocks) {
	for len(l.flight) > 0 && l.flight[0].over {
		c := l.flight[0]
		l.flight = l.flight[1:]
		l.failed = l.failed || c.at == 0
		if !l.failed {
			l.core.Committed(c.at)
		}
	}
	d.act(l)
	if l.failed && len(l.flight) == 0 {
		d.p.w.reach("command of locks refused behind one that was lost")
		d.load(l)
	}
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
