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
	s := snapshotSender{msg: &peerv1.SnapshotChunk{Shard: 3}, send: func(m *peerv1.SnapshotChunk) error {
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
	r := snapshotReceiver{msg: msgs[0], receive: func() (*peerv1.SnapshotChunk, error) {
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
	rows := someRows(40, 100<<10)
	msgs := sent(t, rows)
	if len(msgs) < 3 {
		t.Fatalf("%d messages, want several", len(msgs))
	}
	if _, err := received(msgs[:len(msgs)-1]); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("cut off: %v", err)
	}
	if _, err := received(append(append([]*peerv1.SnapshotChunk{}, msgs[:1]...), msgs[2:]...)); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("a message missing: %v", err)
	}
	msgs[1].Values[2][7] ^= 1
	if _, err := received(msgs); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	msgs[1].Values = msgs[1].Values[1:]
	if _, err := received(msgs); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("a key without a value: %v", err)
	}
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

// A snapshot is held up only while its shard takes writes.
func TestSnapshotPace(t *testing.T) {
	revision := banyan.Revision(5)
	p := snapshotPace{revision: func() banyan.Revision { return revision }}
	now := time.Unix(1000, 0)
	const size = snapshotBytesPerSecond / 8
	for i, c := range []struct {
		after time.Duration
		wrote banyan.Revision
		want  time.Duration
	}{
		{0, 0, 125 * time.Millisecond}, // not known yet
		{125 * time.Millisecond, 0, 125 * time.Millisecond},
		{150 * time.Millisecond, 0, 0}, // no writes for a while
		{time.Second, 1, 125 * time.Millisecond},
		{25 * time.Millisecond, 1, 225 * time.Millisecond},
		{175 * time.Millisecond, 0, 175 * time.Millisecond},
		{snapshotLook, 0, 0},
	} {
		now = now.Add(c.after)
		revision += c.wrote
		if got := p.wait(now, size); got != c.want {
			t.Errorf("message %d waits %v, want %v", i, got, c.want)
		}
	}
}
