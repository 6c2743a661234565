package replica

import (
	"context"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// Step takes a raft message from another node. It never blocks; if the loop is
// too far behind, the message is dropped. The caller has checked that it comes
// from the node it names.
func (h *Host) Step(shard banyan.ShardID, m *raftpb.Message) {
	if !h.in.message(shard, m) {
		h.meter.dropped.Inc()
	}
}

// PeerLost says that a node's process is gone for certain (its machine refuses
// connections): shards that it led elect another leader at once.
func (h *Host) PeerLost(node banyan.NodeID) {
	h.post(func(c *Core) { c.PeerLost(node) })
}

// Act says at which protocol the cluster acts: what is written from now on is
// in the newest form that it has. All members must be able to read that; it
// never goes back.
func (h *Host) Act(protocol uint32) {
	for acts := h.acts.Load(); acts < protocol && !h.acts.CompareAndSwap(acts, protocol); acts = h.acts.Load() {
	}
	h.post(func(c *Core) { c.Act(protocol) })
}

// Acts is the newest protocol that Act was told of.
func (h *Host) Acts() uint32 { return h.acts.Load() }

func (h *Host) post(call func(*Core)) {
	h.in.put(func(in *intake) { in.calls = append(in.calls, call) })
}

// call runs f in the loop and waits for its answer.
func (h *Host) call(ctx context.Context, what string, f func(c *Core, done func(error))) error {
	answer := make(chan error, 1)
	h.post(func(c *Core) { f(c, func(err error) { answer <- err }) })
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return contextError(ctx, "%s", what)
	case <-h.stopped:
		return errStopping
	}
}

// waiter is one proposal and whoever waits for it.
type waiter struct {
	Proposal
	slot   *slot
	result mvcc.Result
	err    error
	ready  chan struct{}
	then   func() // nil: somebody waits for ready
}

func (w *waiter) done(res mvcc.Result, err error) {
	w.slot.release(len(w.Data))
	w.result, w.err = res, err
	close(w.ready)
	if w.then != nil {
		w.then()
	}
}

// Propose commits and applies a command here and returns its result. It sets
// Time, and Term if that is 0: the command takes effect in the present term
// or not at all. cmd is not modified or kept.
//
// NotLeader (with a hint), Stale, Exhausted and Invalid mean that nothing
// happened. Unavailable means that it may still happen: send it again, it takes
// effect once because of its Request. Without a Request that is Timeout
// instead, as it is when ctx ends. Forgotten means that this copy of the Request
// had no effect, and an earlier one may have had: see Command.Earliest.
func (h *Host) Propose(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	w, err := h.prepare(shard, cmd)
	if err != nil {
		return mvcc.Result{}, err
	}
	began := h.clock()
	if !h.in.propose(shard, &w.Proposal) {
		w.done(mvcc.Result{}, errStopping)
	}
	res, err := h.await(ctx, w, cmd.Request != banyan.RequestID{})
	h.meter.proposed(w, began, h.clock(), err)
	return res, err
}

// ProposeThen is Propose for a caller that does not wait: if it returns nil,
// done is called once with what Propose would have returned, from a goroutine
// that must not be held up.
func (h *Host) ProposeThen(shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) error {
	w, err := h.prepare(shard, cmd)
	if err != nil {
		return err
	}
	again := cmd.Request != banyan.RequestID{}
	began := h.clock()
	w.then = func() {
		res, err := w.outcome(again)
		h.meter.proposed(w, began, h.clock(), err)
		done(res, err)
	}
	if !h.in.propose(shard, &w.Proposal) {
		w.done(mvcc.Result{}, errStopping)
	}
	return nil
}

func (h *Host) prepare(shard banyan.ShardID, cmd *mvcc.Command) (*waiter, error) {
	s := h.slot(shard)
	if s == nil {
		return nil, errNoReplica(shard)
	}
	p, err := s.view.Load().Prepare(h.cfg.Node, cmd, h.cfg.NowMs())
	if err != nil {
		return nil, err
	}
	w := &waiter{Proposal: *p, slot: s, ready: make(chan struct{})}
	w.Done = w.done
	if err := s.reserve(len(w.Data)); err != nil {
		h.meter.crowdedProposals.Inc()
		return nil, err
	}
	return w, nil
}

func (h *Host) await(ctx context.Context, w *waiter, again bool) (mvcc.Result, error) {
	select {
	case <-w.ready:
	case <-ctx.Done():
		return mvcc.Result{}, contextError(ctx, "shard %d: waiting for the command to be applied; it still may be", w.slot.shard)
	case <-h.stopped:
		w = &waiter{err: errStopping}
	}
	return w.outcome(again)
}

