package sim

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/placement"
	"banyan/engine/replica"
)

// operator is what server does beside the cores: it carries out what placement
// plans, removes replicas that are no longer named, takes them back, compacts
// history. It sees the statuses of the processes that run.
type operator struct {
	w         *world
	downSince map[banyan.NodeID]time.Duration
	calm      bool            // clients are done: replicas come level
	done      map[*client]int // operations at the beginning of recovery
}

func (o *operator) begin(w *world) {
	*o = operator{w: w, downSince: map[banyan.NodeID]time.Duration{}, done: map[*client]int{}}
	w.every(150*time.Millisecond, o.place)
	w.every(300*time.Millisecond, o.letGo)
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
	o.w.heat.grow()
	var nodes []placement.Node
	for _, n := range o.w.nodes {
		if n.gone && n.leaving {
			continue // and forgotten
		}
		since, down := o.downSince[n.id]
		switch {
		case o.reached(n):
			o.w.heat.measure(n.proc, o.statuses(n.proc))
			delete(o.downSince, n.id)
			down = false
		case !down:
			o.downSince[n.id], since, down = o.w.now, o.w.now, true
		}
		pn := placement.Node{ID: n.id, Alive: !down, Draining: n.draining, Leaving: n.leaving, Low: n.level != placement.DiskWell}
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
		s.Load, s.LedMs = p.sayLead(st)
		shards = append(shards, s)
	}
	for _, step := range placement.Plan(nodes, shards, placement.Policy{Voters: o.w.plan.voters, DeadAfterMs: deadAfter.Milliseconds(), LeadRestMs: leadRest.Milliseconds()}) {
		p, _ := o.leader(step.Shard)
		if step.Transfer != 0 {
			o.w.heat.ordered(p.n.id, step)
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

// thereAndBack transfers a shard, and now and then back soon: what its first
// leader and those who know it remember is then of an earlier term.
func (o *operator) thereAndBack(d dice, p *process, shard banyan.ShardID, to banyan.NodeID) {
	o.transfer(p, shard, to)
	if d.chance(0.5) {
		o.w.after(d.between(10*time.Millisecond, time.Second), func() {
			if next, _ := o.leader(shard); next != nil && next != p {
				o.transfer(next, shard, p.n.id)
			}
		})
	}
}

// shuffle transfers every shard, some there and back, in the next second.
func (o *operator) shuffle(d dice) {
	for _, shard := range o.w.shards() {
		o.w.after(d.between(0, time.Second), func() {
			if p, st := o.leader(shard); p != nil {
				o.thereAndBack(d, p, shard, pick(d, st.Voters))
			}
		})
	}
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
func (o *operator) disturb(f *fault, n *node) bool {
	switch f.kind {
	case "drain":
		n.draining = true
		o.w.later(f.dice, func() { n.draining = n.leaving })
		if f.dice.chance(0.5) {
			o.shuffle(f.dice)
		}
		return true
	case "join":
		return o.join()
	case "leave":
		if f.dice.chance(0.2) {
			return o.vacate(pick(f.dice, o.w.shards()))
		}
		return o.leave(n)
	case "replace":
		return o.replace(n)
	}
	shard := pick(f.dice, o.w.shards())
	p, st := o.leader(shard)
	if p == nil {
		return false
	}
	if f.kind == "transfer" {
		o.thereAndBack(f.dice, p, shard, pick(f.dice, st.Voters))
	} else {
		voters, learners := o.someReplicas(f.dice, st)
		o.reconfigure(p, shard, voters, learners)
	}
	return true
}

// someReplicas draws a configuration that may be one step from st.
func (o *operator) someReplicas(d dice, st *replica.Status) (voters, learners []banyan.NodeID) {
	all := slices.Concat(st.Voters, st.Learners)
	for _, n := range o.w.nodes {
		if !n.gone && !slices.Contains(all, n.id) && d.chance(0.3) {
			learners = append(learners, n.id)
		}
	}
	for _, id := range all {
		if d.chance(0.7) {
			voters = append(voters, id)
		} else if d.chance(0.5) && !slices.Contains(st.Voters, id) {
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

// nodesMax is how many machines there may be at a time.
const nodesMax = 7

// join brings one more machine.
func (o *operator) join() bool {
	if o.staying(nil) >= nodesMax {
		return false
	}
	o.w.addNode().bootstrap(nil)
	return true
}

// staying counts the machines besides one that are neither gone nor leaving.
func (o *operator) staying(but *node) int {
	n := 0
	for _, m := range o.w.nodes {
		if m != but && !m.gone && !m.leaving {
			n++
		}
	}
	return n
}

// vacate has all machines leave that vote in a shard.
func (o *operator) vacate(shard banyan.ShardID) bool {
	_, st := o.leader(shard)
	if st == nil || o.staying(nil)-len(st.Voters) < max(o.w.plan.voters, 3) {
		return false
	}
	left := false
	for _, id := range st.Voters {
		left = o.leave(o.w.node(id)) || left
	}
	return left
}

// leave drains a machine, which goes for good when it holds nothing.
func (o *operator) leave(n *node) bool {
	if n.gone || n.leaving || o.staying(n) < max(o.w.plan.voters, 3) {
		return false
	}
	n.draining, n.leaving = true, true
	return true
}

// letGo ends machines that leave and that no shard needs any more.
func (o *operator) letGo() {
	for _, n := range o.w.nodes {
		if !n.leaving || n.gone || o.w.over {
			continue
		}
		free := true
		for _, shard := range o.w.shards() {
			_, lead := o.leader(shard)
			free = free && lead != nil && lead.Settled && !slices.Contains(slices.Concat(lead.Voters, lead.Learners), n.id)
		}
		if free {
			n.gone = true
			n.die(kill, "left")
			o.w.reach("node left")
		}
	}
}

// bears says whether every shard bears the loss of any one disk now, and no
// other was lost in this run.
func (o *operator) bears() bool {
	if o.w.lossy || o.w.plan.reconfigures {
		return false
	}
	for _, shard := range o.w.shards() {
		if !o.settled(shard) {
			return false
		}
	}
	return true
}

// replace loses a machine with its disk for ever; a new one joins with a new id.
func (o *operator) replace(n *node) bool {
	if n.gone || !o.bears() {
		return false
	}
	o.w.lossy = true
	n.gone = true
	n.die(kill, "for ever")
	o.w.addNode().bootstrap(nil)
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
			p.truncated(&st)
			if st.Leading && len(st.Voters) == 1 && !st.Joint && st.Proving > 0 {
				o.w.fail("%v: shard %d: %d reads wait for the only voter's proof that it leads, which nobody else can give", p.n.id, st.Shard, st.Proving)
			}
			p.length("log entries", int(st.Last+1-st.First)-replica.LogTailFactor*int(o.w.plan.keep))
			lead := p.views[st.Shard].Leader
			if lead == 0 {
				lead = o.w.jobs.led[st.Shard].node // as gossip says
			}
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
							o.darken(st.Shard)
						}
					})
				})
			})
		}
	}
}

