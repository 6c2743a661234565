package store

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/bloom"
	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
)

const (
	// engineFormat is pinned: raising it rewrites stores so that older binaries
	// refuse them.
	engineFormat = pebble.FormatValueSeparation

	cacheBytesDefault = 128 << 20
	memTableBytes     = 32 << 20 // the upper bound; Pebble starts at 256 KiB
	manifestBytes     = 4 << 20  // then Pebble starts a new one
	arenaBytes        = 16 << 10 // values a batch has read
)

// pebbleKV implements KV. The disk's first failure is final: stopFS reports it
// and never gives it to Pebble, which would panic in places, try again for ever
// in others and in some carry on. What Pebble is asked to write therefore runs
// beside the caller, who leaves when stopped is closed; what hangs then ends
// with the process.
type pebbleKV struct {
	dir  string
	fs   vfs.FS
	db   *pebble.DB
	lock *pebble.Lock
	fail func(error) // stops the Store; any goroutine
	dog  *watchdog

	options *pebble.Options
	bulks   atomic.Uint64 // begun

	meter   meter
	closing sync.RWMutex // closed is set under it
	closed  bool

	stopOnce sync.Once
	stopped  chan struct{} // closed at the first failure
	why      error         // set before stopped is closed
}

var _ KV = (*pebbleKV)(nil)

func openPebble(dir string, o Options, fail func(error)) (_ *pebbleKV, err error) {
	k := &pebbleKV{dir: dir, fs: o.FS, fail: fail, meter: newMeter(o.Metrics), stopped: make(chan struct{})}
	if err := o.FS.MkdirAll(dir, 0o700); err != nil {
		return nil, k.explain("create", err)
	}
	if err := k.inspect(); err != nil {
		return nil, err
	}
	if k.lock, err = pebble.LockDirectory(dir, o.FS); err != nil {
		if fromOS(err) || vfs.IsNoSpaceError(err) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ENOLCK) {
			return nil, k.explain("lock", err)
		}
		return nil, banyan.Errorf(banyan.Unavailable,
			"%s is in use by another banyan process: stop that one, or give another directory with --dir", dir)
	}
	k.dog = watch(o.HangMax, func(what string, err error) { _ = k.stop(what, err) })
	k.options = k.engineOptions(o)
	k.options.EnsureDefaults()
	err = k.beside("open", func() error {
		if err := k.dropBulks(); err != nil {
			return err
		}
		db, err := pebble.Open(dir, k.options)
		if k.db = db; err != nil && !fromOS(err) {
			return errors.Join(pebble.ErrCorruption, err)
		}
		return err
	})
	if err != nil {
		k.dog.stop()
		k.lock.Close()
		return nil, err
	}
	o.Metrics.Read(k.readMeter)
	return k, nil
}

// fromOS tells errors of the operating system from Pebble's about what it read.
func fromOS(err error) bool {
	var path *fs.PathError
	var link *os.LinkError
	var call *os.SyscallError
	return !errors.Is(err, fs.ErrNotExist) && (errors.As(err, &path) || errors.As(err, &link) || errors.As(err, &call))
}

// beside runs fn, which writes, and waits for it or for the disk to fail.
func (k *pebbleKV) beside(what string, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		if err != nil {
			return k.explain(what, err)
		}
		return nil
	case <-k.stopped:
		return k.why
	}
}

// inspect looks at the directory without changing it.
func (k *pebbleKV) inspect() error {
	tooNew := func(what any) error {
		return banyan.Errorf(banyan.TooNew,
			"the store in %s has a newer engine format (%v), this binary (%s) knows %d: start the newer banyan that wrote it",
			k.dir, what, banyan.Version, engineFormat)
	}
	desc, err := pebble.Peek(k.dir, k.fs)
	switch {
	case err != nil && strings.Contains(err.Error(), "unknown format major version"):
		return tooNew(err)
	case err != nil:
		return k.explain("look at", err)
	case desc.Exists && desc.FormatMajorVersion > engineFormat:
		return tooNew(desc.FormatMajorVersion)
	case desc.Exists:
		return k.checkSeals(k.fs.PathBase(desc.ManifestFilename))
	}
	if err := k.checkSeals(""); err != nil {
		return err
	}
	names, err := k.fs.List(k.dir)
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
	for _, p := range []string{"LOCK", "MANIFEST-", "OPTIONS-", "marker.", "temporary.", sealPrefix, bulkPrefix} {
		if strings.HasPrefix(name, p) {
			return true
		}
	}
	number, isLog := strings.CutSuffix(name, ".log")
	return isLog && number != "" && strings.Trim(number, "0123456789") == ""
}

