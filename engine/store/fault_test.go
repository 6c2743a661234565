package store_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
	"banyan/engine/store/storetest"
)

var errDisk = errors.New("injected: the disk failed")

// life is what a node does to its store, one step after the other; each waits
// for the disk when synced says so.
type life struct {
	s            *store.Store
	open         func() (*store.Store, error)
	done, synced atomic.Int32
}

func (l *life) ready(id banyan.ShardID, from, to uint64, value []byte, sync bool) error {
	b := l.s.NewBatch()
	b.Append(id, storetest.Entries(2, from, to))
	b.SetHardState(id, storetest.HardState(2, 1, to))
	b.State(id).Set(fmt.Appendf(nil, "row%d", to), value)
	b.SetApplied(id, to, 2)
	if from%3 == 0 {
		b.Truncate(id, from-1)
	}
	return b.Commit(sync)
}

func (l *life) reopen() error {
	if err := l.s.Close(); err != nil {
		return err
	}
	s, err := l.open()
	if err == nil {
		l.s = s
	}
	return err
}

func (l *life) install() error {
	st, err := l.s.Stage(2)
	if err != nil {
		return err
	}
	for i := range 12 { // more than Pebble's first memtable: it is flushed in the background
		if err := st.Put(fmt.Appendf(nil, "staged%02d", i), noise(i, 30<<10)); err != nil {
			return err
		}
	}
	return st.Install(50, 2, &raftpb.ConfState{Voters: []uint64{1, 2}}, nil)
}

func noise(seed, n int) []byte {
	b := make([]byte, n)
	rng := rand.NewPCG(uint64(seed), 0)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(b[i:], rng.Uint64())
	}
	return b
}

type lifeStep struct {
	sync bool
	do   func(l *life) error
}

func lifeSteps() []lifeStep {
	small := []byte("value")
	return []lifeStep{
		{true, func(l *life) error { return l.s.SetIdentity(store.Identity{Cluster: "c", Node: 1}) }},
		{true, func(l *life) error { return l.s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1) }},
		{true, func(l *life) error { return l.ready(1, 11, 13, small, true) }},
		{false, func(l *life) error { return l.ready(1, 14, 14, small, false) }},
		{true, func(l *life) error { return l.ready(2, 11, 11, noise(1, 70<<10), true) }},
		{true, (*life).reopen},
		{true, func(l *life) error { return l.ready(2, 12, 15, noise(2, 200<<10), true) }},
		{false, func(l *life) error { return l.ready(3, 11, 11, small, false) }},
		{true, (*life).install},
		{true, func(l *life) error { b := l.s.NewBatch(); b.Destroy(3); return b.Commit(true) }},
		{false, func(l *life) error { return l.ready(1, 15, 18, small, false) }},
		{true, (*life).reopen},
		{true, func(l *life) error { return l.ready(2, 51, 52, small, true) }},
	}
}

// live runs the steps on what open gives until one fails. done counts those
// that succeeded, synced is the first state that must survive a crash.
func (l *life) live(dumps func(string)) (err error) {
	if l.s, err = l.open(); err != nil {
		return err
	}
	for _, step := range lifeSteps() {
		if err := step.do(l); err != nil {
			return err
		}
		l.done.Add(1)
		if step.sync {
			l.synced.Store(l.done.Load())
		}
		if dumps != nil {
			d, err := storetest.Dump(l.s)
			if err != nil {
				return err
			}
			dumps(d)
		}
	}
	return l.s.Close()
}

// expected gives the dumps before the first and after each step of a life
// without faults.
func expected(t *testing.T) []string {
	t.Helper()
	dumps := []string{emptyDump}
	d := simdisk.New(0)
	if err := (&life{open: simOpen(d)}).live(func(s string) { dumps = append(dumps, s) }); err != nil {
		t.Fatal(err)
	}
	return dumps
}

const emptyDump = "identity { n0} false\n"

