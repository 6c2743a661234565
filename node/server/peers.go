package server

import (
	"sync"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/api/wire"
	"banyan/client"
	"banyan/door/gate"

	"connectrpc.com/connect"
	"go.etcd.io/raft/v3/raftpb"
)

// peers gives clients of other nodes, and of this one without a network. Calls
// and bulk have connections of their own.
type peers struct {
	n     *Server
	mu    sync.Mutex
	calls map[banyan.NodeID]peerv1connect.PeerClient
	bulks map[banyan.NodeID]peerv1connect.PeerClient
}

func newPeers(n *Server) *peers {
	return &peers{n: n, calls: map[banyan.NodeID]peerv1connect.PeerClient{}, bulks: map[banyan.NodeID]peerv1connect.PeerClient{}}
}

func (p *peers) client(id banyan.NodeID) (peerv1connect.PeerClient, error) {
	return p.get(id, p.calls, false)
}
func (p *peers) bulk(id banyan.NodeID) (peerv1connect.PeerClient, error) {
	return p.get(id, p.bulks, true)
}

func (p *peers) get(id banyan.NodeID, known map[banyan.NodeID]peerv1connect.PeerClient, bulk bool) (peerv1connect.PeerClient, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c, ok := known[id]; ok {
		return c, nil
	}
	var hc connect.HTTPClient
	var url string
	switch {
	case id == p.n.file.Node:
		self := nodeSubject(id)
		hc, url = client.InProcess(gate.As(self, p.n.handler)), "http://self"
	case p.n.port == nil:
		return nil, banyan.Errorf(banyan.Unavailable, "an embedded node has no peers: there is no node %v here", id)
	case bulk:
		hc, url = p.n.port.BulkHTTPClient(), p.n.port.URL(id)
	default:
		hc, url = p.n.port.HTTPClient(), p.n.port.URL(id)
	}
	c := peerv1connect.NewPeerClient(hc, url, connect.WithInterceptors(connect.UnaryInterceptorFunc(p.n.heedRemoval), wire.ClientInterceptor()))
	known[id] = c
	return c, nil
}

func (n *Server) sendRaft(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
	if n.port != nil {
		n.port.Send(to, shard, m)
	}
}
