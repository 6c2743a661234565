package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"io"
	"slices"
	"sync"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	sweeping "banyan/core/sweep"
	"banyan/engine/blob"
	"banyan/engine/route"
	"banyan/engine/store"
	"banyan/internal/pause"
	"banyan/layer/work"

	"connectrpc.com/connect"
)

// How often chunks that nothing refers to are looked for.
const (
	epochEvery  = 6 * time.Hour
	epochLook   = time.Minute      // between looks whether it is time for a new epoch
	sweepAgain  = 30 * time.Second // when a shard could not be read
	sweepListen = 2 * time.Second  // between looks whether there is a new epoch
)

// markBytes is how much of the hashes of a mark makes one message.
const markBytes = 256 << 10

// epochRow is the epoch of sweeping: see core/sweep.
type epochRow struct {
	Epoch   uint64 `json:"epoch"`
	BeganMs int64  `json:"began_ms"` // the time of day
}

// sweeper sweeps this node's chunks, once in each epoch.
type sweeper struct {
	mu   sync.Mutex
	last blob.Swept
	at   time.Time // when it ended; zero: not since this process began
	err  error     // why the latest try failed
}

// say is what the node tells of its latest sweep.
func (s *sweeper) say(node banyan.NodeID) *banyanv1.NodeSweep {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := &banyanv1.NodeSweep{
		Node: uint64(node), Epoch: s.last.Epoch, Chunks: uint64(s.last.Chunks), Condemned: uint64(s.last.Condemned),
		Removed: uint64(s.last.Gone), FreedBytes: s.last.Freed,
	}
	if !s.at.IsZero() {
		out.EndMs = s.at.UnixMilli()
	}
	if s.err != nil {
		out.Error = job.Text(s.err.Error(), banyan.ErrorBytesMax)
	}
	return out
}

// Sweep tells of the sweeps of all nodes.
func (s debugService) Sweep(ctx context.Context, req *banyanv1.SweepRequest) (*banyanv1.SweepResponse, error) {
	if s.n.cfg.Embedded {
		return nil, errEmbedded()
	}
	if req.Begin {
		if _, err := s.n.beginEpoch(ctx, 0); err != nil {
			return nil, err
		}
	}
	row, _, err := s.n.readEpoch(ctx)
	if err != nil {
		return nil, err
	}
	out := &banyanv1.SweepResponse{Epoch: row.Epoch}
	infos := s.n.gather(ctx)
	for _, node := range s.n.nodes.list() {
		if info := infos[node.ID]; info != nil && info.Sweep != nil {
			out.Nodes = append(out.Nodes, info.Sweep)
		} else {
			out.Errors = append(out.Errors, &banyanv1.NodeError{Node: uint64(node.ID), Error: "it cannot be asked: 'banyan status' says why"})
		}
	}
	return out, nil
}

// readEpoch reads the epoch from the root shard.
func (n *Server) readEpoch(ctx context.Context) (row epochRow, mod banyan.Revision, err error) {
	res, err := n.router.Read(ctx, banyan.RootShard, route.ReadQuery{Key: []byte(epochKey)})
	if err != nil || len(res.Rows) == 0 {
		return row, 0, err
	}
	if err := json.Unmarshal(res.Rows[0].Value, &row); err != nil {
		return row, 0, banyan.Errorf(banyan.Corrupt, "row %s: %w", epochKey, err)
	}
	n.blobs.Local.Learn(row.Epoch)
	return row, res.Rows[0].Mod, nil
}

// beginEpoch begins the next epoch, if the latest one began at least so long ago.
// A clock that jumped has it begin early or late, which is no matter.
func (n *Server) beginEpoch(ctx context.Context, after time.Duration) (uint64, error) {
	row, mod, err := n.readEpoch(ctx)
	if err != nil {
		return 0, err
	}
	if time.Since(time.UnixMilli(row.BeganMs)).Abs() < after {
		return row.Epoch, nil
	}
	row.Epoch++
	row.BeganMs = time.Now().UnixMilli()
	value, err := json.Marshal(row)
	if err != nil {
		return 0, err
	}
	res, err := n.router.Commit(ctx, banyan.RootShard, &mvcc.Command{
		Conds: []mvcc.Cond{{Key: []byte(epochKey), Test: mvcc.ModEquals, Number: uint64(mod)}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(epochKey), Value: value}},
	})
	if err == nil && !res.OK {
		err = banyan.Errorf(banyan.Conflict, "somebody else began an epoch of sweeping: ask again")
	}
	if err == nil {
		n.blobs.Local.Learn(row.Epoch)
	}
	return row.Epoch, err
}

