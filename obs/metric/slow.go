package metric

import "time"

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

// Slow puts an operation into the slow log, in the place of the oldest one.
func (s *Set) Slow(op Slow) {
	if s == nil {
		return
	}
	op.At = time.Now()
	s.slow.Put(op)
}

// SlowOps gives the slow log, oldest first.
func (s *Set) SlowOps() []Slow { return s.slow.All() }
