package client

import (
	"context"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/internal/pause"

	"connectrpc.com/connect"
)

const (
	// learnAfter is how many calls a client makes before it asks where leaders
	// are: for a few, the detour costs less than asking.
	learnAfter = 8
	learnMax   = time.Second            // for one node's answer
	learnPause = 100 * time.Millisecond // between two looks
	// learnEvery keeps a client in use up to date with nodes that come and go.
	// A node to be removed waits longer than that, so that nobody knows it alone.
	learnEvery = 4 * time.Second
)

// topology is where leaders are, as of some moment: a hint, never more.
type topology struct {
	epoch uint64   // of the shard map
	slots []uint32 // the shard of each
	leads []*node  // who leads that; nil: not known
	nodes map[banyan.NodeID]*node
	at    time.Time
}

// leaderOf gives the node to ask first about a partition, nil if unknown.
func (c *Client) leaderOf(partition []byte) *node {
	if partition == nil || c.single {
		return nil
	}
	t := c.topology.Load()
	if t == nil {
		if c.routed.Add(1) == learnAfter {
			c.learn()
		}
		return nil
	}
	if time.Since(t.at) > learnEvery {
		c.learn()
	}
	if slot := banyan.SlotOf(partition); slot < len(t.leads) {
		return t.leads[slot]
	}
	return nil
}

// learn looks in the background where nodes and leaders are.
func (c *Client) learn() {
	if c.single || !c.learning.CompareAndSwap(false, true) {
		return
	}
	c.learner.Go(func() {
		defer c.learning.Store(false)
		for n := range c.everyone(nil) {
			if c.life.Err() != nil || c.learnFrom(n) == nil {
				break
			}
		}
		_ = pause.For(c.life, learnPause)
	})
}

func (c *Client) learnFrom(n *node) error {
	ctx, cancel := context.WithTimeout(c.life, learnMax)
	defer cancel()
	reply, err := n.cluster.Map(ctx, connect.NewRequest(&banyanv1.MapRequest{}))
	if err != nil {
		return err
	}
	if t := c.topology.Load(); t != nil && reply.Msg.Epoch < t.epoch {
		return banyan.Errorf(banyan.Unavailable, "%s has an older shard map", n.addr)
	}
	c.topology.Store(c.toTopology(reply.Msg))
	return nil
}

func (c *Client) toTopology(m *banyanv1.MapResponse) *topology {
	t := &topology{epoch: m.Epoch, slots: m.Slots, nodes: map[banyan.NodeID]*node{}, at: time.Now()}
	for _, n := range m.Nodes {
		if n.State != "left" && n.Address != "" {
			t.nodes[banyan.NodeID(n.Id)] = c.nodeAt(n.Address) // so that calls go on when every address given at first is gone
		}
	}
	leaders := map[uint32]*node{}
	for _, s := range m.Shards {
		leaders[s.Id] = t.nodes[banyan.NodeID(s.Leader)]
	}
	for _, shard := range m.Slots {
		t.leads = append(t.leads, leaders[shard])
	}
	return t
}
