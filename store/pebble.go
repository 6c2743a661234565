package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
)

const (
	// engineFormat is pinned: raising it rewrites stores so that older binaries
	// refuse them.
	engineFormat = pebble.FormatValueSeparation

	cacheBytesDefault = 16 << 20
	memTableBytes     = 32 << 20 // the upper bound; Pebble starts at 256 KiB
	arenaBytes        = 16 << 10 // values a batch has read
)

// pebbleKV implements KV. Pebble reports some failures by Logger.Fatalf and by
// panics; engineStop carries them out of the goroutine that asked.
type pebbleKV struct {
	dir     string
	db      *pebble.DB
	lock    *pebble.Lock
	fail    func(error) // stops the Store; any goroutine
	fatal   func(error) // Options.Fatal
	opening atomic.Bool
	broken  atomic.Bool

	// mu covers the part of a commit that writes to the log and the memtable,
	// so that no other commit is inside Pebble's pipeline when one fails there:
	// it would wait for ever. Waiting for the disk is outside.
	mu sync.Mutex
}

var _ KV = (*pebbleKV)(nil)

type engineStop struct{ err error }

func openPebble(dir string, o Options, fail func(error)) (_ *pebbleKV, err error) {
	k := &pebbleKV{dir: dir, fail: fail, fatal: o.Fatal}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, k.explain("create", err)
	}
	if err := k.inspect(o.FS); err != nil {
		return nil, err
	}
	if k.lock, err = pebble.LockDirectory(dir, o.FS); err != nil {
		if vfs.IsNoSpaceError(err) || errors.Is(err, fs.ErrPermission) {
			return nil, k.explain("lock", err)
		}
		return nil, banyan.Errorf(banyan.Unavailable,
			"%s is in use by another banyan process: stop that one, or give another directory with --dir: %w", dir, err)
	}
	defer func() {
		if r := recover(); r != nil {
			stop, ok := r.(engineStop)
			if !ok {
				panic(r)
			}
			err = k.explain("open", stop.err)
		}
		if err != nil {
			k.lock.Close()
		}
	}()
	k.opening.Store(true)
	k.db, err = pebble.Open(dir, k.options(o))
	k.opening.Store(false)
	if err != nil {
		return nil, k.explain("open", err)
	}
	return k, nil
}

// inspect looks at the directory without changing it.
func (k *pebbleKV) inspect(f vfs.FS) error {
	desc, err := pebble.Peek(k.dir, f)
	if err != nil {
		return k.explain("look at", err)
	}
	if desc.Exists {
		if desc.FormatMajorVersion > engineFormat {
			return banyan.Errorf(banyan.TooNew,
				"the store in %s has engine format %d, this binary (%s) knows %d: start the newer banyan that wrote it",
				k.dir, desc.FormatMajorVersion, banyan.Version, engineFormat)
		}
		return nil
	}
	names, err := f.List(k.dir)
	if err != nil {
		return k.explain("look at", err)
	}
	for _, name := range names {
		if !engineFile(name) {
			return banyan.Errorf(banyan.Invalid,
				"%s holds other files (%s) and no banyan store: give an empty or a new directory", k.dir, name)
		}
	}
	return nil
}

// engineFile knows what a creation that was cut short leaves behind.
func engineFile(name string) bool {
	for _, p := range []string{"LOCK", "MANIFEST-", "OPTIONS-", "marker.", "temporary."} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	number, isLog := strings.CutSuffix(name, ".log")
	return isLog && number != "" && strings.Trim(number, "0123456789") == ""
}

func (k *pebbleKV) options(o Options) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = cacheBytesDefault
	}
	p := &pebble.Options{
		FS:                          o.FS,
		Lock:                        k.lock,
		Logger:                      engineLog{k, o.Logger},
		FormatMajorVersion:          engineFormat,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       32,
		DisableTableStats:           true,
	}
	// A disk that fails once is not trusted again, also where Pebble would retry.
	p.EventListener = &pebble.EventListener{BackgroundError: func(err error) { k.stop("write to", err) }}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// stop makes a failure of the disk final.
func (k *pebbleKV) stop(what string, err error) error {
	k.broken.Store(true)
	err = k.explain(what, err)
	k.fail(err)
	return err
}

func (k *pebbleKV) explain(what string, err error) error {
	switch {
	case vfs.IsNoSpaceError(err):
		return banyan.Errorf(banyan.Exhausted,
			"the disk under %s is full: free space there, then start banyan again; nothing acknowledged is lost: %w", k.dir, err)
	case pebble.IsCorruptionError(err):
		return banyan.Errorf(banyan.Corrupt, "the store in %s is damaged: %s: %w", k.dir, corruptRemedy, err)
	case errors.Is(err, fs.ErrPermission):
		return banyan.Errorf(banyan.PermissionDenied,
			"%s the store in %s: run banyan as the owner of that directory: %w", what, k.dir, err)
	}
	return banyan.Errorf(banyan.Internal,
		"%s the store in %s: check the disk, then start banyan again; nothing acknowledged is lost: %w", what, k.dir, err)
}

func (k *pebbleKV) Get(key []byte) ([]byte, error) { return k.get(k.db, key) }

func (k *pebbleKV) get(r pebble.Reader, key []byte) ([]byte, error) {
	v, closer, err := r.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, k.explain("read", err)
	}
	c := make([]byte, len(v))
	copy(c, v)
	closer.Close()
	return c, nil
}

func (k *pebbleKV) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	return k.scan(k.db, lo, hi, fn)
}

