package sim

import (
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/harness"
	"banyan/core/mvcc"
	"banyan/layer/coord"
)

// desk is a process's controllers of locks: the seats of coord, without
// coord.Service.
type desk struct {
	shell
	lives uint64
}

// ledLocks is one shard led here.
type ledLocks struct {
	*chair
	coord.Seat
	d *desk
}

func (p *process) openDesk() {
	d := &desk{shell: shell{
		p: p, mark: 0xfe, chairs: map[banyan.ShardID]*chair{},
		stale: "decision about locks refused by its term", reread: "command of locks refused behind one that was lost",
	}}
	d.now = func() harness.Time {
		return harness.Time{Now: p.clock().Milliseconds(), Wall: p.n.clock().UnixMilli()}
	}
	d.open = func(c *chair) seat { return &ledLocks{chair: c, d: d} }
	p.desk = d
}

// load makes the core of what the rows say.
func (l *ledLocks) load() error {
	view, err := l.p.store.View(l.shard)
	if err != nil {
		return l.readable("locks", err)
	}
	defer view.Close()
	rows, _, err := mvcc.Range(view, coord.All())
	if err == nil {
		l.d.lives++
		err = l.Open(l.shard, l.now().Now, l.term, l.d.lives, rows)
	}
	if err != nil {
		return l.readable("locks", err)
	}
	if leases, _ := l.Core().Counts(); leases > 0 {
		l.p.w.reach("locks taken over")
	}
	return nil
}

// gone answers everybody who waits.
func (l *ledLocks) gone() {
	l.Seat.Refuse(banyan.Errorf(banyan.NotLeader, "shard %d is not led here", l.shard))
}

// Next notices when several commands are under way.
func (l *ledLocks) Next(t harness.Time) *mvcc.Command {
	cmd := l.Seat.Next(t)
	if cmd != nil && l.h.InFlight() > 0 {
		l.p.w.reach("commands of locks under way together")
	}
	return cmd
}

// ledBy gives the locks of a shard that is led here and read.
func (d *desk) ledBy(shard banyan.ShardID) *ledLocks {
	c := d.chairs[shard]
	if c == nil || c.seat.(*ledLocks).Core() == nil {
		return nil
	}
	return c.seat.(*ledLocks)
}

// ask puts a question to the core of a shard, and sees to it that the answer
// is this node's to give.
func (d *desk) ask(shard banyan.ShardID, question func(c *coord.Core, op uint64), reply func(coord.Answer, error)) (l *ledLocks, op uint64) {
	l = d.ledBy(shard)
	if l == nil {
		reply(coord.Answer{}, banyan.Errorf(banyan.NotLeader, "shard %d is not led here", shard))
		return nil, 0
	}
	op = l.Ask(question, func(a coord.Answer, err error) {
		d.p.after(0, func() {
			if err != nil || !a.Confirm {
				reply(a, err)
				return
			}
			d.p.read(shard, func(err error) { reply(a, err) })
		})
	})
	l.step()
	return l, op
}

// acquire claims a lock and waits for it, if wait is not 0.
func (d *desk) acquire(shard banyan.ShardID, req *banyanv1.AcquireRequest, wait time.Duration, reply func(coord.Answer, error)) {
	t := d.now()
	l, op := d.ask(shard, func(c *coord.Core, op uint64) { c.Acquire(t.Now, op, req, t.Wall, wait > 0) }, reply)
	if l == nil || wait == 0 {
		return
	}
	d.p.after(wait, func() {
		if !l.current() || !l.Drop(op) {
			return
		}
		l.Core().Forget(op, req.Lease, req.Name)
		still := &banyanv1.AcquireRequest{Name: req.Name, Lease: req.Lease, Shared: req.Shared, Permits: req.Permits}
		d.acquire(shard, still, 0, reply)
	})
}

func (d *desk) release(shard banyan.ShardID, lease uint64, name string, reply func(coord.Answer, error)) {
	d.ask(shard, func(c *coord.Core, op uint64) { c.Release(d.now().Now, op, lease, name) }, reply)
}

// keepAlive is Service.KeepAlive of one lease.
func (d *desk) keepAlive(shard banyan.ShardID, partition string, lease uint64, reply func(ended bool, err error)) {
	l := d.ledBy(shard)
	if l == nil {
		reply(false, banyan.Errorf(banyan.NotLeader, "shard %d is not led here", shard))
		return
	}
	gone := l.Core().KeepAlive(d.now().Now, []uint64{lease})
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
