// Package memnet is a network in memory for tests: what transport does between
// processes, without sockets and certificates, with links that can be slow,
// lossy or cut, and nodes that can be killed. It works under testing/synctest.
package memnet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"banyan"
	"banyan/engine/transport"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// linkMax is how many messages are under way on one link; more are dropped.
const linkMax = 4096

// Network joins nodes. Its methods may be called at any time.
type Network struct {
	mu    sync.Mutex
	rand  *rand.Rand
	nodes map[banyan.NodeID]*Node
	side  map[banyan.NodeID]int // of a partition; all 0 without one
	drop  float64
	delay time.Duration
}

// New makes a network whose losses are drawn from seed.
func New(seed uint64) *Network {
	return &Network{
		rand:  rand.New(rand.NewPCG(seed, 0)),
		nodes: map[banyan.NodeID]*Node{},
		side:  map[banyan.NodeID]int{},
	}
}

// SetDrop loses each message with probability p.
func (n *Network) SetDrop(p float64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = p
}

// SetDelay makes every message take d; order on a link is kept.
func (n *Network) SetDelay(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.delay = d
}

// Partition cuts the network: nodes of a group reach each other only, and
// nodes of no group each other. What is under way arrives.
func (n *Network) Partition(groups ...[]banyan.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.side)
	for i, group := range groups {
		for _, id := range group {
			n.side[id] = i + 1
		}
	}
}

// Heal ends a partition and tells nodes that they have found each other again.
func (n *Network) Heal() {
	n.mu.Lock()
	var found []func()
	for a, from := range n.nodes {
		for b := range n.nodes {
			if n.side[a] != n.side[b] && from.handlers.OnFound != nil {
				found = append(found, func() { from.handlers.OnFound(b) })
			}
		}
	}
	clear(n.side)
	n.mu.Unlock()
	for _, f := range found {
		f()
	}
}

// Node is one node's end of the network: it has transport.Transport's methods.
type Node struct {
	id       banyan.NodeID
	net      *Network
	done     chan struct{}
	running  sync.WaitGroup
	handlers transport.Handlers

	// Guarded by net.mu.
	links map[banyan.NodeID]chan parcel // from this node
	heard map[banyan.NodeID]time.Time
}

type parcel struct {
	at      time.Time
	deliver func(to *Node)
}

// Start puts a node on the network, in place of one of the same id that was
// closed. Its address is its id, such as "n1".
func (n *Network) Start(id banyan.NodeID, h transport.Handlers) *Node {
	node := &Node{id: id, net: n, done: make(chan struct{}), handlers: h, links: map[banyan.NodeID]chan parcel{}, heard: map[banyan.NodeID]time.Time{}}
	n.mu.Lock()
	if n.nodes[id] != nil {
		panic(fmt.Sprintf("memnet: node %s is there already", id))
	}
	n.nodes[id] = node
	n.mu.Unlock()
	n.tell(id, func(h transport.Handlers) func(banyan.NodeID) { return h.OnFound })
	return node
}

// tell calls a handler of every other node that id can reach.
func (n *Network) tell(id banyan.NodeID, handler func(transport.Handlers) func(banyan.NodeID)) {
	n.mu.Lock()
	var fs []func(banyan.NodeID)
	for other, node := range n.nodes {
		if f := handler(node.handlers); other != id && n.side[other] == n.side[id] && f != nil {
			fs = append(fs, f)
		}
	}
	n.mu.Unlock()
	for _, f := range fs {
		f(id)
	}
}

// Close takes the node off the network, as a killed process: the others that
// can reach it hear OnLost. It waits for the node's goroutines.
func (n *Node) Close() error {
	n.net.mu.Lock()
	if n.net.nodes[n.id] != n {
		n.net.mu.Unlock()
		return nil
	}
	delete(n.net.nodes, n.id)
	close(n.done)
	n.net.mu.Unlock()
	n.net.tell(n.id, func(h transport.Handlers) func(banyan.NodeID) { return h.OnLost })
	n.running.Wait()
	return nil
}

// post sends f on its way to a node, unless the link loses it.
func (n *Node) post(to banyan.NodeID, f func(to *Node)) {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	if to == n.id || n.net.nodes[n.id] != n || n.net.side[n.id] != n.net.side[to] || n.net.rand.Float64() < n.net.drop {
		return
	}
	link := n.links[to]
	if link == nil {
		link = make(chan parcel, linkMax)
		n.links[to] = link
		n.running.Go(func() { n.carry(to, link) })
	}
	select {
	case link <- parcel{time.Now().Add(n.net.delay), f}:
	default:
	}
}

// carry delivers what is posted on one link, in order, until the node closes.
func (n *Node) carry(to banyan.NodeID, link chan parcel) {
	for {
		var p parcel
		select {
		case p = <-link:
		case <-n.done:
			return
		}
		if d := time.Until(p.at); d > 0 {
			select {
			case <-time.After(d):
			case <-n.done:
				return
			}
		}
		n.net.mu.Lock()
		node := n.net.nodes[to]
		if node != nil {
			node.heard[n.id] = time.Now()
		}
		n.net.mu.Unlock()
		if node != nil {
			p.deliver(node)
		}
	}
}

// Send is as transport.Transport's: the message is copied through its encoding.
func (n *Node) Send(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
	b, err := proto.Marshal(m)
	if err != nil {
		panic(err)
	}
	n.post(to, func(node *Node) {
		m := &raftpb.Message{}
		if err := proto.Unmarshal(b, m); err != nil {
			panic(err)
		}
		if node.handlers.OnRaft != nil {
			node.handlers.OnRaft(n.id, shard, m)
		}
	})
}

// SendPacket is as transport.Transport's.
func (n *Node) SendPacket(to banyan.NodeID, b []byte) {
	b = append([]byte(nil), b...)
	n.post(to, func(node *Node) {
		if node.handlers.OnPacket != nil {
			node.handlers.OnPacket(n.id, b)
		}
	})
}

// DialStream is as transport.Transport's; addr is a node's id, such as "n1".
// A stream that stands is not cut by a partition.
func (n *Node) DialStream(_ context.Context, addr string) (net.Conn, banyan.NodeID, error) {
	id, err := banyan.ParseNodeID(addr)
	if err != nil {
		return nil, 0, err
	}
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	to := n.net.nodes[id]
	if id == n.id || to == nil || n.net.nodes[n.id] != n || n.net.side[n.id] != n.net.side[id] || to.handlers.OnStream == nil {
		return nil, 0, banyan.Errorf(banyan.Unavailable, "%s cannot reach %s", n.id, id)
	}
	near, far := net.Pipe()
	to.running.Go(func() { to.handlers.OnStream(n.id, far) })
	return near, id, nil
}

// LastContact is as transport.Transport's.
func (n *Node) LastContact(from banyan.NodeID) time.Time {
	n.net.mu.Lock()
	defer n.net.mu.Unlock()
	return n.heard[from]
}
