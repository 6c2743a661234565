package server

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/member"
	"banyan/engine/replica"
	"banyan/internal/pause"
	"banyan/node/worker"
)

// leaders tells the worker who leads what: what replicas here know, and for
// other shards what gossip says. It looks again at every hint of a change.
type leaders struct {
	n       *Server
	mu      sync.Mutex
	epoch   uint64 // of the shard map that was looked at
	view    map[banyan.ShardID]banyan.NodeID
	changed chan struct{}
}

var _ worker.Leaders = (*leaders)(nil)

// The view of leaders is compared with what the node knows every leadersPoll.
// After an announced change it is compared every leadersSoon, leadersLooks times:
// a change of one shard's leader is mostly followed by others.
const (
	leadersPoll  = time.Second
	leadersSoon  = 100 * time.Millisecond
	leadersLooks = 20
)

func newLeaders(n *Server) *leaders {
	return &leaders{n: n, view: map[banyan.ShardID]banyan.NodeID{}, changed: make(chan struct{})}
}

// ShardOf gives the shard of a job id.
func (l *leaders) ShardOf(partition []byte) banyan.ShardID { return l.n.router.ShardOf(partition) }

// Leaders gives the leader of every data shard that is known to have one.
func (l *leaders) Leaders() (map[banyan.ShardID]banyan.NodeID, <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.view), l.changed
}

func (l *leaders) look() {
	view := map[banyan.ShardID]banyan.NodeID{}
	claimed := *l.n.claimed.Load()
	m := l.n.shards.get()
	for _, shard := range m.Data() {
		node, term := l.n.host.Leader(shard)
		if c := claimed[shard]; c.node != 0 && (node == 0 && c.term >= term || c.term > term) {
			node = c.node
		}
		if node != 0 {
			view[shard] = node
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.Epoch != l.epoch || !maps.Equal(view, l.view) { // with another map jobs are of other shards
		l.epoch, l.view = m.Epoch, view
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

// watchLeadership tells controllers and gossip which shards this node leads,
// and keeps the view of all leaders fresh.
func (n *Server) watchLeadership(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		var members <-chan struct{} // an embedded node has none
		if n.members != nil {
			changes, stop := n.members.Watch()
			defer stop()
			members = changes
		}
		poll := time.NewTimer(leadersSoon)
		defer poll.Stop()
		for looks := leadersLooks; ctx.Err() == nil; {
			if n.members != nil {
				all := n.claims().all()
				n.claimed.Store(&all)
			}
			n.leaders.look()
			if looks > 0 {
				poll.Reset(leadersSoon)
			} else {
				poll.Reset(leadersPoll)
			}
			select {
			case <-ctx.Done():
			case <-members:
				looks = leadersLooks
			case <-n.host.Moved():
				looks = leadersLooks
			case <-n.shards.changed:
				looks = leadersLooks
				n.splits.Wake()
			case <-poll.C:
				looks--
			}
		}
	})
	defer n.splits.Unlead()
	feed := n.host.Leadership()
	defer feed.Close()
	led := map[banyan.ShardID]uint64{}
	for {
		changes, err := feed.Next(ctx)
		if err != nil {
			return nil // ctx ended, or the host stopped, which is told elsewhere
		}
		for _, l := range changes {
			if l.Leading {
				led[l.Shard] = l.Term
			} else {
				delete(led, l.Shard)
			}
			n.leads.hear(l, time.Now())
			n.tellController(ctx, l)
		}
		if n.members != nil {
			n.members.SetLeads(claimsOf(led))
		}
		n.leaders.look()
		if len(led) == len(n.shards.get().All()) {
			n.ledAll.Do(func() { close(n.led) })
		}
	}
}

func (n *Server) tellController(ctx context.Context, l replica.Leadership) {
	if l.Shard == banyan.RootShard { // it holds no jobs and no locks
		if l.Leading {
			n.splits.Lead(ctx, l.Term)
		} else {
			n.splits.Unlead()
		}
		return
	}
	for _, layer := range n.layers {
		if l.Leading {
			layer.Lead(l.Shard, l.Term)
		} else {
			layer.Unlead(l.Shard)
		}
	}
}

// compactEvery is how often a leader looks whether history is too long.
const compactEvery = 5 * time.Second

// compact keeps the history of the shards led here within HistoryRevisionsMax and
// HistoryBytesMax.
func (n *Server) compact(ctx context.Context) error {
	for ctx.Err() == nil {
		_ = pause.For(ctx, compactEvery)
		statuses, err := n.host.Statuses(ctx)
		if err != nil {
			continue
		}
		for _, st := range statuses {
			if !st.Leading {
				continue
			}
			if to := n.compactTarget(st.Shard); to > 0 {
				n.compactShard(ctx, st.Shard, to)
			}
		}
	}
	return nil
}

// compactTarget is the horizon to compact a shard to, 0 if there is no need, or
// its replica has just gone.
func (n *Server) compactTarget(shard banyan.ShardID) banyan.Revision {
	view, err := n.host.View(shard)
	if err != nil {
		return 0
	}
	defer view.Close()
	h, err := mvcc.HistoryOf(view)
	if err != nil {
		return 0
	}
	return h.Target(banyan.HistoryRevisionsMax, banyan.HistoryBytesMax)
}

// compactShard repeats the bounded command until the horizon is reached.
func (n *Server) compactShard(ctx context.Context, shard banyan.ShardID, to banyan.Revision) {
	for ctx.Err() == nil {
		res, err := n.host.Propose(ctx, shard, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Compact, Rev: to}}})
		if err != nil || !res.More {
			return
		}
	}
}

func claimsOf(led map[banyan.ShardID]uint64) []member.Lead {
	out := make([]member.Lead, 0, len(led))
	for shard, term := range led {
		out = append(out, member.Lead{Shard: shard, Term: term})
	}
	slices.SortFunc(out, func(a, b member.Lead) int { return int(a.Shard) - int(b.Shard) })
	return out
}
