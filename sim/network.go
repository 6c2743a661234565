package sim

import (
	"fmt"
	"time"

	"banyan"
	"banyan/engine/replica"
)

// network carries messages between nodes. In quiet times it is quick and keeps
// the order of each pair of nodes, as one TCP connection does.
type network struct {
	cut  map[[2]banyan.NodeID]int // how many faults cut the way from one node to another
	last map[[2]banyan.NodeID]time.Duration

	burst   float64       // loss for a while
	slowest time.Duration // that any message was from send to step
}

func newNetwork() network {
	return network{cut: map[[2]banyan.NodeID]int{}, last: map[[2]banyan.NodeID]time.Duration{}}
}

func (t *network) isCut(from, to banyan.NodeID) bool { return t.cut[[2]banyan.NodeID{from, to}] > 0 }

func (t *network) block(from, to banyan.NodeID, by int) {
	if from != to {
		t.cut[[2]banyan.NodeID{from, to}] += by
	}
}

// latency of one message.
func (w *world) latency() time.Duration {
	d := w.between(100*time.Microsecond, time.Millisecond)
	if !w.faultless && w.chance(w.plan.spike) {
		w.fault("message delayed")
		d += w.between(0, w.plan.spikeMax)
	}
	return d
}

func (w *world) lost(from, to banyan.NodeID) bool {
	if w.net.isCut(from, to) {
		w.fault("message cut off")
		return true
	}
	if !w.faultless && w.chance(w.plan.loss+w.net.burst) {
		w.fault("message lost")
		return true
	}
	return false
}

// send puts a message on its way.
func (t *network) send(from *node, e replica.Envelope) {
	w := from.w
	if w.lost(from.id, e.To) {
		return
	}
	copies := 1
	if !w.faultless && w.chance(w.plan.dup) {
		w.fault("message doubled")
		copies = 2
	}
	for range copies {
		pair := [2]banyan.NodeID{from.id, e.To}
		at := w.now + w.latency()
		if !w.faultless && w.chance(w.plan.reorder) {
			w.fault("message reordered")
			at += w.between(0, 5*time.Millisecond)
		} else {
			at = max(at, t.last[pair]+1)
			t.last[pair] = at
		}
		sent := w.now
		w.after(at-w.now, func() { t.deliver(w, from.id, sent, e) })
	}
}

func (t *network) deliver(w *world, from banyan.NodeID, sent time.Duration, e replica.Envelope) {
	p := w.node(e.To).proc
	if p == nil || w.net.isCut(from, e.To) {
		return
	}
	m := e.Message
	if e.Shard == replica.BeatShard && m.GetReject() {
		w.reach("beats that differ")
	}
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, "%12.6f %v -> %v shard %d %v\n", w.now.Seconds(), from, e.To, e.Shard, m.GetType())
	}
	w.note("message", uint64(m.GetType()), uint64(from), uint64(e.To), uint64(e.Shard), m.GetTerm(), m.GetIndex(), m.GetLogTerm(), m.GetCommit(), uint64(len(m.GetEntries())), bit(m.GetReject()))
	p.input(func(c *replica.Core) {
		t.slowest = max(t.slowest, w.now-sent)
		c.Step(e.Shard, m)
	})
}

// refuse tells the others that a node's process is gone, as a machine that
// refuses connections does: soon, or when it is no longer true.
func (t *network) refuse(gone *node) {
	w := gone.w
	for _, n := range w.nodes {
		if n == gone || n.proc == nil || t.isCut(n.id, gone.id) || t.isCut(gone.id, n.id) || w.chance(0.3) {
			continue
		}
		p, d := n.proc, w.between(time.Millisecond, 5*time.Millisecond)
		if w.chance(0.1) {
			d = w.between(0, time.Second)
		}
		p.after(d, func() { p.input(func(c *replica.Core) { c.PeerLost(gone.id) }) })
	}
}