func simOpen(d *simdisk.Disk) func() (*store.Store, error) {
	return func() (*store.Store, error) {
		kv, err := d.Open()
		if err != nil {
			return nil, err
		}
		return store.New(kv, store.Options{})
	}
}

// survives checks a store opened after the crash of a life: it is as one step
// left it, none that was acknowledged with sync is lost, and it can be written.
func (l *life) survives(t *testing.T, n int, s *store.Store, want []string) {
	t.Helper()
	got, err := storetest.Dump(s)
	if err != nil {
		t.Fatalf("operation %d failed, then: %v", n, err)
	}
	done, synced := int(l.done.Load()), int(l.synced.Load())
	last := min(done+1, len(want)-1) // the step that failed may be there
	if !slices.Contains(want[synced:last+1], got) {
		t.Fatalf("operation %d failed in step %d, %d was synced; after the crash\n%.2000s", n, done, synced, got)
	}
	b := s.NewBatch()
	b.SetHardState(9, storetest.HardState(7, 1, 0))
	if err := b.Commit(true); err != nil {
		t.Fatalf("operation %d failed, then: %v", n, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSimdiskFailsNthOperation(t *testing.T) {
	t.Parallel()
	want := expected(t)
	for n := 1; ; n++ {
		d := simdisk.New(uint64(n))
		count := 0
		d.Inject(func(simdisk.Op) error {
			if count++; count == n {
				return errDisk
			}
			return nil
		})
		l := &life{open: simOpen(d)}
		err := l.live(nil)
		if count < n {
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%d operations", n-1)
			return
		}
		d.Inject(nil)
		d.Crash()
		s, err := simOpen(d)()
		if err != nil {
			t.Fatalf("operation %d failed, then: %v", n, err)
		}
		l.survives(t, n, s, want)
	}
}

// TestPebbleFailsNthOperation lets the n-th change to the file system fail, and
// with it all that follow, as a broken disk does.
func TestPebbleFailsNthOperation(t *testing.T) {
	t.Parallel()
	want := expected(t)
	for n := 1; ; n++ {
		l, after := failFrom(t, n)
		if after == nil {
			t.Logf("%d operations", n-1)
			return
		}
		s, err := store.Open(dir, store.Options{FS: after, Logger: quiet})
		if err != nil && l.done.Load() == 0 {
			continue // power was lost before Pebble had made its directory; nothing was acknowledged
		}
		if err != nil {
			t.Fatalf("operation %d failed in step %d, then: %v", n, l.done.Load(), err)
		}
		l.survives(t, n, s, want)
	}
}

// failFrom runs a life on a disk that breaks at its n-th change and gives what
// is on it after the crash, nil if the life was over before.
func failFrom(t *testing.T, n int) (*life, vfs.FS) {
	fs := vfs.NewCrashableMem()
	rng := rand.New(rand.NewPCG(uint64(n), 6))
	var count atomic.Int64
	broken := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind.ReadOrWrite() == errorfs.OpIsWrite && count.Add(1) >= int64(n) {
			return errDisk
		}
		return nil
	}))
	l := &life{open: func() (*store.Store, error) {
		return store.Open(dir, store.Options{FS: broken, Logger: quiet})
	}}
	err := l.live(nil)
	if count.Load() < int64(n) {
		if err != nil {
			t.Fatal(err)
		}
		return l, nil
	}
	kept := []int{0, 100, 0, rng.IntN(101)}[n%4] // torn chunks cost Pebble half a second each
	return l, fs.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: kept, RNG: rng})
}

