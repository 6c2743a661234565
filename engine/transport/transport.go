// Package transport carries everything between nodes through one TCP port
// under mutual TLS 1.3.
//
// Each node keeps one connection to every node it talks to and sends raft
// messages and gossip packets on it, batched into frames (frame.go); the other
// direction is the other node's connection. Gossip streams, calls and bulk
// have connections of their own, so that none of them delays a raft message.
// What a connection is for, its caller says by ALPN. Callers that are not of
// the cluster are refused in bounded time, with a reason where the protocol
// they speak has room for one.
//
// A node that is gone is told from one that is slow: when a connection breaks
// it is dialled again at once, and if nothing listens there any more, or
// another process does, OnLost says so.
package transport

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"banyan"
	"banyan/node/pki"
	"banyan/obs"
	"banyan/obs/metric"

	"go.etcd.io/raft/v3/raftpb"
)

// What a connection is for, by ALPN; anything else is HTTP.
const (
	protocolNode   = "banyan-node/1"
	protocolGossip = "banyan-gossip/1"
)

const (
	readBufferBytes = 16 << 10 // as much as one TLS record holds
	// helloTimeout bounds each of: the first byte, the handshake and hellos.
	helloTimeout = 5 * time.Second
)

// Config says how a node is reached and how it reaches others.
type Config struct {
	Node   banyan.NodeID
	Listen string // host:port; port 0 lets the system choose
	Keeper *pki.Keeper
	// Resolve says where a node listens (host:port). It must not block and may
	// not call the transport.
	Resolve func(banyan.NodeID) (string, bool)
	// Admit refuses nodes that are members no more, whatever their certificate
	// says; nil: none. Acts is the protocol that the cluster acts at, as far as
	// this node knows; nil: not known. Neither may block.
	Admit func(banyan.NodeID) error
	Acts  func() uint32
	// Life is this node's own. Meet refuses a process of a node that does not
	// follow the one that this node has listened to before, and remembers for
	// good one that it does not refuse. Answers says whether a process of that
	// node still runs, and may take a second; nil: all are listened to.
	Life    Life
	Meet    func(node banyan.NodeID, life Life, answers func(number uint64) bool) error
	Logger  *slog.Logger // nil: none
	Metrics *metric.Set  // nil: none
}

// Handlers receive what arrives. Each is called from several goroutines, in
// order for one sender, and must not block for long: the sender's later
// messages wait. Arguments belong to the handler. Any of them may be nil.
type Handlers struct {
	OnRaft   func(from banyan.NodeID, shard banyan.ShardID, m *raftpb.Message)
	OnPacket func(from banyan.NodeID, b []byte)
	// OnStream runs on a goroutine of its own that Close waits for; it closes conn.
	OnStream func(from banyan.NodeID, conn net.Conn)
	// OnLost says that the process that was node is gone: its connection
	// broke, and nothing listens at its address or another process does.
	OnLost func(node banyan.NodeID)
	// OnFound says that a connection to node stands (again).
	OnFound func(node banyan.NodeID)
	// OnExpelled says that another node refused this one for good: it was removed
	// from the cluster, or runs on a copy of its directory. It may be called often.
	OnExpelled func(err error)
	// OnOutdated says that the cluster acts at a protocol that this node does
	// not speak. It may be called often.
	OnOutdated func(err error)
}

// Transport is one node's port and its connections to others.
type Transport struct {
	config   Config
	began    time.Time
	own      hello
	log      *slog.Logger
	meter    meter
	listener net.Listener
	http     *httpListener
	calls    *http.Client
	bulk     *http.Client

	patience time.Duration // helloTimeout; shorter in tests
	silence  time.Duration // silenceMax; shorter in tests

	strangers *httpListener
	files     int // that the process may have open; 0: not known
	refusedMs atomic.Int64
	seldom    obs.Seldom

	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu       sync.Mutex
	handlers Handlers
	started  bool
	closed   bool
	peers    map[banyan.NodeID]*peer
	rooms    [classes]room // accepted connections

	refusal atomic.Value // string: the latest reason to refuse a node, so that each is logged once
}

// CheckListen says why Listen could not bind addr now, or nil.
func CheckListen(addr string) error {
	l, err := listen(addr)
	if err != nil {
		return err
	}
	return l.Close()
}

func listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, banyan.Errorf(banyan.Unavailable, "%s is in use by another program: choose another port with --listen, or stop that program", addr)
	}
	if err != nil {
		return nil, banyan.Errorf(banyan.Unavailable, "cannot listen on %s: check --listen: %w", addr, err)
	}
	return l, nil
}

