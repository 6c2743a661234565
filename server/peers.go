package server

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"sync"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/wire"
	"banyan/client"
	"banyan/gate"
	"banyan/mvcc"
	"banyan/pki"
	"banyan/store"

	"connectrpc.com/connect"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// snapshotChunkBytes is about how much one message of a snapshot carries.
const snapshotChunkBytes = 256 << 10

// peers gives clients of other nodes, and of this one without a network. Calls
// and bulk have connections of their own.
type peers struct {
	n     *Server
	mu    sync.Mutex
	calls map[banyan.NodeID]peerv1connect.PeerClient
	bulks map[banyan.NodeID]peerv1connect.PeerClient
}

func newPeers(n *Server) *peers {
	return &peers{n: n, calls: map[banyan.NodeID]peerv1connect.PeerClient{}, bulks: map[banyan.NodeID]peerv1connect.PeerClient{}}
}

func (p *peers) client(id banyan.NodeID) (peerv1connect.PeerClient, error) {
	return p.get(id, p.calls, false)
}
func (p *peers) bulk(id banyan.NodeID) (peerv1connect.PeerClient, error) {
	return p.get(id, p.bulks, true)
}

func (p *peers) get(id banyan.NodeID, known map[banyan.NodeID]peerv1connect.PeerClient, bulk bool) (peerv1connect.PeerClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := known[id]; ok {
		return c, nil
	}
	var hc connect.HTTPClient
	var url string
	switch {
	case id == p.n.file.Node:
		self := pki.Subject{Kind: pki.Node, Name: p.n.cfg.Name, Node: id}
		hc, url = client.InProcess(gate.As(self, p.n.handler)), "http://self"
	case p.n.port == nil:
		return nil, banyan.Errorf(banyan.Unavailable, "an embedded node has no peers: there is no node %v here", id)
	case bulk:
		hc, url = p.n.port.BulkHTTPClient(), p.n.port.URL(id)
	default:
		hc, url = p.n.port.HTTPClient(), p.n.port.URL(id)
	}
	c := peerv1connect.NewPeerClient(hc, url, connect.WithInterceptors(connect.UnaryInterceptorFunc(p.n.heedRemoval), wire.ClientInterceptor()))
	known[id] = c
	return c, nil
}

func (n *Server) sendRaft(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
	if n.port != nil {
		n.port.Send(to, shard, m)
	}
}

// How long a snapshot may stand still before it is given up and begun anew
// later: only a few are sent at a time. The last answer takes longer, for the
// receiver makes everything durable before it.
const (
	snapshotStall   = 10 * time.Second
	snapshotInstall = 2 * time.Minute
)

// A snapshot of a shard that takes writes is sent at snapshotBytesPerSecond:
// on both machines clients' calls go on meanwhile. Otherwise it is not held up.
const (
	snapshotBytesPerSecond = 8 << 20
	snapshotLook           = 200 * time.Millisecond // between looks whether it does
)

// snapshotPace is the pace of one snapshot.
type snapshotPace struct {
	revision func() banyan.Revision
	known    banyan.Revision // at the last look
	looked   time.Time
	busy     bool
	due      time.Time // when the next message may go
}

// wait is how long to wait after a message of so many bytes.
func (p *snapshotPace) wait(now time.Time, size int) time.Duration {
	if now.Sub(p.looked) >= snapshotLook {
		revision := p.revision()
		p.busy = revision != p.known
		p.known, p.looked = revision, now
	}
	if !p.busy {
		p.due = now
		return 0
	}
	if p.due.Before(now) {
		p.due = now
	}
	p.due = p.due.Add(time.Duration(size) * time.Second / snapshotBytesPerSecond)
	return p.due.Sub(now)
}

