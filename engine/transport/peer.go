package transport

import (
	"bufio"
	"context"
	"crypto/tls"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
)

const (
	// silenceMax is how long a connection may stand still, reading or writing,
	// before it counts as broken. The dialling side pings five times as often.
	silenceMax = 5 * time.Second
	backoffMin = 10 * time.Millisecond
	backoffMax = time.Second
)

// peer sends to one node over one connection, which it dials again when it breaks.
type peer struct {
	t     *Transport
	node  banyan.NodeID
	queue queue
	wake  chan struct{} // something is queued
	probe chan struct{} // see whether the node is there, and now

	lastContact atomic.Int64 // ns since the Transport began, from 1; 0: never
	// boot is the process of the node that is known to have run, from either
	// direction; 0 when it is known to be gone.
	boot atomic.Uint64

	meeting sync.Mutex           // held while a process of it is met
	life    atomic.Uint64        // the process that this node listens to alone; 0: any
	talk    atomic.Pointer[talk] // nil: not connected
	// tried is closed, by trying, when the node was dialled once.
	tried  chan struct{}
	trying func()

	lastError string // of dialling, so that each is logged once
}

func nudge(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // one is on its way
	}
}

func (p *peer) wakeUp() { nudge(p.wake) }

// heard notes that a frame arrived from the node.
func (p *peer) heard() { p.lastContact.Store(int64(time.Since(p.t.began)) + 1) }

// run dials whenever there is something to send or to find out, and sends
// until the connection breaks. After a break it finds out at once.
func (p *peer) run() {
	backoff := backoffMin
	for wanted := false; p.t.ctx.Err() == nil; {
		if !wanted && p.queue.empty() && !p.sleep(0) {
			return
		}
		conn, err := p.t.dialPeer(p.node)
		p.trying()
		if err == nil {
			backoff, p.lastError = backoffMin, ""
			p.met(conn.peer.Boot)
			p.notify(p.t.handlers.OnFound)
			p.t.log.Debug("connected to a node", "node", p.node, "address", conn.RemoteAddr().String())
			err = p.converse(conn)
			p.t.log.Debug("the connection to a node ended", "node", p.node, "error", err)
			p.queue.clear()
			wanted = true
			continue
		}
		p.queue.clear()
		if p.t.ctx.Err() != nil {
			return
		}
		if refused(err) && p.boot.Swap(0) != 0 {
			p.notify(p.t.handlers.OnLost)
		}
		_, known := p.t.config.Resolve(p.node) // not when it was removed
		if text := err.Error(); known && text != p.lastError {
			p.lastError = text
			p.t.log.Warn("cannot reach a node", "node", p.node, "error", err)
		}
		// Whether it is gone is still open only while it is thought to run.
		wanted = known && p.boot.Load() != 0
		if !p.sleep(backoff/2 + rand.N(backoff)) {
			return
		}
		backoff = min(2*backoff, backoffMax)
	}
}

// met notes which process of the node runs now; another one before it is gone.
func (p *peer) met(boot uint64) {
	p.heard()
	if before := p.boot.Swap(boot); before != 0 && before != boot {
		p.notify(p.t.handlers.OnLost)
	}
}

func (p *peer) notify(f func(banyan.NodeID)) {
	if f != nil {
		f(p.node)
	}
}

// sleep waits for d or a probe, or with d = 0 for anything to do. It says
// false when the transport closes.
func (p *peer) sleep(d time.Duration) bool {
	var wake chan struct{}
	var timer <-chan time.Time
	if d == 0 {
		wake = p.wake
	} else {
		timer = time.After(d)
	}
	select {
	case <-wake:
	case <-timer:
	case <-p.probe:
	case <-p.t.ctx.Done():
		return false
	}
	return true
}

// converse sends what is queued, and pings, until the connection breaks. It
// says why it did.
func (p *peer) converse(conn *conversation) error {
	ctx, cancel := context.WithCancelCause(p.t.ctx)
	k := &talk{boot: conn.peer.Boot, ended: make(chan struct{})}
	p.talk.Store(k)
	done := make(chan struct{})
	go func() {
		defer close(done)
		cancel(p.listen(conn, k))
	}()
	unhook := context.AfterFunc(ctx, func() { _ = conn.Conn.Close() }) // unblocks reads and writes
	if secured, ok := conn.Conn.(*tls.Conn); ok {
		defer endWith(secured)()
	}
	cancel(p.speak(ctx, conn, k))
	<-done
	p.talk.Store(nil)
	close(k.ended)
	unhook()
	_ = conn.Conn.Close() // the hook has, or is about to
	return context.Cause(ctx)
}

// speak sends until an error, or until ctx ends because listen met one.
func (p *peer) speak(ctx context.Context, conn *conversation, k *talk) error {
	ping := time.NewTicker(p.t.silence / 5)
	defer ping.Stop()
	pingFrame := sealFrame(newFrame(nil), framePing)
	sendPing := func() error {
		k.pings.Add(1)
		return p.write(conn, pingFrame)
	}
	for {
		for frame := p.queue.take(); frame != nil; frame = p.queue.take() {
			if err := p.write(conn, frame); err != nil {
				return err
			}
			p.queue.reuse(frame)
		}
		select {
		case <-p.wake:
			runtime.Gosched() // what is ready to be sent goes in one frame
		case <-p.probe: // the ping finds out
			if err := sendPing(); err != nil {
				return err
			}
		case <-ping.C:
			if err := sendPing(); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (p *peer) write(conn *conversation, frame []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(p.t.silence)); err != nil {
		return err
	}
	_, err := conn.Conn.Write(frame)
	return err
}

// listen reads the answers to pings; it returns when the connection breaks.
func (p *peer) listen(conn *conversation, k *talk) error {
	return p.t.readFrames(conn, func(typ frameType, payload []byte) error {
		p.heard()
		switch typ {
		case framePong:
			k.pongs.Add(1)
			return nil
		case frameRefuse:
			return decodeRefuse(payload)
		}
		return banyan.Errorf(banyan.Corrupt, "an unexpected frame of type %d", typ)
	})
}

// readFrames calls fn for each frame until an error or a silence of silenceMax.
// The payload is valid during fn.
func (t *Transport) readFrames(conn *conversation, fn func(frameType, []byte) error) error {
	return readAll(conn.in, fn, func() error { return conn.SetReadDeadline(time.Now().Add(t.silence)) })
}

func readAll(in *bufio.Reader, fn func(frameType, []byte) error, next func() error) error {
	var buf []byte
	for {
		if err := next(); err != nil {
			return err
		}
		typ, payload, err := readFrame(in, buf, banyan.FrameBytesMax)
		if err != nil {
			return err
		}
		if err := fn(typ, payload); err != nil {
			return err
		}
		if buf = payload; cap(buf) > 2*batchBytes {
			buf = nil // do not hold on to the memory of a rare giant
		}
	}
}

// endWith closes a connection when the certificate that the node called showed
// expires; the next one begins with a renewed one. That of the caller is for
// who was called to see to (accepted.endAt).
func endWith(conn *tls.Conn) (stop func() bool) {
	return time.AfterFunc(time.Until(conn.ConnectionState().PeerCertificates[0].NotAfter), func() { _ = conn.NetConn().Close() }).Stop
}
