//go:build soak

package cli

import (
	"context"
	"flag"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"banyan/client"
	"banyan/node/exec"
	"banyan/node/server"
	"banyan/node/worker"
)

var streamLines = flag.Int("stream-lines", 5_000_000, "lines that the stream has")

// atOnce runs attempts without running anything.
type atOnce struct {
	*exec.Runner
	ran atomic.Int64
}

func (r *atOnce) Run(context.Context, *exec.Place, exec.Command) exec.Result {
	r.ran.Add(1)
	return exec.Result{Start: time.Now()}
}

// TestAStreamHasNoEnd: go test -tags soak ./cli -run AStreamHasNoEnd -v -timeout 2h [-stream-lines N]
//
// It runs many tasks that do nothing, through all but the processes: the command,
// its node, the store on disk. Memory and disk of the whole are to stay bounded.
func TestAStreamHasNoEnd(t *testing.T) {
	dir := t.TempDir()
	fake := &atOnce{}
	srv, err := server.New(server.Config{
		Dir: filepath.Join(dir, "node"), Embedded: true, Slots: 256, DiskReserveBytes: -1, Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		Runner: func(r *exec.Runner) worker.Runner { fake.Runner = r; return fake },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	<-srv.Ready()
	c, err := client.Open(client.Config{Transport: client.InProcess(srv.Handler())})
	if err != nil {
		t.Fatal(err)
	}
	s := &session{Client: c, local: true, stop: c.Close}

	done := make(chan struct{})
	var heap, disk uint64
	began := time.Now()
	look := func() (h, d uint64) {
		var m runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc, sizeOf(t, dir)
	}
	go func() {
		defer close(done)
		for i := 1; ctx.Err() == nil; i++ {
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
			}
			h, d := look()
			heap, disk = max(heap, h), max(disk, d)
			if i%10 == 0 {
				n := fake.ran.Load()
				t.Logf("%9d tasks, %6.0f/s: heap %4d MiB, disk %5d MiB", n, float64(n)/time.Since(began).Seconds(), h>>20, d>>20)
			}
		}
	}()
	errs, code := runWith(t, s, &numbers{to: *streamLines}, io.Discard, "run", "--progress", "none", "--workdir", dir, "true")
	took := time.Since(began)
	cancel()
	<-done
	if code != 0 || fake.ran.Load() < int64(*streamLines) {
		t.Fatalf("exit %d after %d tasks: %s", code, fake.ran.Load(), errs)
	}
	t.Logf("%d tasks in %v, %.0f/s: at most heap %d MiB, disk %d MiB", *streamLines, took.Round(time.Second), float64(*streamLines)/took.Seconds(), heap>>20, disk>>20)
	if heap > 512<<20 || disk > 2<<30 {
		t.Errorf("at most heap %d MiB and disk %d MiB, which is not bounded", heap>>20, disk>>20)
	}
}

// sizeOf is what a directory holds; files come and go while it looks.
func sizeOf(t *testing.T, dir string) (n uint64) {
	t.Helper()
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				n += uint64(info.Size())
			}
		}
		return nil
	})
	return n
}
