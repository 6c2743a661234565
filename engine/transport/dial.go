package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"sync"
	"time"

	"banyan"
	"banyan/node/pki"
)

const connectTimeout = 2 * time.Second

// dialTLS connects to addr and shakes hands. The caller closes the connection.
func (t *Transport) dialTLS(ctx context.Context, addr string, protocols ...string) (*tls.Conn, error) {
	dialer := net.Dialer{Timeout: connectTimeout}
	raw, err := dialer.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.patience)
	defer cancel()
	conn := tls.Client(raw, t.config.Keeper.ClientTLS(protocols...))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, pki.Explain(addr, err)
	}
	return conn, nil
}

// resolve says where a node listens.
func (t *Transport) resolve(node banyan.NodeID) (string, error) {
	if addr, ok := t.config.Resolve(node); ok {
		return addr, nil
	}
	return "", banyan.Errorf(banyan.Unavailable, "no address is known for node %s: 'banyan nodes' lists the nodes", node)
}

// converseWith connects to addr and exchanges hellos.
func (t *Transport) converseWith(ctx context.Context, addr, protocol string) (*conversation, error) {
	conn, err := t.dialTLS(ctx, addr, protocol)
	if err != nil {
		return nil, err
	}
	var conv *conversation
	if err = conn.SetDeadline(time.Now().Add(t.patience)); err == nil {
		if conv, err = greet(conn, t.self(), t.welcome); err == nil {
			err = conn.SetDeadline(time.Time{})
		}
	}
	if err != nil {
		_ = conn.Close()
		err = pki.Explain(addr, err)
		if errors.Is(err, errRefused) && banyan.IsKind(err, banyan.Removed) && t.handlers.OnExpelled != nil {
			t.handlers.OnExpelled(err)
		}
		return nil, err
	}
	return conv, nil
}

// dialPeer connects to a node and makes sure that it is that node.
func (t *Transport) dialPeer(node banyan.NodeID) (*conversation, error) {
	addr, err := t.resolve(node)
	if err != nil {
		return nil, err
	}
	conv, err := t.converseWith(t.ctx, addr, protocolNode)
	if err == nil && conv.peer.Node != node {
		_ = conv.Conn.Close()
		return nil, banyan.Errorf(banyan.Unavailable, "%s is node %s, not node %s", addr, conv.peer.Node, node)
	}
	return conv, err
}

// DialStream opens a gossip stream to the node that listens at addr (host:port)
// and says which node that is. The caller closes the stream.
func (t *Transport) DialStream(ctx context.Context, addr string) (net.Conn, banyan.NodeID, error) {
	conv, err := t.converseWith(ctx, addr, protocolGossip)
	if err != nil {
		return nil, 0, err
	}
	return conv, conv.peer.Node, nil
}

// HTTPClient calls other nodes at URL(node) over mutual TLS, HTTP/2.
func (t *Transport) HTTPClient() *http.Client { return t.calls }

// BulkHTTPClient is HTTPClient with connections of its own, for blobs and
// snapshots, so that they delay no call.
func (t *Transport) BulkHTTPClient() *http.Client { return t.bulk }

// URL is the base URL of a node for HTTPClient and BulkHTTPClient, such as
// "https://n7"; they look up where node 7 listens and check that it answers.
// They take https://HOST:PORT of any node of the cluster, too.
func (t *Transport) URL(node banyan.NodeID) string { return "https://" + node.String() }

// caller is a RoundTripper that leaves its connections behind when the node's
// certificate was renewed: servers judge a call by the certificate that its
// connection began with.
type caller struct {
	t       *Transport
	mu      sync.Mutex
	cert    *x509.Certificate
	current *http.Transport
}

func (c *caller) transport() *http.Transport {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cert := c.t.config.Keeper.Certificate(); cert != c.cert {
		if c.current != nil {
			c.current.CloseIdleConnections() // busy ones close when their calls are over
		}
		c.cert, c.current = cert, c.t.newHTTPTransport()
	}
	return c.current
}

func (c *caller) RoundTrip(r *http.Request) (*http.Response, error) {
	return c.transport().RoundTrip(r)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections calls.
func (c *caller) CloseIdleConnections() { c.transport().CloseIdleConnections() }

func (t *Transport) newHTTPTransport() *http.Transport {
	return &http.Transport{
		ForceAttemptHTTP2: true,
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return t.dialHTTP(ctx, addr)
		},
		IdleConnTimeout: 5 * time.Minute,
		// A node that is paused or cut off is found out, not waited for.
		HTTP2: &http.HTTP2Config{SendPingTimeout: silenceMax, PingTimeout: silenceMax, WriteByteTimeout: silenceMax},
	}
}

// dialHTTP dials the host of a URL: a node, or an address.
func (t *Transport) dialHTTP(ctx context.Context, addr string) (*tls.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	node, err := banyan.ParseNodeID(host)
	named := err == nil
	if named {
		if addr, err = t.resolve(node); err != nil {
			return nil, err
		}
	}
	conn, err := t.dialTLS(ctx, addr, "h2", "http/1.1")
	if err != nil || !named {
		return conn, err
	}
	if got, err := certifiedNode(conn.ConnectionState()); err != nil || got != node {
		_ = conn.Close()
		return nil, banyan.Errorf(banyan.Unavailable, "%s is node %s, not node %s", addr, got, node)
	}
	return conn, nil
}