// countEpochs begins an epoch every few hours. It runs on every node and acts only
// beside the root shard's leader.
func (n *Server) countEpochs(ctx context.Context) error {
	for _ = pause.For(ctx, epochLook); ctx.Err() == nil; _ = pause.For(ctx, epochLook) {
		if leader, _ := n.host.Leader(banyan.RootShard); leader != n.file.Node {
			continue
		}
		if _, err := n.beginEpoch(ctx, epochEvery); err != nil {
			n.log.Debug("no new epoch of sweeping, tried again", "error", err)
		}
	}
	return nil
}

// sweepChunks sweeps this node's chunks whenever an epoch has begun.
func (n *Server) sweepChunks(ctx context.Context) error {
	var done uint64
	for _ = pause.For(ctx, sweepListen); ctx.Err() == nil; {
		wait := sweepListen
		if n.blobs.Epoch() > done {
			if s, err := n.sweepOnce(ctx); err != nil {
				wait = sweepAgain
			} else {
				done = s.Epoch
			}
		}
		_ = pause.For(ctx, wait)
	}
	return nil
}

// sweepOnce sweeps in the epoch that the root shard has now.
func (n *Server) sweepOnce(ctx context.Context) (blob.Swept, error) {
	row, _, err := n.readEpoch(ctx)
	var s blob.Swept
	if err == nil {
		s, err = n.blobs.Local.Sweep(ctx, row.Epoch, n.marks)
	}
	n.sweeps.mu.Lock()
	defer n.sweeps.mu.Unlock()
	if n.sweeps.err = err; err != nil {
		n.log.Debug("chunks not swept, tried again", "epoch", row.Epoch, "error", err)
		return s, err
	}
	n.sweeps.last, n.sweeps.at = s, time.Now()
	if s.Gone > 0 {
		n.log.Info("chunks that nothing refers to are removed", "chunks", s.Gone, "bytes", s.Freed, "epoch", s.Epoch)
	}
	return s, nil
}

// marks reads what the rows of all shards refer to. The shards that are read have
// to hold every slot together: one that split meanwhile is asked for again.
func (n *Server) marks(ctx context.Context, epoch uint64, first, last byte, fn func(banyan.Hash)) error {
	var read [][2][]byte
	shards := n.shards.get().Data()
	round := sweeping.NewRound(shards)
	for _, shard := range shards {
		lo, hi, err := n.markOf(ctx, &peerv1.MarkRequest{Shard: uint32(shard), Epoch: epoch, First: uint32(first), Last: uint32(last)}, fn)
		if err != nil {
			return err
		}
		read = append(read, [2][]byte{lo, hi})
		round.Read(shard)
	}
	if !round.Whole() {
		return banyan.Errorf(banyan.Unavailable, "not every shard could be read: none of its chunks may be taken for unused")
	}
	return covered(read)
}

// covered says whether ranges of row keys hold every slot.
func covered(ranges [][2][]byte) error {
	slices.SortFunc(ranges, func(a, b [2][]byte) int { return bytes.Compare(a[0], b[0]) })
	end := banyan.SlotKey(0)
	for _, r := range ranges {
		if len(end) == 0 || bytes.Compare(r[0], end) > 0 {
			break
		}
		if len(r[1]) == 0 || bytes.Compare(r[1], end) > 0 {
			end = r[1]
		}
	}
	if len(end) > 0 && bytes.Compare(end, banyan.SlotKey(banyan.Slots)) < 0 {
		return banyan.Errorf(banyan.Unavailable, "the shards that were read hold no rows from %x on: the map of shards is behind", end)
	}
	return nil
}

// markOf reads what the rows of one shard refer to, at its leader.
func (n *Server) markOf(ctx context.Context, req *peerv1.MarkRequest, fn func(banyan.Hash)) (lo, hi []byte, err error) {
	take := func(m *peerv1.MarkResponse) error {
		for b := m.Hashes; len(b) >= len(banyan.Hash{}); b = b[len(banyan.Hash{}):] {
			fn(banyan.Hash(b[:len(banyan.Hash{})]))
		}
		if m.Done {
			lo, hi = m.Low, m.High
		}
		return nil
	}
	leader, err := n.router.WaitLeader(ctx, banyan.ShardID(req.Shard))
	if err != nil {
		return nil, nil, err
	}
	if leader == n.file.Node {
		err := n.mark(ctx, req, take)
		return lo, hi, err
	}
	peer, err := n.peers.bulk(leader)
	if err != nil {
		return nil, nil, err
	}
	stream, err := peer.Mark(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, nil, err
	}
	defer stream.Close()
	done := false
	for stream.Receive() {
		done = stream.Msg().Done
		if err := take(stream.Msg()); err != nil {
			return nil, nil, err
		}
	}
	if err := stream.Err(); err != nil || !done {
		return nil, nil, cmp.Or(err, io.ErrUnexpectedEOF)
	}
	return lo, hi, nil
}