// TestSyncFailureIsFinal: after an fsync that failed nothing is acknowledged.
func TestSyncFailureIsFinal(t *testing.T) {
	d := simdisk.New(1)
	s, err := simOpen(d)()
	if err != nil {
		t.Fatal(err)
	}
	fail := true
	d.Inject(func(op simdisk.Op) error {
		if op == simdisk.Sync && fail {
			fail = false
			return errDisk
		}
		return nil
	})
	for range 2 {
		err := s.Bootstrap([]banyan.ShardID{1}, 1)
		if !errors.Is(err, store.ErrFatal) || !errors.Is(err, errDisk) {
			t.Fatalf("after the failed sync: %v", err)
		}
	}
	if len(s.Shards()) != 0 {
		t.Fatal("what was not acknowledged is visible")
	}
	if err := s.SetIdentity(store.Identity{Cluster: "c", Node: 1}); !errors.Is(err, store.ErrFatal) {
		t.Fatalf("a later write: %v", err)
	}
	if _, err := s.Stage(1); !errors.Is(err, store.ErrFatal) {
		t.Fatalf("a later stage: %v", err)
	}
	if err := s.Err(); !errors.Is(err, store.ErrFatal) {
		t.Fatalf("Err: %v", err)
	}
}

func TestSimdiskFull(t *testing.T) {
	d := simdisk.New(1)
	s, err := simOpen(d)()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap([]banyan.ShardID{1}, 1); err != nil {
		t.Fatal(err)
	}
	want, _ := storetest.Dump(s)
	d.SetCapacity(s.Size() + 100)
	l := &life{s: s}
	if err := l.ready(1, 11, 12, make([]byte, 200), true); !banyan.IsKind(err, banyan.Exhausted) || !errors.Is(err, store.ErrFatal) {
		t.Fatalf("a full disk: %v", err)
	}
	d.LoseTail()
	d.SetCapacity(0)
	if s, err = simOpen(d)(); err != nil {
		t.Fatal(err)
	}
	if got, _ := storetest.Dump(s); got != want {
		t.Fatalf("after the disk was full\n%s\nwant\n%s", got, want)
	}
}

// TestFlippedByte: damage done to a closed store is found, or does not matter.
func TestFlippedByte(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	open := func() (*store.Store, error) { return store.Open(dir, store.Options{FS: fs, Logger: quiet}) }
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	l := &life{s: s, open: open}
	if err := s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(14) { // the last two after the last opening: they are in Pebble's log
		if err := l.ready(1, 11+i, 11+i, noise(int(i), 100), true); err != nil {
			t.Fatal(err)
		}
		if i%4 == 3 {
			if err := l.reopen(); err != nil {
				t.Fatal(err)
			}
		}
	}
	want, err := storetest.Dump(l.s)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := fs.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	rng := rand.New(rand.NewPCG(1, 7))
	found, harmless := 0, 0
	for _, name := range names {
		size := len(readFile(t, fs, name))
		for range min(size, 40) {
			at := rng.IntN(size)
			err := flipped(t, fs, name, at, want)
			switch {
			case err == nil:
				harmless++
			case banyan.IsKind(err, banyan.Corrupt), banyan.IsKind(err, banyan.TooNew):
				found++
			default:
				t.Errorf("%s, byte %d: no clear refusal: %v", name, at, err)
			}
		}
	}
	t.Logf("%d found, %d harmless", found, harmless)
	if found < 50 {
		t.Errorf("only %d of %d damages found", found, found+harmless)
	}
}