func (k *pebbleKV) engineOptions(o Options) *pebble.Options {
	if o.CacheBytes == 0 {
		o.CacheBytes = cacheBytesDefault
	}
	p := &pebble.Options{
		FS:                          stopFS{o.FS, k},
		Lock:                        k.lock,
		Logger:                      engineLog{o.Logger},
		FormatMajorVersion:          engineFormat,
		CacheSize:                   o.CacheBytes,
		MemTableSize:                memTableBytes,
		MemTableStopWritesThreshold: 4,
		L0StopWritesThreshold:       32,
		L0CompactionThreshold:       8, // a quarter less CPU for compactions than with 4
		MaxManifestFileSize:         manifestBytes,
		DisableTableStats:           true,
	}
	p.EventListener = &pebble.EventListener{
		BackgroundError: k.hang, // else Pebble tries again at once, for ever
		WriteStallBegin: func(info pebble.WriteStallBeginInfo) {
			k.meter.stalls.Inc()
			o.Logger.Warn("the store holds writes back until it has flushed or compacted", "reason", info.Reason)
		},
		DataCorruption: func(info pebble.DataCorruptionInfo) { _ = k.stop("read", info.Details) },
	}
	for i := range p.Levels {
		p.Levels[i].FilterPolicy = bloom.FilterPolicy(10)
	}
	return p
}

// stop makes a failure of the disk final.
func (k *pebbleKV) stop(what string, err error) error {
	err = k.explain(what, err)
	k.stopOnce.Do(func() {
		k.why = err
		k.fail(err)
		close(k.stopped)
	})
	return err
}

// hang stops the store and does not return to Pebble.
func (k *pebbleKV) hang(err error) {
	_ = k.stop("write to", err)
	select {}
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

// Close brings everything out of Pebble's log into tables, so that damage done
// to it while it is closed shows: at the end of a log damage and a write cut
// short look the same.
//
// After a failure Pebble and its lock stay as they are until the process ends.
func (k *pebbleKV) Close() error {
	k.closing.Lock()
	k.closed = true
	k.closing.Unlock()
	defer k.dog.stop()
	return k.beside("close", func() error {
		return errors.Join(k.db.Flush(), k.db.Close(), k.lock.Close())
	})
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

func (k *pebbleKV) NewBatch() KVBatch { return &pebbleBatch{k: k, b: k.db.NewBatch()} }

type pebbleBatch struct {
	k       *pebbleKV
	b       *pebble.Batch
	indexed bool   // b can be read
	err     error  // of the first write that was refused
	arena   []byte // copies of values handed out
}

// read gives the batch in a form that can be read, which it takes at the first
// read: most batches are only written.
func (b *pebbleBatch) read() (*pebble.Batch, error) {
	if b.indexed {
		return b.b, nil
	}
	indexed := b.k.db.NewIndexedBatch()
	if err := indexed.Apply(b.b, nil); err != nil {
		return nil, errors.Join(b.k.explain("read", err), indexed.Close())
	}
	written := b.b
	b.b, b.indexed = indexed, true
	return indexed, written.Close()
}

func (b *pebbleBatch) Get(key []byte) ([]byte, error) {
	r, err := b.read()
	if err != nil {
		return nil, err
	}
	v, closer, err := r.Get(key)
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
	r, err := b.read()
	if err != nil {
		return err
	}
	return b.k.scan(r, lo, hi, fn)
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

func (b *pebbleBatch) Commit(sync bool) error {
	pb := b.b
	b.b = nil
	if b.err != nil {
		return b.k.stop("write to", b.err)
	}
	if pb.Empty() {
		if !sync {
			return pb.Close()
		}
		// Pebble takes an empty batch for nothing to do; sync promises what came before.
		if err := pb.LogData(nil, nil); err != nil {
			return b.k.stop("write to", err)
		}
	}
	if sync {
		began := time.Now()
		defer func() { b.k.meter.synced(time.Since(began)) }()
	}
	return b.k.beside("write to", func() error {
		if err := pb.Commit(&pebble.WriteOptions{Sync: sync}); err != nil {
			return b.k.stop("write to", err)
		}
		return pb.Close()
	})
}

func (b *pebbleBatch) Close() {
	if b.b != nil {
		b.b.Close()
		b.b = nil
	}
}

// engineLog routes Pebble's messages to debug.
type engineLog struct{ log *slog.Logger }

func (l engineLog) Infof(format string, args ...any) {
	l.log.Debug("pebble: " + fmt.Sprintf(format, args...))
}

func (l engineLog) Errorf(format string, args ...any) { l.Infof(format, args...) }

// Fatalf is how Pebble ends when it finds itself broken.
func (l engineLog) Fatalf(format string, args ...any) {
	panic("pebble: " + fmt.Sprintf(format, args...))
}
