package replica

import (
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// TestMessagesOfAFormerReplica takes a replica out of its shard, destroys it
// and places it there again in one term, while what the leader and the former
// replica sent each other is still on its way. (Found by package sim: the
// leader counted on the log of the former one.)
func TestMessagesOfAFormerReplica(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	for range 5 {
		w.nodes[1].propose(0, put("a", "b"), func(_ mvcc.Result, err error) { mustNot(t, err) })
	}
	late := w.overhear(3, time.Second)
	reconfigure := func(voters, learners []banyan.NodeID) {
		t.Helper()
		err := errors.New("not answered")
		w.nodes[1].core.Reconfigure(0, voters, learners, func(e error) { err = e })
		w.pump()
		mustNot(t, err)
	}
	status := func(id banyan.NodeID) Status {
		t.Helper()
		s, err := w.nodes[id].core.groups[0].status()
		mustNot(t, err)
		return s
	}

	reconfigure([]banyan.NodeID{1}, []banyan.NodeID{2})
	old := status(3).Tenure
	reconfigure([]banyan.NodeID{1}, []banyan.NodeID{2, 3})
	var err error
	w.nodes[3].core.Remove(0, old, func(e error) { err = e })
	if !banyan.IsKind(err, banyan.Unavailable) {
		t.Fatalf("removing a replica that was placed again meanwhile: %v", err)
	}

	reconfigure([]banyan.NodeID{1}, []banyan.NodeID{2})
	w.nodes[3].core.Remove(0, status(3).Tenure, func(e error) { mustNot(t, e) })
	w.pump()
	b := w.nodes[3].store.NewBatch()
	b.ClearTombstone(0)
	mustNot(t, b.Commit(true))
	w.nodes[1].holdSnaps = true
	reconfigure([]banyan.NodeID{1}, []banyan.NodeID{2, 3})

	w.net = append(w.net, late...)
	w.pass(300 * time.Millisecond)
	if got := status(1).Match[3]; got != 0 {
		t.Errorf("the leader takes the new replica to have the log up to %d", got)
	}
	w.nodes[1].holdSnaps = false
	w.pass(300 * time.Millisecond)
	if a, b := status(1).Applied, status(3).Applied; a != b || status(1).Match[3] != a {
		t.Errorf("the new replica applied %d of %d, the leader knows of %d", b, a, status(1).Match[3])
	}
}

// overhear lets time pass and returns what the leader and a node told each
// other meanwhile of the log.
func (w *world) overhear(id banyan.NodeID, d time.Duration) []Envelope {
	var heard []Envelope
	for ; d > 0; d -= 10 * time.Millisecond {
		for _, p := range w.ids() {
			w.nodes[p].advance(10 * time.Millisecond)
		}
		for busy := true; busy; {
			busy = false
			for _, p := range w.ids() {
				busy = w.nodes[p].round() || busy
			}
			for _, e := range w.net {
				types := []raftpb.MessageType{raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat}
				if slices.Contains(types, e.Message.GetType()) && (e.To == id || e.Message.GetFrom() == uint64(id)) {
					heard = append(heard, e)
				}
			}
			busy = w.deliver() || busy
		}
	}
	return heard
}

func mustNot(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestAnEmptyReplicaDoesNotVote has a node come back that has slept through a
// change of voters, and meet one that was taken out, destroyed and placed
// again, empty: together they would be a majority of the old voters, beside the
// new ones. (Found by package sim: two leaders in one term.)
func TestAnEmptyReplicaDoesNotVote(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	w.nodes[1].core.TransferLeader(0, 2, func(err error) { mustNot(t, err) })
	w.pass(300 * time.Millisecond)
	w.nodes[1].crash(false)
	two := w.nodes[2]
	reconfigure := func(voters, learners []banyan.NodeID) {
		t.Helper()
		err := errors.New("not answered")
		two.core.Reconfigure(0, voters, learners, func(e error) { err = e })
		w.pump()
		mustNot(t, err)
	}
	reconfigure([]banyan.NodeID{2}, nil)
	three := w.nodes[3]
	three.core.Remove(0, three.core.groups[0].heardLast(), func(e error) { mustNot(t, e) })
	w.pump()
	b := three.store.NewBatch()
	b.ClearTombstone(0)
	mustNot(t, b.Commit(true))
	two.holdSnaps = true
	reconfigure([]banyan.NodeID{2}, []banyan.NodeID{3})

	for _, cut := range [][2]banyan.NodeID{{1, 2}, {2, 1}, {2, 3}, {3, 2}} {
		w.cut[cut] = true
	}
	w.nodes[1].restart()
	w.pass(6 * time.Second)
	if w.nodes[1].views[0].Leading {
		t.Errorf("n1 was elected by a replica that knows nothing:\n%s", w.status(0))
	}
}

// TestSnapshotForAFormerReplica has a snapshot come in so slowly that its
// replica is removed and taken back meanwhile. (Found by package sim: the node
// stopped, because the disk refused what raft had accepted.)
func TestSnapshotForAFormerReplica(t *testing.T) {
	w := newWorld(t)
	w.add(1, 0)
	two := w.add(2)
	w.pump()
	w.nodes[1].holdSnaps = true
	w.nodes[1].core.Reconfigure(0, []banyan.NodeID{1}, []banyan.NodeID{2}, func(err error) { mustNot(t, err) })
	w.pass(300 * time.Millisecond)
	if len(w.nodes[1].snapshots) == 0 {
		t.Fatal("no snapshot is sent")
	}
	stage, err := two.store.Stage(0)
	mustNot(t, err)
	two.core.Remove(0, two.core.groups[0].heardLast(), func(e error) { mustNot(t, e) })
	w.pump()
	b := two.store.NewBatch()
	b.ClearTombstone(0)
	mustNot(t, b.Commit(true))

	view, err := w.nodes[1].store.View(0)
	mustNot(t, err)
	defer view.Close()
	m, err := SnapshotMessage(w.nodes[1].snapshots[0].Message, view)
	mustNot(t, err)
	two.core.StepSnapshot(0, m, stage, func(e error) { err = e })
	w.pump()
	if !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("got %v", err)
	}
	if two.core == nil {
		t.Error("the node stopped")
	}
}
