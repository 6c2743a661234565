package member

import (
	"context"
	"encoding/binary"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"banyan"

	"github.com/hashicorp/memberlist"
)

// memberlist names its peers by IP address. Ours are made up from the node's
// id, so that a node that moved is no conflict: where a node really listens is
// in what it says of itself, and that it is that node its certificate proves.
const (
	realmBytes = 8
	realmNode  = "\xfdbanyan\x00"
	realmSeed  = "\xfdbanyan\x01" // an address of which nobody knows yet which node it is
	gossipPort = 1
)

// packetsMax is how many packets may have arrived and not been looked at; more are dropped.
const packetsMax = 1024

func gossipIP(realm string, id uint64) net.IP {
	return binary.BigEndian.AppendUint64([]byte(realm), id)
}

// gossipID reads what gossipIP made.
func gossipID(ip net.IP) (realm string, id uint64) {
	if len(ip) != net.IPv6len {
		return "", 0
	}
	return string(ip[:realmBytes]), binary.BigEndian.Uint64(ip[realmBytes:])
}

// wire is memberlist's transport: packets and streams over Network.
type wire struct {
	list    *List
	packets chan *memberlist.Packet
	streams chan net.Conn
	ctx     context.Context // ends with Run or Close: no more streams
	cancel  context.CancelFunc

	mu    sync.Mutex
	seeds map[uint64]string // addresses being joined
	next  uint64
}

var _ memberlist.NodeAwareTransport = (*wire)(nil)

func newWire(l *List) *wire {
	w := &wire{
		list:    l,
		packets: make(chan *memberlist.Packet, packetsMax),
		streams: make(chan net.Conn),
		seeds:   map[uint64]string{},
	}
	w.ctx, w.cancel = context.WithCancel(context.Background())
	return w
}

// addSeed makes up a name under which memberlist can join an address; drop forgets it.
func (w *wire) addSeed(addr string) (name string, drop func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.next++
	id := w.next
	w.seeds[id] = addr
	return gossipAddr(realmSeed, id), func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.seeds, id)
	}
}

func gossipAddr(realm string, id uint64) string {
	return (&net.TCPAddr{IP: gossipIP(realm, id), Port: gossipPort}).String()
}

// target takes apart an address that memberlist was given.
func target(addr string) (realm string, id uint64) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0
	}
	return gossipID(net.ParseIP(host))
}

func (w *wire) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return gossipIP(realmNode, uint64(w.list.config.Node)), gossipPort, nil
}

func (w *wire) WriteTo(b []byte, addr string) (time.Time, error) {
	if realm, id := target(addr); realm == realmNode {
		w.list.config.Network.SendPacket(banyan.NodeID(id), b)
	}
	return time.Now(), nil
}

func (w *wire) WriteToAddress(b []byte, addr memberlist.Address) (time.Time, error) {
	return w.WriteTo(b, addr.Addr)
}

func (w *wire) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	realm, id := target(addr)
	node := banyan.NodeID(id)
	where, ok := w.list.Addr(node)
	if realm == realmSeed {
		w.mu.Lock()
		where, ok = w.seeds[id]
		w.mu.Unlock()
	}
	if !ok {
		return nil, banyan.Errorf(banyan.NotFound, "no address is known for node %s", node)
	}
	ctx, cancel := context.WithTimeout(w.ctx, timeout)
	defer cancel()
	conn, who, err := w.list.config.Network.DialStream(ctx, where)
	if err != nil {
		return nil, err
	}
	if realm == realmNode && who != node {
		_ = conn.Close()
		return nil, banyan.Errorf(banyan.Unavailable, "%s is node %s, not node %s", where, who, node)
	}
	return &stream{Conn: conn, unhook: context.AfterFunc(w.ctx, func() { _ = conn.Close() })}, nil
}

// stream ends with the wire, so that nobody waits for the other end.
type stream struct {
	net.Conn
	unhook func() bool
}

func (s *stream) Close() error {
	s.unhook()
	return s.Conn.Close()
}

func (w *wire) DialAddressTimeout(addr memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return w.DialTimeout(addr.Addr, timeout)
}

func (w *wire) PacketCh() <-chan *memberlist.Packet { return w.packets }

func (w *wire) StreamCh() <-chan net.Conn { return w.streams }

func (w *wire) Shutdown() error {
	w.cancel()
	return nil
}

// logWriter passes memberlist's lines on. They are about its own workings;
// what concerns an operator List says itself.
type logWriter struct{ log *slog.Logger }

func (w logWriter) Write(b []byte) (int, error) {
	line := string(b)
	if _, message, ok := strings.Cut(line, "memberlist: "); ok { // date, level, prefix
		line = message
	}
	w.log.Debug("gossip: " + strings.TrimSpace(line))
	return len(b), nil
}
