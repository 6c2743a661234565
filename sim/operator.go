package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"banyan"
	"banyan/mvcc"
	"banyan/placement"
	"banyan/replica"
)

// operator is what server does beside the cores: it carries out what placement
// plans, removes replicas that are no longer named, takes them back, compacts
// history. It sees the statuses of the processes that run.
type operator struct {
	w         *world
	downSince map[banyan.NodeID]time.Duration
	replaced  bool
	calm      bool            // clients are done: replicas come level
	done      map[*client]int // operations at the beginning of recovery
}

func (o *operator) begin(w *world) {
	*o = operator{w: w, downSince: map[banyan.NodeID]time.Duration{}, done: map[*client]int{}}
	w.every(150*time.Millisecond, o.place)
	w.every(700*time.Millisecond, o.tidy)
	w.every(500*time.Millisecond, o.compact)
}

// reached says whether the operator can ask a node.
func (o *operator) reached(n *node) bool { return n.proc != nil && n.pausedTill <= o.w.now }

func (o *operator) statuses(p *process) []replica.Status {
	all, err := p.core.Statuses()
	if err != nil {
		o.w.fail("%v: status: %v", p.n.id, err)
	}
	return all
}

// leader is the newest that a shard's leader says, nil if nobody leads.
func (o *operator) leader(shard banyan.ShardID) (*process, *replica.Status) {
	var lead *process
	var newest *replica.Status
	for _, n := range o.w.nodes {
		if !o.reached(n) {
			continue
		}
		for _, st := range o.statuses(n.proc) {
			if st.Shard == shard && st.Leader == n.id && (newest == nil || st.Term > newest.Term) {
				lead, newest = n.proc, &st
			}
		}
	}
	return lead, newest
}

// deadAfter is the policy's, for these short lives.
const deadAfter = 2 * time.Second

func (o *operator) place() {
	if o.w.over {
		return
	}
	var nodes []placement.Node
	for _, n := range o.w.nodes {
		since, down := o.downSince[n.id]
		switch {
		case o.reached(n):
			delete(o.downSince, n.id)
			down = false
		case !down:
			o.downSince[n.id], since, down = o.w.now, o.w.now, true
		}
		pn := placement.Node{ID: n.id, Alive: !down, Draining: n.draining}
		if down {
			pn.DeadMs = (o.w.now - since).Milliseconds()
		}
		nodes = append(nodes, pn)
	}
	var shards []placement.Shard
	for _, shard := range o.w.shards() {
		p, st := o.leader(shard)
		if p == nil {
			continue
		}
		s := placement.Shard{ID: shard, Leader: p.n.id, Voters: st.Voters, Learners: st.Learners, Joint: st.Joint, Behind: map[banyan.NodeID]uint64{}}
		for id, match := range st.Match {
			s.Behind[id] = st.Last - min(match, st.Last)
		}
		shards = append(shards, s)
	}
	for _, step := range placement.Plan(nodes, shards, placement.Policy{Voters: 3, DeadAfterMs: deadAfter.Milliseconds()}) {
		p, _ := o.leader(step.Shard)
		if step.Transfer != 0 {
			o.transfer(p, step.Shard, step.Transfer)
		} else {
			o.reconfigure(p, step.Shard, step.Voters, step.Learners)
		}
	}
}

func (o *operator) transfer(p *process, shard banyan.ShardID, to banyan.NodeID) {
	p.input(func(c *replica.Core) {
		c.TransferLeader(shard, to, func(err error) {
			if err == nil {
				o.w.reach("leader transferred")
			}
		})
	})
}

func (o *operator) reconfigure(p *process, shard banyan.ShardID, voters, learners []banyan.NodeID) {
	o.w.say("reconfigure shard %d: voters %v learners %v", shard, voters, learners)
	p.input(func(c *replica.Core) {
		c.Reconfigure(shard, voters, learners, func(err error) {
			switch {
			case err == nil:
				o.w.reach(fmt.Sprintf("%d voters", len(voters)))
			case replica.IsUncertain(err):
				o.w.reach("change of voters unknown")
			}
		})
	})
}

