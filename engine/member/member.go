// Package member knows which nodes of the cluster are here and alive, where
// they listen and what they offer, by gossip (memberlist) over transport.
//
// What it says is a view, soon the same on every node but never agreed upon:
// who may be in the cluster is in the root shard, and a shard's leader is
// whoever its raft group elected.
package member

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"banyan"

	"github.com/hashicorp/memberlist"
)

// State is how a node seems to be.
type State string

// The states of a node.
const (
	Alive   State = "alive"
	Suspect State = "suspect" // alive as far as is known, but silent
	Dead    State = "dead"    // did not answer, or its process is gone
	Left    State = "left"    // said goodbye
)

// Failure detection: a node that stops answering is dead to all in about two
// seconds (a probe of 0.5 s after at most a round of probes, and a suspicion of
// 1 s in which it can object), one whose process is gone at once (Lost). Less
// would take a busy machine of two cores for a dead one.
const (
	probeEvery     = 500 * time.Millisecond
	probeTimeout   = 300 * time.Millisecond
	gossipEvery    = 200 * time.Millisecond
	suspicionMult  = 2 // × probeEvery, for up to ten nodes
	suspectSilence = 3 * time.Second
	syncEvery      = 10 * time.Second // full exchange with one other node
	rejoinEvery    = 2 * time.Second  // try nodes that are thought dead
	rejoinMax      = 3                // of them at a time
	streamTimeout  = 5 * time.Second
	updateTimeout  = time.Second
)

// Lead is a shard that a node leads.
type Lead struct {
	Shard banyan.ShardID
	Term  uint64
}

// Member is what is known of one node.
type Member struct {
	ID       banyan.NodeID
	Name     string
	Addr     string // host:port
	Zone     string
	Version  string
	Slots    int
	State    State
	Draining bool
	Disk     uint8 // how near to full its disk is: 0 well, 1 low, 2 critical
	// Leads is what the node said last, and may be cut short: a hint.
	Leads []Lead
	// LastContact is when this node last heard from it directly; zero if never.
	LastContact time.Time
}

// Network is what gossip needs of transport.
type Network interface {
	// SendPacket never blocks, may drop, and copies b.
	SendPacket(to banyan.NodeID, b []byte)
	// DialStream connects to addr and says which node answered.
	DialStream(ctx context.Context, addr string) (net.Conn, banyan.NodeID, error)
	LastContact(banyan.NodeID) time.Time
}

// Config describes this node to the others.
type Config struct {
	Node       banyan.NodeID
	Name, Zone string
	Addr       string // host:port where others reach this node
	Slots      int
	Draining   bool
	// Known is where nodes listened when last heard of; they are looked for.
	Known   map[banyan.NodeID]string
	Network Network
	Logger  *slog.Logger // nil: none
}

// entry is what is known of another node.
type entry struct {
	meta
	gossip bool // gossip has it alive
	lost   bool // transport found its process gone, and not yet back
}

// List is the members. Its methods may be called at any time, except that the
// network must not deliver after Close.
type List struct {
	config Config
	log    *slog.Logger
	wire   *wire
	gossip *memberlist.Memberlist

	// mu is taken inside memberlist's locks: nothing of memberlist is called under it.
	mu       sync.Mutex
	own      meta
	others   map[banyan.NodeID]*entry
	watchers map[chan struct{}]struct{}

	changed chan struct{}      // own was changed: tell the others
	found   chan banyan.NodeID // a dead node is reachable: tell it
}

// New makes the list of one node, alone until Run finds the nodes in Known or
// Join is called.
func New(c Config) (*List, error) {
	l := &List{
		config:   c,
		log:      c.Logger,
		own:      meta{Name: c.Name, Addr: c.Addr, Zone: c.Zone, Version: banyan.Version, Slots: c.Slots, Draining: c.Draining},
		others:   map[banyan.NodeID]*entry{},
		watchers: map[chan struct{}]struct{}{},
		changed:  make(chan struct{}, 1),
		found:    make(chan banyan.NodeID, 16),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if _, err := l.own.encode(); err != nil {
		return nil, err
	}
	for id, addr := range c.Known {
		l.Learn(id, addr)
	}
	l.wire = newWire(l)
	m, err := memberlist.Create(l.memberlistConfig())
	if err != nil {
		return nil, banyan.Errorf(banyan.Internal, "starting gossip: %w", err)
	}
	l.gossip = m
	return l, nil
}

func (l *List) memberlistConfig() *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = l.config.Node.String()
	c.Transport = l.wire
	c.LogOutput = logWriter{l.log}
	c.Delegate, c.Events, c.Alive = (*delegate)(l), (*delegate)(l), (*delegate)(l)
	c.ProbeInterval, c.ProbeTimeout = probeEvery, probeTimeout
	c.SuspicionMult = suspicionMult
	c.AwarenessMaxMultiplier = 3
	c.IndirectChecks = 2
	c.DisableTcpPings = true // packets go over TCP already
	c.GossipInterval = gossipEvery
	c.GossipToTheDeadTime = time.Minute
	c.PushPullInterval = syncEvery
	c.TCPTimeout = streamTimeout
	c.EnableCompression = false
	c.UDPBufferSize = 8 << 10 // a frame, not a datagram
	return c
}

