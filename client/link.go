package client

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/node/pki"

	"connectrpc.com/connect"
)

// link carries the messages of a session. One goroutine may receive while
// another sends; Close breaks off both.
type link interface {
	Send(*banyanv1.SessionRequest) error
	Receive() (*banyanv1.SessionResponse, error)
	Close()
}

var (
	_ link = framed{}
	_ link = streamed{}
)

// framed is a link on a connection of its own.
type framed struct{ *wire.Frames }

func (f framed) Send(m *banyanv1.SessionRequest) error { return f.Write(m) }

func (f framed) Receive() (*banyanv1.SessionResponse, error) {
	m := &banyanv1.SessionResponse{}
	return m, f.Read(m)
}

func (f framed) Close() { _ = f.Frames.Close() }

// streamed is a link to a node of an older release, which knows only streams.
type streamed struct {
	*connect.BidiStreamForClient[banyanv1.SessionRequest, banyanv1.SessionResponse]
	cancel context.CancelFunc
}

// Close ends sending too: only when nothing is left to send does the transport
// hear of cancel.
func (s streamed) Close() {
	s.cancel()
	_ = s.CloseRequest()
}

// sessionOf gives the session with a node, opening one if there is none. nil:
// the node knows no sessions.
func (c *Client) sessionOf(n *node) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == nil && !n.sessionless {
		s := newSession(n, c.patience)
		n.session = s
		c.sessions.Go(func() { c.hold(s) })
	}
	return n.session
}

// forget has the next call open another session.
func (n *node) forget(s *session) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == s {
		n.session = nil
	}
}

// hold runs a session until it breaks or the client is closed.
func (c *Client) hold(s *session) {
	l, err := c.linkTo(s.node)
	if err == nil {
		stop := context.AfterFunc(c.life, func() {
			s.fail(wire.Decode(c.life.Err()))
			l.Close()
		})
		defer stop()
		var sender sync.WaitGroup
		defer sender.Wait()
		defer l.Close()
		err = s.converse(l, &sender)
	}
	if banyan.IsKind(err, banyan.TooNew) { // what Connect calls unimplemented
		s.node.mu.Lock()
		s.node.sessionless = true
		s.node.mu.Unlock()
	}
	s.node.forget(s)
	s.fail(err)
}

// converse sends and receives until the session breaks. The sender may need a
// moment longer.
func (s *session) converse(l link, sender *sync.WaitGroup) error {
	s.mu.Lock()
	s.link = l
	s.mu.Unlock()
	sender.Go(s.send)
	return s.receive()
}

// linkTo opens a link to a node.
func (c *Client) linkTo(n *node) (link, error) {
	f, err := c.upgrade(n.addr)
	if f != nil || err != nil {
		return framed{f}, err
	}
	ctx, cancel := context.WithCancel(c.life)
	return streamed{n.kv.Session(ctx), cancel}, nil
}

// upgrade makes a connection to a node and has it become a session. nil without
// an error: the node does not know how.
func (c *Client) upgrade(addr string) (*wire.Frames, error) {
	ctx, cancel := context.WithTimeout(c.life, dialTimeout)
	defer cancel()
	dialer := tls.Dialer{NetDialer: &net.Dialer{}, Config: c.tls}
	conn, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, wire.Decode(pki.Explain(addr, err))
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	in := bufio.NewReader(conn)
	res, err := askUpgrade(ctx, conn, in, addr)
	switch {
	case err != nil:
		err = wire.Decode(pki.Explain(addr, err))
	case !stop():
		err = wire.Decode(ctx.Err())
	case res.StatusCode == http.StatusSwitchingProtocols:
		return wire.NewFrames(conn, in, 0), nil
	default:
		err = refusal(res)
	}
	_ = conn.Close()
	return nil, err
}

func askUpgrade(ctx context.Context, conn net.Conn, in *bufio.Reader, addr string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+addr+banyanv1connect.KVSessionProcedure, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", wire.SessionProtocol)
	if err := req.Write(conn); err != nil {
		return nil, err
	}
	return http.ReadResponse(in, req)
}

// refusalMax is how much is read of why a node refuses a session.
const refusalMax = 4 << 10

// refusal gives the error that a node answers, nil if it did not understand.
func refusal(res *http.Response) error {
	defer res.Body.Close()
	kind, err := strconv.ParseUint(res.Header.Get(wire.KindHeader), 10, 8)
	if err != nil || kind >= uint64(banyan.Kinds) {
		return nil
	}
	text, err := io.ReadAll(io.LimitReader(res.Body, refusalMax))
	if err != nil {
		return wire.Decode(err)
	}
	return &banyan.Error{Kind: banyan.Kind(kind), Msg: strings.TrimSpace(string(text))}
}
