package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"

	"google.golang.org/protobuf/proto"
)

// rowsOf is a fixed state for the sender.
type rowsOf [][2][]byte

func (r rowsOf) Get([]byte) ([]byte, error) { return nil, nil }

func (r rowsOf) Scan(_, _ []byte, fn func(k, v []byte) bool) error {
	for _, row := range r {
		if !fn(row[0], row[1]) {
			break
		}
	}
	return nil
}

// sent gives the messages that carry rows.
func sent(t *testing.T, rows rowsOf) (msgs []*peerv1.SnapshotChunk) {
	t.Helper()
	s := snapshotSender{msg: &peerv1.SnapshotChunk{Shard: 3}, send: func(m *peerv1.SnapshotChunk, _ int) error {
		msgs = append(msgs, proto.Clone(m).(*peerv1.SnapshotChunk))
		return nil
	}}
	if err := s.stream(rows); err != nil {
		t.Fatal(err)
	}
	return msgs
}

// received reads messages to the end.
func received(msgs []*peerv1.SnapshotChunk) (rows rowsOf, err error) {
	i := 0
	r := snapshotReceiver{msg: msgs[0], packed: msgs[0].PackedRows, receive: func() (*peerv1.SnapshotChunk, error) {
		if i++; i >= len(msgs) {
			return nil, io.ErrUnexpectedEOF
		}
		return msgs[i], nil
	}}
	for {
		k, v, err := r.next()
		if err == io.EOF { //nolint:errorlint // next gives io.EOF itself
			return rows, nil
		}
		if err != nil {
			return rows, err
		}
		rows = append(rows, [2][]byte{k, v})
	}
}

func someRows(n, size int) (rows rowsOf) {
	for i := range n {
		rows = append(rows, [2][]byte{fmt.Appendf(nil, "k%04d", i), bytes.Repeat([]byte{byte(i)}, size)})
	}
	return rows
}

func TestSnapshotArrivesWhole(t *testing.T) {
	for _, rows := range []rowsOf{nil, someRows(1, 0), someRows(10, 300<<10), someRows(3000, 100)} {
		got, err := received(sent(t, rows))
		if err != nil || len(got) != len(rows) {
			t.Fatalf("%d of %d rows: %v", len(got), len(rows), err)
		}
		for i := range rows {
			if !bytes.Equal(got[i][0], rows[i][0]) || !bytes.Equal(got[i][1], rows[i][1]) {
				t.Fatalf("row %d differs", i)
			}
		}
	}
}

func TestSnapshotDamageIsSeen(t *testing.T) {
	for _, c := range []struct {
		name   string
		want   banyan.Kind
		damage func(msgs []*peerv1.SnapshotChunk) []*peerv1.SnapshotChunk
	}{
		{"cut off", banyan.Unavailable, func(m []*peerv1.SnapshotChunk) []*peerv1.SnapshotChunk { return m[:len(m)-1] }},
		{"a message missing", banyan.Corrupt, func(m []*peerv1.SnapshotChunk) []*peerv1.SnapshotChunk { return append(m[:1], m[2:]...) }},
		{"a flipped bit", banyan.Corrupt, func(m []*peerv1.SnapshotChunk) []*peerv1.SnapshotChunk {
			m[1].PackedRows[1000] ^= 1
			return m
		}},
		{"a row cut off", banyan.Invalid, func(m []*peerv1.SnapshotChunk) []*peerv1.SnapshotChunk {
			m[1].PackedRows = m[1].PackedRows[:len(m[1].PackedRows)-1]
			return m
		}},
	} {
		msgs := sent(t, someRows(40, 100<<10))
		if len(msgs) < 3 {
			t.Fatalf("%d messages, want several", len(msgs))
		}
		if _, err := received(c.damage(msgs)); !banyan.IsKind(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// Whatever another node sends as packed rows, nothing is read beyond it.
func FuzzPackedRows(f *testing.F) {
	f.Add([]byte{1, 'k', 2, 'v', 'w', 0, 0})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, packed []byte) {
		rows, err := received([]*peerv1.SnapshotChunk{{PackedRows: packed, Done: true}})
		size := 0
		for _, row := range rows {
			size += len(row[0]) + len(row[1])
		}
		if size > len(packed) || err == nil && len(packed) > 0 {
			t.Errorf("%d bytes of rows out of %d, %v", size, len(packed), err)
		}
	})
}

func TestASnapshotThatStandsStillIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		stuck := errors.New("stuck")
		ctx, moves, stop := whileMoving(t.Context(), snapshotStall, stuck)
		defer stop()
		for range 10 {
			time.Sleep(snapshotStall - time.Millisecond)
			moves(snapshotStall)
		}
		if ctx.Err() != nil {
			t.Fatalf("given up while it moved: %v", context.Cause(ctx))
		}
		time.Sleep(snapshotStall + time.Millisecond)
		synctest.Wait()
		if !errors.Is(context.Cause(ctx), stuck) {
			t.Errorf("%v after it stood still", context.Cause(ctx))
		}
	})
}

// All snapshots together are let through at a rate, and none waits for ever.
func TestPace(t *testing.T) {
	var p pace
	now := time.Unix(1000, 0)
	const size = snapshotBytesPerSecond / 8
	for i, c := range []struct {
		after         time.Duration
		counted, size int
		want          time.Duration
	}{
		{0, size, size, 125 * time.Millisecond},
		{25 * time.Millisecond, size, size, 225 * time.Millisecond},
		{0, 0, size, 0}, // not held up, though others are
		{225 * time.Millisecond, 0, size, 0},
		{time.Second, size, size, 125 * time.Millisecond},
		{0, 100 * size, 100 * size, paceWaitMax},
		{0, size / 16, size, paceWaitMax / 16}, // in haste: not behind the others
		{paceWaitMax, size, size, 125 * time.Millisecond},
	} {
		now = now.Add(c.after)
		if got := p.wait(now, c.counted, c.size); got != c.want {
			t.Errorf("message %d waits %v, want %v", i, got, c.want)
		}
	}
}

// A snapshot is held up only while its shard takes writes, and not if its
// receiver's log would be truncated meanwhile.
func TestTempo(t *testing.T) {
	revision, full := banyan.Revision(5), 0.0
	p := tempo{revision: func() banyan.Revision { return revision }, tail: func() float64 { return full }}
	now := time.Unix(1000, 0)
	for i, c := range []struct {
		after time.Duration
		wrote banyan.Revision
		full  float64
		want  int
	}{
		{0, 0, 0, 1 << 20},                      // not known yet
		{snapshotLook / 2, 0, 0, 1 << 20},       // not looked again
		{snapshotLook / 2, 0, 0, 0},             // no writes since
		{snapshotLook, 1, 0, 1 << 20},           // writes
		{snapshotLook, 1, 4.0 / haste, 1 << 16}, // and a log that grows
		{snapshotLook, 1, 1, 1 << 4},
		{snapshotLook, 0, 1, 0},
	} {
		now = now.Add(c.after)
		revision, full = revision+c.wrote, c.full
		if got := p.counted(now, 1<<20); got != c.want {
			t.Errorf("of message %d %d bytes count, want %d", i, got, c.want)
		}
	}
}
