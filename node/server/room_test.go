package server

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/core/placement"
	"banyan/engine/replica"
)

// fakeDisk has 100 GiB, and so much of them free as a test says.
type fakeDisk struct{ free atomic.Int64 }

const fakeMark = 2 << 30 // of 100 GiB

func (d *fakeDisk) space(string) (free, total int64) { return d.free.Load(), 100 << 30 }

// until tries until what it gives is so.
func until(t *testing.T, what string, holds func(context.Context) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for !holds(ctx) {
		if ctx.Err() != nil {
			t.Fatalf("never: %s", what)
		}
	}
}

// TestALowDiskTakesNothingNew: below the first mark no user's write, job or file
// comes in; deletes, leases and reads go on; below the second what runs is
// stopped. When there is room again, all goes on. (Case S6.)
func TestALowDiskTakesNothingNew(t *testing.T) {
	disk := &fakeDisk{}
	disk.free.Store(fakeMark + 1)
	_, c := aloneWith(t, Config{disk: disk})
	put := func(ctx context.Context) error {
		_, err := c.KV().Put(ctx, []byte("a"), []byte("v"))
		return err
	}
	if err := put(t.Context()); err != nil {
		t.Fatal(err)
	}
	submit := func(ctx context.Context, script string) (banyan.JobID, error) {
		id := banyan.NewJobID(time.Now().UnixMilli(), rand.Uint32())
		_, err := c.Jobs().Submit(ctx, id, &banyanv1.JobSpec{Command: banyanv1.NewCommand("sh", "-c", script)}, slices.Values([]*banyanv1.Input{banyanv1.NewInput("x")}))
		return id, err
	}
	job, err := submit(t.Context(), "echo begun; sleep 1000")
	if err != nil {
		t.Fatal(err)
	}
	nodes := func(ctx context.Context) *banyanv1.StatusResponse {
		s, err := c.Cluster().Status(ctx)
		if err != nil {
			return &banyanv1.StatusResponse{}
		}
		return s
	}
	until(t, "the task runs", func(ctx context.Context) bool {
		s := nodes(ctx)
		return len(s.Nodes) == 1 && s.Nodes[0].Running == 1
	})

	disk.free.Store(fakeMark - 1)
	until(t, "a put is refused", func(ctx context.Context) bool { return banyan.IsKind(put(ctx), banyan.Exhausted) })
	if err := put(t.Context()); !strings.Contains(err.Error(), "n1 ") || !strings.Contains(err.Error(), "node") || !strings.Contains(err.Error(), "free space") {
		t.Errorf("the refusal names no node, path or remedy: %v", err)
	}
	if _, err := submit(t.Context(), "true"); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("a job: %v", err)
	}
	if _, err := c.Blobs().Put(t.Context(), []byte("file")); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("a file: %v", err)
	}
	if _, err := c.KV().Delete(t.Context(), []byte("a")); err != nil {
		t.Errorf("a delete: %v", err)
	}
	if got := nodes(t.Context()); !slices.ContainsFunc(got.Problems, func(p *banyanv1.Problem) bool { return strings.Contains(p.What, "below its low-water mark") }) ||
		!slices.ContainsFunc(got.Problems, func(p *banyanv1.Problem) bool { return strings.Contains(p.What, "no room for new data") }) {
		t.Errorf("status tells %v", got.Problems)
	}

	disk.free.Store(fakeMark/2 - 1)
	until(t, "the task is stopped", func(ctx context.Context) bool { return stoppedAsFull(ctx, t, c, job) })

	disk.free.Store(2 * fakeMark)
	until(t, "a put goes through again", func(ctx context.Context) bool { return put(ctx) == nil })
	again, err := submit(t.Context(), "true")
	if err != nil {
		t.Fatal(err)
	}
	until(t, "a job runs again", func(ctx context.Context) bool {
		j, err := c.Jobs().Get(ctx, again)
		return err == nil && j.GetProgress().GetSucceeded() == 1
	})
}

func stoppedAsFull(ctx context.Context, t *testing.T, c *client.Client, id banyan.JobID) bool {
	res, err := c.Jobs().Tasks(ctx, &banyanv1.TasksRequest{JobId: string(id)})
	if err != nil || len(res.Results) == 0 || res.Results[0].Error == "" {
		return false
	}
	r := res.Results[0]
	if !strings.HasPrefix(r.Error, "disk full: ") || r.State != banyanv1.TaskState_TASK_STATE_FAILED || !r.Stdout.GetTruncated() {
		t.Fatalf("the task ended as %v", r)
	}
	return true
}

// TestWhoseShardsAreCrowded: losing the low voters must not cost the majority.
func TestWhoseShardsAreCrowded(t *testing.T) {
	lowNodes, deadNodes := []banyan.NodeID{}, []banyan.NodeID{}
	crowded := func() []banyan.ShardID {
		full := crowdedShards([]replica.Status{
			{Shard: 1, Leading: true, Voters: []banyan.NodeID{1, 2, 3}}, {Shard: 2, Voters: []banyan.NodeID{2}}, {Shard: 3, Leading: true, Voters: []banyan.NodeID{1, 4, 5}},
		}, func(id banyan.NodeID) bool { return slices.Contains(lowNodes, id) }, func(id banyan.NodeID) bool { return slices.Contains(deadNodes, id) }, nil)
		var out []banyan.ShardID
		for id := range full {
			out = append(out, id)
		}
		slices.Sort(out)
		return out
	}
	for _, c := range []struct {
		low, dead []banyan.NodeID
		want      []banyan.ShardID
	}{
		{nil, []banyan.NodeID{2, 3}, nil}, {[]banyan.NodeID{2}, nil, nil}, {[]banyan.NodeID{2, 3}, nil, []banyan.ShardID{1}},
		{[]banyan.NodeID{1}, []banyan.NodeID{4}, []banyan.ShardID{3}}, {[]banyan.NodeID{1, 2, 5}, nil, []banyan.ShardID{1, 3}},
	} {
		lowNodes, deadNodes = c.low, c.dead
		if got := crowded(); !slices.Equal(got, c.want) {
			t.Errorf("low %v, dead %v: crowded %v, want %v", c.low, c.dead, got, c.want)
		}
	}
}

func TestDisksAreLookedAtInTime(t *testing.T) {
	for _, c := range []struct {
		s    diskState
		want time.Duration
	}{
		{diskState{free: 1 << 40, mark: 1 << 30}, diskLookMax}, {diskState{free: 3 << 30, mark: 1 << 30}, time.Second},
		{diskState{free: 1 << 30, mark: 1 << 30}, diskLookMin}, {diskState{level: placement.DiskLow}, diskLookLow},
	} {
		if got := c.s.next(); got != c.want {
			t.Errorf("%+v: next look in %v, want %v", c.s, got, c.want)
		}
	}
}
