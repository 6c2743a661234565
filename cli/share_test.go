package cli

import (
	"bytes"
	"errors"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// told calls a function with every line that is written to it.
type told func(line string)

func (f told) Write(b []byte) (int, error) { f(string(b)); return len(b), nil }

// homeOf is an app of a user whose files are in home.
func homeOf(home string, errs io.Writer) *app {
	env := map[string]string{"BANYAN_CONFIG": filepath.Join(home, "config"), "XDG_STATE_HOME": filepath.Join(home, "state")}
	a := &app{IO: IO{In: strings.NewReader(""), Out: io.Discard, Err: errs, Env: func(n string) string { return env[n] }}, now: fixedClock()}
	a.opens = a.open
	return a
}

// TestARunningCommandCanBeLookedAt: while one command runs a job, the others of
// its user list it, show it, read its output and cancel it.
func TestARunningCommandCanBeLookedAt(t *testing.T) {
	for _, deep := range []string{"", strings.Repeat("/long", 25)} { // as a path of a socket may not be
		t.Setenv("TMPDIR", t.TempDir())
		home := t.TempDir() + deep
		a := homeOf(home, io.Discard)
		s, err := a.openLocal(t.Context(), need{slots: 1}, "")
		if err != nil {
			t.Fatal(err)
		}
		closed := false
		defer func() {
			if !closed {
				s.close()
			}
		}()
		spec := &banyanv1.JobSpec{Name: "nap", Command: &banyanv1.Command{Args: banyanv1.Bytes("sleep", "60")}}
		id, err := a.submit(t.Context(), s, spec, &inputs{count: 1, columns: 1, groups: [][][]string{{{"60"}}}}, false)
		if err != nil {
			t.Fatal(err)
		}
		for _, look := range []struct{ args, want string }{
			{"jobs", "active"},
			{"jobs --local", "nap"},
			{"job show " + string(id), "State      active"},
			{"logs " + string(id), ""},
			{"kv put a/b c", ""},
			{"kv get a/b", "c"},
		} {
			out, errs, code := doIn(t, home, nil, "", strings.Fields(look.args)...)
			if code != 0 || !strings.Contains(out, look.want) || strings.Contains(errs, "left out") {
				t.Errorf("%s: exit %d, %q: %s", look.args, code, out, errs)
			}
		}

		// What was begun with the other command goes on when that has ended.
		other, err := homeOf(home, io.Discard).openLocal(t.Context(), need{job: id}, "")
		if err != nil || !other.shared {
			t.Fatalf("%+v, %v", other, err)
		}
		if _, errs, code := doIn(t, home, nil, "", "cancel", string(id)); code != 0 || !strings.Contains(errs, "is canceled") {
			t.Errorf("cancel: exit %d: %s", code, errs)
		}
		closed = true
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if j, err := other.Jobs().Get(t.Context(), id); err != nil || j.State != banyanv1.JobState_JOB_STATE_CANCELED {
			t.Errorf("%v, %v", j.GetState(), err)
		}
		if err := other.close(); err != nil {
			t.Error(err)
		}
		if out, errs, code := doIn(t, home, nil, "", "jobs"); code != 0 || !strings.Contains(out, "canceled") {
			t.Errorf("exit %d, %q: %s", code, out, errs)
		}
	}
}

// TestManyCommandsWait: the one too many, and one that would run the tasks of a
// job in a lane that is in use, wait and say for what.
func TestManyCommandsWait(t *testing.T) {
	home := t.TempDir()
	l, err := homeOf(home, nil).lanes()
	if err != nil {
		t.Fatal(err)
	}
	var all []*lane
	for range lanesMax {
		ln, err := l.takeFree()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, ln)
	}
	if _, err := l.takeFree(); !errors.Is(err, errBusy) {
		t.Fatal(err)
	}
	const id = banyan.JobID("j0123456789abc")
	for n, want := range map[need]string{
		{}:                    "16 commands run nodes of their own already: waiting",
		{job: id, runs: true}: "is using: waiting for its end",
	} {
		if err := all[3].remember(id); err != nil { // again: the lane's node has no such job, and forgets it
			t.Fatal(err)
		}
		lines := new(bytes.Buffer)
		a := homeOf(home, told(func(line string) {
			lines.WriteString(line)
			if err := all[3].release(); err != nil {
				t.Error(err)
			}
		}))
		s, err := a.openLocal(t.Context(), n, "")
		if err != nil || s.lane.n != 3 || strings.Count(lines.String(), want) != 1 {
			t.Fatalf("%v: told %q", err, lines)
		}
		if err := s.close(); err != nil {
			t.Error(err)
		}
		if all[3], err = l.take(3); err != nil {
			t.Fatal(err)
		}
	}
}
