package transport

import (
	"bufio"
	"bytes"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"banyan"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

func message(typ raftpb.MessageType, index uint64, data string) *raftpb.Message {
	m := &raftpb.Message{Type: typ.Enum(), From: proto.Uint64(1), To: proto.Uint64(2), Index: &index}
	if data != "" {
		m.Entries = []*raftpb.Entry{{Index: &index, Data: []byte(data)}}
	}
	return m
}

// drain reads every frame that the queue gives and lists its records.
func drain(t *testing.T, q *queue) (frames []string) {
	t.Helper()
	for frame := q.take(); frame != nil; frame = q.take() {
		typ, payload, err := readFrame(bufio.NewReader(bytes.NewReader(frame)), nil, banyan.FrameBytesMax)
		if err != nil {
			t.Fatal(err)
		}
		var text []string
		err = eachRecord(payload, func(tag uint32, body []byte) error {
			if typ == framePacket {
				text = append(text, string(body))
				return nil
			}
			m := &raftpb.Message{}
			text = append(text, fmt.Sprintf("%d", tag))
			return proto.Unmarshal(body, m)
		})
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, fmt.Sprintf("%d:%s", typ, strings.Join(text, ",")))
		q.reuse(frame)
	}
	return frames
}

func TestQueueOrder(t *testing.T) {
	q := &queue{}
	for round := range 3 {
		for shard := range banyan.ShardID(3) {
			q.addRaft(shard, message(raftpb.MsgApp, uint64(round), "x"))
		}
		q.addPacket([]byte("hi"))
		q.addPacket(nil)
		for shard := range banyan.ShardID(3) {
			q.addRaft(shard, message(raftpb.MsgHeartbeat, 0, ""))
		}
		got := strings.Join(drain(t, q), " ")
		if want := "3:0,1,2 4:hi, 3:0,1,2"; got != want {
			t.Errorf("round %d: frames %q, want %q: one frame for all heartbeats, ahead of gossip, ahead of the rest", round, got, want)
		}
		if !q.empty() {
			t.Error("not empty")
		}
	}
}

func TestQueueBounds(t *testing.T) {
	q := &queue{}
	big := strings.Repeat("x", banyan.FrameBytesMax-100)
	if q.addRaft(1, message(raftpb.MsgApp, 1, big+big)) {
		t.Error("took a message that fits no frame")
	}
	taken := 0
	for q.addRaft(1, message(raftpb.MsgApp, 1, big)) {
		taken++
	}
	if taken != banyan.PeerQueueBytesMax/banyan.FrameBytesMax {
		t.Errorf("took %d large messages", taken)
	}
	if !q.addPacket([]byte("x")) {
		t.Error("a full raft queue keeps gossip out")
	}
	for range packetQueueBytes {
		if !q.addPacket(make([]byte, 100)) {
			break
		}
	}
	if q.addPacket(make([]byte, 100)) {
		t.Error("gossip is not bounded")
	}
	q.clear()
	if !q.addRaft(1, message(raftpb.MsgApp, 1, big)) || len(drain(t, q)) != 1 || !q.empty() {
		t.Error("no room after clear")
	}
	for range 3 * batchBytes / 1024 {
		q.addRaft(1, message(raftpb.MsgApp, 1, strings.Repeat("x", 1024)))
	}
	if n := len(drain(t, q)); n < 3 || n > 4 {
		t.Errorf("%d frames, want batches of %d bytes", n, batchBytes)
	}
}

func TestFrameRefusals(t *testing.T) {
	read := func(b []byte, limit int) error {
		_, _, err := readFrame(bufio.NewReader(bytes.NewReader(b)), nil, limit)
		return err
	}
	frame := sealFrame(append(newFrame(nil), "hello"...), frameRaft)
	if err := read(frame, 5); err != nil {
		t.Fatal(err)
	}
	if err := read(frame, 4); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("too long: %v", err)
	}
	for i := 4; i < len(frame); i++ {
		bad := bytes.Clone(frame)
		bad[i] ^= 1
		if err := read(bad, 5); !banyan.IsKind(err, banyan.Corrupt) {
			t.Errorf("byte %d changed: %v", i, err)
		}
	}
	for n := range frame {
		if read(frame[:n], 5) == nil {
			t.Errorf("cut to %d bytes and read", n)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add(sealFrame(append(newFrame(nil), "hello"...), frameRaft))
	f.Add(sealFrame(appendRecordHead(newFrame(nil), 7, 0), framePacket))
	f.Add(hello{Min: 1, Max: 1, Node: 1, Version: "1"}.encode())
	f.Add(encodeRefuse(banyan.Errorf(banyan.TooNew, "x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		err := readAll(bufio.NewReader(bytes.NewReader(b)), func(typ frameType, payload []byte) error {
			if len(payload) > len(b) {
				t.Fatal("payload from nowhere")
			}
			_, _ = decodeHello(payload)
			_ = decodeRefuse(payload)
			return eachRecord(payload, func(uint32, []byte) error { return nil })
		}, func() error { return nil })
		if err == nil {
			t.Fatal("no end")
		}
	})
}

func FuzzRecords(f *testing.F) {
	f.Add(append(appendRecordHead(nil, 7, 3), "abc"...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Add([]byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		sum := 0
		_ = eachRecord(b, func(_ uint32, body []byte) error { sum += len(body) + 2; return nil })
		if sum > len(b) {
			t.Fatal("records longer than the payload")
		}
	})
}

func FuzzHello(f *testing.F) {
	h := hello{Min: 1, Max: 2, Node: 3, Boot: 4, Version: "0.1.0"}
	f.Add(h.encode()[headerBytes:])
	f.Add(append(h.encode()[headerBytes:], "from the future"...))
	h.Life = Life{}.Next(7).Next(4)
	f.Add(h.encode()[headerBytes:])
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := decodeHello(b)
		if err != nil {
			return
		}
		again, err := decodeHello(h.encode()[headerBytes:])
		if err != nil || !reflect.DeepEqual(again, h) {
			t.Fatalf("%+v, %v, want %+v", again, err, h)
		}
	})
}