// Listen binds the port. Nothing is accepted, and nothing sent, before Start.
func Listen(c Config) (*Transport, error) {
	listener, err := listen(c.Listen)
	if err != nil {
		return nil, err
	}
	t := &Transport{
		config:   c,
		began:    time.Now(),
		own:      hello{Min: banyan.ProtocolMin, Max: banyan.ProtocolVersion, Node: c.Node, Boot: rand.Uint64(), Version: banyan.Version},
		log:      c.Logger,
		meter:    newMeter(c.Metrics),
		listener: listener,
		http:     newHTTPListener(listener.Addr()),
		peers:    map[banyan.NodeID]*peer{},

		strangers: newHTTPListener(listener.Addr()),
		files:     openFiles(),

		patience: helloTimeout,
		silence:  silenceMax,
	}
	t.furnish(roomsFor(cmp.Or(t.files, math.MaxInt32)))
	if t.config.Admit == nil {
		t.config.Admit = func(banyan.NodeID) error { return nil }
	}
	if c.Life.Count > 0 {
		t.own.Boot, t.own.Life = c.Life.Last(), c.Life
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	c.Metrics.Read(t.readMeter)
	t.ctx, t.cancel = context.WithCancel(context.Background())
	t.calls, t.bulk = &http.Client{Transport: &caller{t: t}}, &http.Client{Transport: &caller{t: t}}
	return t, nil
}

// furnish makes so many places for each class.
func (t *Transport) furnish(places [classes]int) {
	for i := range t.rooms {
		t.rooms[i] = room{places: places[i], conns: list.New()}
	}
}

// Start accepts connections and hands what arrives to h. Call it once.
func (t *Transport) Start(h Handlers) {
	t.mu.Lock()
	t.handlers, t.started = h, true
	t.mu.Unlock()
	t.spawn(t.accept)
}

// self is what this node says of itself now.
func (t *Transport) self() hello {
	h := t.own
	if t.config.Acts != nil {
		h.Acts = uint64(t.config.Acts())
	}
	return h
}

// welcome says why a node is not to be talked to, or nil.
func (t *Transport) welcome(other hello) error {
	if err := t.config.Admit(other.Node); err != nil {
		return err
	}
	if err := t.self().check(other); err != nil {
		if !t.own.speaks(other.Acts) && t.handlers.OnOutdated != nil {
			t.handlers.OnOutdated(err)
		}
		return err
	}
	if t.config.Meet == nil || other.Life.Count == 0 {
		return nil
	}
	p := t.peer(other.Node)
	if p == nil {
		return banyan.Errorf(banyan.Unavailable, "node %s is stopping, or there are more nodes than it can keep", t.config.Node)
	}
	p.meeting.Lock() // the one that was met last is listened to
	defer p.meeting.Unlock()
	if err := t.config.Meet(other.Node, other.Life, p.answers); err != nil {
		return err
	}
	p.life.Store(other.Boot)
	return nil
}

// spawn runs f on a goroutine that Close waits for; after Close it does nothing.
func (t *Transport) spawn(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.running.Go(f)
	return true
}

// Close closes the port and every connection and waits until all handlers have
// returned. HTTP connections are closed too: shut the HTTP server down first.
func (t *Transport) Close() error {
	err := t.Drop()
	t.running.Wait()
	t.calls.CloseIdleConnections()
	t.bulk.CloseIdleConnections()
	return err
}

// Drop closes the port and every connection, as the end of the process does,
// and waits for nothing.
func (t *Transport) Drop() error {
	t.mu.Lock()
	t.closed = true
	for i := range t.rooms {
		for e := t.rooms[i].conns.Front(); e != nil; e = e.Next() {
			_ = e.Value.(*accepted).Conn.Close() // an error of a connection that is given up says nothing
		}
	}
	t.mu.Unlock()
	t.cancel()
	return errors.Join(t.listener.Close(), t.http.Close(), t.strangers.Close())
}

// Addr is the bound address.
func (t *Transport) Addr() net.Addr { return t.listener.Addr() }

// HTTPListener gives the connections of users and nodes that are neither raft
// nor gossip, TLS handshake done, as *tls.Conn, for http.Server.Serve (HTTP/2
// and 1.1; leave the server's TLSConfig nil). The server's time-outs bound idle
// callers.
func (t *Transport) HTTPListener() net.Listener { return t.http }

// StrangersListener gives those that showed no certificate. There are few at
// once, and each is closed after StrangerSecondsMax.
func (t *Transport) StrangersListener() net.Listener { return t.strangers }

// Send queues a raft message. It never blocks and may drop the message; raft
// sends again. m and its entries must not be changed afterwards.
func (t *Transport) Send(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
	switch p := t.peer(to); {
	case p == nil:
	case p.queue.addRaft(shard, m):
		p.wakeUp()
	default:
		t.meter.raftDropped.Inc()
	}
}

// SendPacket queues a copy of a gossip packet. It never blocks and may drop it.
func (t *Transport) SendPacket(to banyan.NodeID, b []byte) {
	switch p := t.peer(to); {
	case p == nil:
	case p.queue.addPacket(b):
		p.wakeUp()
	default:
		t.meter.packetsDropped.Inc()
	}
}

// LastContact is when something last arrived from node; zero if never.
// How long ago that is does not depend on jumps of the wall clock.
func (t *Transport) LastContact(node banyan.NodeID) time.Time {
	t.mu.Lock()
	p := t.peers[node]
	t.mu.Unlock()
	if p == nil {
		return time.Time{}
	}
	if d := p.lastContact.Load(); d != 0 {
		return t.began.Add(time.Duration(d))
	}
	return time.Time{}
}

// peer gives the sender to a node, and starts it if need be. It gives nil for
// the node itself, before Start and after Close.
func (t *Transport) peer(node banyan.NodeID) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	p := t.peers[node]
	if p != nil || t.closed || !t.started || node == t.config.Node || len(t.peers) >= banyan.NodesMax {
		return p
	}
	p = &peer{t: t, node: node, wake: make(chan struct{}, 1), probe: make(chan struct{}, 1), tried: make(chan struct{})}
	p.trying = sync.OnceFunc(func() { close(p.tried) })
	t.peers[node] = p
	t.running.Go(p.run)
	return p
}
