package replica

import (
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

// TestASoleVoterIsFreshOnceItHasApplied restarts a sole voter that lost what it
// had applied, but not its log: it leads at once, and is behind. (Found by
// package sim: stale reads that said they were not.)
func TestASoleVoterIsFreshOnceItHasApplied(t *testing.T) {
	w := newWorld(t)
	p := w.add(1, 0)
	w.pump()
	p.propose(0, put("a", "b"), func(_ mvcc.Result, err error) { mustNot(t, err) })
	w.pump()
	p.crash(true)
	p.restart()
	p.holdApply = true
	w.pass(time.Second)
	if v := p.views[0]; v.Leader != 1 || v.Always {
		t.Errorf("leads (%v) and calls its state new (%v) before it has applied its log", v.Leader == 1, v.Always)
	}
	p.holdApply = false
	w.pass(time.Second)
	if !p.views[0].Always {
		t.Error("does not call its state new when it is")
	}
}

// TestAReplicaThatIsNamedNoMoreSaysThatItIsOutdated takes a replica out of its
// shard: nobody tells it anything from then on, not even that.
func TestAReplicaThatIsNamedNoMoreSaysThatItIsOutdated(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	w.add(2)
	three := w.add(3)
	w.grow(0)
	w.pass(6 * time.Second) // at rest, too, it is not
	if three.views[0].Outdated {
		t.Fatalf("at rest: %+v", three.views[0])
	}
	w.nodes[1].core.Reconfigure(0, []banyan.NodeID{1}, []banyan.NodeID{2}, func(err error) { mustNot(t, err) })
	w.pass(4 * time.Second)
	if !three.views[0].Outdated || w.nodes[2].views[0].Outdated || w.nodes[1].views[0].Outdated {
		t.Errorf("who is outdated: %v %v %v", w.nodes[1].views[0].Outdated, w.nodes[2].views[0].Outdated, three.views[0].Outdated)
	}
}

// TestAnOutdatedReplicaTurnsWatchersAway: they would wait there for nothing.
func TestAnOutdatedReplicaTurnsWatchersAway(t *testing.T) {
	st := memStore(t)
	mustNot(t, st.Bootstrap([]banyan.ShardID{0}, 1))
	h, err := New(Config{Node: 1, Store: st})
	mustNot(t, err)
	watch, err := h.Watch(0, nil, nil, 0)
	mustNot(t, err)
	defer watch.Close()
	if _, _, _, err := watch.TryNext(); err != nil || !h.Current(0) {
		t.Fatalf("current %v, the watch %v", h.Current(0), err)
	}
	h.show(View{Shard: 0, Outdated: true})
	if _, _, _, err := watch.TryNext(); !banyan.IsKind(err, banyan.Unavailable) || h.Current(0) {
		t.Errorf("outdated: current %v, the watch %v", h.Current(0), err)
	}
	again, err := h.Watch(0, nil, nil, 0)
	mustNot(t, err)
	defer again.Close()
	if _, _, _, err := again.TryNext(); err != nil {
		t.Errorf("who has nowhere else to go gets %v", err)
	}
}
