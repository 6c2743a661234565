package metric

import "time"

// SlowAfter is how long an operation takes before it is put into the slow log.
const SlowAfter = 200 * time.Millisecond

// Slow is an operation that took long. It says nothing of a user's data.
type Slow struct {
	At     time.Time // when it ended
	What   string    // proposal, read, fsync, the call at a door; pause: of this process
	Shard  int       // of which shard; -1: of none
	Took   time.Duration
	Waits  []Wait // what it is known to have waited for, one after another
	Failed string // the kind of its error, if it failed
}

// Wait is a part of a slow operation's time.
type Wait struct {
	For  string
	Took time.Duration
}

// pausedWait is what an operation waits for while this process does not run.
const pausedWait = "this process: paused, or without CPU"

// Slow puts an operation that ends now into the slow log, in the place of the
// oldest one. What it waited for while this process did not run is not to
// blame: the log says so.
func (s *Set) Slow(op Slow) {
	if s != nil {
		s.slowAt(time.Now(), op)
	}
}

func (s *Set) slowAt(now time.Time, op Slow) {
	op.At = now
	op.acquit(s.pulse.upTo(now))
	s.slow.Put(op)
}

// acquit takes the pauses out of what the operation waited for. Unless it was
// slow in the time in which the process surely ran, they are all there is to say.
func (op *Slow) acquit(pauses []pause) {
	from := op.At.Add(-op.Took)
	still, doubt := within(pauses, from, op.At)
	if still == 0 {
		return
	}
	waits := []Wait{{For: pausedWait, Took: still}}
	if op.Took-doubt >= SlowAfter {
		for _, w := range op.Waits {
			to := from.Add(w.Took)
			still, _ := within(pauses, from, to)
			waits = append(waits, Wait{w.For, w.Took - still})
			from = to
		}
	}
	op.Waits = waits
}

// SlowOps gives the slow log, oldest first.
func (s *Set) SlowOps() []Slow { return s.slow.All() }
