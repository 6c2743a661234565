package server

import (
	"context"
	"slices"
	"sync"
	"time"

	"banyan"
	"banyan/core/placement"
	"banyan/engine/replica"
	"banyan/internal/pause"
)

// The pace of placement: quick while there is something to do.
const (
	placeBusy = 100 * time.Millisecond
	placeIdle = 2 * time.Second
	stepMax   = 10 * time.Second
)

// place keeps replicas where they belong. It runs on every node and acts only
// beside the root shard's leader.
func (n *Server) place(ctx context.Context) error {
	members, stop := n.members.Watch()
	defer stop()
	for ctx.Err() == nil {
		wait := placeIdle
		if leader, _ := n.host.Leader(banyan.RootShard); leader != n.file.Node {
			n.uneven.forget()
		} else if n.placeOnce(ctx) {
			wait = placeBusy
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-n.nodes.watch():
			_ = pause.For(ctx, placeBusy) // several changes come together
		case <-members:
			_ = pause.For(ctx, placeBusy)
		}
		t.Stop()
	}
	return nil
}

// placeOnce plans once and carries the steps out; it says whether there were any.
func (n *Server) placeOnce(ctx context.Context) bool {
	infos := n.gather(ctx)
	n.raiseProtocol(ctx, infos)
	nodes, shards := n.placementState(infos)
	policy := placement.DefaultPolicy()
	policy.Voters, policy.DeadAfterMs = n.voters(), n.deadAfter().Milliseconds()
	steps := n.uneven.filter(placement.Plan(nodes, shards, policy))
	for _, s := range steps {
		switch err := n.carryOut(ctx, s); {
		case err != nil:
			n.log.Debug("placement step not done, planned again", "shard", s.Shard, "why", s.Why, "error", err)
		case s.Transfer != 0:
			n.log.Info("leadership moved", "shard", s.Shard, "to", s.Transfer, "why", s.Why)
		default:
			n.log.Info("replicas changed", "shard", s.Shard, "voters", s.Voters, "learners", s.Learners, "why", s.Why)
		}
	}
	return len(steps) > 0 || catchingUp(nodes, shards)
}

// balanceAfter is how long replicas and leaders must have been uneven before they
// are moved: after a restart they settle by themselves, and moves cost a pause.
const balanceAfter = 10 * time.Second

// patience holds balancing back until it has been wanted for balanceAfter, all the
// while by this node.
type patience struct{ since time.Time }

func (p *patience) filter(steps []placement.Step) []placement.Step {
	wanted := slices.ContainsFunc(steps, func(s placement.Step) bool { return s.Balance })
	switch {
	case !wanted:
		p.since = time.Time{}
	case p.since.IsZero():
		p.since = time.Now()
	}
	if wanted && time.Since(p.since) < balanceAfter {
		return slices.DeleteFunc(steps, func(s placement.Step) bool { return s.Balance })
	}
	return steps
}

// forget is for a node that does not plan: what it wanted when it did says nothing
// of now.
func (p *patience) forget() { p.since = time.Time{} }

// catchingUp says whether there is a learner whose node is there and that has yet
// to catch up. One that has, and is still a learner, is to stay one.
func catchingUp(nodes []placement.Node, shards []placement.Shard) bool {
	here := map[banyan.NodeID]bool{}
	for _, n := range nodes {
		here[n.ID] = n.Alive
	}
	for _, s := range shards {
		for _, id := range s.Learners {
			if behind, known := s.Behind[id]; here[id] && (!known || behind > placement.CaughtUp) {
				return true
			}
		}
	}
	return false
}

func (n *Server) carryOut(ctx context.Context, s placement.Step) error {
	ctx, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	if s.Transfer != 0 {
		return n.router.TransferLeader(ctx, s.Shard, s.Transfer)
	}
	return n.router.Reconfigure(ctx, s.Shard, s.Voters, s.Learners)
}

func (n *Server) placementState(infos map[banyan.NodeID]*nodeInfo) ([]placement.Node, []placement.Shard) {
	var nodes []placement.Node
	for _, row := range n.nodes.list() {
		p := placement.Node{ID: row.ID, Zone: row.Zone, Draining: row.Draining, Leaving: row.LeavingMs != 0}
		p.Low = n.diskLevel(row.ID) != placement.DiskWell
		if info := infos[row.ID]; info != nil {
			p.Tight = info.DiskFreeBytes < 2*info.DiskMarkBytes
		}
		switch n.stateOf(row.ID) {
		case "alive":
			p.Alive = infos[row.ID] != nil
		case "suspect":
			p.Alive = true
		}
		if p.Alive {
			n.silent.seen(row.ID)
		} else {
			p.DeadMs = n.silent.since(row.ID).Milliseconds()
		}
		nodes = append(nodes, p)
	}
	var shards []placement.Shard
	for node, info := range infos {
		for _, sh := range info.Shards {
			if sh.Leader != uint64(node) {
				continue
			}
			s := placement.Shard{ID: banyan.ShardID(sh.Id), Leader: node, Joint: sh.Joint, Behind: map[banyan.NodeID]uint64{}}
			s.Load, s.LedMs = sh.Load, int64(sh.LedMs)
			for _, v := range sh.Voters {
				s.Voters = append(s.Voters, banyan.NodeID(v))
			}
			for _, v := range sh.Learners {
				s.Learners = append(s.Learners, banyan.NodeID(v))
			}
			for id, b := range sh.Behind {
				s.Behind[banyan.NodeID(id)] = b
			}
			shards = append(shards, s)
		}
	}
	return nodes, shards
}

