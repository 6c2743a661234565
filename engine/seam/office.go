package seam

import (
	"context"
	"log/slog"
	"maps"
	"slices"
	"sync"

	"banyan"
	"banyan/core/harness"
)

// Seat is a layer's part beside the leader of one shard. Its methods are called
// by one goroutine, but Close by any.
type Seat interface {
	harness.Seat
	// Load reads the rows and makes of them what the seat decides by.
	Load(ctx context.Context) error
	// Close says, once, that the shard is not led here any more.
	Close()
}

// Office is the controllers of one layer.
type Office struct {
	layer  string
	led    Led
	open   func(*Chair) Seat
	now    func() harness.Time
	logger *slog.Logger
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	chairs map[banyan.ShardID]*Chair
}

var _ Controller = (*Office)(nil)

// New makes the office of a layer. open makes the seat of a shard; it may not
// block, nor call the office.
func New(layer string, led Led, open func(*Chair) Seat, now func() harness.Time, logger *slog.Logger) *Office {
	return &Office{layer: layer, led: led, open: open, now: now, logger: logger, chairs: map[banyan.ShardID]*Chair{}}
}

// Lead implements Controller.
func (o *Office) Lead(shard banyan.ShardID, term uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if c := o.chairs[shard]; c != nil && c.Term == term {
		c.give((*harness.Harness).Again)
		return
	}
	o.unlead(o.chairs[shard])
	if o.closed {
		return
	}
	c := &Chair{Shard: shard, Term: term, Loaded: make(chan struct{}), wake: make(chan struct{}, 1)}
	c.Ctx, c.cancel = context.WithCancel(context.Background())
	c.seat = o.open(c)
	o.chairs[shard] = c
	o.wg.Go(func() { o.control(c) })
}

// Unlead implements Controller.
func (o *Office) Unlead(shard banyan.ShardID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.unlead(o.chairs[shard])
}

// unlead ends a chair unless it has ended. The lock is held.
func (o *Office) unlead(c *Chair) {
	if c != nil && o.chairs[c.Shard] == c {
		delete(o.chairs, c.Shard)
		c.cancel()
		c.seat.Close()
	}
}

// Close ends every controller and waits for them.
func (o *Office) Close() {
	o.mu.Lock()
	o.closed = true
	for _, c := range o.chairs {
		o.unlead(c)
	}
	o.mu.Unlock()
	o.wg.Wait()
}

// Chairs lists the shards led here, in no order.
func (o *Office) Chairs() []*Chair {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Collect(maps.Values(o.chairs))
}

// Await gives the chair of a shard once its rows have been read, NotLeader
// where the shard is not led.
func (o *Office) Await(ctx context.Context, shard banyan.ShardID) (*Chair, error) {
	o.mu.Lock()
	c := o.chairs[shard]
	o.mu.Unlock()
	if c == nil {
		return nil, NotLed(shard)
	}
	select {
	case <-c.Loaded:
		return c, nil
	case <-c.Ctx.Done():
		return nil, NotLed(shard)
	case <-ctx.Done():
		return nil, banyan.Errorf(banyan.Timeout, "the %s of shard %d are still being read: ask again", o.layer, shard)
	}
}

// NotLed says that a shard is led elsewhere.
func NotLed(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.NotLeader, "shard %d is not led by this node: ask its leader", shard)
}
