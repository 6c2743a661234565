package blob

import (
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"banyan"
	"banyan/core/sweep"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	tmpDir = "tmp" // chunks being written; of no worth after a crash
	badDir = "bad" // copies that did not match their name, kept for inspection

	writeBytes = 256 << 10 // written by one system call
)

// Disk keeps chunks as files DIR/ab/cdef…, named by their hash. A file appears
// under its name only when it is whole and synced.
type Disk struct {
	dir string
	of  string // whose it is, for errors
	fs  vfs.FS
	seq atomic.Uint64
	sem chan struct{} // bounds the chunks in memory: banyan.BlobTransfersMax

	hold          sync.Mutex
	holder        *sweep.Holder
	condemnedSize int64 // of its file

	mu   sync.Mutex
	made map[string]bool // fan-out directories known to exist durably; at most 258
}

var _ Store = (*Disk)(nil)

// OpenDisk opens the chunks in dir, creating it if need be. It looks at no
// chunk, so it costs the same for ten and for ten million. fs nil means the
// real file system. Two processes must not open one directory; the store's
// lock, taken earlier, sees to that.
func OpenDisk(dir string, fs vfs.FS) (*Disk, error) {
	if fs == nil {
		fs = vfs.Default
	}
	d := &Disk{dir: dir, fs: fs, sem: make(chan struct{}, banyan.BlobTransfersMax), made: map[string]bool{}}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return nil, d.failed("create", dir, err)
	}
	return d, d.loadCondemned()
}

// Of says whose chunks these are, which errors then name, as in "node n2".
func (d *Disk) Of(who string) *Disk {
	d.of = who
	return d
}

// acquire waits for one of the transfers that may be in memory at once.
func (d *Disk) acquire(ctx context.Context) (release func(), err error) {
	select {
	case d.sem <- struct{}{}:
		return func() { <-d.sem }, nil
	case <-ctx.Done():
		return nil, waitErr(ctx)
	}
}

// PutAs is Put for somebody who will refer to the chunk and knew an epoch before.
func (d *Disk) PutAs(ctx context.Context, epoch uint64, h banyan.Hash, data []byte) error {
	d.Learn(epoch)
	return d.Put(ctx, h, data)
}

// Put writes the chunk beside its place, syncs it, moves it there and syncs the
// directory. A copy that is there already is read and, if good, left alone.
func (d *Disk) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	if err := check(h, data); err != nil {
		return err
	}
	release, err := d.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := d.touch(0, h); err != nil {
		return err
	}
	if _, err := d.read(h); err == nil {
		return nil
	}
	sub, name := d.split(h)
	for _, dir := range []string{sub, tmpDir} {
		if err := d.ensure(dir); err != nil {
			return err
		}
	}
	tmp := d.fs.PathJoin(d.dir, tmpDir, name+"."+strconv.FormatUint(d.seq.Add(1), 10))
	if err := d.writeFile(tmp, data); err != nil {
		_ = d.fs.Remove(tmp) // best effort: tidy removes what this leaves
		return err
	}
	if err := d.fs.Rename(tmp, d.path(h)); err != nil {
		return d.failed("rename", tmp, err)
	}
	return d.syncDir(d.fs.PathJoin(d.dir, sub))
}

// Get reads a chunk. A file that does not match its name is moved aside, so
// that Has does not promise it again, and Corrupt is returned.
func (d *Disk) Get(ctx context.Context, h banyan.Hash) ([]byte, error) {
	release, err := d.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	data, err := d.read(h)
	if !banyan.IsKind(err, banyan.Corrupt) {
		return data, err
	}
	if aside := d.quarantine(h); aside != nil {
		return nil, errors.Join(err, aside)
	}
	return nil, err
}

// Has says whether a copy of the chunk is here, without reading it. Who will refer
// to it asks Check.
func (d *Disk) Has(h banyan.Hash) (bool, error) {
	_, err := d.fs.Stat(d.path(h))
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, os.ErrNotExist):
		return false, nil
	}
	return false, d.failed("look at", d.path(h), err)
}

