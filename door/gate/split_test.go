package gate

import (
	"context"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// splitLeaders has a map that tells of a split when it is asked again: partitions
// are of shard 2 then, which node 2 leads.
type splitLeaders struct{ asked int }

func (s *splitLeaders) ShardOf([]byte) banyan.ShardID {
	s.asked++
	return banyan.ShardID(min(s.asked, 2))
}

func (*splitLeaders) DataShards() []banyan.ShardID { return []banyan.ShardID{1, 2} }

func (*splitLeaders) Leader(shard banyan.ShardID) (banyan.NodeID, bool) {
	return banyan.NodeID(shard), true
}

// TestCallsFollowASplit: who is told Moved looks the shard up anew. Callers that
// cannot are told to ask again.
func TestCallsFollowASplit(t *testing.T) {
	moved := banyan.Errorf(banyan.Moved, "split")
	at := func(banyan.NodeID) (struct{}, error) { return struct{}{}, nil }
	f := &finder[struct{}]{1, &splitLeaders{}, at}
	var asked []banyan.NodeID
	err := f.atLeader(t.Context(), "job j", []byte("j"), func(_ context.Context, node banyan.NodeID) error {
		if asked = append(asked, node); node == 1 {
			return moved
		}
		return nil
	})
	if err != nil || len(asked) != 2 || asked[1] != 2 {
		t.Errorf("asked %v, %v", asked, err)
	}
	alone := &finder[struct{}]{1, &splitLeaders{}, nil}
	if err := alone.atLeader(t.Context(), "job j", []byte("j"), func(context.Context, banyan.NodeID) error { return moved }); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("a node without others: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.atLeader(ctx, "job j", []byte("j"), func(context.Context, banyan.NodeID) error { return moved }); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("a split that takes too long: %v", err)
	}
}

// TestListsCoverEverySlot: a list of jobs that lacks the jobs of a slot is none.
func TestListsCoverEverySlot(t *testing.T) {
	span := func(from, until uint32) *banyanv1.ListJobsResponse {
		return &banyanv1.ListJobsResponse{Spans: []*banyanv1.SlotSpan{{From: from, Until: until}}}
	}
	for _, c := range []struct {
		answers []*banyanv1.ListJobsResponse
		want    int
	}{
		{nil, 0},
		{[]*banyanv1.ListJobsResponse{span(512, 1024), span(0, 512)}, banyan.Slots},
		{[]*banyanv1.ListJobsResponse{span(0, 600), span(512, 2000)}, banyan.Slots},
		{[]*banyanv1.ListJobsResponse{span(0, 300), span(512, 1024)}, 300}, // the child of the first was not asked
	} {
		if got := uncovered(c.answers); got != c.want {
			t.Errorf("%v: slot %d, want %d", c.answers, got, c.want)
		}
	}
}
