package worker

import (
	"slices"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

// TestFilesThatVanishAreNamed: those that a task made in its own directory and
// that nobody asked for, not those that it was given.
func TestFilesThatVanishAreNamed(t *testing.T) {
	w := newWorker(t, Config{})
	send := []*banyanv1.FileRef{put(t, w, "d/in", "x"), put(t, w, "in", "x")}
	for _, c := range []struct {
		spec  *banyanv1.JobSpec
		names []string
		count uint32
	}{
		{&banyanv1.JobSpec{Command: shell("echo >in; touch b a d/e")}, []string{"a", "b"}, 2},
		{&banyanv1.JobSpec{Command: shell("touch 1 2 3 4 5")}, []string{"1", "2", "3"}, 5},
		{&banyanv1.JobSpec{Command: shell("touch a; false")}, nil, 0},
		{&banyanv1.JobSpec{Command: shell("touch a"), Return: banyanv1.Bytes("a")}, nil, 0},
		{&banyanv1.JobSpec{Command: shell("touch a"), WorkDir: []byte(t.TempDir())}, nil, 0},
		{&banyanv1.JobSpec{Command: shell("true")}, nil, 0},
	} {
		if len(c.spec.Return) == 0 && len(c.spec.WorkDir) == 0 {
			c.spec.Send = send
		}
		r := try(w, c.spec)
		if !slices.Equal(banyanv1.Strings(r.Dropped), c.names) || r.DroppedCount != c.count {
			t.Errorf("%v: %q of %d", c.spec.Command, r.Dropped, r.DroppedCount)
		}
	}
}
