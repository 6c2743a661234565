package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"

	"google.golang.org/protobuf/proto"
)

// tape is a connection that gives what was recorded and takes everything.
type tape struct {
	net.Conn
	in, out bytes.Buffer
	writes  int
}

func (c *tape) Read(b []byte) (int, error) { return c.in.Read(b) }

func (c *tape) Write(b []byte) (int, error) {
	c.writes++
	return c.out.Write(b)
}

func (*tape) SetReadDeadline(time.Time) error  { return nil }
func (*tape) SetWriteDeadline(time.Time) error { return nil }

func puts(values ...int) *banyanv1.SessionRequest {
	m := &banyanv1.SessionRequest{}
	for i, n := range values {
		m.Calls = append(m.Calls, &banyanv1.Call{Id: uint64(i), Call: &banyanv1.Call_Put{Put: &banyanv1.PutRequest{Value: make([]byte, n)}}})
	}
	return m
}

func TestFramesComeAsTheyWent(t *testing.T) {
	sent := []*banyanv1.SessionRequest{puts(), puts(1), puts(frameBuffer), puts(10, 3*frameStep, 7), puts(frameKept, 0), puts()}
	c := &tape{}
	f := NewFrames(c, nil, 0)
	for _, m := range sent {
		if err := f.Write(m); err != nil {
			t.Fatal(err)
		}
	}
	if c.writes != len(sent) {
		t.Errorf("%d messages went in %d writes", len(sent), c.writes)
	}
	first := bufio.NewReader(io.LimitReader(&c.out, 100))
	if _, err := first.Peek(100); err != nil {
		t.Fatal(err)
	}
	c.in = c.out
	f = NewFrames(c, first, 0)
	for i, want := range sent {
		got := &banyanv1.SessionRequest{}
		if err := f.Read(got); err != nil || !proto.Equal(got, want) {
			t.Errorf("message %d: %v", i, err)
		}
	}
	if err := f.Read(&banyanv1.SessionRequest{}); !errors.Is(err, io.EOF) {
		t.Errorf("the end is %v", err)
	}
}

func TestFramesThatAreNoGood(t *testing.T) {
	long := binary.BigEndian.AppendUint32(nil, banyan.SessionFrameBytesMax+1)
	for what, c := range map[string]struct {
		bytes string
		is    error
		kind  banyan.Kind
		says  string
	}{
		"too long":       {string(long), nil, banyan.Exhausted, "SessionFrameBytesMax"},
		"half a length":  {"\x00\x00", io.ErrUnexpectedEOF, banyan.Internal, ""},
		"half a message": {"\x00\x00\x00\x05ab", io.ErrUnexpectedEOF, banyan.Internal, ""},
		"nonsense":       {"\x00\x00\x00\x02\xff\xff", nil, banyan.Invalid, "2 bytes holds no SessionRequest"},
	} {
		conn := &tape{}
		conn.in.WriteString(c.bytes)
		err := NewFrames(conn, nil, 0).Read(&banyanv1.SessionRequest{})
		if err == nil || c.is != nil && !errors.Is(err, c.is) || banyan.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
	}
	conn := &tape{}
	err := NewFrames(conn, nil, 0).Write(puts(banyan.SessionFrameBytesMax))
	if !banyan.IsKind(err, banyan.Exhausted) || conn.writes > 0 {
		t.Errorf("a message that is too long: %v, %d writes", err, conn.writes)
	}
}

// A connection that says or takes nothing is found out; one that was told to
// stop reads no more, though its deadline was to be moved.
func TestFramesInSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		f := NewFrames(a, nil, time.Minute)
		began := time.Now()
		var timeout net.Error
		if err := f.Read(puts()); !errors.As(err, &timeout) || !timeout.Timeout() || time.Since(began) < time.Minute {
			t.Errorf("after %v of silence: %v", time.Since(began), err)
		}
		if err := f.Write(puts(1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("nobody takes it: %v", err)
		}
		f = NewFrames(a, nil, time.Minute)
		f.Stop()
		began = time.Now()
		if err := f.Read(puts()); err == nil || time.Since(began) > 0 {
			t.Errorf("stopped: %v after %v", err, time.Since(began))
		}
		_ = b.Close()
	})
}

// room is a Room of so many bytes.
type room struct{ left int }

func (r *room) Take(n int) error {
	if n > r.left {
		return banyan.Errorf(banyan.Exhausted, "no room")
	}
	r.left -= n
	return nil
}

func (r *room) Give(n int) { r.left += n }

// TestFramesAreCounted until the next one is asked for, and no bytes are read
// that there is no room for.
func TestFramesAreCounted(t *testing.T) {
	c, r := &tape{}, &room{3 << 20}
	f := NewFrames(c, nil, 0)
	f.In(r)
	for _, size := range []int{2 << 20, 2 << 20, 10} { // together more than there is room for
		if err := f.Write(puts(size)); err != nil {
			t.Fatal(err)
		}
		c.in, c.out = c.out, bytes.Buffer{}
		m := &banyanv1.SessionRequest{}
		if err := f.Read(m); err != nil {
			t.Fatal(err)
		}
		if held := 3<<20 - r.left; (held > 0) != (size > frameKept) {
			t.Errorf("%d bytes are held for a message of %d", held, size)
		}
	}
	if err := f.Write(puts(4 << 20)); err != nil {
		t.Fatal(err)
	}
	c.in, c.out = c.out, bytes.Buffer{}
	if err := f.Read(&banyanv1.SessionRequest{}); !banyan.IsKind(err, banyan.Exhausted) || c.in.Len() < frameStep/2 {
		t.Errorf("a message that there is no room for: %v, %d bytes not read", err, c.in.Len())
	}
}

// FuzzFrames reads what either side of a session may be sent.
func FuzzFrames(f *testing.F) {
	for _, m := range []proto.Message{puts(), puts(3, 4), &banyanv1.SessionResponse{Answers: []*banyanv1.Answer{{Id: 1, Elsewhere: true}}, End: &banyanv1.CallError{Kind: 6, Message: "x"}}} {
		c := &tape{}
		if err := NewFrames(c, nil, 0).Write(m); err != nil {
			f.Fatal(err)
		}
		f.Add(c.out.Bytes())
		f.Add(append(c.out.Bytes(), c.out.Bytes()...))
	}
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, made := range []func() proto.Message{
			func() proto.Message { return &banyanv1.SessionRequest{} },
			func() proto.Message { return &banyanv1.SessionResponse{} },
		} {
			c := &tape{}
			c.in.Write(b)
			for frames := NewFrames(c, nil, 0); ; {
				m := made()
				if frames.Read(m) != nil {
					break
				}
				again := &tape{}
				if err := NewFrames(again, nil, 0).Write(m); err != nil {
					t.Fatalf("what was read cannot be written: %v", err)
				}
				again.in = again.out
				same := made()
				if err := NewFrames(again, nil, 0).Read(same); err != nil || !proto.Equal(m, same) {
					t.Fatalf("read again: %v", err)
				}
			}
		}
	})
}
