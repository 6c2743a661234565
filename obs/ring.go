package obs

import (
	"slices"
	"sync"
)

// Ring keeps the last things that were put into it. It is safe for use by many
// goroutines.
type Ring[T any] struct {
	mu   sync.Mutex
	max  int
	all  []T
	next int // the oldest, once it is full
}

// NewRing gives a ring for at most so many.
func NewRing[T any](max int) *Ring[T] { return &Ring[T]{max: max} }

// Put adds one, in the place of the oldest if the ring is full.
func (r *Ring[T]) Put(v T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.all) < r.max {
		r.all = append(r.all, v)
		return
	}
	r.all[r.next] = v
	r.next = (r.next + 1) % r.max
}

// All gives a copy of what it holds, oldest first.
func (r *Ring[T]) All() []T {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Concat(r.all[r.next:], r.all[:r.next])
}
