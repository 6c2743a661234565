package sim

import (
	"strconv"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
)

// tally is the smallest controller: beside a shard's leader it keeps a number
// in memory, read once at the start of its term, and writes the next one again
// and again without any condition. Only the term fence keeps one that does not
// know that its term is over from writing over its successor's.
type tally struct {
	p     *process
	shard banyan.ShardID
	term  uint64
	n     int
	ended bool
}

const tallyKey = "t/tally"

// lead starts and ends controllers, as server does on Leadership.
func (p *process) lead(l replica.Leadership) {
	if old := p.tallies[l.Shard]; old != nil && old.term <= l.Term {
		delete(p.tallies, l.Shard)
		if p.w.chance(0.3) { // else it has not heard of it yet
			old.ended = true
		}
	}
	if l.Leading && !p.w.cfg.without("controllers") {
		t := &tally{p: p, shard: l.Shard, term: l.Term}
		p.tallies[l.Shard] = t
		p.after(p.work(time.Millisecond), t.load)
	}
}

func (t *tally) load() {
	row, err := mvcc.Get(t.p.store.Shard(t.shard).Latest(), []byte(tallyKey), 0)
	switch {
	case t.p.unread(err):
		t.p.after(10*time.Millisecond, t.load)
		return
	case err != nil:
		t.p.w.fail("%v: shard %d: tally: %v", t.p.n.id, t.shard, err)
		return
	}
	if row != nil {
		t.n, _ = strconv.Atoi(string(row.Value))
	}
	t.step()
}

func (t *tally) step() {
	d := t.p.work(100 * time.Millisecond)
	if t.p.w.chance(0.06) {
		d = t.p.w.between(0, 5*time.Second)
	}
	t.p.after(d, func() {
		switch {
		case t.ended || t.p.w.operator.calm:
		case t.p.w.lulled(t.shard):
			t.step()
		default:
			t.write()
		}
	})
}

func (t *tally) write() {
	cmd := &mvcc.Command{Term: t.term, Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(tallyKey), Value: []byte(strconv.Itoa(t.n + 1))}}}
	t.p.propose(t.shard, cmd, func(res mvcc.Result, err error) {
		switch {
		case err == nil && res.OK && !res.Stale:
			t.n++
			t.step()
		case err != nil && replica.IsUncertain(err):
			t.p.w.reach("controller does not know")
		default:
			if banyan.IsKind(err, banyan.Stale) || res.Stale {
				t.p.w.reach("controller refused by its term")
			}
		}
	})
}
