package metric

import (
	"strings"
	"testing"
	"time"

	"banyan"
)

func text(t *testing.T, s *Set) string {
	t.Helper()
	var b strings.Builder
	if err := s.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestWhatIsCountedIsShown(t *testing.T) {
	s := NewSet()
	s.Counter("a_total", "A.", "kind", "x").Add(2)
	s.Counter("a_total", "A.", "kind", "x").Inc() // the same one
	s.Counter("a_total", "A.", "kind", "y")
	s.Timer("b_seconds", "B.").Observe(2 * time.Millisecond)
	s.Read(func(r *Reading) {
		r.Gauge("c", "C.", 7, "shard", "1")
		r.Counter("d_total", "D.", 8)
	})
	out := text(t, s)
	for _, want := range []string{
		"a_total{kind=\"x\"} 3\n", "a_total{kind=\"y\"} 0\n", "# HELP a_total A.\n", "# TYPE a_total counter\n",
		"b_seconds_bucket{le=\"0.001\"} 0\n", "b_seconds_bucket{le=\"0.003\"} 1\n", "b_seconds_count 1\n",
		"c{shard=\"1\"} 7\n", "d_total 8\n", "go_goroutines ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
}

func TestWithoutASetNothingIsKept(t *testing.T) {
	var s *Set
	s.Counter("a_total", "A.").Inc()
	s.Timer("b_seconds", "B.").Observe(time.Second)
	s.Read(nil)
	s.Slow(Slow{})
	if s.Paused(time.Hour) != 0 {
		t.Error("knows of a pause")
	}
}

func TestSlowLogKeepsTheLast(t *testing.T) {
	s := NewSet()
	for i := range banyan.SlowOpsMax + 3 {
		s.Slow(Slow{Shard: i})
	}
	ops := s.SlowOps()
	if len(ops) != banyan.SlowOpsMax || ops[0].Shard != 3 || ops[len(ops)-1].Shard != banyan.SlowOpsMax+2 {
		t.Errorf("%d operations, from %d to %d", len(ops), ops[0].Shard, ops[len(ops)-1].Shard)
	}
	if ops[0].At.IsZero() {
		t.Error("without a time")
	}
}

// BenchmarkObserve is what one proposal, read or call pays.
func BenchmarkObserve(b *testing.B) {
	t := NewSet().Timer("b_seconds", "B.")
	b.ReportAllocs()
	for b.Loop() {
		began := time.Now()
		t.Observe(time.Since(began))
	}
}

// BenchmarkNewSet is what a node's start pays.
func BenchmarkNewSet(b *testing.B) {
	for b.Loop() {
		s := NewSet()
		for _, label := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
			s.Counter("c_total", "C.", "x", label)
			s.Timer("t_seconds", "T.", "x", label)
		}
	}
}