// Run keeps the others informed and looks for nodes that are known and not
// here. It returns when ctx ends; then Close.
func (l *List) Run(ctx context.Context) {
	defer context.AfterFunc(ctx, l.wire.cancel)()
	tick := time.NewTicker(rejoinEvery)
	defer tick.Stop()
	l.rejoin(ctx, banyan.NodesMax)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			l.rejoin(ctx, rejoinMax)
		case id := <-l.found:
			if m, ok := l.Get(id); ok && m.State != Alive {
				_ = l.join(gossipAddr(realmNode, uint64(id))) // or the next tick finds it
			}
		case <-l.changed:
			_ = l.gossip.UpdateNode(updateTimeout) // a time-out: it is queued, and spreads
		}
	}
}

// Close stops gossip, as if the process had ended; Leave first to say goodbye.
func (l *List) Close() error { return l.gossip.Shutdown() }

// Leave tells the others that this node goes on purpose, and waits until one
// of them was told or ctx ends.
func (l *List) Leave(ctx context.Context) error {
	l.mu.Lock()
	l.own.Leaving = true
	l.mu.Unlock()
	wait := streamTimeout
	if deadline, ok := ctx.Deadline(); ok {
		wait = max(time.Until(deadline)/2, time.Millisecond)
	}
	_ = l.gossip.UpdateNode(wait) // only decides whether we are called left or dead
	if err := l.gossip.Leave(wait); err != nil {
		return banyan.Errorf(banyan.Timeout, "nobody could be told that this node leaves: %w", err)
	}
	return nil
}

// Join exchanges members with the nodes at seeds (host:port) until one of them
// answers. If none does, the error says why for each.
func (l *List) Join(ctx context.Context, seeds []string) error {
	var errs []error
	for _, addr := range seeds {
		if ctx.Err() != nil {
			errs = append(errs, ctx.Err())
			break
		}
		name, drop := l.wire.addSeed(addr)
		err := l.join(name)
		drop()
		if err == nil {
			return nil
		}
		errs = append(errs, err)
	}
	return banyan.Errorf(banyan.Unavailable, "no node of the cluster answered at %q: %w", seeds, errors.Join(errs...))
}

func (l *List) join(name string) error {
	_, err := l.gossip.Join([]string{name})
	return err
}

// rejoin exchanges members with up to tries nodes that are not here, and stops
// at the first that answers: it knows the rest.
func (l *List) rejoin(ctx context.Context, tries int) {
	l.mu.Lock()
	var gone []banyan.NodeID
	for id, e := range l.others { // in random order: everyone's turn comes
		if e.state() == Dead && e.Addr != "" && len(gone) < tries {
			gone = append(gone, id)
		}
	}
	l.mu.Unlock()
	for _, id := range gone {
		if ctx.Err() != nil || l.join(gossipAddr(realmNode, uint64(id))) == nil {
			return
		}
	}
}

// state is how the node seems, by gossip and transport.
func (e *entry) state() State {
	switch {
	case e.gossip && !e.lost:
		return Alive
	case e.Leaving:
		return Left
	}
	return Dead
}

// Members lists all known nodes, this one among them, by id. The caller owns
// the list; Leads are shared and must not be changed.
func (l *List) Members() []Member {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := []Member{member(l.config.Node, &l.own, Alive)}
	list[0].LastContact = time.Now()
	for id, e := range l.others {
		list = append(list, l.other(id, e))
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.ID, b.ID) })
	return list
}

// Get gives one node.
func (l *List) Get(id banyan.NodeID) (Member, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.config.Node {
		m := member(id, &l.own, Alive)
		m.LastContact = time.Now()
		return m, true
	}
	e := l.others[id]
	if e == nil {
		return Member{}, false
	}
	return l.other(id, e), true
}

