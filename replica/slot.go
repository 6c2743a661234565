package replica

import (
	"sync/atomic"

	"banyan"
)

// slot is what callers see of a replica without asking the loop.
type slot struct {
	shard banyan.ShardID
	view  atomic.Pointer[View]

	proposals, bytes atomic.Int64 // waiting for their result
	reads            atomic.Int64
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
	case s == nil:
		s = &slot{shard: v.Shard}
		s.view.Store(&v)
		h.mu.Lock()
		h.slots[v.Shard] = s
		h.mu.Unlock()
	default:
		if before := s.view.Swap(&v); v.Leader != 0 && v.Leader != before.Leader {
			h.meter.leaders.Inc()
		}
	}
}

// slot is nil if there is no replica of the shard here.
func (h *Host) slot(shard banyan.ShardID) *slot {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.slots[shard]
}
