package replica

import (
	"testing"
	"time"

	"banyan"
)

// TestASettledConfigurationOutlivesAPowerCut takes two of three voters away, and
// the power of the third at the first moment at which they are needed no more.
// (Found by package sim: the third came back in the configuration before, and
// elected nobody for ever.)
func TestASettledConfigurationOutlivesAPowerCut(t *testing.T) {
	w := newWorld(t)
	one := w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	w.pass(2 * time.Second)
	one.core.Reconfigure(0, []banyan.NodeID{1}, nil, func(err error) { mustNot(t, err) })
	settled := func() bool {
		g := one.core.groups[0]
		return g.settled() && len(g.conf.GetVoters()) == 1
	}
	for n := 0; !settled(); n++ {
		if n > 100 {
			t.Fatalf("never settled:\n%s", w.status(0))
		}
		for _, id := range w.ids() {
			w.nodes[id].round()
		}
		w.deliver()
	}
	for _, id := range w.ids() {
		w.nodes[id].crash(true)
	}
	one.restart()
	w.pass(3 * time.Second)
	if w.leader(0) != one {
		t.Errorf("it does not lead:\n%s", w.status(0))
	}
}

// TestANewLeaderSettles has a leader be elected that does not know whether the
// others have the configuration on their disks.
func TestANewLeaderSettles(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	two := w.add(2)
	w.add(3)
	w.grow(0)
	w.nodes[1].core.TransferLeader(0, 2, func(err error) { mustNot(t, err) })
	w.pass(100 * time.Millisecond)
	if g := two.core.groups[0]; !g.announced || g.settled() {
		t.Fatalf("leads: %v, settled: %v", g.announced, g.settled())
	}
	w.pass(2 * time.Second)
	if !two.core.groups[0].settled() {
		t.Errorf("not settled without anybody's writing:\n%s", w.status(0))
	}
}
