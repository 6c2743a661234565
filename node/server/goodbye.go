package server

import (
	"context"
	"sync"
	"time"

	"banyan"
	"banyan/engine/replica"
)

// goodbyeMax bounds the handing over before a stop.
const goodbyeMax = 3 * time.Second

// sayGoodbye hands the shards led here to others and tells gossip, so that a
// planned stop costs the others nothing.
func (n *Server) sayGoodbye() {
	if n.members == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeMax)
	defer cancel()
	statuses, err := n.host.Statuses(ctx)
	if err != nil {
		return // the host has stopped by itself: others find out as after a crash
	}
	var wg sync.WaitGroup
	for _, st := range statuses {
		if to := n.heir(st); st.Leading && to != 0 {
			wg.Go(func() {
				if err := n.host.TransferLeader(ctx, st.Shard, to); err != nil {
					n.log.Debug("leadership not handed over before the stop", "shard", st.Shard, "error", err)
				}
			})
		}
	}
	wg.Wait()
	if err := n.members.Leave(ctx); err != nil {
		n.log.Debug("no goodbye", "error", err)
	}
}

// heir is the live voter whose log reaches furthest, or 0.
func (n *Server) heir(st replica.Status) (best banyan.NodeID) {
	for _, id := range st.Voters {
		if id == n.file.Node || n.stateOf(id) != "alive" {
			continue
		}
		if best == 0 || st.Match[id] > st.Match[best] {
			best = id
		}
	}
	return best
}