// disturb is what an operator does at a bad time.
func (o *operator) disturb(kind string, n *node) bool {
	shard := pick(o.w.rng, o.w.shards())
	p, st := o.leader(shard)
	if p == nil || o.calm {
		return false
	}
	switch kind {
	case "transfer":
		o.transfer(p, shard, pick(o.w.rng, st.Voters))
	case "reconfigure":
		if o.replaced {
			return false
		}
		voters, learners := o.someReplicas(st)
		o.reconfigure(p, shard, voters, learners)
	case "drain":
		n.draining = true
		o.w.later(func() { n.draining = false })
	case "replace":
		return o.replace(n)
	}
	return true
}

// someReplicas draws a configuration that may be one step from st.
func (o *operator) someReplicas(st *replica.Status) (voters, learners []banyan.NodeID) {
	all := slices.Concat(st.Voters, st.Learners)
	for _, n := range o.w.nodes {
		if !n.gone && !slices.Contains(all, n.id) && o.w.chance(0.3) {
			learners = append(learners, n.id)
		}
	}
	for _, id := range all {
		if o.w.chance(0.7) {
			voters = append(voters, id)
		} else if o.w.chance(0.5) && !slices.Contains(st.Voters, id) {
			learners = append(learners, id)
		}
	}
	if len(voters)%2 == 0 && len(voters) > 0 {
		voters = voters[1:]
	}
	if len(voters) == 0 {
		voters = st.Voters[:1]
		learners = slices.DeleteFunc(learners, func(id banyan.NodeID) bool { return id == voters[0] })
	}
	return voters, learners
}

// replace loses a machine with its disk for ever, once in a run and only while
// every shard has the voters to bear it; a new one joins with a new id.
func (o *operator) replace(n *node) bool {
	if o.replaced || slices.Contains(o.w.plan.faults, "reconfigure") {
		return false
	}
	for _, shard := range o.w.shards() {
		if !o.settled(shard) {
			return false
		}
	}
	o.replaced = true
	n.gone = true
	n.die(kill, "for ever")
	o.w.addNode(banyan.NodeID(len(o.w.nodes) + 1)).bootstrap(nil)
	return true
}

// settled says whether a shard has three voters and all of them know it. As
// long as some do not, they may need one that is no longer needed: raft uses a
// configuration when it is applied.
func (o *operator) settled(shard banyan.ShardID) bool {
	_, lead := o.leader(shard)
	if lead == nil || len(lead.Voters) < 3 || lead.Joint {
		return false
	}
	for _, id := range lead.Voters {
		n := o.w.node(id)
		if !o.reached(n) {
			return false
		}
		i := slices.IndexFunc(o.statuses(n.proc), func(st replica.Status) bool {
			return st.Shard == shard && !st.Joint && slices.Equal(st.Voters, lead.Voters)
		})
		if i < 0 {
			return false
		}
	}
	return true
}

// tidy removes replicas that their shard's configuration no longer names, and
// takes back those that it names again, in the order of server's place.go.
func (o *operator) tidy() {
	if o.w.over {
		return
	}
	for _, p := range o.w.up() {
		if !o.reached(p.n) {
			continue
		}
		for _, shard := range o.w.shards() {
			if p.store.Tombstoned(shard) {
				o.readmit(p, shard)
			}
		}
		for _, st := range o.statuses(p) {
			lead := p.views[st.Shard].Leader
			if lead == 0 || lead == p.n.id {
				continue
			}
			if named, sure := o.named(p.n.id, st.Shard, lead, st.Term); named || !sure {
				continue
			}
			p.after(p.work(10*time.Millisecond), func() {
				p.input(func(c *replica.Core) {
					o.w.say("remove shard %d on %v", st.Shard, p.n.id)
					c.Remove(st.Shard, st.Tenure, func(err error) {
						if err == nil {
							o.w.reach("replica removed")
						}
					})
				})
			})
		}
	}
}

