package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	banyanv1 "banyan/api/banyan/v1"
)

// liar is a cluster whose one task returns what the test says.
func liar(t *testing.T) (*fakeJobs, *session, func(name string) *banyanv1.FileRef) {
	t.Helper()
	f := &fakeJobs{}
	s := f.session(t)
	chunks, size, err := s.Blobs().Upload(t.Context(), strings.NewReader("from a node"))
	if err != nil {
		t.Fatal(err)
	}
	return f, s, func(name string) *banyanv1.FileRef {
		return &banyanv1.FileRef{Path: []byte(name), Mode: 0o644, Size: size, Chunks: chunks}
	}
}

// tree lists all files at and below dir.
func tree(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel, _ := filepath.Rel(dir, p)
			names = append(names, filepath.ToSlash(rel))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// TestANodeCannotWriteWhatNobodyAskedFor: only the file that --return names
// comes, whatever else is said to be there, and the rest is told.
func TestANodeCannotWriteWhatNobodyAskedFor(t *testing.T) {
	for _, c := range []struct {
		pattern string
		lies    []string
	}{
		{"out.txt", []string{".bashrc", ".git/hooks/x", "../up", "/etc/x", "a/../../up", "out.txt/../.bashrc", "./x", "", ".", "sub//x"}},
		{"{}.txt", []string{"hers.txt", "in1.txt", "2.txt"}},
		{"{%}.txt", []string{"2.txt"}},
		{"*", []string{".bashrc", ".git/hooks/x", "..", "."}},
		{"d/*.c", []string{"x.c", "d/e/x.c", "d/.x.c"}},
	} {
		dir := t.TempDir()
		f, s, ref := liar(t)
		r := result(0, 0, "", "")
		r.Input.Columns[0], r.Slot = []byte("hers"), 1 // the node says so; the input was "1"
		good := strings.NewReplacer("{}", "1", "{%}", "1", "*", "all").Replace(c.pattern)
		for _, name := range append(c.lies, good) {
			r.Returned = append(r.Returned, ref(name))
		}
		f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
		_, errs, code := do(t, s, "run", "--return", c.pattern, "--outdir", filepath.Join(dir, "out"), "x", ":::", "1")
		if got := tree(t, dir); !slices.Equal(got, []string{"out/" + good}) || code != exitFiles {
			t.Errorf("%s: exit %d, there is %q", c.pattern, code, got)
		}
		if !strings.Contains(errs, c.lies[0]) || !strings.Contains(errs, "did not come back") {
			t.Errorf("%s: the user is told\n%s", c.pattern, errs)
		}
	}
}

// TestAThenStepCannotWriteHiddenFiles: the names are the step's own, so all but
// the hidden ones come.
func TestAThenStepCannotWriteHiddenFiles(t *testing.T) {
	dir := t.TempDir()
	f, s, ref := liar(t)
	last := message(1, 1, 0, succeeded)
	last.ThenResult = &banyanv1.TaskResult{Task: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED,
		Returned: []*banyanv1.FileRef{ref("whole"), ref(".bashrc"), ref("sub/.git/hooks/x"), ref("../up")}}
	f.follow = []*banyanv1.FollowResponse{last}
	_, errs, code := do(t, s, "run", "--then", "x", "--outdir", filepath.Join(dir, "out"), "x", ":::", "1")
	if got := tree(t, dir); !slices.Equal(got, []string{"out/whole"}) || code != exitFiles || !strings.Contains(errs, ".bashrc") {
		t.Errorf("exit %d, there is %q:\n%s", code, got, errs)
	}
}

// TestNothingIsWrittenThroughLinksOutOfTheOutDir: neither a directory nor the
// file itself, which is replaced.
func TestNothingIsWrittenThroughLinksOutOfTheOutDir(t *testing.T) {
	dir := t.TempDir()
	out, outside := filepath.Join(dir, "out"), filepath.Join(dir, "outside")
	if err := errors.Join(os.Mkdir(out, 0o700), os.Mkdir(outside, 0o700), os.WriteFile(filepath.Join(outside, "kept"), []byte("kept"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(out, "d")), os.Symlink(filepath.Join(outside, "kept"), filepath.Join(out, "f"))); err != nil {
		t.Skip("no links here:", err)
	}
	f, s, ref := liar(t)
	r := result(0, 0, "", "")
	r.Returned = []*banyanv1.FileRef{ref("f")}
	f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
	if _, errs, code := do(t, s, "run", "--return", "f", "--outdir", out, "x", ":::", "1"); code != 0 {
		t.Errorf("exit %d: %s", code, errs)
	}
	r.Returned = []*banyanv1.FileRef{ref("d/x")}
	if _, errs, code := do(t, s, "run", "--return", "d/x", "--outdir", out, "x", ":::", "1"); code != 255 || !strings.Contains(errs, "d/x") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if b, err := os.ReadFile(filepath.Join(outside, "kept")); string(b) != "kept" || !slices.Equal(tree(t, outside), []string{"kept"}) {
		t.Errorf("outside is %q with %q, %v", tree(t, outside), b, err)
	}
	if b, err := os.ReadFile(filepath.Join(out, "f")); string(b) != "from a node" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestAFileOfAnotherSizeIsNotKept: a node may name chunks without end.
func TestAFileOfAnotherSizeIsNotKept(t *testing.T) {
	for _, more := range []int64{-1, 1} {
		dir := t.TempDir()
		f, s, ref := liar(t)
		r := result(0, 0, "", "")
		r.Returned = []*banyanv1.FileRef{ref("out")}
		r.Returned[0].Size += more
		f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
		if _, errs, code := do(t, s, "run", "--return", "out", "--outdir", dir, "x", ":::", "1"); code != 255 || len(tree(t, dir)) != 0 || !strings.Contains(errs, "bytes than the node said") {
			t.Errorf("exit %d, left %q: %s", code, tree(t, dir), errs)
		}
	}
}

// TestATaskThatCannotBeIsRefused: to note it would take memory for all before it.
func TestATaskThatCannotBeIsRefused(t *testing.T) {
	f, s, _ := liar(t)
	f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, result(4_000_000_000, 0, "", ""))}
	if _, errs, code := do(t, s, "run", "x", ":::", "1"); code != 255 || !strings.Contains(errs, "no job has so many") {
		t.Errorf("exit %d: %s", code, errs)
	}
}
