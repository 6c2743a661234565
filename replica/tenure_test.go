package replica

import (
	"errors"
	"slices"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/mvcc"
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

func mustNot(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
