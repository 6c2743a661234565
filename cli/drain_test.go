package cli

import (
	"strings"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

// TestDrainWaits: the node may be stopped when the command has returned.
func TestDrainWaits(t *testing.T) {
	other := &banyanv1.Node{Id: 1, State: "alive"}
	at := func(leaders, running uint32) []*banyanv1.Node {
		return []*banyanv1.Node{other, {Id: 2, Name: "rack7", State: "draining", Leaders: leaders, Running: running, Version: "1"}}
	}
	late := at(3, 1) // from a node that has not heard of the mark
	late[1].State = "alive"
	deaf := at(3, 1) // from one that does not hear the others
	deaf[0], deaf[1].State = &banyanv1.Node{Id: 1, State: "suspect"}, "dead"
	alone := at(3, 1)
	alone[0] = deaf[0]
	f := &fakeCluster{nodes: [][]*banyanv1.Node{at(3, 1), late, at(3, 1), late, deaf, alone, at(0, 1), deaf[:1], at(0, 0)}}
	out, errs, code := do(t, f.session(t), "drain", "n2")
	if code != 0 || out != "n2 (rack7) leads no shard and runs no task: it can be stopped\n" {
		t.Errorf("exit %d, %q", code, out)
	}
	if errs != "n2 is draining: it leads 3 shards and runs 1 task\nn2 is draining: it leads 0 shards and runs 1 task\n" {
		t.Errorf("standard error:\n%s", errs)
	}

	f = &fakeCluster{
		nodes:  [][]*banyanv1.Node{append(at(0, 0), &banyanv1.Node{Id: 3, State: "dead"})},
		shards: []*banyanv1.Shard{{Voters: []uint64{1, 2, 3}}, {Id: 1, Voters: []uint64{2, 3, 1}}, {Id: 2, Voters: []uint64{1}}, {Id: 3, Voters: []uint64{1, 4, 3}}},
	}
	if out, errs, code := do(t, f.session(t), "drain", "n2"); code != 1 || out != "" || !strings.Contains(errs, "do not stop it now: 2 shards would have no majority without it, as n3 cannot be reached") {
		t.Errorf("while n3 is dead: exit %d, %q, %s", code, out, errs)
	}
	m := &banyanv1.StatusResponse{Nodes: at(3, 0), Shards: []*banyanv1.Shard{{Voters: []uint64{2}}, {Id: 1, Voters: []uint64{2}}, {Id: 2, Voters: []uint64{1}}}}
	if _, passes, err := draining(m, 2); !passes || err == nil || !strings.Contains(err.Error(), "2 shards of which it has the only voter") {
		t.Errorf("the node with the only voters: %v", err)
	}

	other.State = "draining"
	f = &fakeCluster{nodes: [][]*banyanv1.Node{at(3, 0)}}
	if _, errs, code := do(t, f.session(t), "drain", "n2"); code != 1 || !strings.Contains(errs, "no other node to take over the 3 shards") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
