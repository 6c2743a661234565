package transport

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"banyan"
	"banyan/node/pki"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// tlsHandshakeRecord is the first byte of every TLS connection.
const tlsHandshakeRecord = 0x16

// accept runs until the listener closes.
func (t *Transport) accept() {
	for failing := false; ; {
		conn, err := t.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil && !failing {
			t.log.Error("cannot accept connections", "error", err)
		}
		if failing = err != nil; failing { // out of file descriptors, most likely: wait for some to be closed
			select {
			case <-time.After(100 * time.Millisecond):
			case <-t.ctx.Done():
			}
			continue
		}
		c, ok := t.admit(conn)
		if !ok || !t.spawn(func() { t.serve(c) }) {
			_ = conn.Close()
		}
	}
}

// serve finds out what a connection is for and does it. It does not close
// connections that it hands to the HTTP server or to OnStream.
func (t *Transport) serve(c *accepted) {
	var first [1]byte
	err := c.SetDeadline(time.Now().Add(t.patience))
	if err == nil {
		_, err = io.ReadFull(c.Conn, first[:])
	}
	if err != nil {
		_ = c.Close()
		return
	}
	if first[0] != tlsHandshakeRecord {
		t.refusePlain(c, first[0])
		return
	}
	c.first = first[:]
	conn := tls.Server(c, t.config.Keeper.ServerTLS(protocolNode, protocolGossip, "h2", "http/1.1"))
	err = c.SetDeadline(time.Now().Add(t.patience))
	if err == nil {
		err = conn.HandshakeContext(t.ctx)
	}
	if err != nil {
		t.refusedStranger(c, err)
		_ = c.Close()
		return
	}
	state := conn.ConnectionState()
	to := t.http
	as := classOf(state)
	if as != ofStranger {
		c.endAt(state.PeerCertificates[0].NotAfter)
	}
	switch {
	case as == ofStranger && state.NegotiatedProtocol != protocolNode && state.NegotiatedProtocol != protocolGossip:
		to = t.strangers
		// However it is used: it ends in a moment, and gives its place back.
		time.AfterFunc(banyan.StrangerSecondsMax*time.Second, func() { _ = c.Close() })
	case state.NegotiatedProtocol == protocolNode || state.NegotiatedProtocol == protocolGossip:
		if t.enter(c, as) {
			t.serveNode(conn)
		} else {
			_ = c.Close()
		}
		return
	}
	if !t.enter(c, as) || c.SetDeadline(time.Time{}) != nil || !to.deliver(conn) {
		_ = c.Close()
	}
}

// classOf tells by its certificate whom a connection is from.
func classOf(state tls.ConnectionState) class {
	if len(state.VerifiedChains) == 0 {
		return ofStranger
	}
	if s, _, err := pki.SubjectOf(state.PeerCertificates[0]); err == nil && s.Kind == pki.Node {
		return ofNode
	}
	return ofUser
}

// refusedStranger counts and now and then logs a connection that showed nothing
// it could be let in with.
func (t *Transport) refusedStranger(c *accepted, err error) {
	t.meter.strangers.Inc()
	if left, due := t.seldom.Now(time.Now()); due {
		t.log.Info("refused a stranger's connection", "from", c.RemoteAddr().String(), "error", err, "more", left)
	}
}

// serveNode greets a node and serves its conversation or stream.
func (t *Transport) serveNode(conn *tls.Conn) {
	conv, err := answer(conn, t.self(), t.welcome)
	if err == nil {
		err = conn.SetDeadline(time.Time{})
	}
	if err != nil {
		if why := err.Error(); t.refusal.Swap(why) != why {
			t.log.Warn("refused a node", "from", conn.RemoteAddr().String(), "error", err)
		}
		_ = conn.Close()
		return
	}
	if conn.ConnectionState().NegotiatedProtocol == protocolGossip {
		if t.handlers.OnStream == nil {
			_ = conn.Close()
			return
		}
		t.handlers.OnStream(conv.peer.Node, conv)
		return
	}
	defer conn.Close()
	p := t.peer(conv.peer.Node)
	if p == nil {
		return
	}
	p.met(conv.peer.Boot)
	nudge(p.probe) // have a connection the other way too
	err = t.receive(conv, p)
	t.log.Debug("a node's connection ended", "node", p.node, "error", err)
	nudge(p.probe) // is it gone?
}

// receive hands on what a node sends until its connection breaks.
func (t *Transport) receive(conn *conversation, p *peer) error {
	pong := sealFrame(newFrame(nil), framePong)
	return t.readFrames(conn, func(typ frameType, payload []byte) error {
		if now := p.life.Load(); now != 0 && now != conn.peer.Boot {
			return banyan.Errorf(banyan.Removed, "another process is node %s now", p.node)
		}
		p.heard()
		switch typ {
		case framePing:
			if err := t.config.Admit(p.node); err != nil {
				return err
			}
			return p.write(conn, pong)
		case frameRaft:
			return eachRecord(payload, func(shard uint32, body []byte) error {
				m := &raftpb.Message{}
				if err := proto.Unmarshal(body, m); err != nil {
					return banyan.Errorf(banyan.Corrupt, "node %s sent a raft message that cannot be read: %w", p.node, err)
				}
				if t.handlers.OnRaft != nil {
					t.handlers.OnRaft(p.node, banyan.ShardID(shard), m)
				}
				return nil
			})
		case framePacket:
			return eachRecord(payload, func(_ uint32, body []byte) error {
				if t.handlers.OnPacket != nil {
					t.handlers.OnPacket(p.node, append([]byte(nil), body...))
				}
				return nil
			})
		}
		return banyan.Errorf(banyan.TooNew, "node %s sent a frame of type %d, which this node does not know", p.node, typ)
	})
}

// refusePlain tells a caller that does not speak TLS what to do.
func (t *Transport) refusePlain(c *accepted, first byte) {
	defer c.Close()
	t.refusedStranger(c, banyan.Errorf(banyan.Unauthenticated, "it does not speak TLS"))
	text := "This is a banyan node. It speaks only TLS, and only with holders of a certificate of its cluster.\n" +
		"Use the banyan command on a machine that has one ('banyan status'), or https:// with the certificate.\n" +
		"A new machine comes in with 'banyan join HOST:PORT --token TOKEN'; 'banyan token' on a node prints a token.\n"
	if 'A' <= first && first <= 'Z' { // the method of an HTTP request
		text = "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nConnection: close\r\n\r\n" + text
	}
	if _, err := io.WriteString(c, text); err != nil {
		return
	}
	// Read a little of what is still coming, so that the text is not lost to a reset.
	if tcp, ok := c.Conn.(*net.TCPConn); ok && tcp.CloseWrite() == nil && c.SetDeadline(time.Now().Add(time.Second)) == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(c, 64<<10))
	}
}

// httpListener is the listener of the HTTP server.
type httpListener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	close func()
}

var _ net.Listener = (*httpListener)(nil)

func newHTTPListener(addr net.Addr) *httpListener {
	l := &httpListener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.done) })
	return l
}

// deliver waits for the server to accept; false when the listener is closed.
func (l *httpListener) deliver(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.done:
		return false
	}
}

func (l *httpListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *httpListener) Close() error {
	l.close()
	return nil
}

func (l *httpListener) Addr() net.Addr { return l.addr }
