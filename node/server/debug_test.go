package server

import (
	"bytes"
	"io"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/obs/metric"
)

func TestDumps(t *testing.T) {
	n, c := alone(t)
	for kind, want := range map[banyanv1.DumpKind]string{
		banyanv1.DumpKind_DUMP_KIND_METRICS:    "banyan_info{",
		banyanv1.DumpKind_DUMP_KIND_LOG:        "msg=ready node=n1",
		banyanv1.DumpKind_DUMP_KIND_GOROUTINES: "replica.(*Host).loop",
		banyanv1.DumpKind_DUMP_KIND_HEAP:       "\x1f\x8b", // gzip
		banyanv1.DumpKind_DUMP_KIND_CONFIG:     `"cluster": "` + n.Cluster() + `"`,
	} {
		if text, err := c.Debug().Dump(t.Context(), kind, 1, 0); err != nil || !bytes.Contains(text, []byte(want)) {
			t.Errorf("%v: %v\n%.300q", kind, err, text)
		}
	}
	for name, ask := range map[string]struct {
		kind    banyanv1.DumpKind
		node    banyan.NodeID
		seconds int
		want    banyan.Kind
	}{
		"an unknown kind":    {99, 0, 0, banyan.Invalid},
		"an unknown node":    {banyanv1.DumpKind_DUMP_KIND_LOG, 9, 0, banyan.NotFound},
		"a profile too long": {banyanv1.DumpKind_DUMP_KIND_CPU, 0, banyan.ProfileSecondsMax + 1, banyan.Invalid},
	} {
		if _, err := c.Debug().Dump(t.Context(), ask.kind, ask.node, ask.seconds); !banyan.IsKind(err, ask.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := pprof.StartCPUProfile(io.Discard); err != nil {
		t.Fatal(err)
	}
	defer pprof.StopCPUProfile()
	if _, err := c.Debug().Dump(t.Context(), banyanv1.DumpKind_DUMP_KIND_CPU, 0, 1); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("a second profile at once: %v", err)
	}
}

func TestADumpIsBounded(t *testing.T) {
	var got bytes.Buffer
	p := &pieces{left: 3*dumpPieceBytes + 5, send: func(m *banyanv1.DumpResponse) error {
		if len(m.Data) > dumpPieceBytes {
			t.Errorf("a piece of %d bytes", len(m.Data))
		}
		got.Write(m.Data)
		return nil
	}}
	want := strings.Repeat("0123456789", dumpPieceBytes)
	if n, err := io.Copy(p, strings.NewReader(want)); err != nil || n != int64(len(want)) {
		t.Errorf("took %d: %v", n, err)
	}
	if err := p.flush(); err != nil || got.String() != want[:3*dumpPieceBytes+5] {
		t.Errorf("%d bytes came through: %v", got.Len(), err)
	}
}

// TestANodeKnowsThatItWasPaused: it beats, so a beat of a minute from now is late.
func TestANodeKnowsThatItWasPaused(t *testing.T) {
	n, c := alone(t)
	for n.metrics.Beat(time.Now().Add(time.Minute)) == 0 {
		if t.Context().Err() != nil || time.Since(n.start) > 20*time.Second {
			t.Fatal("it does not beat")
		}
		runtime.Gosched()
	}
	slow, err := c.Debug().Slow(t.Context(), 0)
	if err != nil || !slices.ContainsFunc(slow.Operations, func(op *banyanv1.SlowOperation) bool { return op.What == "pause" && len(op.Waits) == 1 }) {
		t.Errorf("the slow log: %v, %v", slow, err)
	}
}

func TestNobodyWaitsForADeadNode(t *testing.T) {
	n, c := alone(t)
	n.nodes.update(func(rows map[banyan.NodeID]nodeRow) { rows[7] = nodeRow{ID: 7, Address: "192.0.2.1:7117"} })
	slow, err := c.Debug().Slow(t.Context(), 0)
	if err != nil || len(slow.Errors) != 1 || slow.Errors[0].Node != 7 || slow.Errors[0].Error != "it is dead" {
		t.Errorf("%v, %v", slow, err)
	}
}

func TestSlowAndShardTellOfThisNode(t *testing.T) {
	n, c := alone(t)
	n.metrics.Slow(metric.Slow{What: "fsync", Shard: -1, Took: metric.SlowAfter, Waits: []metric.Wait{{For: "this node's disk", Took: metric.SlowAfter}}})
	slow, err := c.Debug().Slow(t.Context(), 0)
	if err != nil || len(slow.Errors) > 0 {
		t.Fatal(err, slow)
	}
	found := false
	for _, op := range slow.Operations { // the machine may be slow, too
		found = found || op.Node == 1 && op.What == "fsync" && op.Shard == -1 && len(op.Waits) == 1 && op.Waits[0].For == "this node's disk"
	}
	if !found {
		t.Errorf("%v", slow)
	}
	shard, err := c.Debug().Shard(t.Context(), 1)
	if err != nil || len(shard.Replicas) != 1 || shard.Replicas[0].Role != "leader" || shard.Replicas[0].AgeMs != 0 || len(shard.Replicas[0].Progress) != 1 {
		t.Errorf("%v: %v", err, shard)
	}
}
