package metric

import (
	"slices"
	"sync"
	"time"

	"banyan"
)

// SlowAfter is how long an operation takes before it is put into the slow log.
const SlowAfter = 200 * time.Millisecond

// Slow is an operation that took long. It says nothing of a user's data.
type Slow struct {
	At     time.Time // when it ended
	What   string    // proposal, read, fsync, or the call at a door
	Shard  int       // of which shard; -1: of none
	Took   time.Duration
	Waits  []Wait // what it is known to have waited for, in order
	Failed string // the kind of its error, if it failed
}

// Wait is a part of a slow operation's time.
type Wait struct {
	For  string
	Took time.Duration
}

// slowLog keeps the last slow operations.
type slowLog struct {
	mu   sync.Mutex
	ops  []Slow // a ring when full
	next int
}

// Slow puts an operation into the slow log, in the place of the oldest one.
func (s *Set) Slow(op Slow) {
	if s == nil {
		return
	}
	op.At = time.Now()
	l := &s.slow
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ops) < banyan.SlowOpsMax {
		l.ops = append(l.ops, op)
		return
	}
	l.ops[l.next] = op
	l.next = (l.next + 1) % len(l.ops)
}

// SlowOps gives the slow log, oldest first.
func (s *Set) SlowOps() []Slow {
	l := &s.slow
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Concat(l.ops[l.next:], l.ops[:l.next])
}