// silences remembers since when each node has not been heard of. The clock of
// a new root leader starts when it first misses a node.
type silences map[banyan.NodeID]time.Time

func (s silences) seen(id banyan.NodeID) { delete(s, id) }

func (s silences) since(id banyan.NodeID) time.Duration {
	at, ok := s[id]
	if !ok {
		at = time.Now()
		s[id] = at
	}
	return time.Since(at)
}

// leads is what this node can say of its shards beside what raft does: how fast
// they grow, which it measures of all that it holds, and since when it leads those
// that it leads. Whoever plans hears it from here, so that a new leader of the root
// shard knows as much as the one before.
type leads struct {
	mu    sync.Mutex
	begun time.Time
	rates *placement.Rates
	since map[banyan.ShardID]lead
}

type lead struct {
	term uint64
	at   time.Time
}

// loadOver is the time over which a shard's load is the mean.
const loadOver = 30 * time.Second

func newLeads() *leads {
	return &leads{begun: time.Now(), rates: placement.NewRates(loadOver.Milliseconds()), since: map[banyan.ShardID]lead{}}
}

// hear takes in that this node has come to lead a shard, or leads it no more.
func (l *leads) hear(c replica.Leadership, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !c.Leading {
		delete(l.since, c.Shard)
	} else if l.since[c.Shard].term != c.Term {
		l.since[c.Shard] = lead{c.Term, now}
	}
}

// say gives a shard's changes a second, and how long this node has led it in this
// term, 0 if it does not.
func (l *leads) say(st *replica.Status, now time.Time) (load, ledMs uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	load = l.rates.Note(st.Shard, st.Revision, now.Sub(l.begun).Milliseconds()) // no jump of the wall clock counts
	if s, ok := l.since[st.Shard]; ok && st.Leading && s.term == st.Term {
		ledMs = uint64(now.Sub(s.at).Milliseconds())
	}
	return load, ledMs
}

// tidyRounds is how many rounds of readmit one of tidy takes: who waits for a
// replica waits with one voter less, who holds one too many only holds it.
const tidyRounds = 5

// tidy removes replicas that their shard's committed configuration no longer
// names: the leader says so, at the term this replica has or a later one.
func (n *Server) tidy(ctx context.Context) error {
	for round := 1; ctx.Err() == nil; round++ {
		_ = pause.For(ctx, placeIdle)
		n.readmit(ctx)
		if round%tidyRounds != 0 {
			continue
		}
		statuses, err := n.host.Statuses(ctx)
		if err != nil {
			continue
		}
		said := map[banyan.NodeID]*nodeInfo{}
		for _, st := range statuses {
			leader, ok := n.router.Leader(st.Shard)
			if !ok || leader == n.file.Node || ctx.Err() != nil {
				continue
			}
			if _, asked := said[leader]; !asked {
				said[leader] = n.askLeader(ctx, leader)
			}
			if named, sure := names(said[leader], n.file.Node, st.Shard, leader, st.Term); sure && !named {
				if err := n.host.Remove(ctx, st.Shard, st.Tenure); err != nil {
					n.log.Warn("replica not removed", "shard", st.Shard, "error", err)
					continue
				}
				n.log.Info("replica removed: the shard's configuration does not name this node any more", "shard", st.Shard)
			}
		}
	}
	return nil
}

// readmit takes replicas back that were removed from this node and placed here
// again since. Each leader is asked once.
func (n *Server) readmit(ctx context.Context) {
	gone := map[banyan.NodeID][]banyan.ShardID{}
	for _, shard := range n.shards.get().All() {
		if leader, ok := n.router.Leader(shard); ok && leader != n.file.Node && n.store.Tombstoned(shard) {
			gone[leader] = append(gone[leader], shard)
		}
	}
	for leader, shards := range gone {
		info := n.askLeader(ctx, leader)
		for _, shard := range shards {
			if named, sure := names(info, n.file.Node, shard, leader, 0); !sure || !named {
				continue
			}
			if err := n.host.Readmit(shard); err != nil {
				n.log.Warn("replica not taken back", "shard", shard, "error", err)
			}
		}
	}
}

// askLeader gives what a node says of itself; nil if it does not answer.
func (n *Server) askLeader(ctx context.Context, leader banyan.NodeID) *nodeInfo {
	ctx, cancel := context.WithTimeout(ctx, infoTimeout)
	defer cancel()
	info, err := n.askInfo(ctx, leader)
	if err != nil {
		return nil
	}
	return info
}

// names says whether the shard's configuration names a node, by what its leader
// said. It is sure only if that node does lead, in this term or later, with no
// change under way.
func names(info *nodeInfo, node banyan.NodeID, shard banyan.ShardID, leader banyan.NodeID, term uint64) (named, sure bool) {
	if info == nil {
		return false, false
	}
	for _, sh := range info.Shards {
		if sh.Id != uint32(shard) || sh.Leader != uint64(leader) || sh.Term < term || sh.Joint || sh.Unsettled {
			continue
		}
		return slices.Contains(sh.Voters, uint64(node)) || slices.Contains(sh.Learners, uint64(node)), true
	}
	return false, false
}