// darken cuts the power, sometimes, when a replica has just gone and nobody
// writes: if the others still need it, it is now that they find out.
func (o *operator) darken(shard banyan.ShardID) {
	if !o.w.lulled(shard) || o.w.cfg.without("power all") || !o.w.chance(0.3) {
		return
	}
	o.w.after(o.w.between(0, 5*time.Millisecond), func() {
		o.w.fault("power all")
		for _, n := range o.w.nodes {
			n.die(powerLost, "all")
		}
	})
}

// named asks a shard's leader whether its configuration names a node.
func (o *operator) named(id banyan.NodeID, shard banyan.ShardID, lead banyan.NodeID, term uint64) (named, sure bool) {
	n := o.w.node(lead)
	if !o.reached(n) {
		return false, false
	}
	for _, st := range o.statuses(n.proc) {
		if st.Shard == shard && st.Leader == lead && st.Term >= term && st.Settled {
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
			if !st.Leading || o.w.lulled(st.Shard) {
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
	if !w.jobs.done() || w.plan.sweeps && !w.tidy() || !w.locks.done(w) || slices.ContainsFunc(w.nodes, func(n *node) bool { return n.leaving && !n.gone }) {
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
	for _, p := range w.up() {
		if p.waiting() != "" {
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
			fmt.Fprintf(&b, "  %v down, gone: %v, leaving: %v\n", n.id, n.gone, n.leaving)
			continue
		}
		if queue := n.proc.waiting(); queue != "" {
			fmt.Fprintf(&b, "  %v has %s that wait\n", n.id, queue)
		}
		for _, st := range w.operator.statuses(n.proc) {
			fmt.Fprintf(&b, "  %v %+v\n", n.id, st)
		}
	}
	for _, s := range w.jobs.order {
		fmt.Fprintf(&b, "  %s\n", s)
	}
	for _, k := range w.lockers {
		fmt.Fprintf(&b, "  locker %d has %+v after %d rounds, done: %v; %d leases\n", k.id, k.claim, k.n, k.done(), len(w.locks.leases))
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
