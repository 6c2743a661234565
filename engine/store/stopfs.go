package store

import (
	"github.com/cockroachdb/pebble/v2/vfs"
)

// stopFS stops the store when something cannot be written or synced, or does
// not return, and does not return from it. Failing to remove or to read is left to the caller.
type stopFS struct {
	vfs.FS
	k *pebbleKV
}

func (f stopFS) need(err error) {
	if err != nil {
		f.k.hang(err)
	}
}

// do runs what must not fail and must not hang.
func (f stopFS) do(what string, op func() error) {
	defer f.k.dog.begin(what)()
	f.need(op())
}

// open runs what gives a file.
func (f stopFS) open(what string, op func() (vfs.File, error)) (file vfs.File) {
	f.do(what, func() (err error) {
		file, err = op()
		return err
	})
	return file
}

// Create makes a manifest's name durable before Pebble writes the marker that
// names it; Pebble leaves their order to the file system.
func (f stopFS) Create(name string, c vfs.DiskWriteCategory) (vfs.File, error) {
	file := f.open("create a file in", func() (vfs.File, error) { return f.FS.Create(name, c) })
	if isManifest(f.PathBase(name)) {
		f.syncDir(name)
	}
	return f.new(name, file), nil
}

// syncDir makes durable which names are in the directory of a file.
func (f stopFS) syncDir(name string) {
	dir := f.open("open", func() (vfs.File, error) { return f.FS.OpenDir(f.PathDir(name)) })
	f.do("sync", dir.Sync)
	f.need(dir.Close())
}

// Remove removes a file's seal first, or neither.
func (f stopFS) Remove(name string) error {
	if err := f.unseal(name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

// new wraps a file that is written from its beginning.
func (f stopFS) new(name string, file vfs.File) vfs.File {
	if isSealed(f.PathBase(name)) {
		return f.sealed(name, file)
	}
	return stopFile{file, f}
}

func (f stopFS) OpenReadWrite(name string, c vfs.DiskWriteCategory, o ...vfs.OpenOption) (vfs.File, error) {
	file := f.open("open a file in", func() (vfs.File, error) { return f.FS.OpenReadWrite(name, c, o...) })
	return stopFile{file, f}, nil
}

func (f stopFS) ReuseForWrite(from, to string, c vfs.DiskWriteCategory) (vfs.File, error) {
	f.do("reuse a file in", func() error { return f.unseal(from) })
	file := f.open("reuse a file in", func() (vfs.File, error) { return f.FS.ReuseForWrite(from, to, c) })
	return f.new(to, file), nil
}

func (f stopFS) OpenDir(name string) (vfs.File, error) {
	return stopFile{f.open("open", func() (vfs.File, error) { return f.FS.OpenDir(name) }), f}, nil
}

func (f stopFS) Link(from, to string) error {
	f.do("link a file in", func() error { return f.FS.Link(from, to) })
	return nil
}

func (f stopFS) Rename(from, to string) error {
	f.do("rename a file in", func() error { return f.FS.Rename(from, to) })
	return nil
}

type stopFile struct {
	vfs.File
	fs stopFS
}

func (f stopFile) Write(p []byte) (n int, _ error) {
	f.fs.do("write to", func() (err error) {
		n, err = f.File.Write(p)
		return err
	})
	return n, nil
}

func (f stopFile) WriteAt(p []byte, at int64) (n int, _ error) {
	f.fs.do("write to", func() (err error) {
		n, err = f.File.WriteAt(p, at)
		return err
	})
	return n, nil
}

func (f stopFile) Sync() error {
	f.fs.do("sync", f.File.Sync)
	return nil
}

func (f stopFile) SyncData() error {
	f.fs.do("sync", f.File.SyncData)
	return nil
}

func (f stopFile) SyncTo(n int64) (full bool, _ error) {
	f.fs.do("sync", func() (err error) {
		full, err = f.File.SyncTo(n)
		return err
	})
	return full, nil
}
