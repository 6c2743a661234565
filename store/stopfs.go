package store

import (
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// stopFS stops the store when something cannot be written or synced, and does
// not return from it. Failing to remove or to read is left to the caller.
type stopFS struct {
	vfs.FS
	k *pebbleKV
}

func (f stopFS) need(err error) {
	if err != nil {
		f.k.hang(err)
	}
}

func (f stopFS) wrap(file vfs.File, err error) (vfs.File, error) {
	f.need(err)
	return stopFile{file, f}, nil
}

// Create makes a manifest's name durable before Pebble writes the marker that
// names it; Pebble leaves their order to the file system.
func (f stopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.Create(name, c)
	f.need(err)
	if strings.HasPrefix(f.PathBase(name), "MANIFEST-") {
		dir, err := f.FS.OpenDir(f.PathDir(name))
		f.need(err)
		f.need(dir.Sync())
		f.need(dir.Close())
	}
	return f.new(name, file), nil
}

// new wraps a file that is written from its beginning.
func (f stopFS) new(name string, file vfs.File) vfs.File {
	if sealOf(f.PathBase(name)) != "" {
		return f.sealed(name, file)
	}
	return stopFile{file, f}
}

func (f stopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	return f.wrap(f.FS.OpenReadWrite(name, c, o...))
}

func (f stopFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file, err := f.FS.ReuseForWrite(from, to, c)
	f.need(err)
	return f.new(to, file), nil
}

func (f stopFS) OpenDir(name string) (vfs.File, error) { return f.wrap(f.FS.OpenDir(name)) }

func (f stopFS) Link(from, to string) error {
	f.need(f.FS.Link(from, to))
	return nil
}

func (f stopFS) Rename(from, to string) error {
	f.need(f.FS.Rename(from, to))
	return nil
}

type stopFile struct {
	vfs.File
	fs stopFS
}

func (f stopFile) Write(p []byte) (int, error) {
	n, err := f.File.Write(p)
	f.fs.need(err)
	return n, nil
}

func (f stopFile) WriteAt(p []byte, at int64) (int, error) {
	n, err := f.File.WriteAt(p, at)
	f.fs.need(err)
	return n, nil
}

func (f stopFile) Sync() error {
	f.fs.need(f.File.Sync())
	return nil
}

func (f stopFile) SyncData() error {
	f.fs.need(f.File.SyncData())
	return nil
}

func (f stopFile) SyncTo(n int64) (bool, error) {
	full, err := f.File.SyncTo(n)
	f.fs.need(err)
	return full, nil
}