// TestFlippedAfterKill: the same of the manifest and the log of a process that
// was killed, where damage and a write cut short look the same.
func TestFlippedAfterKill(t *testing.T) {
	t.Parallel()
	fs := vfs.NewMem()
	open := func() (*store.Store, error) { return store.Open(dir, store.Options{FS: fs, Logger: quiet}) }
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	l := &life{s: s, open: open}
	if err := s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1); err != nil {
		t.Fatal(err)
	}
	flushed := func() bool {
		return len(readFile(t, fs, "MANIFEST-000001")) > 100
	}
	for i := uint64(0); !flushed(); i++ { // by a flush in the background
		if err := l.ready(1, 11+i, 11+i, noise(int(i), 50<<10), true); err != nil {
			t.Fatal(err)
		}
	}
	want, err := storetest.Dump(l.s)
	if err != nil {
		t.Fatal(err)
	}
	killed := vfs.NewMem()
	for whole := false; !whole; { // a copy made while Pebble changes its set of files is no state of a disk
		killed = vfs.NewMem()
		if _, err := vfs.Clone(fs, killed, dir, dir); err == nil {
			whole = flipped(t, killed, "LOCK", -1, want) == nil
		}
	}
	if err := l.s.Close(); err != nil {
		t.Fatal(err)
	}
	names, err := killed.List(dir)
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	last := func(prefix, suffix string) (found string) {
		for _, name := range names {
			if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
				found = name
			}
		}
		return found
	}
	found, harmless := 0, 0
	for _, name := range []string{last("MANIFEST-", ""), last("", ".log")} {
		size := len(readFile(t, killed, name))
		for back := 1; back <= size; back += 1 + back { // most of them near the end
			switch err := flipped(t, killed, name, size-back, want); {
			case err == nil:
				harmless++
			case banyan.IsKind(err, banyan.Corrupt):
				found++
			default:
				t.Errorf("%s, byte %d: no clear refusal: %v", name, size-back, err)
			}
		}
	}
	t.Logf("%d found, %d harmless", found, harmless)
	if found == 0 {
		t.Error("no damage was found")
	}
}

func readFile(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(fs.PathJoin(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// flipped opens a copy in which one byte is wrong, or with at < 0 none.
func flipped(t *testing.T, fs vfs.FS, name string, at int, want string) error {
	t.Helper()
	damaged := vfs.NewMem()
	if _, err := vfs.Clone(fs, damaged, dir, dir); err != nil {
		t.Fatal(err)
	}
	b := bytes.Clone(readFile(t, fs, name))
	if at >= 0 {
		b[at] ^= 0x55
	}
	f, err := damaged.Create(damaged.PathJoin(dir, name), vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	f.Write(b)
	f.Close()
	s, err := store.Open(dir, store.Options{FS: damaged, Logger: quiet})
	if err != nil {
		return err
	}
	dumped := make(chan error, 1)
	go func() {
		got, err := storetest.Dump(s)
		if err == nil && got != want {
			t.Errorf("%s, byte %d of %d: silently wrong", name, at, len(b))
		}
		dumped <- errors.Join(err, s.Close())
	}()
	select {
	case err := <-dumped:
		return err
	case <-s.Failed(): // Pebble found it in the background
		return s.Err()
	}
}

// hangFS is a disk whose syncs of logs hang once it is told to.
type hangFS struct {
	vfs.FS
	hang *atomic.Bool
}

type hangFile struct {
	vfs.File
	hang *atomic.Bool
}

func (f hangFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	return hangFile{file, f.hang}, err
}

func (f hangFile) Sync() error { return f.sync(f.File.Sync) }

func (f hangFile) SyncData() error { return f.sync(f.File.SyncData) }

func (f hangFile) sync(do func() error) error {
	if f.hang.Load() {
		select {} // as a disk that is gone
	}
	return do()
}

// TestHungDisk: a disk that says nothing stops the store, and whoever waits
// for it is told.
func TestHungDisk(t *testing.T) {
	t.Parallel()
	fs := hangFS{vfs.NewMem(), &atomic.Bool{}}
	s, err := store.Open(dir, store.Options{FS: fs, Logger: quiet, HangMax: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1); err != nil {
		t.Fatal(err)
	}
	fs.hang.Store(true)
	err = (&life{s: s}).ready(1, 11, 13, []byte("value"), true)
	if !errors.Is(err, store.ErrFatal) || !strings.Contains(err.Error(), "hangs") || !strings.Contains(err.Error(), dir) {
		t.Fatalf("a write to it: %v", err)
	}
	<-s.Failed()
	if err := (&life{s: s}).ready(2, 11, 13, []byte("value"), false); !errors.Is(err, store.ErrFatal) {
		t.Fatalf("the next write: %v", err)
	}
}
