package server

import (
	"context"
	"fmt"
	"slices"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/internal/pause"

	"connectrpc.com/connect"
)

// leavingMin is longer than clients in use go without asking which nodes there
// are: none knows only the node that goes.
const leavingMin = 5 * time.Second

// RemoveNode takes a node out of the cluster in steps that can be repeated: it
// marks the node as leaving, waits (over calls) until it holds nothing, and then
// marks it as removed.
func (s clusterService) RemoveNode(ctx context.Context, req *banyanv1.RemoveNodeRequest) (*banyanv1.RemoveNodeResponse, error) {
	id := banyan.NodeID(req.Node)
	if s.n.nodes.isRemoved(id) {
		return &banyanv1.RemoveNodeResponse{Removed: true}, nil
	}
	if s.n.cfg.Embedded {
		return nil, errEmbedded()
	}
	if _, err := s.n.nodes.reload(ctx, s.n.router); err != nil { // one may have joined, or be leaving, unheard of
		return nil, err
	}
	if err := s.n.canSpare(id); err != nil {
		return nil, err
	}
	row, err := editNode(ctx, s.n.router, id, func(row *nodeRow) bool {
		if row.LeavingMs != 0 && row.Draining {
			return false
		}
		row.LeavingMs, row.Draining = time.Now().UnixMilli(), true
		return true
	})
	if err != nil {
		return nil, err
	}
	out := s.n.leftOn(id, s.n.gather(ctx))
	if out.Waiting == "" && time.Since(time.UnixMilli(row.LeavingMs)) < leavingMin {
		out.Waiting = "for clients to learn of the other nodes"
	}
	if out.Waiting != "" {
		return out, nil
	}
	_, err = editNode(ctx, s.n.router, id, func(row *nodeRow) bool {
		row.RemovedMs = time.Now().UnixMilli()
		return true
	})
	if err != nil && !banyan.IsKind(err, banyan.NotFound) { // somebody else was quicker
		return nil, err
	}
	s.n.log.Warn("node removed from the cluster", "node", id)
	return &banyanv1.RemoveNodeResponse{Removed: true}, nil
}

// canSpare refuses to remove the last node that stays.
func (n *Server) canSpare(id banyan.NodeID) error {
	for _, row := range n.nodes.list() {
		if row.ID != id && row.LeavingMs == 0 {
			return nil
		}
	}
	return banyan.Errorf(banyan.Invalid, "node %v is the last one that stays: a cluster is not removed, its nodes are stopped and their directories deleted", id)
}

// leftOn says what a node still has that others need.
func (n *Server) leftOn(id banyan.NodeID, infos map[banyan.NodeID]*nodeInfo) *banyanv1.RemoveNodeResponse {
	out := &banyanv1.RemoveNodeResponse{}
	for _, sh := range mergeShards(n.shards.get().All(), infos) {
		switch {
		case sh.Leader == 0:
			out.Waiting = fmt.Sprintf("for shard %d to have a leader, which says where it lives", sh.Id)
			return out
		case sh.Leader == uint64(id):
			out.Leaders++
			out.Replicas++
		case slices.Contains(sh.Voters, uint64(id)) || slices.Contains(sh.Learners, uint64(id)):
			out.Replicas++
		default:
			leader := banyan.NodeID(sh.Leader)
			if _, sure := names(infos[leader], id, banyan.ShardID(sh.Id), leader, 0); !sure {
				out.Waiting = fmt.Sprintf("for the replicas of shard %d to note where it lives now", sh.Id)
			}
		}
	}
	info := infos[id]
	if info != nil {
		out.Running = info.Running
	}
	switch {
	case out.Replicas > 0:
		out.Waiting = fmt.Sprintf("for other nodes to take over %d replicas", out.Replicas)
	case out.Running > 0:
		out.Waiting = fmt.Sprintf("for %d tasks to end", out.Running)
	case info != nil && !info.Evacuated:
		out.Waiting = "for other nodes to have copies of its blobs"
	}
	return out
}

// evacuateEvery is how often a leaving node looks whether its blobs are safe.
const evacuateEvery = 2 * time.Second

// evacuate copies this node's blobs to those that stay, once it is leaving.
func (n *Server) evacuate(ctx context.Context) error {
	for ctx.Err() == nil {
		row, _ := n.nodes.get(n.file.Node)
		if row.LeavingMs == 0 {
			n.evacuated.Store(false)
			select {
			case <-ctx.Done():
			case <-n.nodes.watch():
			}
			continue
		}
		done, err := n.blobs.Repair(ctx, false)
		n.evacuated.Store(err == nil && done.Failed == 0)
		_ = pause.For(ctx, evacuateEvery)
	}
	return nil
}

// expel ends this node once it is known to be removed from the cluster, or too
// old for it.
func (n *Server) expel(err error) {
	n.outside.Store(true)
	select {
	case n.expelled <- err:
	default: // it is ending already
	}
}

func (n *Server) askAnother() error {
	return banyan.Errorf(banyan.Unavailable, "node %v is no longer of the cluster: ask another node", n.file.Node)
}

// heedRemoval ends this node when another one refuses its call because it was
// removed. Callers of this node are told to ask another one.
func (n *Server) heedRemoval(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if banyan.IsKind(err, banyan.Removed) {
			n.expel(err)
			err = n.askAnother()
		}
		return res, err
	}
}

// watchRemoval forgets members that were removed, and ends this node when it
// is the one.
func (n *Server) watchRemoval(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := n.nodes.watch()
		for id := range *n.nodes.removed.Load() {
			if id == n.file.Node {
				n.expel(n.nodes.admit(id))
			}
			n.members.Forget(id)
		}
		select {
		case <-ctx.Done():
		case <-changed:
		case <-time.After(time.Minute): // gossip may still have had it alive
		}
	}
	return nil
}
