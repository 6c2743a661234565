package wire

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"time"

	"banyan"

	"google.golang.org/protobuf/proto"
)

// SessionProtocol is what a caller of KV.Session asks to upgrade a connection to.
const SessionProtocol = "banyan-session/1"

const (
	frameHead   = 4        // length of the message, big-endian
	frameBuffer = 16 << 10 // read at once: a TLS record
	frameKept   = 64 << 10 // memory kept from one message to the next
	frameStep   = 1 << 20  // memory made before the bytes for it have come
	writeMax    = 10 * time.Second
)

// Frames carries messages over a connection: each is its length and itself, and
// leaves in one write. One goroutine may read while another writes.
type Frames struct {
	conn    net.Conn
	in      *bufio.Reader
	stopped atomic.Bool

	reads, writes deadline
	got, out      []byte

	room  Room
	taken int // of room, for the message read last
}

// Room bounds the bytes that many connections hold together.
type Room interface {
	Take(n int) error
	Give(n int)
}

// In has the messages that are read counted in a room, each until the next is
// asked for.
func (f *Frames) In(room Room) { f.room = room }

// take counts more bytes of a message. Small ones are not worth it.
func (f *Frames) take(n int) error {
	if f.room == nil {
		return nil
	}
	if err := f.room.Take(n); err != nil {
		return err
	}
	f.taken += n
	return nil
}

func (f *Frames) give() {
	if f.taken > 0 {
		f.room.Give(f.taken)
		f.taken = 0
	}
}

// NewFrames takes over a connection; first, if not nil, has read from it before.
// A Read in silence for so long fails; 0: it waits.
func NewFrames(conn net.Conn, first *bufio.Reader, silence time.Duration) *Frames {
	in := io.Reader(conn)
	if first != nil && first.Buffered() > 0 {
		read, _ := first.Peek(first.Buffered()) // has no error
		in = io.MultiReader(bytes.NewReader(read), conn)
	}
	return &Frames{conn: conn, in: bufio.NewReaderSize(in, frameBuffer), reads: deadline{max: silence}, writes: deadline{max: writeMax}}
}

// deadline is moved only now and then: a little late is early enough.
type deadline struct {
	max time.Duration
	at  time.Time
}

func (d *deadline) move(set func(time.Time) error) error {
	if d.max == 0 {
		return nil
	}
	now := time.Now()
	if d.at.Sub(now) >= d.max {
		return nil
	}
	d.at = now.Add(d.max + d.max/2)
	return set(d.at)
}

// Read reads the next message into m, which must be empty. io.EOF: the other
// side has ended between two messages.
func (f *Frames) Read(m proto.Message) error {
	if err := f.reads.move(f.conn.SetReadDeadline); err != nil {
		return err
	}
	if f.stopped.Load() {
		f.Stop() // the deadline may have been moved
	}
	body, err := f.body()
	if err != nil {
		return err
	}
	if err := proto.Unmarshal(body, m); err != nil {
		return banyan.Errorf(banyan.Invalid, "a frame of %d bytes holds no %s: %w", len(body), m.ProtoReflect().Descriptor().Name(), err)
	}
	return nil
}

// body gives the bytes of the next message, valid until the one after.
func (f *Frames) body() ([]byte, error) {
	f.give()
	head, err := f.in.Peek(frameHead)
	if errors.Is(err, io.EOF) && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(head)
	if size > banyan.SessionFrameBytesMax {
		return nil, tooLong(int64(size))
	}
	_, _ = f.in.Discard(frameHead) // what Peek has seen
	if cap(f.got) > frameKept {
		f.got = nil
	}
	f.got = f.got[:0]
	for left := int(size); left > 0; {
		n := min(left, frameStep)
		if size > frameKept {
			if err := f.take(n); err != nil {
				return nil, err
			}
		}
		at := len(f.got)
		f.got = append(f.got, make([]byte, n)...)
		if _, err := io.ReadFull(f.in, f.got[at:]); errors.Is(err, io.EOF) {
			return nil, io.ErrUnexpectedEOF
		} else if err != nil {
			return nil, err
		}
		left -= n
	}
	return f.got, nil
}

func tooLong(size int64) error {
	return banyan.Errorf(banyan.Exhausted, "a message of %d bytes in a session: at most %d go together (SessionFrameBytesMax); make a large call a request of its own", size, banyan.SessionFrameBytesMax)
}

// Write sends m. Who does not take it within some seconds is given up.
func (f *Frames) Write(m proto.Message) error {
	if cap(f.out) > frameKept {
		f.out = nil
	}
	out, err := proto.MarshalOptions{}.MarshalAppend(append(f.out[:0], 0, 0, 0, 0), m)
	if err != nil {
		return banyan.Errorf(banyan.Internal, "a message of a session cannot be written: %w", err)
	}
	f.out = out
	size := len(out) - frameHead
	if size > banyan.SessionFrameBytesMax {
		return tooLong(int64(size))
	}
	binary.BigEndian.PutUint32(out, uint32(size))
	if err := f.writes.move(f.conn.SetWriteDeadline); err != nil {
		return err
	}
	_, err = f.conn.Write(out)
	return err
}

// Stop ends reading, from any goroutine; writing goes on.
func (f *Frames) Stop() {
	f.stopped.Store(true)
	_ = f.conn.SetReadDeadline(time.Unix(1, 0)) // fails when it is closed
}

// Close closes the connection.
func (f *Frames) Close() error { return f.conn.Close() }

// CloseAfter closes the connection when the other side has closed it, or after d.
// Until then it reads and drops what comes in. The other side may still be
// reading our last message; if we closed with bytes unread here, the system would
// reset the connection, and that message would be lost on its way.
func (f *Frames) CloseAfter(d time.Duration) error {
	if f.conn.SetReadDeadline(time.Now().Add(d)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(f.conn, banyan.SessionFrameBytesMax))
	}
	return f.conn.Close()
}
