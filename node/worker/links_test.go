package worker

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	banyanv1 "banyan/api/banyan/v1"
)

// TestLinksAndEmptyDirectoriesGoInAndOut: links within what goes stay links, also
// one that leads nowhere, empty directories and times of change stay, both ways.
func TestLinksAndEmptyDirectoriesGoInAndOut(t *testing.T) {
	w := newWorker(t, Config{})
	then := time.Unix(1_000_000_000, 5000)
	f := put(t, w, "v/lib/f", "in")
	f.ModifiedNs = then.UnixNano()
	link := func(name, to string) *banyanv1.FileRef {
		return &banyanv1.FileRef{Path: []byte(name), Link: []byte(to)}
	}
	spec := &banyanv1.JobSpec{
		Command: shell(`cat v/lib64/f; readlink v/lib64 v/gone; cd v; find . -type d -empty; stat -c %Y lib/f`),
		Send:    []*banyanv1.FileRef{f, link("v/lib64", "lib"), link("v/gone", "nowhere"), {Path: []byte("v/none"), Dir: true, Mode: 0o750, ModifiedNs: then.UnixNano()}},
		Return:  banyanv1.Bytes("v"),
	}
	r := try(w, spec)
	if got := string(r.Stdout.Inline); got != "inlib\nnowhere\n./none\n1000000000\n" {
		t.Fatalf("in the task: %q, %v", got, r)
	}
	got := map[string]string{}
	for _, f := range r.Returned {
		got[string(f.Path)] = string(f.Link)
		if n := string(f.Path); n == "v/none" && (!f.Dir || f.Mode != 0o750) || len(f.Link) == 0 && f.ModifiedNs != then.UnixNano() {
			t.Errorf("%v came back", f)
		}
	}
	if len(got) != 4 || got["v/lib64"] != "lib" || got["v/gone"] != "nowhere" {
		t.Errorf("%q came back", got)
	}
}

// TestALinkToWhatStaysComesBackAsAFile: a link would be worth nothing there. One
// that a pattern names is followed, and nothing is read through one that leads out.
func TestALinkToWhatStaysComesBackAsAFile(t *testing.T) {
	w := newWorker(t, Config{})
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]string{
		"latest": "latest=real", "d": "d/l=real d/nil->../none d/out->" + secret + " d/up->..", "*": "a=real b->a d/l->../a d/nil->../none d/out->" + secret + " d/up->.. latest->a",
		"lat*": "latest=real",
	} {
		r := try(w, &banyanv1.JobSpec{
			Command: shell("printf real >a; ln -s a latest; mkdir d; ln -s ../a d/l; ln -s ../none d/nil; ln -s .. d/up; ln -s " + secret + " d/out; ln -s a b"),
			Return:  banyanv1.Bytes(pattern),
		})
		var got []string
		for _, f := range r.Returned {
			if len(f.Link) > 0 {
				got = append(got, string(f.Path)+"->"+string(f.Link))
			} else {
				got = append(got, string(f.Path)+"="+get(t, w, f.Chunks))
			}
		}
		if s := strings.Join(got, " "); s != want {
			t.Errorf("--return %s: %s, want %s; %v", pattern, s, want, r.Error)
		}
	}
}

// TestNothingIsWrittenThroughASentLink: what a job sends may say anything.
func TestNothingIsWrittenThroughASentLink(t *testing.T) {
	w, outside := newWorker(t, Config{}), t.TempDir()
	link := &banyanv1.FileRef{Path: []byte("a"), Link: []byte(outside)}
	for _, send := range [][]*banyanv1.FileRef{
		{link, put(t, w, "a/x", "x")},
		{link, {Path: []byte("a/d"), Dir: true}},
		{link, {Path: []byte("b"), Link: []byte("a")}, {Path: []byte("b/l"), Link: []byte("x")}},
		{link, {Path: []byte("a"), Dir: true}, put(t, w, "c", "")},
	} {
		try(w, &banyanv1.JobSpec{Command: shell("true"), Send: send})
		if left, err := os.ReadDir(outside); len(left) > 0 || err != nil {
			t.Errorf("%v: %v, %v", send, left, err)
		}
	}
}
