package obs

import (
	"sync"
	"time"
)

// Seldom lets a line be logged now and then, and counts those in between, so
// that whoever causes it from outside cannot fill the log. The zero value lets
// one through each SeldomEvery.
type Seldom struct {
	mu   sync.Mutex
	last time.Time
	left int
}

// SeldomEvery is how often a line about the same thing is logged.
const SeldomEvery = 10 * time.Second

// Now says whether a line is due, and how many were left out since the last.
func (s *Seldom) Now(now time.Time) (leftOut int, due bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.last.IsZero() && now.Sub(s.last) < SeldomEvery {
		s.left++
		return 0, false
	}
	leftOut, s.left, s.last = s.left, 0, now
	return leftOut, true
}
