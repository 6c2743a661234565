package sim

import (
	"time"

	"banyan"
	"banyan/core/placement"
	"banyan/engine/replica"
)

// heat is what users are taken to write beside the simulated clients: nearly all
// of it to one shard for a while, then to another. Nothing is written; only the
// revisions that leaders tell of grow. It checks that leaders do not thrash.
type heat struct {
	w      *world
	dice   dice
	shard  banyan.ShardID
	at     time.Duration // of the latest change
	writes map[banyan.ShardID]float64
	moved  map[banyan.ShardID]move
}

// move is the latest of a leader for the sake of balance.
type move struct {
	to      banyan.NodeID
	arrived time.Duration // 0: not yet
	n       int           // of how many
}

// The scales of these short lives: how long a leader stays, of what time loads are
// the mean, and how many changes a second hot and other shards get.
const (
	leadRest = 3 * time.Second
	loadOver = 3 * time.Second
	hotRate  = 5000
	coldRate = 50
)

func (w *world) beginHeat() {
	w.heat = &heat{w: w, dice: newDice(w.cfg.Seed, 0x4ea7), writes: map[banyan.ShardID]float64{}, moved: map[banyan.ShardID]move{}}
	w.heat.wander()
}

// wander makes another shard hot, for less than the mean is over or for longer.
func (h *heat) wander() {
	h.grow()
	h.shard = pick(h.dice, h.w.shards())
	h.w.after(h.dice.between(200*time.Millisecond, 5*time.Second), func() {
		if !h.w.over {
			h.wander()
		}
	})
}

// grow takes in what was written since the latest change.
func (h *heat) grow() {
	for _, shard := range h.w.shards() {
		rate := float64(coldRate)
		if shard == h.shard {
			rate = hotRate
		}
		h.writes[shard] += rate * (h.w.now - h.at).Seconds()
	}
	h.at = h.w.now
}

// leadSince is in which term a process leads a shard, and since when.
type leadSince struct {
	term uint64
	at   time.Duration
}

// heardLead is what server's leads take in.
func (p *process) heardLead(l replica.Leadership) {
	if !l.Leading {
		delete(p.since, l.Shard)
	} else if p.since[l.Shard].term != l.Term {
		p.since[l.Shard] = leadSince{l.Term, p.w.now}
		p.w.heat.arrived(l.Shard, p.n.id)
	}
}

// measure is what a node does when it is asked how it is: it looks at the revisions
// of all shards that it holds.
func (h *heat) measure(p *process, all []replica.Status) {
	for _, st := range all {
		p.rates.Note(st.Shard, banyan.Revision(h.writes[st.Shard]), h.w.now.Milliseconds())
	}
}

// sayLead is what a leader says of its shard.
func (p *process) sayLead(st *replica.Status) (load uint64, ledMs int64) {
	load = p.rates.Note(st.Shard, banyan.Revision(p.w.heat.writes[st.Shard]), p.w.now.Milliseconds())
	if s, ok := p.since[st.Shard]; ok && s.term == st.Term {
		ledMs = (p.w.now - s.at).Milliseconds()
	}
	return load, ledMs
}

// ordered is told that a leader is to be moved. One whose term is over may not
// know yet that another has come: asking it moves nothing.
func (h *heat) ordered(from banyan.NodeID, s placement.Step) {
	if !s.Balance {
		return
	}
	m := h.moved[s.Shard]
	if m.to == from && m.arrived != 0 && h.w.now-m.arrived < leadRest {
		h.w.fail("shard %d: its leader came to %v %v ago to make things even, and is to move again to %v (%d moves)", s.Shard, m.to, h.w.now-m.arrived, s.Transfer, m.n)
		return
	}
	h.moved[s.Shard] = move{to: s.Transfer, n: m.n}
}

func (h *heat) arrived(shard banyan.ShardID, node banyan.NodeID) {
	if m := h.moved[shard]; m.to == node && m.arrived == 0 {
		m.arrived, m.n = h.w.now, m.n+1
		h.moved[shard] = m
		h.w.reach("leader moved to make things even")
	}
}
