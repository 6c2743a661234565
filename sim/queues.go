package sim

import (
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
)

// Bounds of the queues of one process, as simulated clients and clusters may
// fill them. Those of real nodes (banyan.Limits) are beyond what a simulated
// load reaches; what these hold for, beside a leak, is that nothing feeds on
// itself: retries, messages that answer messages, logs that nobody truncates.
var bounds = map[string]int{
	"input":             2048, // of the core's loop, more while it is paused
	"appends":           512,  // for the disk
	"applies":           64,
	"snapshots to send": 64,
	"proposals":         16, // of a shard; then they are refused, as Host does with other numbers
	"reads":             8,
	"log entries":       256, // of a shard, beside what is kept for a replica that is behind
	"attempts held":     256, // by a worker
	"results queued":    256, // by controllers
}

// length notes how long a queue is.
func (p *process) length(queue string, n int) {
	w := p.w
	if n > w.longest[queue] {
		w.longest[queue] = n
	}
	if n > bounds[queue] {
		w.fail("%v: %d %s wait, more than %d", p.n.id, n, queue, bounds[queue])
	}
}

// measure is done after each round of the loop.
func (p *process) measure() {
	p.length("input", len(p.in))
	p.length("appends", len(p.appends))
	p.length("applies", len(p.applies))
	p.length("snapshots to send", len(p.snapshots))
	p.length("attempts held", p.held())
	p.length("results queued", p.office.core.Queued())
}

// ticket is one proposal or read that has been let in. It is answered once.
type ticket struct {
	p       *process
	queue   map[banyan.ShardID]int
	shard   banyan.ShardID
	what    string
	answers int
}

// admit lets a proposal or read in, or refuses it because too many wait.
func (p *process) admit(what string, queue map[banyan.ShardID]int, shard banyan.ShardID) (*ticket, error) {
	if queue[shard] >= bounds[what] {
		p.w.reach("refused, too many " + what)
		return nil, banyan.Errorf(banyan.Exhausted, "shard %d has %d %s waiting", shard, queue[shard], what)
	}
	queue[shard]++
	p.length(what, queue[shard])
	return &ticket{p, queue, shard, what, 0}, nil
}

// answered gives the place back; false: its process is dead, nobody listens.
func (t *ticket) answered() bool {
	if t.answers++; t.answers > 1 {
		t.p.w.fail("%v: shard %d: one of the %s was answered twice", t.p.n.id, t.shard, t.what)
	}
	t.queue[t.shard]--
	return !t.p.dead
}

// propose is Host.Propose.
func (p *process) propose(shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	v := p.views[shard]
	v.Shard = shard
	prop, err := v.Prepare(p.n.id, cmd, p.n.clock().UnixMilli())
	var t *ticket
	if err == nil {
		t, err = p.admit("proposals", p.proposals, shard)
	}
	if err != nil {
		done(mvcc.Result{}, err)
		return
	}
	prop.Done = func(res mvcc.Result, err error) {
		if t.answered() {
			done(res, err)
		}
	}
	p.input(func(c *replica.Core) { c.Propose(shard, prop) })
}

// read is Host.ReadIndex.
func (p *process) read(shard banyan.ShardID, done func(error)) {
	t, err := p.admit("reads", p.reads, shard)
	if err != nil {
		done(err)
		return
	}
	p.input(func(c *replica.Core) {
		c.Read(shard, func(err error) {
			if t.answered() {
				done(err)
			}
		})
	})
}

// held counts what the worker has not got rid of.
func (p *process) held() int {
	waiting, running, unrecorded := p.crew.core.Holds()
	return waiting + running + unrecorded
}

// waiting is the first queue that is not empty, of a process that should be at
// rest: what nobody will ever answer.
func (p *process) waiting() string {
	for _, shard := range p.w.shards() {
		switch {
		case p.proposals[shard] > 0:
			return "proposals"
		case p.reads[shard] > 0:
			return "reads"
		}
	}
	switch {
	case p.held() > 0:
		return "attempts held"
	case p.office.core.Queued() > 0:
		return "results queued"
	case len(p.snapshots)+p.sending > 0:
		return "snapshots to send"
	}
	return ""
}

// kept is how far a leader's log was truncated when the operator last looked.
type kept struct {
	term, first uint64
	match       map[banyan.NodeID]uint64
}

// truncated checks that a leader's log has kept what replicas need that are
// behind, as long as it need not keep too much for that.
func (p *process) truncated(st *replica.Status) {
	before, now := p.kept[st.Shard], kept{st.Term, st.First, st.Match}
	p.kept[st.Shard] = now
	if !st.Leading || before.term != now.term || before.first == now.first {
		return
	}
	if st.Applied-before.first+1 >= replica.LogTailFactor*p.w.plan.keep {
		return
	}
	for id, match := range now.match { // any will do: the order does not show
		was, known := before.match[id]
		if known && was > 0 && match >= was && match+1 < now.first && p.w.now > p.snapshotTo[id]+2*time.Second {
			p.w.fail("%v: shard %d: the log begins at %d, but %v has it up to %d only", p.n.id, st.Shard, now.first, id, match)
		}
	}
}
