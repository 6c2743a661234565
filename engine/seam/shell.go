package seam

import (
	"context"
	"sync"
	"time"

	"banyan"
	"banyan/core/harness"
	"banyan/core/mvcc"
)

// Chair is a shard led here in a term.
type Chair struct {
	Shard  banyan.ShardID
	Term   uint64
	Ctx    context.Context // ends with the leadership
	Loaded chan struct{}   // closed once the rows were read for the first time

	seat   Seat
	cancel context.CancelFunc
	wake   chan struct{}

	mu      sync.Mutex
	answers []func(*harness.Harness, harness.Time)
}

// Seat gives what the layer made of the chair.
func (c *Chair) Seat() Seat { return c.seat }

// Wake has the seat asked for commands.
func (c *Chair) Wake() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// give hands the harness something.
func (c *Chair) give(input func(*harness.Harness, harness.Time)) {
	c.mu.Lock()
	c.answers = append(c.answers, input)
	c.mu.Unlock()
	c.Wake()
}

func (c *Chair) take() []func(*harness.Harness, harness.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all := c.answers
	c.answers = nil
	return all
}

// control carries out what a chair's harness wants, until leadership ends.
func (o *Office) control(c *Chair) {
	h, loaded := harness.New(c.seat, banyan.NewRequestID), false
	for c.Ctx.Err() == nil && !h.Over() {
		e := h.Effects()
		for _, n := range e.Notes {
			logger := o.logger.With("what", n.What, "of", o.layer, "shard", c.Shard, "term", c.Term, "error", n.Err)
			if n.Fault {
				logger.Error("a command of a controller was refused")
				continue
			}
			logger.Warn("a controller tries again")
		}
		for _, x := range e.Commits {
			o.led.Commit(c.Ctx, c.Shard, x.Command, func(res mvcc.Result, err error) {
				c.give(func(h *harness.Harness, t harness.Time) { h.Answer(t, x.N, res, err) })
			})
		}
		if e.Load {
			err := c.seat.Load(c.Ctx)
			if err == nil && !loaded {
				loaded = true
				close(c.Loaded)
			}
			h.Loaded(o.now(), err)
			continue
		}
		o.rest(c, h)
		for _, input := range c.take() {
			input(h, o.now())
		}
		h.Step(o.now())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unlead(c)
}

// rest waits until there is something to do.
func (o *Office) rest(c *Chair, h *harness.Harness) {
	var due <-chan time.Time
	if at, timed := h.Timer(); timed {
		t := time.NewTimer(max(time.Duration(at-o.now().Now), 1) * time.Millisecond)
		defer t.Stop()
		due = t.C
	}
	select {
	case <-c.wake:
	case <-due:
	case <-c.Ctx.Done():
	}
}
