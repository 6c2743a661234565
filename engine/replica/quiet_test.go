package replica

import (
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// atRest is three nodes with a shard that has come to rest; node 1 leads it.
func atRest(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	w.pass(3 * time.Second)
	w.mustRest(true, 1, 2, 3)
	return w
}

func (w *world) mustRest(quiet bool, nodes ...banyan.NodeID) {
	w.t.Helper()
	for _, id := range nodes {
		if w.nodes[id].views[0].Quiet != quiet {
			w.t.Errorf("at %v %v is at rest: %v, want %v\n%s", w.nodes[id].now, id, !quiet, quiet, w.status(0))
		}
	}
}

// mustWrite writes through the leader, and all that run apply it.
func (w *world) mustWrite(key string) {
	w.t.Helper()
	p := w.leader(0)
	if p == nil {
		w.t.Fatalf("nobody leads\n%s", w.status(0))
	}
	done := false
	p.propose(0, put(key, "v"), func(_ mvcc.Result, err error) { mustNot(w.t, err); done = true })
	w.pump()
	if !done {
		w.t.Fatalf("%q was not written\n%s", key, w.status(0))
	}
}

func TestShardsAtRestSendBeatsOnly(t *testing.T) {
	w := atRest(t)
	counts := map[raftpb.MessageType]int{}
	for range 100 {
		for _, id := range w.ids() {
			w.nodes[id].advance(50 * time.Millisecond)
			w.nodes[id].round()
		}
		for len(w.net) > 0 {
			for _, e := range w.net {
				if counts[e.Message.GetType()]++; e.Shard != BeatShard {
					t.Fatalf("%v to %v about shard %d", e.Message.GetType(), e.To, e.Shard)
				}
			}
			w.deliver()
			for _, id := range w.ids() {
				w.nodes[id].round()
			}
		}
	}
	if counts[raftpb.MsgHeartbeat] != 20 || counts[raftpb.MsgHeartbeatResp] != 20 {
		t.Errorf("in 5 s the leader and its two followers sent %v", counts)
	}
	w.mustRest(true, 1, 2, 3)
	for _, id := range w.ids() {
		if old, err := w.nodes[id].views[0].Age(w.nodes[id].now); err != nil || old > 1500*time.Millisecond {
			t.Errorf("%v says it is %v old (%v)", id, old, err)
		}
	}
}

func TestAWriteOrAReadWakesAShardAtRest(t *testing.T) {
	w := atRest(t)
	w.mustWrite("a")
	w.mustRest(false, 1, 2, 3)
	w.pass(3 * time.Second)
	w.mustRest(true, 1, 2, 3)
	read := false
	w.nodes[1].core.Read(0, func(err error) { mustNot(t, err); read = true })
	w.pump()
	if !read {
		t.Error("a read of a shard at rest was not answered")
	}
	w.mustRest(false, 1, 2, 3)
}

// TestABeatDoesNotVouchForWhatWasMissed has a follower at rest miss a write: it
// must not take the next beat, which is about another shard, for news of this
// one.
func TestABeatDoesNotVouchForWhatWasMissed(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0, 1)
	w.add(2)
	w.add(3)
	w.grow(0)
	w.grow(1)
	w.pass(3 * time.Second)
	w.mustRest(true, 1, 2, 3)
	w.cut[[2]banyan.NodeID{1, 3}] = true
	w.mustWrite("a")
	written := w.nodes[3].now
	delete(w.cut, [2]banyan.NodeID{1, 3})
	c := w.nodes[1].core
	c.sinceBeat = beatTicks - 1
	c.beat(1) // before the woken shard's next heartbeat
	net := c.beats
	c.beats = nil
	for _, e := range net {
		w.nodes[e.To].core.Step(e.Shard, e.Message)
	}
	w.nodes[3].round()
	if v := w.nodes[3].views[0]; v.Fresh >= written {
		t.Errorf("it says that it is fresh as of %v, and missed a write at %v", v.Fresh, written)
	}
	w.mustRest(false, 3)
	w.pass(300 * time.Millisecond)
	if a, b := w.nodes[1].core.groups[0].applied, w.nodes[3].core.groups[0].applied; a != b {
		t.Errorf("it applied %d of %d", b, a)
	}
}

func TestASilentLeaderOfAShardAtRestIsReplaced(t *testing.T) {
	w := atRest(t)
	for _, other := range []banyan.NodeID{2, 3} {
		w.cut[[2]banyan.NodeID{1, other}], w.cut[[2]banyan.NodeID{other, 1}] = true, true
	}
	w.pass(2500 * time.Millisecond)
	if p := w.leader(0); p == nil || p.id == 1 {
		t.Fatalf("nobody took over\n%s", w.status(0))
	}
	w.mustWrite("a")
	w.pass(2 * time.Second)
	if w.nodes[1].views[0].Leading {
		t.Error("the old leader, which nobody answers, still leads")
	}
	clear(w.cut)
	w.pass(4 * time.Second)
	w.mustRest(true, 1, 2, 3)
}

func TestALostProcessWakesWhatRestsWithIt(t *testing.T) {
	w := atRest(t)
	w.nodes[1].crash(true)
	for _, id := range []banyan.NodeID{2, 3} {
		w.nodes[id].core.PeerLost(1)
	}
	w.pass(300 * time.Millisecond)
	w.mustWrite("a")
	w.pass(4 * time.Second)
	w.mustRest(false, 2, 3) // one replica is missing
	w.nodes[1].restart()
	w.pass(4 * time.Second)
	w.mustRest(true, 1, 2, 3)
	w.mustWrite("b")
}

// TestAForgetfulReplicaIsFound restarts a follower behind its leader's back.
func TestAForgetfulReplicaIsFound(t *testing.T) {
	w := atRest(t)
	w.nodes[3].crash(false)
	w.nodes[3].restart()
	w.pass(800 * time.Millisecond)
	if v := w.nodes[3].views[0]; v.Leader != 1 {
		t.Errorf("it takes %v for its leader", v.Leader)
	}
	w.pass(3 * time.Second)
	w.mustRest(true, 1, 2, 3)
}

// TestAnOlderReplicaNeverRests has a follower answer heartbeats as those do that
// know of no rest.
func TestAnOlderReplicaNeverRests(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	for range 400 {
		for _, id := range w.ids() {
			w.nodes[id].advance(10 * time.Millisecond)
			w.nodes[id].round()
		}
		w.net = slices.DeleteFunc(w.net, func(e Envelope) bool { return e.To == 3 && e.Shard == BeatShard })
		for _, e := range w.net {
			if e.To == 3 && e.Message.GetType() == raftpb.MsgHeartbeat {
				e.Message.Reject = nil
			}
		}
		w.deliver()
	}
	w.pump()
	w.mustRest(false, 1, 3)
	if p := w.leader(0); p == nil || p.id != 1 {
		t.Errorf("its leader changed\n%s", w.status(0))
	}
	w.mustWrite("a")
}
