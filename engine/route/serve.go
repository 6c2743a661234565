package route

import (
	"context"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/internal/pause"

	"connectrpc.com/connect"
)

// Handler answers the rows part of the peer service for shards hosted here.
// It never forwards: a caller that guessed wrong gets NotLeader with a hint.
type Handler struct{ r *Router }

// Handler gives the part of the peer service that route answers.
func (r *Router) Handler() *Handler { return &Handler{r} }

// Commit proposes at this replica.
func (h *Handler) Commit(ctx context.Context, req *connect.Request[peerv1.CommitRequest]) (*connect.Response[peerv1.CommitResponse], error) {
	cmd, err := mvcc.Decode(req.Msg.Command)
	if err != nil {
		return nil, err
	}
	if cmd.Term != 0 {
		return nil, banyan.Errorf(banyan.Invalid, "a fenced command is proposed by its own leader only")
	}
	if req.Msg.UserWrite {
		ctx = UserWrite(ctx)
	}
	res, err := h.r.propose(ctx, banyan.ShardID(req.Msg.Shard), cmd)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.CommitResponse{Result: res.Encode(nil)}), nil
}

// Read reads at this replica: linearizable if it leads, or stale.
func (h *Handler) Read(ctx context.Context, req *connect.Request[peerv1.ReadRequest]) (*connect.Response[peerv1.ReadResponse], error) {
	m := req.Msg
	res, err := h.r.readLocal(ctx, banyan.ShardID(m.Shard), ReadQuery{
		Key: m.Key, End: m.End, At: banyan.Revision(m.Revision), Limit: int(m.Limit), EachSlot: m.EachSlot, KeysOnly: m.KeysOnly, Stale: m.Stale,
		FromSlot: int(m.FromSlot), UntilSlot: int(m.UntilSlot),
	})
	if err != nil {
		return nil, err
	}
	out := &peerv1.ReadResponse{Revision: uint64(res.Revision), More: res.More, AgeMs: res.Age.Milliseconds(), UntilSlot: uint32(res.UntilSlot)}
	for i := range res.Rows {
		out.Rows = append(out.Rows, toRow(&res.Rows[i]))
	}
	return connect.NewResponse(out), nil
}

// Watch streams changes from this replica.
func (h *Handler) Watch(ctx context.Context, req *connect.Request[peerv1.WatchRowsRequest], stream *connect.ServerStream[peerv1.WatchRowsResponse]) error {
	m := req.Msg
	return h.r.watchLocal(ctx, banyan.ShardID(m.Shard), m.Key, m.End, banyan.Revision(m.FromRevision), func(evs []mvcc.Event, upTo banyan.Revision) error {
		out := &peerv1.WatchRowsResponse{Revision: uint64(upTo)}
		for i := range evs {
			out.Events = append(out.Events, &peerv1.RowEvent{Deleted: evs[i].Deleted, Row: toRow(&evs[i].Row), End: evs[i].End})
		}
		return stream.Send(out)
	})
}

// Reconfigure changes the replicas of a shard that this node leads.
func (h *Handler) Reconfigure(ctx context.Context, req *connect.Request[peerv1.ReconfigureRequest]) (*connect.Response[peerv1.ReconfigureResponse], error) {
	err := h.r.cfg.Host.Reconfigure(ctx, banyan.ShardID(req.Msg.Shard), nodeIDs(req.Msg.Voters), nodeIDs(req.Msg.Learners))
	return connect.NewResponse(&peerv1.ReconfigureResponse{}), err
}

// TransferLeader hands a shard that this node leads to another voter.
func (h *Handler) TransferLeader(ctx context.Context, req *connect.Request[peerv1.TransferLeaderRequest]) (*connect.Response[peerv1.TransferLeaderResponse], error) {
	err := h.r.cfg.Host.TransferLeader(ctx, banyan.ShardID(req.Msg.Shard), banyan.NodeID(req.Msg.To))
	return connect.NewResponse(&peerv1.TransferLeaderResponse{}), err
}