// outcome is what the proposer is told. again: the command has a request id.
func (w *waiter) outcome(again bool) (mvcc.Result, error) {
	switch {
	case w.err != nil && IsUncertain(w.err) && !again:
		return mvcc.Result{}, banyan.Errorf(banyan.Timeout, "the command had no request id, so it cannot be sent again safely: %w", w.err)
	case w.err == nil && w.result.Stale:
		return mvcc.Result{}, errStale(w.slot.shard, w.Term, 0)
	case w.err == nil && w.result.Forgotten:
		return mvcc.Result{}, errForgotten(w.slot.shard)
	case w.err == nil && w.result.Moved:
		return mvcc.Result{}, errMoved(w.slot.shard)
	}
	return w.result, w.err
}

// Revision is the latest that is applied here, 0 if there is no replica.
func (h *Host) Revision(shard banyan.ShardID) banyan.Revision { return h.hub.Revision(shard) }

// View is the applied state as of now, to be closed soon. After ReadIndex it
// is linearizable, without it as old as Age says.
func (h *Host) View(shard banyan.ShardID) (*store.View, error) {
	if h.slot(shard) == nil {
		return nil, errNoReplica(shard)
	}
	return h.cfg.Store.View(shard)
}

// Age is how old at most the applied state here is, taking messages to travel
// in no time. It is Unavailable until a leader was heard of. Ask it before the
// View that it is about.
func (h *Host) Age(shard banyan.ShardID) (time.Duration, error) {
	s := h.slot(shard)
	if s == nil {
		return 0, errNoReplica(shard)
	}
	return s.view.Load().Age(h.clock())
}

// Watch follows the changes of the keys [lo, hi) behind a revision, from this
// replica, whether it leads or not.
func (h *Host) Watch(shard banyan.ShardID, lo, hi []byte, after banyan.Revision) (*Watcher, error) {
	if h.slot(shard) == nil {
		return nil, errNoReplica(shard)
	}
	w, err := h.hub.Watch(shard, lo, hi, after)
	if err == nil && h.slot(shard) == nil { // removed meanwhile: nobody would end the watch
		w.Close()
		return nil, errNoReplica(shard)
	}
	return w, err
}

// Leadership subscribes to which shards this node leads.
func (h *Host) Leadership() *LeadershipFeed { return h.board.subscribe() }

// Leader is the shard's leader as far as this replica knows, 0 if it does not,
// and the term.
func (h *Host) Leader(shard banyan.ShardID) (banyan.NodeID, uint64) {
	s := h.slot(shard)
	if s == nil {
		return 0, 0
	}
	v := s.view.Load()
	return v.Leader, v.Term
}

// Moved gives a value when replicas here have come, gone or learned of another
// leader or term since the last. It is for one listener.
func (h *Host) Moved() <-chan struct{} { return h.moved }

// LeaderChange is closed when the replica here next learns of another leader or
// term of the shard, or leads it; nil if there is none here.
func (h *Host) LeaderChange(shard banyan.ShardID) <-chan struct{} {
	s := h.slot(shard)
	if s == nil {
		return nil
	}
	return s.change()
}

// Current says whether there is a replica of the shard here that keeps up with
// its leader.
func (h *Host) Current(shard banyan.ShardID) bool {
	s := h.slot(shard)
	return s != nil && !s.view.Load().Outdated
}

// Hosts says whether there is a replica of the shard here.
func (h *Host) Hosts(shard banyan.ShardID) bool { return h.slot(shard) != nil }

// Reconfigure makes voters and learners the shard's replicas and returns when
// they are: by joint consensus if more than one changes. Only the leader can,
// and it stays a voter; a new voter must have been a learner that has caught up
// (else Unavailable), and the number of voters is odd, or goes from one
// to two while a sole voter moves to another node. After Unavailable or
// Timeout it may have happened: look at Status.
func (h *Host) Reconfigure(ctx context.Context, shard banyan.ShardID, voters, learners []banyan.NodeID) error {
	return h.call(ctx, "changing the replicas of a shard; it may still happen", func(c *Core, done func(error)) {
		c.Reconfigure(shard, voters, learners, done)
	})
}

// TransferLeader hands the shard to another voter and returns when this node
// no longer leads it. Only the leader can.
func (h *Host) TransferLeader(ctx context.Context, shard banyan.ShardID, to banyan.NodeID) error {
	return h.call(ctx, "handing over a shard", func(c *Core, done func(error)) { c.TransferLeader(shard, to, done) })
}

// Remove destroys the replica here. The caller has made sure, after it saw this
// tenure in the Status, that the shard no longer counts on it; if the replica
// has heard more since, it stays (Unavailable). Late messages do not bring it
// back, Readmit does.
func (h *Host) Remove(ctx context.Context, shard banyan.ShardID, seen Tenure) error {
	return h.call(ctx, "removing a replica", func(c *Core, done func(error)) { c.Remove(shard, seen, done) })
}

// Readmit lets a replica that was removed from this node come back, empty: the
// shard's leader will send it a snapshot.
func (h *Host) Readmit(shard banyan.ShardID) error {
	if !h.cfg.Store.Tombstoned(shard) {
		return nil
	}
	b := h.cfg.Store.NewBatch()
	b.ClearTombstone(shard)
	return b.Commit(true)
}
