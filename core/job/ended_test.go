package job

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func TestPastRows(t *testing.T) {
	j := &banyanv1.Job{Id: "j0000000000001", EndMs: 5, StoredBytes: 1 << 40, Spec: &banyanv1.JobSpec{KeepMs: -1, KeepNewest: 1 << 31, Name: "n"}}
	e := NewPast(j)
	got, err := DecodePast(EndedKey(e.ID), e.Encode(), 9)
	if e.Mod = 9; err != nil || got != e {
		t.Errorf("%+v, %v, want %+v", got, err, e)
	}
	b := e.Encode()
	for n := range b {
		if _, err := DecodePast(EndedKey(e.ID), b[:n], 9); err == nil {
			t.Errorf("%d of %d bytes are read", n, len(b))
		}
	}
	cmd := func(args ...string) uint64 {
		return NewPast(&banyanv1.Job{Spec: &banyanv1.JobSpec{Command: banyanv1.NewCommand(args...)}}).Name
	}
	if cmd("a", "b") == cmd("ab") || cmd("n") == e.Name {
		t.Error("jobs of one name are those of the same name, or of the same command")
	}
}

func TestExpired(t *testing.T) {
	const day, now = int64(24 * 3_600_000), int64(1000 * 24 * 3_600_000)
	// Each job: days ago, its bytes, what it says itself, its name.
	past := func(i int, days float64, bytes, keep int64, newest uint32, name uint64) Past {
		return Past{ID: banyan.JobID(fmt.Sprint(i)), EndMs: now - int64(days*float64(day)), Bytes: bytes, Keep: keep, Newest: newest, Name: name}
	}
	for _, c := range []struct {
		what string
		keep Keep
		jobs []Past
		want string
	}{
		{"nothing is bounded", Keep{Ms: -1, Jobs: -1, Bytes: -1}, []Past{past(1, 900, 1<<50, 0, 0, 0)}, ""},
		{"time", Keep{Ms: 14 * day}, []Past{past(1, 15, 0, 0, 0, 0), past(2, 13, 0, 0, 0, 0), past(3, 20, 0, 0, 0, 0)}, "3 1"},
		{"number", Keep{Jobs: 2}, []Past{past(1, 3, 0, 0, 0, 0), past(2, 2, 0, 0, 0, 0), past(3, 1, 0, 0, 0, 0), past(4, 4, 0, 0, 0, 0)}, "4 1"},
		{"bytes", Keep{Bytes: 100}, []Past{past(1, 3, 60, 0, 0, 0), past(2, 2, 60, 0, 0, 0), past(3, 1, 40, 0, 0, 0)}, "1"},
		{"one that is too large pushes none out", Keep{Bytes: 100}, []Past{past(1, 3, 60, 0, 0, 0), past(2, 2, 500, 0, 0, 0), past(3, 1, 40, 0, 0, 0)}, "2"},
		{"what has just ended stays", Keep{Jobs: 1, Bytes: 1}, []Past{past(1, 0.01, 500, 0, 0, 0), past(2, 0.02, 500, 0, 0, 0)}, ""},
		{"but not longer than is said", Keep{Ms: 1000}, []Past{past(1, 0.01, 500, 0, 0, 0)}, "1"},
		{"its own time", Keep{Ms: 14 * day, Jobs: 1}, []Past{past(1, 90, 0, 100*day, 0, 0), past(2, 3, 0, 2*day, 0, 0), past(3, 900, 0, -1, 0, 0)}, "2"},
		{"those count for themselves", Keep{Jobs: 1, Bytes: 10}, []Past{past(1, 2, 500, -1, 0, 0), past(2, 3, 10, 0, 0, 0)}, ""},
		{"the newest of a name", Keep{Ms: day}, []Past{past(1, 4, 0, 0, 2, 7), past(2, 3, 0, 0, 2, 7), past(3, 2, 0, 0, 2, 7), past(4, 5, 0, 0, 2, 8)}, "1"},
		{"an end in the future is the newest", Keep{Ms: day, Jobs: 1}, []Past{past(1, -900, 0, 0, 0, 0), past(2, 0.5, 0, 0, 0, 0)}, "2"},
	} {
		var got []string
		before := slices.Clone(c.jobs)
		for _, e := range Expired(c.jobs, c.keep, now) {
			got = append(got, string(e.ID))
		}
		if g := strings.Join(got, " "); g != c.want || !slices.Equal(before, c.jobs) {
			t.Errorf("%s: %q goes, want %q", c.what, g, c.want)
		}
	}
}

// A time of day that jumps by years removes nothing at once.
func TestKeepClock(t *testing.T) {
	const hour = int64(3_600_000)
	now := 1000 * 24 * hour
	for _, c := range []struct{ had, now, passed, want int64 }{
		{0, now, -1, now},
		{now, now + hour, hour, now + hour},
		{now, now + 9000*24*hour, hour, now + 24*hour},
		{now, now + 9000*24*hour, -1, now + 24*hour},
		{now, now - 9000*hour, hour, now - 9000*hour},
		{now, now + 9000*24*hour, 0, now},
	} {
		if got := KeepClock(c.had, c.now, c.passed); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}
