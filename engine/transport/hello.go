package transport

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"net"

	"banyan"
	"banyan/node/pki"
)

// errRefused is wrapped when the other end has said no, and why.
var errRefused = errors.New("refused")

// hello says who is at one end of a conversation.
type hello struct {
	Min, Max uint64 // protocols spoken
	Node     banyan.NodeID
	Boot     uint64 // drawn when the process starts: tells a restarted node from the old one
	Version  string // release, for messages
	Acts     uint64 // protocol that the cluster acts at, as far as the node knows; 0: it does not say
	Life     Life   // whose last number is Boot; none: it does not say
}

func (h hello) encode() []byte {
	b := newFrame(nil)
	for _, v := range []uint64{h.Min, h.Max, uint64(h.Node), h.Boot, uint64(len(h.Version))} {
		b = binary.AppendUvarint(b, v)
	}
	b = binary.AppendUvarint(append(b, h.Version...), h.Acts)
	return sealFrame(h.Life.append(b), frameHello)
}

// decodeHello accepts bytes after those it knows: later versions may add some.
func decodeHello(b []byte) (h hello, err error) {
	var size uint64
	var node uint64
	for _, into := range []*uint64{&h.Min, &h.Max, &node, &h.Boot, &size} {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return h, banyan.Errorf(banyan.Corrupt, "a hello of %d bytes is cut", len(b))
		}
		*into, b = v, b[n:]
	}
	if size > uint64(len(b)) || h.Min > h.Max {
		return h, banyan.Errorf(banyan.Corrupt, "a hello makes no sense")
	}
	h.Node, h.Version = banyan.NodeID(node), string(b[:size])
	if acts, n := binary.Uvarint(b[size:]); n > 0 { // protocol 1 does not say
		h.Acts = acts
		h.Life, err = decodeLife(b[int(size)+n:])
		if err == nil && h.Life.Count > 0 && h.Life.Last() != h.Boot {
			err = banyan.Errorf(banyan.Corrupt, "a hello makes no sense")
		}
	}
	return h, err
}

// speaks says whether the node can be of a cluster that acts at a protocol.
func (h hello) speaks(acts uint64) bool { return acts == 0 || h.Min <= acts && acts <= h.Max }

// check says why two nodes cannot talk, or nil. The words are for the other's ears.
func (h hello) check(other hello) error {
	if other.Min > h.Max || h.Min > other.Max {
		return banyan.Errorf(banyan.TooNew,
			"node %s (banyan %s) speaks protocols %d to %d, node %s (banyan %s) speaks %d to %d: install versions that are closer, the older node first",
			h.Node, h.Version, h.Min, h.Max, other.Node, other.Version, other.Min, other.Max)
	}
	for _, pair := range [][2]hello{{h, other}, {other, h}} {
		if in, out := pair[0], pair[1]; !out.speaks(in.Acts) {
			return banyan.Errorf(banyan.TooNew,
				"the cluster acts at protocol %d; node %s (banyan %s) speaks %d to %d: run the release of the other nodes there (node %s runs %s)",
				in.Acts, out.Node, out.Version, out.Min, out.Max, in.Node, in.Version)
		}
	}
	if other.Node == h.Node {
		return banyan.Errorf(banyan.Conflict, "both ends are node %s: a node called itself, or a node's directory was copied to two machines", h.Node)
	}
	return nil
}

func encodeRefuse(err error) []byte {
	b := append(newFrame(nil), byte(banyan.KindOf(err)))
	text := err.Error()
	return sealFrame(append(b, text[:min(len(text), helloBytesMax-1)]...), frameRefuse)
}

func decodeRefuse(b []byte) error {
	if len(b) < 2 {
		return banyan.Errorf(banyan.Unavailable, "no reason given")
	}
	kind := banyan.Kind(b[0])
	if int(kind) >= banyan.Kinds {
		kind = banyan.Internal
	}
	return banyan.Errorf(kind, "%q", b[1:])
}

// conversation is a connection whose two ends know each other.
type conversation struct {
	net.Conn
	in   *bufio.Reader
	peer hello
}

// Read reads through what the exchange of hellos may have buffered.
func (c *conversation) Read(b []byte) (int, error) { return c.in.Read(b) }

// CloseWrite says that nothing more will come.
func (c *conversation) CloseWrite() error { return c.Conn.(*tls.Conn).CloseWrite() }

// certifiedNode is the node that the connection's certificate names.
func certifiedNode(cs tls.ConnectionState) (banyan.NodeID, error) {
	if len(cs.PeerCertificates) == 0 {
		return 0, banyan.Errorf(banyan.Unauthenticated, "only nodes of the cluster may speak here, and no certificate was shown: a new node comes in with 'banyan join'")
	}
	s, _, err := pki.SubjectOf(cs.PeerCertificates[0])
	if err != nil {
		return 0, err
	}
	if s.Kind != pki.Node {
		return 0, banyan.Errorf(banyan.PermissionDenied, "only nodes of the cluster may speak here, not %s %s", s.Kind, s.Name)
	}
	return s.Node, nil
}

// greet is the caller's half: hello, then the other's hello or refusal.
func greet(conn *tls.Conn, own hello, welcome func(hello) error) (*conversation, error) {
	if _, err := conn.Write(own.encode()); err != nil {
		return nil, err
	}
	c := &conversation{Conn: conn, in: bufio.NewReader(conn)}
	typ, payload, err := readFrame(c.in, nil, helloBytesMax)
	if err != nil {
		return nil, err
	}
	switch typ {
	case frameHello:
	case frameRefuse:
		reason := decodeRefuse(payload)
		return nil, banyan.Errorf(banyan.KindOf(reason), "%w: %w", errRefused, reason)
	default:
		return nil, banyan.Errorf(banyan.Corrupt, "a frame of type %d instead of a hello", typ)
	}
	return c, c.meet(payload, welcome)
}

// answer is the called one's half. A refusal is sent before it is returned.
func answer(conn *tls.Conn, own hello, welcome func(hello) error) (*conversation, error) {
	c := &conversation{Conn: conn, in: bufio.NewReaderSize(conn, readBufferBytes)}
	err := func() error {
		typ, payload, err := readFrame(c.in, nil, helloBytesMax)
		if err != nil {
			return err
		}
		if typ != frameHello {
			return banyan.Errorf(banyan.Corrupt, "a frame of type %d instead of a hello", typ)
		}
		return c.meet(payload, welcome)
	}()
	if err != nil {
		_, _ = conn.Write(encodeRefuse(err)) // best effort: the caller is refused either way
		return nil, err
	}
	_, err = conn.Write(own.encode())
	return c, err
}

// meet takes the other's hello and holds it to its certificate.
func (c *conversation) meet(payload []byte, welcome func(hello) error) error {
	certified, err := certifiedNode(c.Conn.(*tls.Conn).ConnectionState())
	if err != nil {
		return err
	}
	if c.peer, err = decodeHello(payload); err != nil {
		return err
	}
	if c.peer.Node != certified {
		return banyan.Errorf(banyan.Unauthenticated, "it says it is node %s and shows the certificate of node %s", c.peer.Node, certified)
	}
	return welcome(c.peer)
}
