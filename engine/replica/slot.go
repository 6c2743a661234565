package replica

import (
	"sync"
	"sync/atomic"

	"banyan"
)

// slot is what callers see of a replica without asking the loop.
type slot struct {
	shard banyan.ShardID
	view  atomic.Pointer[View]

	proposals, bytes atomic.Int64 // waiting for their result
	reads            atomic.Int64

	mu      sync.Mutex
	changed chan struct{} // nil: nobody waits
}

// change is closed at the next change of leader, term or Leading.
func (s *slot) change() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed == nil {
		s.changed = make(chan struct{})
	}
	return s.changed
}

func (s *slot) hasChanged() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changed != nil {
		close(s.changed)
		s.changed = nil
	}
}

// reserve makes room for a proposal of n bytes, or refuses it.
func (s *slot) reserve(n int) error {
	if p, b := s.proposals.Add(1), s.bytes.Add(int64(n)); p > banyan.ProposalsMax || b > banyan.ProposalBytesMax {
		s.release(n)
		return errCrowded(s.shard)
	}
	return nil
}

func (s *slot) release(n int) {
	s.proposals.Add(-1)
	s.bytes.Add(-int64(n))
}

// show publishes what a replica knows about itself.
func (h *Host) show(v View) {
	h.mu.RLock()
	s := h.slots[v.Shard]
	h.mu.RUnlock()
	switch {
	case v.Gone:
		h.mu.Lock()
		delete(h.slots, v.Shard)
		h.mu.Unlock()
		if s != nil {
			h.hasMoved(s)
		}
	case s == nil:
		s = &slot{shard: v.Shard}
		s.view.Store(&v)
		h.mu.Lock()
		h.slots[v.Shard] = s
		h.mu.Unlock()
		h.hasMoved(s)
	default:
		before := s.view.Swap(&v)
		if v.Outdated && !before.Outdated {
			h.hub.TurnAway(v.Shard)
		}
		if v.Leader != 0 && v.Leader != before.Leader {
			h.meter.leaders.Inc()
		}
		if v.Leader != before.Leader || v.Term != before.Term || v.Leading != before.Leading {
			h.hasMoved(s)
		}
	}
}

// hasMoved tells who waits for a shard's leader to change, and who for any.
func (h *Host) hasMoved(s *slot) {
	s.hasChanged()
	select {
	case h.moved <- struct{}{}:
	default:
	}
}

// slot is nil if there is no replica of the shard here.
func (h *Host) slot(shard banyan.ShardID) *slot {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.slots[shard]
}