// HasAll answers Has for each hash, in order.
func (d *Disk) HasAll(hs []banyan.Hash) ([]bool, error) {
	out := make([]bool, len(hs))
	for i, h := range hs {
		var err error
		if out[i], err = d.Has(h); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Delete removes this node's copy; a chunk that is not here is no error. It is
// for explicit decisions only.
func (d *Disk) Delete(h banyan.Hash) error {
	if err := d.fs.Remove(d.path(h)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return d.failed("remove", d.path(h), err)
	}
	return nil
}

// List calls fn with the hashes here, one directory (a 256th of all) at a time
// and in no set order within it. fn owns the slice.
func (d *Disk) List(ctx context.Context, fn func([]banyan.Hash) error) error {
	for i := range 256 {
		if err := ctx.Err(); err != nil {
			return waitErr(ctx)
		}
		sub := hex.EncodeToString([]byte{byte(i)})
		names, err := d.fs.List(d.fs.PathJoin(d.dir, sub))
		if errors.Is(err, os.ErrNotExist) {
			continue
		} else if err != nil {
			return d.failed("list", d.fs.PathJoin(d.dir, sub), err)
		}
		hashes := make([]banyan.Hash, 0, len(names))
		for _, n := range names {
			if h, err := banyan.ParseHash(sub + n); err == nil {
				hashes = append(hashes, h)
			}
		}
		if err := fn(hashes); err != nil {
			return err
		}
	}
	return nil
}

// tidy removes what a crash left half written. Opening does not do it (it would
// cost a directory walk); the background work does, unless writes already began.
func (d *Disk) tidy() error {
	d.mu.Lock() // Put goes through ensure(tmpDir) before it creates a file
	defer d.mu.Unlock()
	if d.made[tmpDir] {
		return nil
	}
	tmp := d.fs.PathJoin(d.dir, tmpDir)
	names, err := d.fs.List(tmp)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return d.failed("list", tmp, err)
	}
	for _, n := range names {
		if err := d.fs.Remove(d.fs.PathJoin(tmp, n)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return d.failed("remove", n, err)
		}
	}
	return nil
}

func (d *Disk) split(h banyan.Hash) (dir, name string) {
	s := h.String()
	return s[:2], s[2:]
}

func (d *Disk) path(h banyan.Hash) string {
	sub, name := d.split(h)
	return d.fs.PathJoin(d.dir, sub, name)
}

// read gives the checked bytes of a chunk: NotFound, Corrupt or an I/O error otherwise.
func (d *Disk) read(h banyan.Hash) ([]byte, error) {
	path := d.path(h)
	f, err := d.fs.Open(path, vfs.SequentialReadsOption)
	if errors.Is(err, os.ErrNotExist) {
		return nil, notFound(h, "on this node")
	} else if err != nil {
		return nil, d.failed("open", path, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, d.failed("look at", path, err)
	}
	corrupt := banyan.Errorf(banyan.Corrupt, "blob %v: the copy at %s does not match its hash", h, path)
	if info.Size() > banyan.BlobChunkBytes {
		return nil, corrupt
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, d.failed("read", path, err)
	}
	if Sum(data) != h {
		return nil, corrupt
	}
	return data, nil
}

func (d *Disk) quarantine(h banyan.Hash) error {
	if err := d.ensure(badDir); err != nil {
		return err
	}
	if err := d.fs.Rename(d.path(h), d.fs.PathJoin(d.dir, badDir, h.String())); err != nil && !errors.Is(err, os.ErrNotExist) {
		return d.failed("move aside", d.path(h), err)
	}
	return nil
}

// ensure makes a directory under dir durable before anything is put into it.
func (d *Disk) ensure(sub string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.made[sub] {
		return nil
	}
	path := d.fs.PathJoin(d.dir, sub)
	if err := d.fs.MkdirAll(path, 0o700); err != nil {
		return d.failed("create", path, err)
	}
	if len(d.made) == 0 { // the first since opening: dir itself may be new
		if err := d.syncDir(d.fs.PathDir(d.dir)); err != nil {
			return err
		}
	}
	if err := d.syncDir(d.dir); err != nil {
		return err
	}
	d.made[sub] = true
	return nil
}

func (d *Disk) writeFile(path string, data []byte) error {
	f, err := d.fs.Create(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return d.failed("create", path, err)
	}
	// A vfs.File may change what it is given to write, and data is not ours.
	scratch := make([]byte, 0, min(len(data), writeBytes))
	for piece := range slices.Chunk(data, writeBytes) {
		if _, err = f.Write(append(scratch, piece...)); err != nil {
			break
		}
	}
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return d.failed("write", path, err)
	}
	return nil
}

func (d *Disk) syncDir(path string) error {
	f, err := d.fs.OpenDir(path)
	if err != nil {
		return d.failed("open", path, err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return d.failed("sync", path, err)
	}
	return nil
}

// failed gives an operating-system error its kind.
func (d *Disk) failed(op, path string, err error) error {
	if vfs.IsNoSpaceError(err) {
		return banyan.Errorf(banyan.Exhausted, "disk full on %s (%s): free space there; nothing that was acknowledged is lost: %w", cmp.Or(d.of, "this machine"), d.dir, err)
	}
	return fmt.Errorf("blob: %s %s: %w", op, path, err)
}

// waitErr gives the kind of a context that ended while we waited.
func waitErr(ctx context.Context) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return banyan.Errorf(banyan.Timeout, "blob: not done in the time given: %w", context.Cause(ctx))
	}
	return banyan.Errorf(banyan.Canceled, "blob: given up: %w", context.Cause(ctx))
}