// Reconfigure asks the shard's leader to change its replicas.
func (r *Router) Reconfigure(ctx context.Context, shard banyan.ShardID, voters, learners []banyan.NodeID) error {
	return r.atLeader(ctx, shard, func(ctx context.Context) error {
		return r.cfg.Host.Reconfigure(ctx, shard, voters, learners)
	}, func(ctx context.Context, peer peerv1connect.PeerClient) error {
		_, err := peer.Reconfigure(ctx, connect.NewRequest(&peerv1.ReconfigureRequest{
			Shard: uint32(shard), Voters: rawIDs(voters), Learners: rawIDs(learners),
		}))
		return err
	})
}

// TransferLeader asks the shard's leader to hand over to another voter.
func (r *Router) TransferLeader(ctx context.Context, shard banyan.ShardID, to banyan.NodeID) error {
	return r.atLeader(ctx, shard, func(ctx context.Context) error {
		return r.cfg.Host.TransferLeader(ctx, shard, to)
	}, func(ctx context.Context, peer peerv1connect.PeerClient) error {
		_, err := peer.TransferLeader(ctx, connect.NewRequest(&peerv1.TransferLeaderRequest{Shard: uint32(shard), To: uint64(to)}))
		return err
	})
}

// Split forks a shard that this node leads.
func (h *Handler) Split(ctx context.Context, req *connect.Request[peerv1.SplitRequest]) (*connect.Response[peerv1.SplitResponse], error) {
	forked, err := h.r.splitHere(ctx, banyan.ShardID(req.Msg.Shard), replica.Split{At: req.Msg.At, Child: banyan.ShardID(req.Msg.Child)})
	return connect.NewResponse(&peerv1.SplitResponse{Forked: uint64(forked)}), err
}

// splitHere forks a shard that this node leads. If it was done before, this node
// need only have the child.
func (r *Router) splitHere(ctx context.Context, shard banyan.ShardID, s replica.Split) (banyan.Revision, error) {
	forked, done, err := r.cfg.Host.ForkOf(s.Child, s.At)
	if done || err != nil {
		return forked, err
	}
	if err := r.cfg.Host.Split(ctx, shard, s); err != nil {
		return 0, err
	}
	forked, done, err = r.cfg.Host.ForkOf(s.Child, s.At)
	if err == nil && !done {
		err = banyan.Errorf(banyan.Unavailable, "shard %d was split, and the replica of shard %d is not on this node any more: ask again", shard, s.Child)
	}
	return forked, err
}

// Split asks the shard's leader to make the rows from at on a shard of their own,
// and gives the revision at which that was. Asked again it gives the same.
func (r *Router) Split(ctx context.Context, shard banyan.ShardID, at []byte, child banyan.ShardID) (forked banyan.Revision, err error) {
	local := func(ctx context.Context) (err error) {
		forked, err = r.splitHere(ctx, shard, replica.Split{At: at, Child: child})
		return err
	}
	remote := func(ctx context.Context, peer peerv1connect.PeerClient) error {
		reply, err := peer.Split(ctx, connect.NewRequest(&peerv1.SplitRequest{Shard: uint32(shard), At: at, Child: uint32(child)}))
		if err == nil {
			forked = banyan.Revision(reply.Msg.Forked)
		}
		return err
	}
	err = r.atLeader(ctx, shard, local, remote)
	if banyan.IsKind(err, banyan.Conflict) { // it was done before, and its leader has no replica of the child: the child's leader has
		err = r.atLeader(ctx, child, local, remote)
	}
	return forked, err
}

// Counts tells how many rows a shard that this node leads holds.
func (h *Handler) Counts(ctx context.Context, req *connect.Request[peerv1.CountsRequest]) (*connect.Response[peerv1.CountsResponse], error) {
	counts, err := h.r.CountsHere(banyan.ShardID(req.Msg.Shard))
	out := &peerv1.CountsResponse{}
	for _, c := range counts {
		out.Slots = append(out.Slots, &peerv1.SlotCount{Slot: uint32(c.Slot), Rows: c.Rows, Bytes: c.Bytes})
	}
	return connect.NewResponse(out), err
}

