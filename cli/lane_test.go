package cli

import (
	"os"
	"testing"
	"time"

	"banyan"
)

func TestALaneForgetsJobsThatAreGone(t *testing.T) {
	l := lanes{t.TempDir()}
	ln, err := l.take(3)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.release()
	const gone, here, elsewhere = banyan.JobID("j0000000000001"), banyan.JobID("j0000000000002"), banyan.JobID("j0000000000003")
	for id, n := range map[banyan.JobID]int{gone: 3, here: 3, elsewhere: 4} {
		if err := (&lane{lanes: l, n: n}).remember(id); err != nil {
			t.Fatal(err)
		}
	}
	looks := 0
	look := func(fn func(banyan.JobID)) error {
		looks++
		fn(here)
		return nil
	}
	for range 2 { // the second is too soon
		if err := ln.prune(look); err != nil {
			t.Fatal(err)
		}
	}
	if l.knows(gone) || !l.knows(here) || !l.knows(elsewhere) || looks != 1 {
		t.Errorf("known: %v %v %v after %d looks", l.knows(gone), l.knows(here), l.knows(elsewhere), looks)
	}
	ago := time.Now().Add(-2 * pruneEvery)
	if err := os.Chtimes(l.path(3)+".pruned", ago, ago); err != nil {
		t.Fatal(err)
	}
	if err := ln.prune(look); err != nil || looks != 2 {
		t.Errorf("after two days: %d looks, %v", looks, err)
	}
}
