package replica

import (
	"context"
	"errors"
	"io"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
)

// Rows gives the next row of a snapshot, io.EOF after the last. The slices
// need be valid only until the next call.
type Rows func() (key, value []byte, err error)

func fill(ctx context.Context, stage *store.Stage, rows Rows) error {
	for {
		if ctx.Err() != nil {
			return contextError(ctx, "receiving a snapshot")
		}
		k, v, err := rows()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = stage.Put(k, v)
		}
		if err != nil {
			return err
		}
	}
}

// sendSnapshots streams the snapshots that raft asks for, one after the other.
func (h *Host) sendSnapshots(ctx context.Context) error {
	for {
		some := h.sends.take(1)
		if some == nil {
			return nil
		}
		e := some[0]
		began := h.clock()
		err := h.sendSnapshot(ctx, e)
		h.meter.snapshotSent(h.clock()-began, err)
		switch {
		case err == nil:
			h.cfg.Logger.Info("sent a snapshot", "shard", e.Shard, "to", e.To, "took_ms", (h.clock() - began).Milliseconds())
		case ctx.Err() == nil:
			h.cfg.Logger.Warn("a snapshot could not be sent; it will be tried again", "shard", e.Shard, "to", e.To, "error", err)
		}
		h.post(func(c *Core) { c.ReportSnapshot(e.Shard, e.To, err == nil) })
	}
}

func (h *Host) sendSnapshot(ctx context.Context, e Envelope) error {
	view, err := h.cfg.Store.View(e.Shard)
	if err != nil {
		return err
	}
	defer view.Close()
	m, err := SnapshotMessage(e.Message, view)
	if err != nil {
		return err
	}
	return h.cfg.SendSnapshot(ctx, e.To, e.Shard, m, view)
}

// SnapshotMessage is the MsgSnap m, made to describe view, which may be newer
// than what raft knew. It fails if the view has entries of a later term: then
// this node no longer leads, and has nothing to send in its old term's name.
func SnapshotMessage(m *raftpb.Message, view *store.View) (*raftpb.Message, error) {
	index, term := view.AppliedIndex(), view.Term()
	if term > m.GetTerm() {
		return nil, banyan.Errorf(banyan.NotLeader, "a leader of term %d has no snapshot of term %d to send", m.GetTerm(), term)
	}
	return &raftpb.Message{
		Type: raftpb.MsgSnap.Enum(), From: m.From, To: m.To, Term: m.Term, Vote: m.Vote,
		Snapshot: &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
			Index: &index, Term: &term, ConfState: view.ConfState(),
		}},
	}, nil
}

// Tail is how full the tail of the shard's log is that is kept for replicas in
// need: at 1 it is truncated, and who has not caught up needs a snapshot. It is
// 0 if ctx has ended or there is no replica.
func (h *Host) Tail(ctx context.Context, shard banyan.ShardID) float64 {
	var full float64
	err := h.call(ctx, "looking at a log", func(c *Core, done func(error)) {
		if g := c.groups[shard]; g != nil {
			full = g.tail()
		}
		done(nil)
	})
	if err != nil {
		return 0 // full may still be written
	}
	return full
}

// ReceiveSnapshot takes a shard's state from another node: m, and rows until
// it gives io.EOF. It returns when the state is installed on the disk, or was
// not needed (nil both); then it may not have read all rows.
func (h *Host) ReceiveSnapshot(ctx context.Context, shard banyan.ShardID, m *raftpb.Message, rows Rows) error {
	if !h.receive(shard) {
		return banyan.Errorf(banyan.Unavailable, "shard %d is taking in another snapshot", shard)
	}
	defer h.received(shard)
	if applied, _ := h.cfg.Store.Shard(shard).Applied(); applied >= max(m.GetSnapshot().GetMetadata().GetIndex(), 1) {
		return nil
	}
	stage, err := h.cfg.Store.Stage(shard)
	if err != nil {
		return err
	}
	if err := fill(ctx, stage, rows); err != nil {
		stage.Abort()
		return err
	}
	answer := make(chan error, 1)
	h.post(func(c *Core) { c.StepSnapshot(shard, m, stage, func(err error) { answer <- err }) })
	select { // not ctx: the stage is the loop's until it answers
	case err = <-answer:
	case <-h.stopped:
		return errStopping // the next start clears the stage away
	}
	if err != nil {
		stage.Abort()
	} else {
		h.meter.received.Inc()
		h.cfg.Logger.Info("took in a snapshot", "shard", shard, "from", banyan.NodeID(m.GetFrom()), "index", m.GetSnapshot().GetMetadata().GetIndex())
	}
	if errors.Is(err, ErrNotTaken) {
		return nil
	}
	return err
}

func (h *Host) receive(shard banyan.ShardID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.receiving[shard] {
		return false
	}
	h.receiving[shard] = true
	return true
}

func (h *Host) received(shard banyan.ShardID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.receiving, shard)
}