// CountsHere tells how many rows the replica here holds, by slot and space.
func (r *Router) CountsHere(shard banyan.ShardID) ([]mvcc.Count, error) {
	view, err := r.cfg.Host.View(shard)
	if err != nil {
		return nil, err
	}
	defer view.Close()
	return mvcc.CountsOf(view)
}

// Counts tells how many rows a shard holds by slot, as its leader counts them.
func (r *Router) Counts(ctx context.Context, shard banyan.ShardID) (out []mvcc.Count, err error) {
	err = r.atLeader(ctx, shard, func(context.Context) (err error) {
		out, err = r.CountsHere(shard)
		return err
	}, func(ctx context.Context, peer peerv1connect.PeerClient) error {
		reply, err := peer.Counts(ctx, connect.NewRequest(&peerv1.CountsRequest{Shard: uint32(shard)}))
		if err != nil {
			return err
		}
		out = nil
		for _, c := range reply.Msg.Slots {
			out = append(out, mvcc.Count{Slot: int(c.Slot), Rows: c.Rows, Bytes: c.Bytes})
		}
		return nil
	})
	return out, err
}

// Watch calls fn with every change of the rows in [lo, hi) after a revision,
// once and in order, and with a new upTo when nothing in the range changed. It
// returns fn's error, ctx's, or Compacted; broken streams are taken up again
// where they ended, also when another shard holds the rows by then: what the
// watch was told of the first one's revisions, both have in common.
func (r *Router) Watch(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func([]mvcc.Event, banyan.Revision) error) error {
	var own error // fn's error ends the watch whatever its kind
	step := func(evs []mvcc.Event, upTo banyan.Revision) error {
		if own = fn(evs, upTo); own == nil {
			after = max(after, upTo)
		}
		return own
	}
	var wait pause.Retry
	for {
		before := after
		err := r.watchOnce(ctx, shard, lo, hi, after, step)
		if own != nil || ctx.Err() != nil {
			return errFirst(own, ctx.Err())
		}
		switch {
		case banyan.IsKind(err, banyan.Moved): // its leader may know it before the map here does
			shard = r.cfg.Map().Of(lo)
		case err != nil && !retryable(err):
			return err
		}
		if after > before {
			wait.Reset()
		}
		if wait.Pause(ctx) != nil {
			return ctx.Err()
		}
	}
}

func errFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (r *Router) watchOnce(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func([]mvcc.Event, banyan.Revision) error) error {
	node := r.guess(shard, 0)
	if r.cfg.Host.Current(shard) {
		node = r.cfg.Node
	}
	if node == r.cfg.Node {
		return r.watchLocal(ctx, shard, lo, hi, after, fn)
	}
	peer, err := r.cfg.Dial(node)
	if err != nil {
		return err
	}
	stream, err := peer.Watch(ctx, connect.NewRequest(&peerv1.WatchRowsRequest{Shard: uint32(shard), Key: lo, End: hi, FromRevision: uint64(after)}))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		m := stream.Msg()
		evs := make([]mvcc.Event, len(m.Events))
		for i, e := range m.Events {
			evs[i] = mvcc.Event{Deleted: e.Deleted, Row: fromRow(e.Row), End: e.End}
		}
		if err := fn(evs, banyan.Revision(m.Revision)); err != nil {
			return err
		}
	}
	return stream.Err()
}

func (r *Router) watchLocal(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func([]mvcc.Event, banyan.Revision) error) error {
	w, err := r.cfg.Host.Watch(shard, lo, hi, after)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		evs, upTo, err := w.Next(ctx)
		if err != nil {
			return err
		}
		if err := fn(evs, upTo); err != nil {
			return err
		}
	}
}

func (r *Router) readLocal(ctx context.Context, shard banyan.ShardID, q ReadQuery) (res ReadResult, err error) {
	var age time.Duration
	if q.Stale {
		age, err = r.cfg.Host.Age(shard)
	} else {
		err = r.cfg.Host.ReadIndex(ctx, shard)
	}
	if err != nil {
		return res, err
	}
	res, err = r.read(ctx, shard, q)
	res.Age = age
	return res, err
}