// sendSnapshot streams a shard's rows to a replica that is behind.
func (n *Server) sendSnapshot(ctx context.Context, to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message, view *store.View) error {
	c, err := n.peers.bulk(to)
	if err != nil {
		return err
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	ctx, moves, stop := whileMoving(ctx, snapshotStall, banyan.Errorf(banyan.Timeout, "the snapshot of shard %d to node %v stood still", shard, to))
	defer stop()
	stream := c.SendSnapshot(ctx)
	var s snapshotSender
	pace := snapshotPace{revision: func() banyan.Revision { return n.host.Revision(shard) }}
	send := func(m *peerv1.SnapshotChunk) error {
		err := stream.Send(m)
		moves(snapshotStall)
		pause(ctx, pace.wait(time.Now(), s.size))
		return err
	}
	s = snapshotSender{send: send, msg: &peerv1.SnapshotChunk{Shard: uint32(shard), From: uint64(n.file.Node), RaftMessage: raw}}
	if err := s.stream(view); err != nil && !errors.Is(err, io.EOF) { // EOF: the answer says why
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		return err
	}
	moves(snapshotInstall)
	_, err = stream.CloseAndReceive()
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return err
}

// whileMoving gives a context that ends, with why as its cause, when moves was
// not called for as long as the last call said it may take.
func whileMoving(ctx context.Context, first time.Duration, why error) (_ context.Context, moves func(next time.Duration), stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	timer := time.AfterFunc(first, func() { cancel(why) })
	return ctx, func(next time.Duration) { timer.Reset(next) }, func() {
		timer.Stop()
		cancel(nil)
	}
}

// snapshotSender cuts rows into messages and sums them up.
type snapshotSender struct {
	send func(*peerv1.SnapshotChunk) error
	msg  *peerv1.SnapshotChunk
	size int
	rows uint64
	sum  rowSum
}

func (s *snapshotSender) stream(view mvcc.Reader) error {
	var failed error
	err := view.Scan(nil, nil, func(k, v []byte) bool {
		s.msg.Keys = append(s.msg.Keys, append([]byte(nil), k...))
		s.msg.Values = append(s.msg.Values, append([]byte(nil), v...))
		s.size += len(k) + len(v)
		s.rows++
		s.sum.add(k, v)
		if s.size >= snapshotChunkBytes {
			failed = s.flush()
		}
		return failed == nil
	})
	if failed != nil {
		return failed
	}
	if err != nil {
		return err
	}
	s.msg.Done, s.msg.Rows, s.msg.Crc = true, s.rows, s.sum.crc
	return s.flush()
}

func (s *snapshotSender) flush() error {
	err := s.send(s.msg)
	s.msg, s.size = &peerv1.SnapshotChunk{}, 0
	return err
}

// rowSum is a CRC-32C over the lengths and bytes of rows.
type rowSum struct{ crc uint32 }

func (r *rowSum) add(k, v []byte) {
	table := crc32.MakeTable(crc32.Castagnoli)
	var head [8]byte
	binary.BigEndian.PutUint32(head[:4], uint32(len(k)))
	binary.BigEndian.PutUint32(head[4:], uint32(len(v)))
	r.crc = crc32.Update(r.crc, table, head[:])
	r.crc = crc32.Update(r.crc, table, k)
	r.crc = crc32.Update(r.crc, table, v)
}

// receiveSnapshot takes such a stream in and answers when the state is installed.
func (n *Server) receiveSnapshot(ctx context.Context, stream *connect.ClientStream[peerv1.SnapshotChunk]) (*connect.Response[peerv1.SnapshotResponse], error) {
	if !stream.Receive() {
		return nil, banyan.Errorf(banyan.Invalid, "empty snapshot: %w", errOr(stream.Err(), io.ErrUnexpectedEOF))
	}
	head := stream.Msg()
	if len(head.Keys) != len(head.Values) {
		return nil, banyan.Errorf(banyan.Invalid, "snapshot: %d keys with %d values", len(head.Keys), len(head.Values))
	}
	var m raftpb.Message
	if err := proto.Unmarshal(head.RaftMessage, &m); err != nil {
		return nil, banyan.Errorf(banyan.Invalid, "snapshot: %w", err)
	}
	if who, _ := gate.Caller(ctx); m.GetFrom() != uint64(who.Node) {
		return nil, banyan.Errorf(banyan.PermissionDenied, "node %v sent a snapshot in the name of node %d", who.Node, m.GetFrom())
	}
	r := snapshotReceiver{msg: head, receive: func() (*peerv1.SnapshotChunk, error) {
		if !stream.Receive() {
			return nil, errOr(stream.Err(), io.ErrUnexpectedEOF)
		}
		return stream.Msg(), nil
	}}
	if err := n.host.ReceiveSnapshot(ctx, banyan.ShardID(head.Shard), &m, r.next); err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.SnapshotResponse{}), nil
}

type snapshotReceiver struct {
	msg     *peerv1.SnapshotChunk
	receive func() (*peerv1.SnapshotChunk, error)
	at      int
	rows    uint64
	sum     rowSum
}

// next gives one row after another and io.EOF when all came through whole.
func (r *snapshotReceiver) next() (key, value []byte, err error) {
	for r.at >= len(r.msg.Keys) {
		if r.msg.Done {
			if r.msg.Rows != r.rows || r.msg.Crc != r.sum.crc {
				return nil, nil, banyan.Errorf(banyan.Corrupt, "snapshot: %d rows with sum %08x arrived, %d with %08x were sent", r.rows, r.sum.crc, r.msg.Rows, r.msg.Crc)
			}
			return nil, nil, io.EOF
		}
		if r.msg, err = r.receive(); err != nil {
			return nil, nil, banyan.Errorf(banyan.Unavailable, "snapshot cut off after %d rows: %w", r.rows, err)
		}
		r.at = 0
		if len(r.msg.Keys) != len(r.msg.Values) {
			return nil, nil, banyan.Errorf(banyan.Invalid, "snapshot: %d keys with %d values", len(r.msg.Keys), len(r.msg.Values))
		}
	}
	key, value = r.msg.Keys[r.at], r.msg.Values[r.at]
	r.at++
	r.rows++
	r.sum.add(key, value)
	return key, value, nil
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
