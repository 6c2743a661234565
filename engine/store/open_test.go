package store_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
	"banyan/engine/store/storetest"
)

// says fails unless err is of kind k and names every word.
func says(t *testing.T, err error, k banyan.Kind, words ...string) {
	t.Helper()
	if !banyan.IsKind(err, k) {
		t.Fatalf("got %v (%v), want an error of kind %v", err, banyan.KindOf(err), k)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Fatalf("%q does not name %q", err, w)
		}
	}
}

func TestOpenInUse(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.Open(dir, store.Options{})
	says(t, err, banyan.Unavailable, dir, "another banyan process")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(dir, store.Options{}); err != nil {
		t.Fatalf("after the other has closed it: %v", err)
	}
	s.Close()
}

// lockFS is a file system whose locks fail.
type lockFS struct {
	vfs.FS
	err error
}

func (l lockFS) Lock(string) (io.Closer, error) { return nil, l.err }

// TestOpenSaysWhyItCannotLock: only what means that another has the lock is
// taken for that, and then the system's word for it is left out.
func TestOpenSaysWhyItCannotLock(t *testing.T) {
	_, err := store.Open(dir, store.Options{FS: lockFS{vfs.NewMem(), syscall.EAGAIN}})
	says(t, err, banyan.Unavailable, dir+" is in use by another banyan process")
	if !strings.HasSuffix(err.Error(), "--dir") {
		t.Errorf("there is more behind the remedy: %v", err)
	}
	for _, why := range []error{syscall.ENOLCK, &os.PathError{Op: "open", Path: "LOCK", Err: syscall.EROFS}} {
		_, err := store.Open(dir, store.Options{FS: lockFS{vfs.NewMem(), why}})
		says(t, err, banyan.Internal, dir, why.Error())
		if strings.Contains(err.Error(), "another") {
			t.Errorf("%v: %v", why, err)
		}
	}
}

func TestOpenForeignDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := store.Open(dir, store.Options{})
	says(t, err, banyan.Invalid, dir, "thesis.tex")
	if names, _ := os.ReadDir(dir); len(names) != 1 {
		t.Fatalf("the refusal left files: %v", names)
	}
	file := filepath.Join(dir, "thesis.tex")
	if _, err := store.Open(file, store.Options{}); err == nil || !strings.Contains(err.Error(), file) {
		t.Fatalf("a file as directory: %v", err)
	}
}

func TestOpenNewerFormats(t *testing.T) {
	d := simdisk.New(1)
	rewrite(t, d, []byte{0}, func(row []byte) []byte { return store.SealNumbers([]byte{0}, 99) })
	_, err := simOpen(d)()
	says(t, err, banyan.TooNew, "99", "knows 2")

	d = simdisk.New(1)
	rewrite(t, d, []byte{0}, func(row []byte) []byte { row[0]++; return row })
	_, err = simOpen(d)()
	says(t, err, banyan.TooNew, "version 2", "knows 1")

	fs := vfs.NewMem()
	db, err := pebble.Open(dir, &pebble.Options{FS: fs, FormatMajorVersion: pebble.FormatNewest, Logger: silent{}})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	ls, _ := fs.List(dir)
	for _, name := range ls {
		if strings.HasPrefix(name, "marker.format-version.") {
			if err := fs.Rename(fs.PathJoin(dir, name), fs.PathJoin(dir, "marker.format-version.000999.999")); err != nil {
				t.Fatal(err)
			}
		}
	}
	_, err = store.Open(dir, store.Options{FS: fs, Logger: quiet})
	says(t, err, banyan.TooNew, "999")
}

type silent struct{}

func (silent) Infof(string, ...any)  {}
func (silent) Errorf(string, ...any) {}
func (silent) Fatalf(string, ...any) {}