// read reads what is applied here.
func (r *Router) read(ctx context.Context, shard banyan.ShardID, q ReadQuery) (res ReadResult, err error) {
	if q.End == nil && q.At == 0 {
		row, at, err := r.cfg.Host.Get(shard, q.Key)
		if row != nil {
			res.Rows = []mvcc.Row{*row}
		}
		res.Revision = at
		return res, err
	}
	view, err := r.cfg.Host.View(shard)
	if err != nil {
		return res, err
	}
	defer view.Close()
	res.Revision, err = mvcc.RevisionOf(view)
	if err != nil {
		return res, err
	}
	if q.End == nil {
		row, err := mvcc.Get(view, q.Key, q.At)
		if row != nil {
			res.Rows = []mvcc.Row{*row}
		}
		return res, errFirst(err, replica.Held(view, shard, q.Key, nil))
	}
	limit := q.Limit
	if limit <= 0 || limit > banyan.ListRowsMax {
		limit = banyan.ListRowsMax
	}
	switch {
	case q.EachSlot && q.UntilSlot == 0: // whatever the shard has
	case q.EachSlot:
		res.UntilSlot, err = replica.HeldSlots(view, shard, q.FromSlot, q.UntilSlot)
	default:
		err = replica.Held(view, shard, q.Key, q.End)
	}
	if err != nil {
		return res, err
	}
	res.Rows, res.More, err = mvcc.Range(view, mvcc.Query{
		Lo: q.Key, Hi: q.End, At: q.At, Limit: limit, EachSlot: q.EachSlot, BytesMax: banyan.ListBytesMax, KeysOnly: q.KeysOnly,
		FromSlot: q.FromSlot, UntilSlot: res.UntilSlot,
		Stop: func() bool { return ctx.Err() != nil },
	})
	return res, err
}

func readPeer(ctx context.Context, peer peerv1connect.PeerClient, shard banyan.ShardID, q ReadQuery) (ReadResult, error) {
	reply, err := peer.Read(ctx, connect.NewRequest(&peerv1.ReadRequest{
		Shard: uint32(shard), Key: q.Key, End: q.End, Revision: uint64(q.At), Limit: uint32(q.Limit), EachSlot: q.EachSlot, KeysOnly: q.KeysOnly, Stale: q.Stale,
		FromSlot: uint32(q.FromSlot), UntilSlot: uint32(q.UntilSlot),
	}))
	if err != nil {
		return ReadResult{}, err
	}
	m := reply.Msg
	res := ReadResult{Revision: banyan.Revision(m.Revision), More: m.More, Age: time.Duration(m.AgeMs) * time.Millisecond, UntilSlot: int(m.UntilSlot)}
	for _, row := range m.Rows {
		res.Rows = append(res.Rows, fromRow(row))
	}
	return res, nil
}

func toRow(r *mvcc.Row) *peerv1.Row {
	return &peerv1.Row{Key: r.Key, Value: r.Value, CreateRevision: uint64(r.Create), ModRevision: uint64(r.Mod), Version: r.Version, Lease: r.Lease}
}

func fromRow(r *peerv1.Row) mvcc.Row {
	if r == nil {
		return mvcc.Row{}
	}
	return mvcc.Row{Key: r.Key, Value: r.Value, Create: banyan.Revision(r.CreateRevision), Mod: banyan.Revision(r.ModRevision), Version: r.Version, Lease: r.Lease}
}

func nodeIDs(raw []uint64) []banyan.NodeID {
	out := make([]banyan.NodeID, len(raw))
	for i, v := range raw {
		out[i] = banyan.NodeID(v)
	}
	return out
}

func rawIDs(ids []banyan.NodeID) []uint64 {
	out := make([]uint64, len(ids))
	for i, v := range ids {
		out[i] = uint64(v)
	}
	return out
}
