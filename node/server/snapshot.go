package server

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/core/mvcc"
	"banyan/door/gate"
	"banyan/engine/store"
	"banyan/internal/pause"

	"connectrpc.com/connect"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// snapshotChunkBytes is about how much one message of a snapshot carries.
const snapshotChunkBytes = 256 << 10

// How long a snapshot may stand still before it is given up and begun anew
// later: only a few are sent at a time. The last answer takes longer, for the
// receiver makes everything durable before it.
const (
	snapshotStall   = 10 * time.Second
	snapshotInstall = 2 * time.Minute
)

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
	tempo := tempo{revision: func() banyan.Revision { return n.host.Revision(shard) }, tail: func() float64 { return n.host.Tail(ctx, shard) }}
	var sent uint64
	s := snapshotSender{
		msg: &peerv1.SnapshotChunk{Shard: uint32(shard), From: uint64(n.file.Node), RaftMessage: raw},
		send: func(m *peerv1.SnapshotChunk, size int) error {
			sent += uint64(size)
			n.host.SnapshotSent(shard, to, sent) // so much of the log is kept meanwhile
			counted := tempo.counted(time.Now(), size)
			m.PacedBytes = uint32(counted)
			err := stream.Send(m)
			moves(snapshotStall)
			_ = pause.For(ctx, n.sending.wait(time.Now(), counted, size))
			return err
		},
	}
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
	msg  *peerv1.SnapshotChunk
	send func(m *peerv1.SnapshotChunk, size int) error // is done with m when it returns
	size int
	rows uint64
	sum  rowSum
}

func (s *snapshotSender) stream(view mvcc.Reader) error {
	var failed error
	err := view.Scan(nil, nil, func(k, v []byte) bool {
		s.add(k, v)
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

func (s *snapshotSender) add(k, v []byte) {
	for _, b := range [][]byte{k, v} {
		s.msg.PackedRows = append(binary.AppendUvarint(s.msg.PackedRows, uint64(len(b))), b...)
	}
	s.size += len(k) + len(v)
	s.rows++
	s.sum.add(k, v)
}

func (s *snapshotSender) flush() error {
	err := s.send(s.msg, s.size)
	s.msg, s.size = &peerv1.SnapshotChunk{PackedRows: s.msg.PackedRows[:0]}, 0
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
	var m raftpb.Message
	if err := proto.Unmarshal(head.RaftMessage, &m); err != nil {
		return nil, banyan.Errorf(banyan.Invalid, "snapshot: %w", err)
	}
	if who, _ := gate.Caller(ctx); m.GetFrom() != uint64(who.Node) {
		return nil, banyan.Errorf(banyan.PermissionDenied, "node %v sent a snapshot in the name of node %d", who.Node, m.GetFrom())
	}
	if n.disks.low() {
		return nil, banyan.Errorf(banyan.Exhausted, "node %v takes no snapshots: %v: free space there", n.file.Node, n.disks.state())
	}
	receive := func() (*peerv1.SnapshotChunk, error) {
		if !stream.Receive() {
			return nil, errOr(stream.Err(), io.ErrUnexpectedEOF)
		}
		m := stream.Msg()
		_ = pause.For(ctx, n.receiving.wait(time.Now(), int(min(m.PacedBytes, snapshotBytesPerSecond)), proto.Size(m)))
		return m, nil
	}
	r := snapshotReceiver{msg: head, packed: head.PackedRows, receive: receive}
	if err := n.host.ReceiveSnapshot(ctx, banyan.ShardID(head.Shard), &m, r.next); err != nil {
		return nil, err
	}
	return connect.NewResponse(&peerv1.SnapshotResponse{}), nil
}

type snapshotReceiver struct {
	msg     *peerv1.SnapshotChunk
	packed  []byte // what is left of its packed rows
	receive func() (*peerv1.SnapshotChunk, error)
	rows    uint64
	sum     rowSum
}

// next gives one row after another and io.EOF when all came through whole.
func (r *snapshotReceiver) next() (key, value []byte, err error) {
	for len(r.packed) == 0 {
		if r.msg.Done {
			if r.msg.Rows != r.rows || r.msg.Crc != r.sum.crc {
				return nil, nil, banyan.Errorf(banyan.Corrupt, "snapshot: %d rows with sum %08x arrived, %d with %08x were sent", r.rows, r.sum.crc, r.msg.Rows, r.msg.Crc)
			}
			return nil, nil, io.EOF
		}
		if r.msg, err = r.receive(); err != nil {
			return nil, nil, banyan.Errorf(banyan.Unavailable, "snapshot cut off after %d rows: %w", r.rows, err)
		}
		r.packed = r.msg.PackedRows
	}
	if key, value, err = r.row(); err != nil {
		return nil, nil, err
	}
	r.rows++
	r.sum.add(key, value)
	return key, value, nil
}

func (r *snapshotReceiver) row() (key, value []byte, err error) {
	for _, part := range []*[]byte{&key, &value} {
		size, n := binary.Uvarint(r.packed)
		if n <= 0 || size > uint64(len(r.packed)-n) {
			return nil, nil, banyan.Errorf(banyan.Invalid, "snapshot: row %d ends outside of its message", r.rows)
		}
		end := n + int(size)
		*part, r.packed = r.packed[n:end:end], r.packed[end:]
	}
	return key, value, nil
}

func errOr(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}
