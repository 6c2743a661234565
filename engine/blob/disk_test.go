package blob

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"

	"banyan"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"
)

func open(t *testing.T, fs vfs.FS) *Disk {
	t.Helper()
	d, err := OpenDisk("blobs", fs)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func put(t *testing.T, s Store, text string) banyan.Hash {
	t.Helper()
	h := Sum([]byte(text))
	if err := s.Put(t.Context(), h, []byte(text)); err != nil {
		t.Fatal(err)
	}
	return h
}

func wantText(t *testing.T, s Store, h banyan.Hash, text string) {
	t.Helper()
	got, err := s.Get(t.Context(), h)
	if err != nil || string(got) != text {
		t.Errorf("got %q, %v; want %q", got, err, text)
	}
}

// A crash keeps what was acknowledged, whatever of the rest the disk kept.
func TestCrashKeepsWhatWasAcknowledged(t *testing.T) {
	for seed := range uint64(20) {
		mem := vfs.NewCrashableMem()
		d := open(t, mem)
		var acked []string
		for i := range 5 {
			text := fmt.Sprint("chunk ", i)
			put(t, d, text)
			acked = append(acked, text)
		}
		after := mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed * 5), RNG: rand.New(rand.NewPCG(seed, 1))})
		d = open(t, after)
		for _, text := range acked {
			wantText(t, d, Sum([]byte(text)), text)
		}
	}
}

// Every operation on the disk fails once, in turn: Put says so, keeps what was
// there, and works when tried again.
func TestFailTheNthOperation(t *testing.T) {
	boom := errors.New("boom")
	for n := 1; ; n++ {
		mem := vfs.NewMem()
		put(t, open(t, mem), "before")
		count := 0
		d, err := OpenDisk("blobs", errorfs.Wrap(mem, errorfs.InjectorFunc(func(errorfs.Op) error {
			if count++; count == n {
				return boom
			}
			return nil
		})))
		text := "after"
		h := Sum([]byte(text))
		if err == nil {
			err = d.Put(t.Context(), h, []byte(text))
		}
		good := open(t, mem)
		wantText(t, good, Sum([]byte("before")), "before")
		if count < n {
			if err != nil {
				t.Fatalf("operation %d: no failure, yet %v", n, err)
			}
			if n < 8 {
				t.Fatalf("only %d operations were made to fail", n)
			}
			return
		}
		if err == nil {
			wantText(t, good, h, text) // a failure that did not matter
		} else if !errors.Is(err, boom) {
			t.Errorf("operation %d: the cause is lost: %v", n, err)
		}
		put(t, good, text)
		wantText(t, good, h, text)
	}
}

func TestCorruptionIsSeenAndMovedAside(t *testing.T) {
	mem := vfs.NewMem()
	d := open(t, mem)
	h := put(t, d, "good bytes")
	if err := d.writeFile(d.path(h), []byte("gooD bytes")); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Get(t.Context(), h); !banyan.IsKind(err, banyan.Corrupt) || !strings.Contains(err.Error(), h.String()) {
		t.Errorf("a flipped bit gives %v", err)
	}
	if has, err := d.Has(h); has || err != nil {
		t.Errorf("a bad copy still counts: %v, %v", has, err)
	}
	if bad, err := mem.List("blobs/bad"); len(bad) != 1 || err != nil {
		t.Errorf("the bad copy was not kept: %v, %v", bad, err)
	}
	h = put(t, d, "good bytes")
	wantText(t, d, h, "good bytes")
	if err := d.writeFile(d.path(h), []byte("gooD bytes")); err != nil {
		t.Fatal(err)
	}
	put(t, d, "good bytes") // mends without a Get before
	wantText(t, d, h, "good bytes")
}

func TestDiskFullSaysWhatToDo(t *testing.T) {
	d := open(t, errorfs.Wrap(vfs.NewMem(), errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpFileWrite {
			return &fs.PathError{Op: "write", Path: op.Path, Err: syscall.ENOSPC}
		}
		return nil
	})))
	err := d.Of("node n2").Put(t.Context(), Sum([]byte("x")), []byte("x"))
	if !banyan.IsKind(err, banyan.Exhausted) || !strings.Contains(err.Error(), "disk full on node n2 (") || !strings.Contains(err.Error(), "free space") || !strings.Contains(err.Error(), "blobs") {
		t.Errorf("got %v", err)
	}
}

func TestListAndSweep(t *testing.T) {
	mem := vfs.NewMem()
	d := open(t, mem)
	want := map[banyan.Hash]bool{}
	for i := range 50 {
		want[put(t, d, fmt.Sprint(i))] = true
	}
	if err := d.Delete(put(t, d, "gone")); err != nil {
		t.Fatal(err)
	}
	if err := d.writeFile("blobs/tmp/half.1", []byte("ha")); err != nil {
		t.Fatal(err)
	}
	if err := d.tidy(); err != nil {
		t.Fatal(err)
	}
	if names, _ := mem.List("blobs/tmp"); len(names) != 1 {
		t.Errorf("a sweep beside writes took %v", names)
	}
	d = open(t, mem)
	if err := d.tidy(); err != nil {
		t.Fatal(err)
	}
	if names, _ := mem.List("blobs/tmp"); len(names) != 0 {
		t.Errorf("the sweep left %v", names)
	}
	got := map[banyan.Hash]bool{}
	err := d.List(t.Context(), func(hs []banyan.Hash) error {
		for _, h := range hs {
			got[h] = true
		}
		return nil
	})
	if err != nil || len(got) != len(want) {
		t.Errorf("listed %d of %d, %v", len(got), len(want), err)
	}
}

// Opening costs the same whatever is there: it lists no directory.
func TestOpeningWalksNothing(t *testing.T) {
	mem := vfs.NewMem()
	put(t, open(t, mem), "x")
	open(t, errorfs.Wrap(mem, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if op.Kind == errorfs.OpList || op.Kind == errorfs.OpOpen && op.Path != "blobs/"+condemnedFile {
			t.Errorf("opening looks at %s", op.Path)
		}
		return nil
	})))
}