// named asks a shard's leader whether its configuration names a node.
func (o *operator) named(id banyan.NodeID, shard banyan.ShardID, lead banyan.NodeID, term uint64) (named, sure bool) {
	n := o.w.node(lead)
	if !o.reached(n) {
		return false, false
	}
	for _, st := range o.statuses(n.proc) {
		if st.Shard == shard && st.Leader == lead && st.Term >= term && !st.Joint {
			return slices.Contains(slices.Concat(st.Voters, st.Learners), id), true
		}
	}
	return false, false
}

func (o *operator) readmit(p *process, shard banyan.ShardID) {
	lead, _ := o.leader(shard)
	if lead == nil {
		return
	}
	if named, sure := o.named(p.n.id, shard, lead.n.id, 0); !named || !sure {
		return
	}
	b := p.store.NewBatch()
	b.ClearTombstone(shard)
	if err := b.Commit(true); err != nil {
		p.diskFailed("readmit", err)
		return
	}
	o.w.reach("replica taken back")
}

// compact keeps the history short, as server's leaders do.
func (o *operator) compact() {
	keep := o.w.plan.compact
	if keep == 0 || o.calm || o.w.over {
		return
	}
	for _, p := range o.w.up() {
		for _, st := range o.statuses(p) {
			if !st.Leading {
				continue
			}
			if rev := p.hub.Revision(st.Shard); uint64(rev) > keep {
				o.compactShard(p, st.Shard, rev-banyan.Revision(keep))
			}
		}
	}
}

func (o *operator) compactShard(p *process, shard banyan.ShardID, to banyan.Revision) {
	cmd := &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Compact, Rev: to}}}
	p.propose(shard, cmd, func(res mvcc.Result, err error) {
		if err == nil && !res.Stale {
			o.w.reach("compacted")
		}
	})
}

// enough says whether a client has shown that the cluster works again.
func (o *operator) enough(c *client) bool {
	start, ok := o.done[c]
	if !ok {
		start, o.done[c] = c.n, c.n
	}
	return c.n >= start+10
}

// recovered ends the run once everybody has what they should have.
func (w *world) recovered() {
	for _, c := range w.clients {
		if c.op != nil || !w.operator.enough(c) {
			return
		}
	}
	if !w.jobs.done() {
		return
	}
	w.operator.calm = true
	for _, shard := range w.shards() {
		if !w.level(shard) {
			return
		}
	}
	for _, c := range w.watchers {
		if !c.caughtUp() {
			return
		}
	}
	w.compareReplicas()
	w.over = true
}

// level says whether every replica that a shard's leader names has applied all.
func (w *world) level(shard banyan.ShardID) bool {
	lead, st := w.operator.leader(shard)
	if lead == nil || st.Joint || st.Applied != st.Last {
		return false
	}
	for _, id := range slices.Concat(st.Voters, st.Learners) {
		n := w.node(id)
		if n.gone {
			continue
		}
		if n.proc == nil {
			return false
		}
		if at, _ := n.proc.store.Shard(shard).Applied(); at != st.Applied {
			return false
		}
	}
	return true
}

// status shows what the nodes think, for a failure.
func (w *world) status() string {
	var b strings.Builder
	for _, n := range w.nodes {
		if n.proc == nil {
			fmt.Fprintf(&b, "  %v down\n", n.id)
			continue
		}
		for _, st := range w.operator.statuses(n.proc) {
			fmt.Fprintf(&b, "  %v %+v\n", n.id, st)
		}
	}
	for _, s := range w.jobs.order {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	for _, c := range w.clients {
		if c.op != nil {
			fmt.Fprintf(&b, "  %s, attempt %d\n", c.op, c.op.attempts)
		}
	}
	for _, c := range w.watchers {
		fmt.Fprintf(&b, "  %s heard up to %d of %d\n", c.who, c.upTo, w.truth[c.shard].revision())
	}
	return b.String()
}
