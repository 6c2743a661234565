package sim

import (
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

// budget is how many seeds every run of the tests tries.
const budget = 500

func TestSeeds(t *testing.T) {
	seeds := uint64(budget)
	if testing.Short() {
		seeds = budget / 10
	}
	total := NewReport()
	for seed := uint64(1); seed <= seeds; seed++ {
		r := Run(Config{Seed: seed})
		total.Add(r)
		if r.Failure != "" {
			t.Fatalf("seed %d: %v\nsee it again: %s", seed, r.Failure, r.Replay())
		}
	}
	t.Logf("%d seeds, %v simulated, %d operations, faults %v", seeds, total.Time.Round(time.Second), total.Ops, total.Faults)
	if total.Unsure > 0 {
		t.Errorf("%d histories were too hard to check", total.Unsure)
	}
	if testing.Short() {
		return
	}
	for _, what := range total.Missing() {
		t.Error(what)
	}
}

// TestFound runs seeds that have found something, or that find it now if the
// mistake is made again (breaks_test.go). The script or test that pins each
// down for good is named with it; what a seed does changes whenever the
// simulation draws in another order.
func TestFound(t *testing.T) {
	for _, found := range []struct {
		seed uint64
		what string
	}{
		{1219, "a replica credited with its predecessor's log (replica: TestMessagesOfAFormerReplica)"},
		{1, "a state called new before the log was applied (replica: TestASoleVoterIsFreshOnceItHasApplied)"},
		{73, "a shard that stays because all its voters leave (placement: TestAllVotersLeave)"},
		{1007, "reads that wait for a proof that nobody is left to give (replica: TestReadsOutliveTheirVoters)"},
		{320, "attempts forgotten because a controller whose term is over did not know them (worker: denied.txt)"},
		{35, "attempts claimed that were handed back (work: handedback.txt)"},
		{729, "a shard that nobody could lead after a power cut (replica: TestASettledConfigurationOutlivesAPowerCut)"},
	} {
		if r := Run(Config{Seed: found.seed}); r.Failure != "" {
			t.Errorf("seed %d, which once found %s: %v\nsee it again: %s", found.seed, found.what, r.Failure, r.Replay())
		}
	}
}

func TestSeedsRepeatExactly(t *testing.T) {
	seen := map[uint64]uint64{}
	for seed := uint64(1); seed <= 12; seed++ {
		for _, nodes := range []int{0, 5} {
			a, b := Run(Config{Seed: seed, Nodes: nodes}), Run(Config{Seed: seed, Nodes: nodes, Trace: &strings.Builder{}})
			if a.Hash != b.Hash || a.Events != b.Events || a.Time != b.Time {
				t.Errorf("seed %d: two runs differ: %d events until %v, %d until %v", seed, a.Events, a.Time, b.Events, b.Time)
			}
			if other, ok := seen[a.Hash]; ok && other != seed {
				t.Errorf("seeds %d and %d are the same run", seed, other)
			}
			seen[a.Hash] = seed
		}
	}
}

// What follows shows that the checkers can fail.

func answered(o op, call, back int) *op {
	o.call, o.back, o.done = time.Duration(call), time.Duration(back), true
	return &o
}

func TestHistoriesThatAreWrong(t *testing.T) {
	put1 := answered(op{kind: put, key: "k", value: "1", answer: answer{ok: true, revision: 1, effect: true}}, 1, 2)
	put2 := answered(op{client: 1, kind: put, key: "k", value: "2", answer: answer{ok: true, revision: 2, effect: true}}, 3, 4)
	get := func(value string, revision banyan.Revision) *op {
		return answered(op{client: 2, kind: get, key: "k", answer: answer{value: value, found: true, ok: true, revision: revision}}, 5, 6)
	}
	for _, c := range []struct {
		name string
		ops  []*op
		want string
	}{
		{"right", []*op{put1, put2, get("2", 2)}, ""},
		{"lost write", []*op{put1, put2, get("1", 2)}, "not linearizable"},
		{"old state", []*op{put1, put2, get("1", 1)}, "older state"},
		{"one revision twice", []*op{put1, answered(op{kind: put, key: "k", value: "3", answer: answer{ok: true, revision: 1, effect: true}}, 1, 2)}, "both told"},
		{"failed for no reason", []*op{put1, answered(op{kind: cas, key: "k", expect: "1", value: "2", answer: answer{revision: 1}}, 3, 4)}, "not linearizable"},
	} {
		w := newWorld(Config{Seed: 1})
		w.checkOrder(0, c.ops)
		w.checkKey(0, "k", c.ops)
		if got := w.failure; (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

func change(key, value string, revision banyan.Revision) mvcc.Event {
	return mvcc.Event{Row: mvcc.Row{Key: []byte(key), Value: []byte(value), Create: revision, Mod: revision, Version: 1}}
}

func TestWatchersThatAreWrong(t *testing.T) {
	a, b, c := change("a", "1", 1), change("b", "1", 2), change("c", "1", 3)
	for _, tc := range []struct {
		name  string
		heard []mvcc.Event
		upTo  banyan.Revision
		want  string
	}{
		{"right", []mvcc.Event{a, b, c}, 3, ""},
		{"a gap", []mvcc.Event{a, c}, 3, "heard []"},
		{"twice", []mvcc.Event{a, a, b, c}, 3, "but it was"},
		{"out of order", []mvcc.Event{b, a, c}, 3, "heard []"},
		{"another value", []mvcc.Event{change("a", "2", 1), b, c}, 3, "but it was"},
		{"too much", []mvcc.Event{a, b, c, change("d", "1", 4)}, 4, "nobody has applied"},
	} {
		w := newWorld(Config{Seed: 1})
		w.truth[0] = newTruth(w, 0)
		for _, e := range []mvcc.Event{a, b, c} {
			w.truth[0].extend([]mvcc.Event{e})
		}
		l := listener{w: w, who: "watcher"}
		l.hear(slices.Clone(tc.heard), tc.upTo)
		if got := w.failure; (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestStaleReadsThatLie(t *testing.T) {
	w := newWorld(Config{Seed: 1})
	w.plan.drift = 0
	w.truth[0] = newTruth(w, 0)
	w.now = time.Second
	w.truth[0].acknowledge(7)
	w.now = 3 * time.Second
	p := &process{n: w.addNode()}
	w.checkAge(p, 0, answer{revision: 6, age: 2500 * time.Millisecond})
	w.checkAge(p, 0, answer{revision: 7, age: 0})
	if w.failure != "" {
		t.Fatal(w.failure)
	}
	if w.checkAge(p, 0, answer{revision: 6, age: 1500 * time.Millisecond}); w.failure == "" {
		t.Error("a read that says it is younger than it is was believed")
	}
}

// TestShrink lets everything fail that applies one thing while another waits,
// and wants to see as little as can do that.
func TestShrink(t *testing.T) {
	defer func(was int) { bounds["applies"] = was }(bounds["applies"])
	bounds["applies"] = 0
	seed := uint64(1)
	for r := Run(Config{Seed: seed}); r.Failure == "" || r.Plan.Nodes == 3 || len(r.Planned) < 2; r = Run(Config{Seed: seed}) {
		seed++
	}
	runs := 0
	small := Shrink(Config{Seed: seed}, func(*Report) { runs++ })
	if small.Failure == "" || small.Kind != Run(Config{Seed: seed}).Kind {
		t.Fatalf("after %d runs: %s: %q", runs, small.Config, small.Failure)
	}
	if p := small.Plan; p.Nodes != 3 || p.Shards > 2 || len(small.Planned) > 2 || p.Length > 4*time.Second {
		t.Errorf("after %d runs it is still %s, %d faults of %v", runs, small.Config, len(small.Planned), p)
	}
	if again := Run(small.Config); again.Failure != small.Failure {
		t.Errorf("%s fails with %q, then with %q", small.Config, small.Failure, again.Failure)
	}
}