func (k *pebbleKV) scan(r pebble.Reader, lo, hi []byte, fn func(k, v []byte) bool) error {
	it, err := r.NewIter(&pebble.IterOptions{LowerBound: lo, UpperBound: hi})
	if err != nil {
		return k.explain("read", err)
	}
	for ok := it.First(); ok; ok = it.Next() {
		v, err := it.ValueAndErr()
		if err != nil {
			it.Close()
			return k.explain("read", err)
		}
		if !fn(it.Key(), v) {
			break
		}
	}
	if err := errors.Join(it.Error(), it.Close()); err != nil {
		return k.explain("read", err)
	}
	return nil
}

func (k *pebbleKV) Size() int64 { return int64(k.db.Metrics().DiskSpaceUsage()) }

func (k *pebbleKV) Snapshot() (KVSnapshot, error) { return pebbleSnapshot{k, k.db.NewSnapshot()}, nil }

// Close after a failure leaves Pebble as it is: parts of it may wait for ever
// for what failed. The process is expected to end.
func (k *pebbleKV) Close() error {
	if k.broken.Load() {
		return nil
	}
	err := errors.Join(k.db.Close(), k.lock.Close())
	if err != nil {
		return k.explain("close", err)
	}
	return nil
}

type pebbleSnapshot struct {
	k *pebbleKV
	s *pebble.Snapshot
}

func (s pebbleSnapshot) Get(key []byte) ([]byte, error) { return s.k.get(s.s, key) }

func (s pebbleSnapshot) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	return s.k.scan(s.s, lo, hi, fn)
}

func (s pebbleSnapshot) Close() { s.s.Close() }

func (k *pebbleKV) NewBatch() KVBatch { return &pebbleBatch{k: k, b: k.db.NewIndexedBatch()} }

type pebbleBatch struct {
	k     *pebbleKV
	b     *pebble.Batch
	err   error  // of the first write that was refused
	arena []byte // copies of values handed out
}

func (b *pebbleBatch) Get(key []byte) ([]byte, error) {
	v, closer, err := b.b.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, b.k.explain("read", err)
	}
	defer closer.Close()
	if len(v) > arenaBytes/4 {
		return bytes.Clone(v), nil
	}
	if cap(b.arena)-len(b.arena) < len(v) || b.arena == nil {
		b.arena = make([]byte, 0, arenaBytes)
	}
	n := len(b.arena)
	b.arena = append(b.arena, v...)
	return b.arena[n:len(b.arena):len(b.arena)], nil
}

func (b *pebbleBatch) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	return b.k.scan(b.b, lo, hi, fn)
}

func (b *pebbleBatch) keep(err error) {
	if b.err == nil {
		b.err = err
	}
}

func (b *pebbleBatch) Set(k, v []byte) { b.keep(b.b.Set(k, v, nil)) }
func (b *pebbleBatch) Delete(k []byte) { b.keep(b.b.Delete(k, nil)) }
func (b *pebbleBatch) DeleteRange(lo, hi []byte) {
	if bytes.Compare(lo, hi) < 0 {
		b.keep(b.b.DeleteRange(lo, hi, nil))
	}
}

func (b *pebbleBatch) Commit(sync bool) (err error) {
	defer b.Close()
	if b.err != nil {
		return b.k.stop("write to", b.err)
	}
	if b.b.Empty() {
		// Pebble takes an empty batch for nothing to do; sync promises what came before.
		if !sync {
			return nil
		}
		if err := b.b.LogData(nil, nil); err != nil {
			return b.k.stop("write to", err)
		}
	}
	if err := b.apply(sync); err != nil {
		return b.k.stop("write to", err)
	}
	if sync {
		if err := b.b.SyncWait(); err != nil {
			return b.k.stop("write to", err)
		}
	}
	return nil
}

func (b *pebbleBatch) apply(sync bool) (err error) {
	b.k.mu.Lock()
	defer b.k.mu.Unlock()
	if b.k.broken.Load() {
		return errors.New("an earlier write failed")
	}
	defer func() {
		switch r := recover().(type) {
		case nil:
		case engineStop:
			err = r.err
		case runtime.Error:
			panic(r)
		case error: // Pebble panics with the error of its log writer
			err = r
		default:
			panic(r)
		}
		if err != nil {
			b.k.broken.Store(true)
		}
	}()
	if sync {
		return b.k.db.ApplyNoSyncWait(b.b, pebble.Sync)
	}
	return b.k.db.Apply(b.b, pebble.NoSync)
}

// Close keeps its hands off a batch that Pebble may still hold after a failure.
func (b *pebbleBatch) Close() {
	if b.b != nil && !b.k.broken.Load() {
		b.b.Close()
	}
	b.b = nil
}

// engineLog routes Pebble's messages to debug.
type engineLog struct {
	k   *pebbleKV
	log *slog.Logger
}

func (l engineLog) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l engineLog) Errorf(format string, args ...any) { l.Infof(format, args...) }

// Fatalf does not return: Pebble would carry on as if what failed had worked,
// and delete the log that holds what it could not write.
func (l engineLog) Fatalf(format string, args ...any) {
	err := fmt.Errorf(format, args...)
	for _, a := range args {
		if cause, ok := a.(error); ok {
			err = cause
		}
	}
	if l.k.opening.Load() || strings.HasPrefix(format, "pebble: fatal commit error") {
		panic(engineStop{err})
	}
	err = l.k.stop("write to", err)
	if l.k.fatal != nil {
		l.k.fatal(err)
	}
	panic(err)
}
