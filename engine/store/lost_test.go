package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/storetest"
)

// heldFS holds flushes back until it is let go: no table is made.
type heldFS struct {
	vfs.FS
	hold *bool
	gate chan struct{}
}

func (f heldFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if strings.HasSuffix(name, ".sst") && *f.hold {
		<-f.gate
	}
	return f.FS.Create(name, c)
}

func cloneFS(t *testing.T, fs vfs.FS) *vfs.MemFS {
	t.Helper()
	out := vfs.NewMem()
	if _, err := vfs.Clone(fs, out, dir, dir); err != nil {
		t.Fatal(err)
	}
	return out
}

// killedStore gives the files of a store that was killed with several logs not
// yet flushed and a table, those it had some time before, and what is in it.
func killedStore(t *testing.T) (killed, before *vfs.MemFS, want string) {
	t.Helper()
	fs, hold, gate := vfs.NewMem(), false, make(chan struct{})
	open := func() (*store.Store, error) {
		return store.Open(dir, store.Options{FS: heldFS{fs, &hold, gate}, Logger: quiet})
	}
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	l := &life{s: s, open: open}
	write := func(i uint64) {
		t.Helper()
		if err := l.ready(1, 11+i, 11+i, noise(int(i), 50<<10), true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1); err != nil {
		t.Fatal(err)
	}
	write(0)
	if err := l.reopen(); err != nil { // it makes a table of that
		t.Fatal(err)
	}
	hold = true
	write(1)
	write(2)
	before = cloneFS(t, fs)
	for i := uint64(3); countLogs(t, fs) < 3; i++ {
		write(i)
	}
	killed = cloneFS(t, fs)
	if want, err = storetest.Dump(l.s); err != nil {
		t.Fatal(err)
	}
	close(gate)
	if err := l.s.Close(); err != nil {
		t.Fatal(err)
	}
	return killed, before, want
}

func countLogs(t *testing.T, fs vfs.FS) (n int) {
	t.Helper()
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if strings.HasSuffix(name, ".log") && !strings.HasPrefix(name, "SEAL-") {
			n++
		}
	}
	return n
}

func overwrite(t *testing.T, fs vfs.FS, name string, b []byte) {
	t.Helper()
	f, err := fs.Create(fs.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestLostFile: each file of a killed store's directory is gone, empty, halved,
// or an older copy of itself. The store has everything, or says what is wrong.
func TestLostFile(t *testing.T) {
	t.Parallel()
	killed, before, want := killedStore(t)
	names, err := killed.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	older, err := before.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	refused := map[string]bool{}
	try := func(name, how string, change func(fs vfs.FS)) {
		t.Helper()
		fs := cloneFS(t, killed)
		change(fs)
		got, err := reads(fs)
		switch {
		case err == nil && got != want:
			t.Errorf("%s %s: silently wrong", name, how)
		case err == nil:
		case !banyan.IsKind(err, banyan.Corrupt) && !banyan.IsKind(err, banyan.TooNew) || !strings.Contains(err.Error(), dir):
			t.Errorf("%s %s: no clear refusal: %v", name, how, err)
		default:
			t.Logf("%s %s: %v", name, how, err)
			refused[name+" "+how] = true
		}
	}
	for _, name := range names {
		b := readFile(t, killed, name)
		remove := func(fs vfs.FS) {
			if err := fs.Remove(fs.PathJoin(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
		try(name, "gone", remove)
		try(name, "empty", func(fs vfs.FS) { overwrite(t, fs, name, nil) })
		try(name, "halved", func(fs vfs.FS) { overwrite(t, fs, name, b[:len(b)/2]) })
		if slices.Contains(older, name) {
			try(name, "older", func(fs vfs.FS) { overwrite(t, fs, name, readFile(t, before, name)) })
		}
		if strings.HasSuffix(name, ".log") && !strings.HasPrefix(name, "SEAL-") {
			for _, how := range []string{"gone", "empty", "halved"} {
				if !refused[name+" "+how] {
					t.Errorf("%s %s: not refused", name, how)
				}
			}
		}
		if at, ok := strings.CutPrefix(name, "marker.manifest."); ok {
			number, _, _ := strings.Cut(at, ".")
			try(name, "older", func(fs vfs.FS) {
				remove(fs)
				overwrite(t, fs, "marker.manifest."+number+".MANIFEST-000001", nil)
				if !slices.Contains(names, "MANIFEST-000001") { // it may not have been removed yet
					overwrite(t, fs, "MANIFEST-000001", readFile(t, killed, "MANIFEST-000001"))
				}
			})
		}
	}
}

// reads opens what is in fs and gives all of it.
func reads(fs vfs.FS) (string, error) {
	s, err := store.Open(dir, store.Options{FS: fs, Logger: quiet})
	if err != nil {
		return "", err
	}
	type dump struct {
		text string
		err  error
	}
	dumped := make(chan dump, 1)
	go func() {
		got, err := storetest.Dump(s)
		dumped <- dump{got, errors.Join(err, s.Close())}
	}()
	select {
	case d := <-dumped:
		return d.text, d.err
	case <-s.Failed():
		return "", s.Err()
	}
}
