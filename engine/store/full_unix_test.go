//go:build unix

package store_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/cockroachdb/pebble/v2/vfs/errorfs"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/storetest"
)

// TestPebbleFull: a full disk stops the store with a clear error, and what was
// acknowledged is there when it has space again.
func TestPebbleFull(t *testing.T) {
	fs := vfs.NewCrashableMem()
	var full atomic.Bool
	disk := errorfs.Wrap(fs, errorfs.InjectorFunc(func(op errorfs.Op) error {
		if full.Load() && op.Kind == errorfs.OpFileWrite && strings.HasSuffix(op.Path, ".log") {
			return syscall.ENOSPC
		}
		return nil
	}))
	s, err := store.Open(dir, store.Options{FS: disk, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	l := &life{s: s}
	if err := s.Bootstrap([]banyan.ShardID{1}, 1); err != nil {
		t.Fatal(err)
	}
	if err := l.ready(1, 11, 12, []byte("kept"), true); err != nil {
		t.Fatal(err)
	}
	want, err := storetest.Dump(s)
	if err != nil {
		t.Fatal(err)
	}
	full.Store(true)
	for range 2 {
		err := l.ready(1, 13, 13, []byte("too much"), true)
		says(t, err, banyan.Exhausted, dir, "full", "free space")
		if !errors.Is(err, store.ErrFatal) || !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("a full disk: %v", err)
		}
	}
	<-s.Failed()
	if err := s.Close(); err == nil {
		t.Fatal("Close of a stopped store says that all is well")
	}
	s, err = store.Open(dir, store.Options{FS: fs.CrashClone(vfs.CrashCloneCfg{}), Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got, err := storetest.Dump(s); got != want {
		t.Fatalf("after the disk was full\n%s\nwant\n%s\n%v", got, want, err)
	}
}
