package coord

import (
	"context"
	"sync"
	"time"

	"banyan"
	"banyan/core/harness"
	"banyan/core/mvcc"
	"banyan/engine/seam"
)

// lead is a shard led here: its Seat under a lock.
type lead struct {
	*seam.Chair
	s *Service

	mu   sync.Mutex
	seat Seat
}

var _ seam.Seat = (*lead)(nil)

// open makes the seat of a shard.
func (s *Service) open(c *seam.Chair) seam.Seat { return &lead{Chair: c, s: s} }

// Load makes the core of what the rows say.
func (l *lead) Load(ctx context.Context) error {
	var rows []mvcc.Row
	for q := All(); ; {
		page, more, err := l.s.cfg.Led.Range(ctx, l.Shard, q)
		if err != nil {
			return err
		}
		rows = append(rows, page...)
		if !more {
			break
		}
		last := page[len(page)-1].Key[slotBytes:]
		q.Lo = append(last[:len(last):len(last)], 0)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seat.Open(l.Shard, l.s.now(), l.Term, l.s.lives.Add(1), rows)
}

// Close implements seam.Seat. Those who wait hear it from the chair's context.
func (l *lead) Close() {}

// Tick implements harness.Seat.
func (l *lead) Tick(t harness.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seat.Tick(t)
}

// Deadline implements harness.Seat.
func (l *lead) Deadline() (at int64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seat.Deadline()
}

// Next implements harness.Seat.
func (l *lead) Next(t harness.Time) *mvcc.Command {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seat.Next(t)
}

// Committed implements harness.Seat.
func (l *lead) Committed(t harness.Time, res mvcc.Result) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seat.Committed(t, res)
}

// Refused implements harness.Seat.
func (l *lead) Refused(t harness.Time, err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.seat.Refused(t, err)
}

// reply is what a Seat says to one who asked.
type reply struct {
	Answer
	err error
}

// ask puts a question to the core and waits for the answer, which has Op 0 if
// none came within wait (0: however long it takes). forget tells the core then.
func (l *lead) ask(ctx context.Context, wait time.Duration, question func(c *Core, op uint64), forget func(c *Core, op uint64)) (Answer, error) {
	ch := make(chan reply, 1)
	l.mu.Lock()
	op := l.seat.Ask(question, func(a Answer, err error) { ch <- reply{a, err} })
	l.mu.Unlock()
	l.Wake()
	var over <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	var err error
	select {
	case r := <-ch:
		return r.Answer, r.err
	case <-over:
	case <-l.Ctx.Done():
		err = seam.NotLed(l.Shard)
	case <-ctx.Done():
		err = banyan.Errorf(banyan.Timeout, "gave up waiting for shard %d; it may still happen: %w", l.Shard, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seat.Drop(op)
	if forget != nil {
		forget(l.seat.core, op)
	}
	select {
	case r := <-ch: // it came after all
		return r.Answer, r.err
	default:
	}
	return Answer{}, err
}

// leadOf gives the controller of a shard once it has read the rows, NotLeader
// where the shard is not led.
func (s *Service) leadOf(ctx context.Context, shard banyan.ShardID) (*lead, error) {
	c, err := s.Await(ctx, shard)
	if err != nil {
		return nil, err
	}
	return c.Seat().(*lead), nil
}
