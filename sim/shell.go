package sim

import (
	"encoding/binary"
	"time"

	"banyan"
	"banyan/core/harness"
	"banyan/core/mvcc"
	"banyan/engine/replica"
)

// shell is the controllers of one layer in a process: around the same harness
// and the same seats, what seam.Office does with goroutines is done by events.
type shell struct {
	p        *process
	mark     byte   // of the layer, in request ids
	stale    string // what is reached when a term is over
	reread   string // what is reached when rows are read again
	open     func(*chair) seat
	now      func() harness.Time
	chairs   map[banyan.ShardID]*chair
	requests uint64
	heardAt  time.Duration // when the latest word of leadership arrives
}

// seat is a layer's part beside the leader of one shard.
type seat interface {
	harness.Seat
	load() error
	gone()
}

// chair is a shard led here in a term.
type chair struct {
	*shell
	shard banyan.ShardID
	term  uint64
	seat  seat
	h     *harness.Harness
	loads int
	due   int64 // of the earliest timer planned; 0: none
}

// hear brings word of leadership, in order, and sometimes late: until then a
// controller goes on in a term that is over.
func (s *shell) hear(l replica.Leadership) {
	d := s.p.work(100 * time.Microsecond)
	if s.p.w.chance(0.3) {
		d = s.p.w.between(0, 3*time.Second)
	}
	s.heardAt = max(s.heardAt+1, s.p.w.now+d)
	s.p.after(s.heardAt-s.p.w.now, func() { s.lead(l) })
}

func (s *shell) lead(l replica.Leadership) {
	if c := s.chairs[l.Shard]; c != nil && l.Leading && c.term == l.Term {
		s.p.w.reach("controller told of a split")
		c.h.Again(s.now())
		c.act()
		return
	}
	s.unlead(s.chairs[l.Shard])
	if !l.Leading {
		return
	}
	c := &chair{shell: s, shard: l.Shard, term: l.Term}
	c.seat = s.open(c)
	c.h = harness.New(c.seat, s.name)
	s.chairs[l.Shard] = c
	s.p.after(s.p.work(time.Millisecond), c.act)
}

func (s *shell) unlead(c *chair) {
	if c != nil && c.current() {
		delete(s.chairs, c.shard)
		c.seat.gone()
	}
}

// name gives a request id that no other process and no other layer gives.
func (s *shell) name() (id banyan.RequestID) {
	s.requests++
	binary.BigEndian.PutUint64(id[:], s.p.w.cfg.Seed<<16|uint64(s.p.n.id)<<8|uint64(s.mark))
	binary.BigEndian.PutUint64(id[8:], uint64(s.p.began)<<16|s.requests)
	return id
}

func (c *chair) current() bool { return c.chairs[c.shard] == c }

// wake has the seat asked for commands, soon.
func (c *chair) wake() { c.p.after(c.p.work(50*time.Microsecond), c.step) }

func (c *chair) step() {
	c.h.Step(c.now())
	c.act()
}

// act carries out what the harness wants.
func (c *chair) act() {
	for e := c.h.Effects(); c.current(); e = c.h.Effects() {
		if c.h.Over() {
			c.p.w.reach(c.stale)
			c.unlead(c)
			return
		}
		for _, x := range e.Commits {
			c.propose(x)
		}
		if !e.Load {
			break
		}
		if c.loads++; c.loads > 1 {
			c.p.w.reach(c.reread)
		}
		c.h.Loaded(c.now(), c.seat.load())
	}
	c.plan()
}

func (c *chair) propose(x harness.Commit) {
	c.p.propose(c.shard, x.Command, func(res mvcc.Result, err error) {
		c.p.after(0, func() {
			if c.current() {
				c.h.Answer(c.now(), x.N, res, err)
				c.act()
			}
		})
	})
}

// plan sets the timer that the harness wants.
func (c *chair) plan() {
	at, timed := c.h.Timer()
	if !timed || !c.current() || c.due != 0 && c.due <= at {
		return
	}
	c.due = at
	c.p.after(time.Duration(max(at-c.now().Now, 1))*time.Millisecond, func() {
		if c.due == at && c.current() {
			c.due = 0
			c.step()
		}
	})
}

// readable sorts what went wrong when rows were read: what passes is tried
// again by the harness, what should not be fails the run.
func (c *chair) readable(what string, err error) error {
	if err != nil && !c.p.unread(err) && !banyan.IsKind(err, banyan.NotFound) {
		c.p.w.fail("%v: shard %d: %s: %v", c.p.n.id, c.shard, what, err)
	}
	return err
}