func member(id banyan.NodeID, m *meta, s State) Member {
	return Member{ID: id, Name: m.Name, Addr: m.Addr, Zone: m.Zone, Version: m.Version, Slots: m.Slots, State: s, Draining: m.Draining, Disk: m.Disk, Leads: m.Leads}
}

func (l *List) other(id banyan.NodeID, e *entry) Member {
	m := member(id, &e.meta, e.state())
	m.LastContact = l.config.Network.LastContact(id)
	if m.State == Alive && !m.LastContact.IsZero() && time.Since(m.LastContact) > suspectSilence {
		m.State = Suspect
	}
	return m
}

// Addr says where a node listens, for transport.Config.Resolve.
func (l *List) Addr(id banyan.NodeID) (string, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.config.Node {
		return l.own.Addr, true
	}
	e := l.others[id]
	if e == nil || e.Addr == "" {
		return "", false
	}
	return e.Addr, true
}

// Learn says where a node listens that gossip may not have found yet; what the
// node itself said counts more. Run looks for it.
func (l *List) Learn(id banyan.NodeID, addr string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if id == l.config.Node || len(l.others) >= banyan.NodesMax {
		return
	}
	e := l.others[id]
	if e == nil {
		e = &entry{}
		l.others[id] = e
	}
	if !e.gossip {
		e.Addr = addr
	}
}

// Forget drops a node that was removed from the cluster, unless it is alive.
func (l *List) Forget(id banyan.NodeID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.others[id]; e != nil && e.state() != Alive {
		delete(l.others, id)
		l.notify()
	}
}

// SetLeads tells the others what this node leads.
func (l *List) SetLeads(leads []Lead) {
	leads = slices.Clone(leads)
	l.update(func(m *meta) bool {
		same := slices.Equal(m.Leads, leads)
		m.Leads = leads
		return !same
	})
}

// SetDraining tells the others whether this node takes new work.
func (l *List) SetDraining(draining bool) {
	l.update(func(m *meta) bool {
		same := m.Draining == draining
		m.Draining = draining
		return !same
	})
}

// SetDisk tells the others how near to full this node's disk is.
func (l *List) SetDisk(level uint8) {
	l.update(func(m *meta) bool {
		same := m.Disk == level
		m.Disk = level
		return !same
	})
}

func (l *List) update(change func(*meta) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !change(&l.own) {
		return
	}
	l.notify()
	select {
	case l.changed <- struct{}{}:
	default: // Run will see this change too
	}
}

// Watch gives a channel that holds a value after something changed since the
// last receive. Stop ends it.
func (l *List) Watch() (changes <-chan struct{}, stop func()) {
	c := make(chan struct{}, 1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.watchers[c] = struct{}{}
	return c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.watchers, c)
	}
}

// notify needs l.mu.
func (l *List) notify() {
	for c := range l.watchers {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}

// HandlePacket takes a packet from the network (transport.Handlers.OnPacket).
func (l *List) HandlePacket(from banyan.NodeID, b []byte) {
	packet := &memberlist.Packet{Buf: b, From: &net.TCPAddr{IP: gossipIP(realmNode, uint64(from)), Port: gossipPort}, Timestamp: time.Now()}
	select {
	case l.wire.packets <- packet:
	default: // gossip is sent more than once
	}
}

// HandleStream takes a stream from the network (transport.Handlers.OnStream)
// and owns it. It may return before the stream ends, which memberlist bounds.
func (l *List) HandleStream(_ banyan.NodeID, conn net.Conn) {
	select {
	case l.wire.streams <- conn:
	case <-l.wire.ctx.Done():
		_ = conn.Close()
	}
}

// Lost takes transport's word that a node's process is gone
// (transport.Handlers.OnLost); gossip would find out later.
func (l *List) Lost(id banyan.NodeID) { l.setLost(id, true) }

// Found takes transport's word that a node is reachable (again)
// (transport.Handlers.OnFound). One that gossip holds dead is told so, and
// objects.
func (l *List) Found(id banyan.NodeID) {
	l.setLost(id, false)
	select {
	case l.found <- id:
	default: // rejoin finds it
	}
}

func (l *List) setLost(id banyan.NodeID, lost bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.others[id]; e != nil && e.lost != lost {
		e.lost = lost
		l.notify()
	}
}
