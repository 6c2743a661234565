//go:build unix

package cli

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	banyanv1 "banyan/api/banyan/v1"
)

// TestLinksAreSentAsTheyAre: within what is sent they stay links, also to nothing;
// what leads out is sent as what it leads to, or refused. A link in a circle ends.
func TestLinksAreSentAsTheyAre(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	err := errors.Join(os.MkdirAll("venv/lib/none", 0o700), os.MkdirAll("data/sub", 0o700), os.WriteFile("python3", []byte("elf"), 0o700), os.WriteFile("data/sub/x", nil, 0o600),
		os.Symlink("lib", "venv/lib64"), os.Symlink("gone", "venv/nil"), os.Symlink(filepath.Join(dir, "python3"), "venv/python3"), os.Symlink("python3", "venv/python"),
		os.Symlink("../data", "venv/data"), os.Symlink("venv", "named"))
	if err != nil {
		t.Fatal(err)
	}
	sent := func(out string, names ...string) (string, error) {
		files, err := findSends(names, &inputs{}, out)
		var all []string
		for _, f := range files {
			what := f.name
			switch {
			case f.link != "":
				what += "->" + f.link
			case f.dir:
				what += "/"
			}
			all = append(all, what)
		}
		return strings.Join(all, " "), err
	}
	for name, want := range map[string]string{
		"venv":  "venv/data/sub/x venv/lib/none/ venv/lib64->lib venv/nil->gone venv/python->python3 venv/python3",
		"named": "named/data/sub/x named/lib/none/ named/lib64->lib named/nil->gone named/python->python3 named/python3",
	} {
		if got, err := sent(linksFollow, name); got != want || err != nil {
			t.Errorf("--send %s: %s, %v", name, got, err)
		}
	}
	if _, err := sent(linksRefuse, "venv"); err == nil || !strings.Contains(err.Error(), "leads out of what is sent") {
		t.Errorf("a link out: %v", err)
	}
	if err := os.Symlink("../venv", "data/back"); err != nil {
		t.Fatal(err)
	}
	if _, err := sent(linksFollow, "venv"); err == nil || !strings.Contains(err.Error(), "would have no end") {
		t.Errorf("a circle: %v", err)
	}
	if _, errs, code := do(t, nil, "run", "--links-out", "maybe", "x", ":::", "1"); code != 255 || !strings.Contains(errs, "follow or refuse") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// TestReturnedLinksStayInTheOutDir: links within it and empty directories come back
// as they are; no link that a node returns leads out, by whatever way.
func TestReturnedLinksStayInTheOutDir(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	f, s, ref := liar(t)
	link := func(name, to string) *banyanv1.FileRef {
		return &banyanv1.FileRef{Path: []byte(name), Link: []byte(to)}
	}
	then := time.Unix(1_000_000_000, 0)
	file := ref("v/f")
	file.ModifiedNs = then.UnixNano()
	r := result(0, 0, "", "")
	r.Returned = []*banyanv1.FileRef{file, link("v/l", "f"), link("v/nil", "gone"), {Path: []byte("v/none"), Dir: true, ModifiedNs: then.UnixNano()}}
	f.follow = []*banyanv1.FollowResponse{message(1, 1, 0, succeeded, r)}
	if _, errs, code := do(t, s, "run", "--return", "v", "--outdir", out, "x", ":::", "1"); code != 0 {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if l, err := os.Readlink(filepath.Join(out, "v/l")); l != "f" || err != nil {
		t.Errorf("%q, %v", l, err)
	}
	for _, name := range []string{"v/f", "v/none"} {
		if st, err := os.Stat(filepath.Join(out, name)); err != nil || !st.ModTime().Equal(then) || st.IsDir() != (name == "v/none") {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	if err := os.Symlink(".", filepath.Join(out, "v/here")); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	for _, to := range []string{"..", "../../x", "/etc", "f/../../..", "v/../../x"} {
		r.Returned = []*banyanv1.FileRef{link("v/bad", to)}
		_, errs, code := do(t, s, "run", "--return", "v", "--outdir", out, "x", ":::", "1")
		if to != ".." && (code != 0 || !strings.Contains(errs, "leads out of --outdir")) || to == ".." && code != 0 {
			t.Errorf("%s: exit %d: %s", to, code, errs)
		}
		os.Remove(filepath.Join(out, "v/bad"))
	}
	r.Returned = []*banyanv1.FileRef{link("v/bad", "/etc")}
	if _, errs, code := do(t, s, "run", "--links-out", "refuse", "--return", "v", "--outdir", out, "x", ":::", "1"); code == 0 || !strings.Contains(errs, "did not come back") {
		t.Errorf("exit %d: %s", code, errs)
	}
	r.Returned = []*banyanv1.FileRef{link("v/here/here/bad", "../../x")} // really v/bad
	if _, errs, code := do(t, s, "run", "--return", "v", "--outdir", out, "x", ":::", "1"); code == 0 || !strings.Contains(errs, "v/here/here is a link") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("%q, was %q", after, before)
	}
}
