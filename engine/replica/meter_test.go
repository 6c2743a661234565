package replica

import (
	"fmt"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/obs/metric"
)

const ms = time.Millisecond

func TestSlowProposalSaysWhatItWaitedFor(t *testing.T) {
	over := make(chan struct{})
	close(over)
	for _, c := range []struct {
		name                   string
		ready                  chan struct{}
		logged, committed, end time.Duration
		want                   string
	}{
		{"quick", over, 20 * ms, 30 * ms, 100 * ms, "[]"},
		{"applied", over, 20 * ms, 500 * ms, 510 * ms, "[{its place in the log 10ms} {a majority to write it 480ms} {being applied 10ms}]"},
		{"logged", over, 20 * ms, 0, 510 * ms, "[{its place in the log 10ms} {a majority to write it, in vain 490ms}]"},
		{"queued", over, 0, 0, 510 * ms, "[{its place in the log 500ms}]"},
		{"given up", nil, 20 * ms, 30 * ms, 510 * ms, "[{a result that had not come when the caller gave up 500ms}]"},
	} {
		set := metric.NewSet()
		m := newMeter(set)
		w := &waiter{slot: &slot{shard: 7}, ready: c.ready}
		w.loggedAt, w.committedAt = c.logged, c.committed
		m.proposed(w, 10*ms, c.end, banyan.Errorf(banyan.Timeout, "x"))
		got := "[]"
		for _, op := range set.SlowOps() {
			got = fmt.Sprint(op.Waits)
			if op.What != "proposal" || op.Shard != 7 || op.Took != 500*ms || op.Failed != "timeout" {
				t.Errorf("%s: %+v", c.name, op)
			}
		}
		if got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

func TestProposalIsStamped(t *testing.T) {
	n := threeHosts(t, 1).at(1)
	p, err := n.slot(0).view.Load().Prepare(1, put("k", "v"), 1)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	p.Done = func(_ mvcc.Result, err error) { done <- err }
	before := n.clock()
	n.in.put(func(in *intake) { in.proposed = append(in.proposed, proposed{0, p}) })
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if p.loggedAt < before || p.committedAt < p.loggedAt {
		t.Errorf("handed in at %v, in the log at %v, committed at %v", before, p.loggedAt, p.committedAt)
	}
}

func TestInspect(t *testing.T) {
	m := threeHosts(t, 1)
	if _, err := m.at(1).Propose(t.Context(), 0, put("a", "1")); err != nil {
		t.Fatal(err)
	}
	lead, err := m.at(1).Inspect(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if lead.Role != "leader" || lead.Vote != 1 || lead.Age < 0 || len(lead.Replicas) != 3 || lead.LogBytes == 0 {
		t.Errorf("the leader: %+v", lead)
	}
	for i, r := range lead.Replicas {
		if r.Node != banyan.NodeID(i+1) || r.Learner || r.Match == 0 || r.Match >= r.Next {
			t.Errorf("as it sees them: %+v", r)
		}
	}
	var follower Inspection
	for ctx := deadline(t); follower.Role != "follower" && err == nil; { // it was a learner
		follower, err = m.at(2).Inspect(ctx, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	if follower.Role != "follower" || follower.Leader != 1 || len(follower.Replicas) != 0 || follower.Snapshot != "" {
		t.Errorf("a follower: %+v", follower)
	}
	if _, err := m.at(2).Inspect(t.Context(), 5); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("a shard that is not here: %v", err)
	}
}
