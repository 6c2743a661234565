package metric

import (
	"sync"
	"time"

	"banyan/obs"
)

// BeatEvery is how long after a beat the next one is due. It is no part or
// multiple of the 100 ms in which Linux deals out a container's CPU: else each
// beat could fall just where the process has some.
const BeatEvery = 130 * time.Millisecond

const (
	pauseMin   = 20 * time.Millisecond // a beat that is later than this ends a pause
	pausesKept = 1024
)

// pulse knows when this process did not run. A beat waits for nothing but the
// clock and a CPU, so it is never late because of the disk or the network.
type pulse struct {
	mu     sync.Mutex
	last   time.Time // the last beat; zero: there was none
	pauses *obs.Ring[pause]
}

// pause is the time from one beat to the next, which was late. How late is what
// the process stood still at least; of the rest nobody knows.
type pause struct{ from, to time.Time }

func (p pause) late() time.Duration {
	if p.from.IsZero() {
		return 0
	}
	return p.to.Sub(p.from) - BeatEvery
}

// beat says how late it is; 0: on time.
func (p *pulse) beat(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	late := p.overdue(now)
	p.last = now
	if late.late() > 0 {
		p.pauses.Put(late)
	}
	return late.late()
}

// overdue gives the pause that has not ended yet: what was delayed by it may
// go on before the next beat does.
func (p *pulse) overdue(now time.Time) pause {
	if late := (pause{p.last, now}); late.late() >= pauseMin {
		return late
	}
	return pause{}
}

// upTo gives the pauses that are kept, and the one under way.
func (p *pulse) upTo(now time.Time) []pause {
	p.mu.Lock()
	defer p.mu.Unlock()
	return append(p.pauses.All(), p.overdue(now))
}

// within gives for how much of the time between from and to the process did not
// run, and for how much it may not have.
func within(pauses []pause, from, to time.Time) (still, doubt time.Duration) {
	for _, p := range pauses {
		still += overlap(p.to.Add(-p.late()), p.to, from, to)
		doubt += overlap(p.from, p.to, from, to)
	}
	return still, doubt
}

func overlap(a, b, from, to time.Time) time.Duration {
	if a.Before(from) {
		a = from
	}
	if b.After(to) {
		b = to
	}
	return max(b.Sub(a), 0)
}

// Beat is to be called BeatEvery after the last time, by a goroutine that does
// nothing else. It gives how long the process did not run before; 0: it did.
func (s *Set) Beat(now time.Time) time.Duration {
	paused := s.pulse.beat(now)
	if paused > 0 {
		s.paused.Observe(paused)
	}
	if paused >= SlowAfter {
		s.slowAt(now, Slow{What: "pause", Shard: -1, Took: paused})
	}
	return paused
}

// Paused gives for how much of the last d, at least, this process did not run:
// it was paused, or had no CPU. Without Beat nobody knows, and it is 0.
func (s *Set) Paused(d time.Duration) time.Duration { return s.pausedAt(time.Now(), d) }

func (s *Set) pausedAt(now time.Time, d time.Duration) time.Duration {
	if s == nil || d < pauseMin {
		return 0
	}
	still, _ := within(s.pulse.upTo(now), now.Add(-d), now)
	return still
}
