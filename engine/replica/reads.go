package replica

import (
	"context"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

const (
	readersMax  = 16 // reads of ReadThen that may wait for the disk at once
	readsAtOnce = 64 // that one reader answers one after another
)

// ReadIndex returns when this node has proved, after the call, that it leads
// the shard, and has applied all that was acknowledged before: a View taken
// then is linearizable. Else it is NotLeader, with a hint.
func (h *Host) ReadIndex(ctx context.Context, shard banyan.ShardID) (err error) {
	s, err := h.admitRead(shard)
	if err != nil {
		return err
	}
	defer s.reads.Add(-1)
	began := h.clock()
	defer func() { h.meter.proved(shard, h.clock()-began, err) }()
	answer := make(chan error, 1)
	if !h.in.read(shard, func(err error) { answer <- err }) {
		return errStopping
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return contextError(ctx, "shard %d: waiting for the proof that this node still leads", shard)
	case <-h.stopped:
		return errStopping
	}
}

// admitRead gives the slot of a shard that this node may lead, and counts one
// more read that waits there.
func (h *Host) admitRead(shard banyan.ShardID) (*slot, error) {
	s := h.slot(shard)
	if s == nil {
		return nil, errNoReplica(shard)
	}
	if v := s.view.Load(); v.Leader != h.cfg.Node {
		return nil, errNotLeader(shard, v.Leader)
	}
	if s.reads.Add(1) > banyan.ReadsMax {
		s.reads.Add(-1)
		h.meter.crowdedReads.Inc()
		return nil, errCrowded(shard)
	}
	return s, nil
}

// readThen is one read of ReadThen.
type readThen struct {
	host  *Host
	slot  *slot
	began time.Duration
	err   error
	then  func(error)
}

// ReadThen is ReadIndex for a caller that does not wait: if it returns nil,
// then is called once with what ReadIndex would have returned, from a goroutine
// that may read, but on which others wait to read too.
func (h *Host) ReadThen(shard banyan.ShardID, then func(error)) error {
	s, err := h.admitRead(shard)
	if err != nil {
		return err
	}
	r := &readThen{host: h, slot: s, began: h.clock(), then: then}
	if !h.in.read(shard, r.done) {
		s.reads.Add(-1)
		return errStopping
	}
	return nil
}

// done takes the proof, or why there is none. The loop, or who cleans up after
// it, calls it.
func (r *readThen) done(err error) {
	r.err = err
	r.host.meter.proved(r.slot.shard, r.host.clock()-r.began, err)
	r.host.proved = append(r.host.proved, r)
}

func (r *readThen) answer(err error) {
	r.slot.reads.Add(-1)
	r.then(err)
}

// serveReads lets reads go on that have their proof.
func (h *Host) serveReads(context.Context) error {
	for {
		reads := h.reads.take(readsAtOnce)
		if reads == nil {
			return nil
		}
		for _, r := range reads {
			r.answer(r.err)
		}
	}
}

// Get reads one key as of now, like a View but cheaper: row is what the key was
// at a revision that is not before now, nil if it was not there.
func (h *Host) Get(shard banyan.ShardID, key []byte) (row *mvcc.Row, at banyan.Revision, err error) {
	if h.slot(shard) == nil {
		return nil, 0, errNoReplica(shard)
	}
	at = h.hub.Revision(shard)
	row, err = mvcc.Get(h.cfg.Store.Shard(shard).Latest(), key, 0)
	if err != nil {
		return nil, 0, err
	}
	if row != nil {
		return row, max(at, row.Mod), h.Holds(shard, key, nil) // it has not changed since at, or did then
	}
	view, err := h.cfg.Store.View(shard) // at may have been before it went
	if err != nil {
		return nil, 0, err
	}
	defer view.Close()
	if at, err = mvcc.RevisionOf(view); err == nil {
		row, err = mvcc.Get(view, key, 0)
	}
	if err == nil {
		err = Held(view, shard, key, nil)
	}
	return row, at, err
}

// Holds gives Moved unless the shard's replica here holds the rows [lo, hi), or
// lo alone if hi is nil. It is asked after they were read: a shard only loses
// rows, and says so before it does, so what it still holds was its own before.
func (h *Host) Holds(shard banyan.ShardID, lo, hi []byte) error {
	if h.hub.Holds(shard, lo, hi) {
		return nil
	}
	return errMoved(shard)
}
