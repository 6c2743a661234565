package transport

import (
	"sync"

	"banyan"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

const (
	// batchBytes is where one frame of a batch ends and the next begins: what
	// is urgent waits for at most one such frame to be written.
	batchBytes = 256 << 10
	// packetQueueBytes bounds the gossip that waits for one peer.
	packetQueueBytes = 1 << 20
)

// The lanes of a queue, most urgent first. Within a lane order is kept.
const (
	laneUrgent = iota // heartbeats and votes: small, and late ones cost elections
	lanePacket        // gossip
	laneRaft          // all other raft messages
	lanes
)

// queue holds what waits for one peer, encoded into frames as it comes in, so
// that everything queued between two writes leaves in one frame: the
// heartbeats of all shards are one frame per tick.
type queue struct {
	mu     sync.Mutex
	frames [lanes][][]byte // begun, not sealed
	bytes  [lanes]int
	spare  []byte // memory of a frame that was written
}

// addRaft queues m and says whether there was room.
func (q *queue) addRaft(shard banyan.ShardID, m *raftpb.Message) bool {
	lane := laneRaft
	switch m.GetType() {
	case raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp, raftpb.MsgVote, raftpb.MsgVoteResp,
		raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		lane = laneUrgent
	}
	size := proto.Size(m)
	q.mu.Lock()
	defer q.mu.Unlock()
	frame := q.room(lane, size, banyan.PeerQueueBytesMax)
	if frame == nil {
		return false
	}
	b := appendRecordHead(*frame, uint32(shard), size)
	b, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend(b, m)
	if err != nil {
		return false // only for strings that are not UTF-8; a raft message has none
	}
	q.bytes[lane] += len(b) - len(*frame)
	*frame = b
	return true
}

// addPacket queues a copy of b and says whether there was room.
func (q *queue) addPacket(b []byte) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	frame := q.room(lanePacket, len(b), packetQueueBytes)
	if frame == nil {
		return false
	}
	before := len(*frame)
	*frame = append(appendRecordHead(*frame, 0, len(b)), b...)
	q.bytes[lanePacket] += len(*frame) - before
	return true
}

// room gives the frame that takes a record of size bytes, nil if there is no room.
func (q *queue) room(lane, size, limit int) *[]byte {
	need := recordBytes(size)
	total := q.bytes[laneUrgent] + q.bytes[laneRaft]
	if lane == lanePacket {
		total = q.bytes[lanePacket]
	}
	if need > banyan.FrameBytesMax || total+need > limit {
		return nil
	}
	f := q.frames[lane]
	if len(f) == 0 || len(f[len(f)-1])+need > batchBytes {
		f = append(f, newFrame(q.spare))
		q.spare = nil
		q.frames[lane] = f
	}
	return &f[len(f)-1]
}

// take gives the most urgent frame, sealed, or nil. The caller owns it and may
// give its memory back with reuse.
func (q *queue) take() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	for lane, f := range q.frames {
		if len(f) == 0 {
			continue
		}
		frame := f[0]
		f[0] = nil
		q.frames[lane] = f[1:]
		if len(f) == 1 {
			q.frames[lane] = f[:0]
		}
		q.bytes[lane] -= len(frame) - headerBytes
		if lane == lanePacket {
			return sealFrame(frame, framePacket)
		}
		return sealFrame(frame, frameRaft)
	}
	return nil
}

func (q *queue) reuse(frame []byte) {
	if cap(frame) <= 2*batchBytes {
		q.mu.Lock()
		q.spare = frame
		q.mu.Unlock()
	}
}

func (q *queue) empty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.bytes == [lanes]int{}
}

// clear forgets everything: what could not be sent is stale when it could be.
func (q *queue) clear() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.frames, q.bytes = [lanes][][]byte{}, [lanes]int{}
}
