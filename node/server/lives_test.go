package server

import (
	"testing"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/transport"
)

// TestMeet follows what one node says to processes of another, over restarts
// of its own.
func TestMeet(t *testing.T) {
	dir := t.TempDir()
	begin := func() *lives {
		t.Helper()
		st, err := store.Open(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		l, err := beginLife(st, dir)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	l := begin()
	if l.own.Count != 1 || l.own.Last() == 0 {
		t.Errorf("the first start is %+v", l.own)
	}
	first := transport.Life{}.Next(10)
	a, b := first.Next(11), first.Next(12) // two copies
	runs := uint64(0)                      // which process of it answers
	for i, c := range []struct {
		name  string
		life  transport.Life
		runs  uint64
		admit bool
	}{
		{"the first that is heard of", first, 0, true},
		{"the same again", first, 10, true},
		{"a copy, while the first runs", a, 10, false},
		{"the next start, when it does not", a, 0, true},
		{"the other copy", b, 0, false},
		{"the other copy, started again", b.Next(13), 0, false},
		{"an older copy", first, 0, false},
		{"the one that is known", a, 11, true},
		{"a much later start", a.Next(14).Next(15), 0, true},
		{"one of those between", a.Next(14), 0, false},
	} {
		runs = c.runs
		err := l.meet(2, c.life, func(number uint64) bool { return number == runs })
		if (err == nil) != c.admit || err != nil && !banyan.IsKind(err, banyan.Removed) {
			t.Errorf("%s: %v", c.name, err)
		}
		own := l.own
		if err := l.store.Close(); err != nil {
			t.Fatal(err)
		}
		if l = begin(); l.own.Count != uint64(i+2) || !l.own.Follows(own.Count, own.Last()) {
			t.Errorf("start %+v does not follow %+v", l.own, own)
		}
	}
	if err := l.store.SetNote(refusedNote, []byte("somebody said no")); err != nil {
		t.Fatal(err)
	}
	if _, err := beginLife(l.store, dir); !banyan.IsKind(err, banyan.Removed) {
		t.Errorf("a start after it was refused for good: %v", err)
	}
	if err := l.store.Close(); err != nil {
		t.Error(err)
	}
}