// Mark reads what the rows of a shard refer to, for another node.
func (s peerService) Mark(ctx context.Context, req *connect.Request[peerv1.MarkRequest], stream *connect.ServerStream[peerv1.MarkResponse]) error {
	return s.n.mark(ctx, req.Msg, stream.Send)
}

// mark raises the fence of a shard and reads what its rows refer to at a revision
// behind that.
func (n *Server) mark(ctx context.Context, req *peerv1.MarkRequest, send func(*peerv1.MarkResponse) error) error {
	shard := banyan.ShardID(req.Shard)
	n.blobs.Local.Learn(req.Epoch)
	view, err := n.behindFence(ctx, shard, req.Epoch)
	if err != nil {
		return err
	}
	defer view.Close()
	lo, hi, err := mvcc.BoundsOf(view)
	if err != nil {
		return err
	}
	m := &peerv1.MarkResponse{}
	err = work.Marks(ctx, viewRows{view}, shard, lo, hi, n.chunks(), func(h []byte) error {
		if len(h) != len(banyan.Hash{}) || uint32(h[0]) < req.First || uint32(h[0]) > req.Last {
			return ctx.Err()
		}
		if m.Hashes = append(m.Hashes, h...); len(m.Hashes) < markBytes {
			return nil
		}
		err := send(m)
		m = &peerv1.MarkResponse{}
		return err
	})
	if err != nil {
		return err
	}
	m.Done, m.Low, m.High = true, lo, hi
	return send(m)
}

// behindFence gives a state of a shard in which its fence is at an epoch at least,
// and raises it first if it is not: one of the nodes that ask does.
func (n *Server) behindFence(ctx context.Context, shard banyan.ShardID, epoch uint64) (*store.View, error) {
	for raised := false; ; raised = true {
		view, err := n.host.View(shard)
		if err != nil {
			return nil, err
		}
		fence, err := work.FenceOf(ctx, viewRows{view}, shard)
		if err == nil && fence >= epoch {
			return view, nil
		}
		view.Close()
		if err == nil && raised {
			err = banyan.Errorf(banyan.Unavailable, "the fence of shard %d is not raised here: ask its leader", shard)
		}
		if err == nil {
			_, err = n.router.Commit(ctx, shard, work.Raise(epoch))
		}
		if err != nil {
			return nil, err
		}
	}
}

// viewRows reads the rows of one state of a shard.
type viewRows struct{ view mvcc.Reader }

// Range is work.Reader's.
func (v viewRows) Range(_ context.Context, _ banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	return mvcc.Range(v.view, q)
}

// chunks is the blob store as controllers and workers see it.
type chunks struct {
	*blob.Replicated
	n *Server
}

var _ work.Chunks = chunks{}

func (n *Server) chunks() chunks { return chunks{n.blobs, n} }

// Learn tells this node's disk of an epoch.
func (c chunks) Learn(epoch uint64) { c.Local.Learn(epoch) }

// Restore stores a chunk again on as many nodes as are to have it.
func (c chunks) Restore(ctx context.Context, h banyan.Hash) error {
	data, err := c.Get(ctx, h)
	if err != nil {
		return err
	}
	return c.Put(ctx, h, data)
}

// Files reads a list of files.
func (c chunks) Files(ctx context.Context, l *banyanv1.FileList) ([]*banyanv1.FileRef, error) {
	hs := make([]banyan.Hash, 0, len(l.Chunks))
	for _, h := range l.Chunks {
		if len(h) != len(banyan.Hash{}) {
			return nil, banyan.Errorf(banyan.Corrupt, "a list of files has a hash of %d bytes", len(h))
		}
		hs = append(hs, banyan.Hash(h))
	}
	var b bytes.Buffer
	if err := blob.Read(ctx, c, hs, &b); err != nil {
		return nil, err
	}
	files, err := banyanv1.DecodeFiles(b.Bytes())
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "a list of returned files: %w", err)
	}
	return files, nil
}

// Current is the epoch as the root shard has it.
func (c chunks) Current(ctx context.Context) (uint64, error) {
	row, _, err := c.n.readEpoch(ctx)
	return row.Epoch, err
}

// sweepAtTheEnd has a node inside a command remove at once what nothing refers to:
// nobody is about to, for nothing runs any more and nothing is sent.
func (n *Server) sweepAtTheEnd(ctx context.Context) error {
	for range 3 { // condemned in the first, removed in the third
		if _, err := n.beginEpoch(ctx, 0); err != nil {
			return err
		}
		if s, err := n.sweepOnce(ctx); err != nil || s.Chunks == 0 || s.Condemned == 0 {
			return err
		}
	}
	return nil
}
