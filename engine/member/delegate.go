package member

import (
	"context"
	"log/slog"

	"banyan"

	"github.com/hashicorp/memberlist"
)

// delegate is what memberlist calls back, most of it under its own locks.
type delegate List

var (
	_ memberlist.Delegate      = (*delegate)(nil)
	_ memberlist.EventDelegate = (*delegate)(nil)
	_ memberlist.AliveDelegate = (*delegate)(nil)
)

// NodeMeta is what this node says of itself.
func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.own.encode()
	if err != nil {
		panic(err) // New has checked the texts, and they do not change
	}
	return b
}

func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}

// NotifyAlive refuses what is not a node in our form.
func (d *delegate) NotifyAlive(n *memberlist.Node) error {
	_, _, err := describe(n)
	return err
}

func describe(n *memberlist.Node) (banyan.NodeID, meta, error) {
	id, err := banyan.ParseNodeID(n.Name)
	if err != nil {
		return 0, meta{}, err
	}
	if n.Port != gossipPort || !n.Addr.Equal(gossipIP(realmNode, uint64(id))) {
		return 0, meta{}, banyan.Errorf(banyan.Corrupt, "node %s is named by the address %s, which is not its own", id, n.Addr)
	}
	m, err := decodeMeta(n.Meta)
	return id, m, err
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.note(n, true, true) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.note(n, true, false) }
func (d *delegate) NotifyLeave(n *memberlist.Node)  { d.note(n, false, false) }

// note takes in what gossip says of a node. One that joins has spoken since
// its process was last found gone.
func (d *delegate) note(n *memberlist.Node, alive, joined bool) {
	id, m, err := describe(n)
	if err != nil || id == d.config.Node {
		return // NotifyAlive has refused it; or it is us
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	e := d.others[id]
	if e == nil && !alive {
		return // removed and forgotten, and gossip is only late
	}
	if e == nil {
		if len(d.others) >= banyan.NodesMax {
			d.log.Error("there are more nodes than this banyan can keep", "node", id, "max", banyan.NodesMax)
			return
		}
		e = &entry{}
		d.others[id] = e
	}
	before := e.state()
	e.meta, e.gossip = m, alive
	if joined {
		e.lost = false
	}
	if after := e.state(); after != before {
		level := slog.LevelInfo
		if after == Suspect || after == Dead {
			level = slog.LevelWarn
		}
		d.log.Log(context.Background(), level, "a node's state changed", "node", id, "name", m.Name, "address", m.Addr, "state", after)
	}
	(*List)(d).notify()
}