// rewrite makes a store with one shard on d and changes one of its rows.
func rewrite(t *testing.T, d *simdisk.Disk, key []byte, change func(row []byte) []byte) {
	t.Helper()
	s, err := simOpen(d)()
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := s.Identity(); !ok {
		if err := s.SetIdentity(store.Identity{Cluster: "c", Node: 1}); err != nil {
			t.Fatal(err)
		}
		if err := s.Bootstrap([]banyan.ShardID{7}, 1); err != nil {
			t.Fatal(err)
		}
		b := s.NewBatch()
		b.Append(7, storetest.Entries(2, 11, 400))
		b.SetHardState(7, storetest.HardState(2, 1, 399))
		b.SetApplied(7, 390, 2)
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	kv, err := d.Open()
	if err != nil {
		t.Fatal(err)
	}
	row, err := kv.Get(key)
	if err != nil || row == nil {
		t.Fatalf("row %x: %x, %v", key, row, err)
	}
	b := kv.NewBatch()
	if row = change(row); row == nil {
		b.Delete(key)
	} else {
		b.Set(key, row)
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	kv.Close()
}

// TestOpenDamaged: what does not fit together is refused, naming the shard.
func TestOpenDamaged(t *testing.T) {
	shard := []byte{0, 0, 0, 7}
	meta := func(kind byte) []byte { return append(append([]byte{'m'}, shard...), kind) }
	entry := func(index uint64) []byte { return store.LogKey(7, index) }
	gone := func([]byte) []byte { return nil }
	flip := func(row []byte) []byte { row[len(row)-1] ^= 1; return row }
	numbers := func(key []byte, ns ...uint64) func([]byte) []byte {
		return func([]byte) []byte { return store.SealNumbers(key, ns...) }
	}
	for name, c := range map[string]struct {
		key    []byte
		change func([]byte) []byte
	}{
		"no format":               {[]byte{0}, gone},
		"format flipped":          {[]byte{0}, flip},
		"identity flipped":        {[]byte{1}, flip},
		"hard state flipped":      {meta('h'), flip},
		"hard state missing":      {meta('h'), gone},
		"applied cut short":       {meta('a'), func(row []byte) []byte { return row[:3] }},
		"configuration missing":   {meta('c'), gone},
		"descriptor missing":      {meta('d'), gone},
		"gap in the log":          {entry(398), gone},
		"first entry missing":     {entry(11), gone},
		"last entry missing":      {entry(400), func([]byte) []byte { return nil }},
		"an entry flipped":        {entry(399), flip},
		"an entry of another":     {entry(399), func(row []byte) []byte { return store.SealEntry(entry(398), storetest.Entries(2, 398, 398)[0]) }},
		"committed beyond log":    {meta('h'), numbers(meta('h'), 2, 1, 401)},
		"applied beyond log":      {meta('a'), numbers(meta('a'), 401, 2)},
		"truncated beyond":        {meta('d'), numbers(meta('d'), 1, 395, 2)},
		"applied another entry":   {meta('a'), numbers(meta('a'), 390, 1)},
		"entry of a future term":  {entry(400), func([]byte) []byte { return store.SealEntry(entry(400), storetest.Entries(3, 400, 400)[0]) }},
		"entry of an earlier one": {entry(400), func([]byte) []byte { return store.SealEntry(entry(400), storetest.Entries(1, 400, 400)[0]) }},
	} {
		t.Run(name, func(t *testing.T) {
			d := simdisk.New(1)
			rewrite(t, d, c.key, c.change)
			s, err := simOpen(d)()
			if name == "last entry missing" { // not committed: as if never written
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			word := "shard 7"
			if len(c.key) == 1 {
				word = "store is damaged"
			}
			says(t, err, banyan.Corrupt, word, "join as a new node")
		})
	}
}

// TestReadDamaged: what is not read on opening is checked when it is read.
func TestReadDamaged(t *testing.T) {
	for name, change := range map[string]func([]byte) []byte{
		"missing": func([]byte) []byte { return nil },
		"flipped": func(row []byte) []byte { row[10] ^= 1; return row },
	} {
		d := simdisk.New(1)
		rewrite(t, d, store.LogKey(7, 50), change)
		s, err := simOpen(d)()
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Shard(7).Entries(40, 60, 1<<20)
		says(t, err, banyan.Corrupt, "shard 7")
		_, err = s.Shard(7).Term(50)
		says(t, err, banyan.Corrupt, "shard 7")
		if ents, err := s.Shard(7).Entries(40, 50, 1<<20); len(ents) != 10 || err != nil {
			t.Fatalf("%s: what is whole before it: %d, %v", name, len(ents), err)
		}
		s.Close()
	}
}

// TestEveryFlipIsFound: no damage to a row of ours is ever taken for data.
func TestEveryFlipIsFound(t *testing.T) {
	for n := range 300 {
		d := simdisk.New(uint64(n))
		s, err := simOpen(d)()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Bootstrap([]banyan.ShardID{1}, 1); err != nil {
			t.Fatal(err)
		}
		b := s.NewBatch()
		b.Append(1, storetest.Entries(2, 11, 20))
		b.SetHardState(1, storetest.HardState(2, 1, 20))
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		s.Close()
		key := d.Flip(n)
		_, err = simOpen(d)()
		if err == nil {
			t.Fatalf("seed %d: a flipped bit in row %x was not found", n, key)
		}
		if !banyan.IsKind(err, banyan.Corrupt) && !banyan.IsKind(err, banyan.TooNew) {
			t.Fatalf("seed %d: a flipped bit in row %x: %v", n, key, err)
		}
	}
}

func FuzzOpenRow(f *testing.F) {
	f.Add([]byte("key"), store.SealNumbers([]byte("key"), 1, 2))
	f.Add([]byte(""), []byte{1})
	f.Add(store.LogKey(1, 2), store.SealEntry(store.LogKey(1, 2), &raftpb.Entry{Term: new(uint64(3)), Data: []byte("x")}))
	f.Add([]byte("c"), store.SealConf([]byte("c"), &raftpb.ConfState{Voters: []uint64{1, 2}}))
	f.Add([]byte("i"), store.SealIdentity([]byte("i"), store.Identity{Cluster: "c", Node: 2}))
	f.Add([]byte("banyan-seal"), fmt.Appendf(nil, "%-95s\n", "banyan-seal 1 MANIFEST-000001 12 deadbeef 00000000"))
	f.Fuzz(func(t *testing.T, key, row []byte) {
		for _, err := range store.DecodeAll(key, row) {
			if err != nil && !banyan.IsKind(err, banyan.Corrupt) && !banyan.IsKind(err, banyan.TooNew) {
				t.Fatalf("key %x, row %x: %v", key, row, err)
			}
		}
	})
}

// TestFailureStops: the disk's failure is final, and says where and what to do.
func TestFailureStops(t *testing.T) {
	fs := vfs.NewMem()
	s, err := store.Open(dir, store.Options{FS: failing{fs, io.ErrShortWrite}, Logger: quiet})
	if err == nil {
		s.Close()
		t.Fatal("opened on a disk that fails")
	}
	says(t, err, banyan.Internal, dir, "check the disk")
	if !errors.Is(err, io.ErrShortWrite) {
		t.Fatalf("the cause is lost: %v", err)
	}
}

// TestManifestBeforeItsMarker: when Pebble names a manifest as the current one,
// that manifest's own name is on disk, whatever order the file system keeps.
func TestManifestBeforeItsMarker(t *testing.T) {
	watched := &markers{FS: vfs.NewCrashableMem(), t: t}
	for range 2 {
		s, err := store.Open(dir, store.Options{FS: watched, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if watched.seen < 2 {
		t.Fatalf("%d markers seen", watched.seen)
	}
}

type markers struct {
	vfs.FS
	t    *testing.T
	seen int
}

func (m *markers) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	if _, manifest, ok := strings.Cut(name, "marker.manifest."); ok {
		m.seen++
		clone := m.FS.(*vfs.MemFS).CrashClone(vfs.CrashCloneCfg{})
		_, manifest, _ = strings.Cut(manifest, ".")
		if _, err := clone.Stat(clone.PathJoin(dir, manifest)); err != nil {
			m.t.Errorf("the marker of %s is made before that is durable: %v", manifest, err)
		}
	}
	return m.FS.Create(name, c)
}

// failing refuses to create files.
type failing struct {
	vfs.FS
	err error
}

func (f failing) Create(string, vfs.DiskWriteCategory) (vfs.File, error) { return nil, f.err }
