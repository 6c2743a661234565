package store

import (
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"strings"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
)

// Each of Pebble's manifests and logs has a seal beside it: a file with the
// checksum of what was last synced of it. Pebble takes damage at the end of
// either for a write cut short, and a log that is gone for one that it has
// removed; it would silently forget an acknowledged write.
//
// A seal is not synced, but written only when what it is about was: one that is
// missing, older or damaged itself says less, never what is wrong. It is removed,
// and that synced, before its file is: a file that is gone while its seal is
// there was lost. The file itself is used once, whatever its number.
const (
	sealPrefix = "SEAL-" // then the name of the file

	sealBytes = 96 // of the seal, so that a new one covers the last
)

type seal struct {
	file string
	size int64
	sum  uint32
	used bool // synced more than once: of a manifest that is, or was, the one in use
}

func (s seal) encode() []byte {
	line := fmt.Appendf(nil, "banyan-seal 2 %s %d %08x %t", s.file, s.size, s.sum, s.used)
	line = fmt.Appendf(line, " %08x", crc32.Checksum(line, castagnoli()))
	return fmt.Appendf(nil, "%-*s\n", sealBytes-1, line)
}

// decodeSeal gives false for anything that encode did not make.
func decodeSeal(b []byte) (s seal, ok bool) {
	var sum uint32
	if len(b) != sealBytes {
		return seal{}, false
	}
	n, err := fmt.Sscanf(string(b), "banyan-seal 2 %s %d %x %t %x", &s.file, &s.size, &s.sum, &s.used, &sum)
	if n != 5 || err != nil || string(s.encode()) != string(b) {
		return seal{}, false
	}
	return s, true
}

const manifestPrefix = "MANIFEST-"

func isManifest(name string) bool { return strings.HasPrefix(name, manifestPrefix) }

// isSealed says whether a file has a seal.
func isSealed(name string) bool { return isManifest(name) || strings.HasSuffix(name, ".log") }

// sealedFile seals what is written to a new file, at every sync. Pebble uses
// such a file from one goroutine at a time.
type sealedFile struct {
	stopFile
	kept vfs.File // where the seal is
	seal seal
	sum  hash.Hash32
	had  bool // it was synced
}

// sealed wraps a new file; it has no seal yet, or one without content.
func (f stopFS) sealed(name string, file vfs.File) vfs.File {
	kept := f.open("create a file in", func() (vfs.File, error) {
		return f.FS.Create(f.sealOf(name), vfs.WriteCategoryUnspecified)
	})
	return &sealedFile{stopFile: stopFile{file, f}, kept: kept, seal: seal{file: f.PathBase(name)}, sum: crc32.New(castagnoli())}
}

func (f stopFS) sealOf(name string) string {
	return f.PathJoin(f.PathDir(name), sealPrefix+f.PathBase(name))
}

// unseal removes the seal of a file that is about to go, for good.
func (f stopFS) unseal(name string) error {
	if !isSealed(f.PathBase(name)) {
		return nil
	}
	if err := f.FS.Remove(f.sealOf(name)); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	f.syncDir(name)
	return nil
}

func (f *sealedFile) Write(p []byte) (int, error) {
	f.seal.size += int64(len(p))
	f.sum.Write(p)
	return f.stopFile.Write(p)
}

func (f *sealedFile) Sync() error {
	err := f.stopFile.Sync()
	f.write()
	return err
}

func (f *sealedFile) SyncData() error {
	err := f.stopFile.SyncData()
	f.write()
	return err
}

func (f *sealedFile) write() {
	f.seal.sum, f.seal.used, f.had = f.sum.Sum32(), f.had, true
	f.fs.do("write to", func() error {
		_, err := f.kept.WriteAt(f.seal.encode(), 0)
		return err
	})
}

func (f *sealedFile) Close() error { return errors.Join(f.stopFile.Close(), f.kept.Close()) }

// checkSeals compares files with their seals. manifest is the one that the
// marker names as in use, "" if there is no marker.
func (k *pebbleKV) checkSeals(manifest string) error {
	names, err := k.fs.List(k.dir)
	if err != nil {
		return k.explain("look at", err)
	}
	for _, name := range names {
		file, ok := strings.CutPrefix(name, sealPrefix)
		if !ok || !isSealed(file) {
			continue
		}
		b, err := k.readSeal(name)
		if err != nil {
			return k.explain("look at", err)
		}
		if s, ok := decodeSeal(b); ok && s.file == file {
			if err := k.checkSeal(s, manifest); err != nil {
				return err
			}
		}
	}
	return nil
}

// newer compares names of manifests, whose numbers have no fixed width.
func newer(a, b string) bool { return len(a) > len(b) || len(a) == len(b) && a > b }

func (k *pebbleKV) checkSeal(s seal, manifest string) error {
	switch {
	case manifest == "" && (s.used || !isManifest(s.file)): // a store that was never finished has neither
		return k.lost("its marker.manifest file is missing: nothing says which of its files count")
	case !isManifest(s.file) || s.file == manifest:
		return k.compare(s)
	case s.used && newer(s.file, manifest):
		return k.lost("it was in use with " + s.file + ", and its marker.manifest file now names the older " + manifest)
	}
	return nil
}

// compare reads a file and compares it with its seal.
func (k *pebbleKV) compare(s seal) error {
	f, err := k.fs.Open(k.fs.PathJoin(k.dir, s.file))
	if errors.Is(err, fs.ErrNotExist) {
		return k.lost(s.file + " is missing, which holds what was acknowledged")
	}
	if err != nil {
		return k.explain("look at", err)
	}
	defer f.Close()
	sum := crc32.New(castagnoli())
	n, err := io.CopyN(sum, f, s.size)
	if err != nil && !errors.Is(err, io.EOF) {
		return k.explain("look at", err)
	}
	if n < s.size || sum.Sum32() != s.sum {
		return k.lost(s.file + " is not what was written")
	}
	return nil
}

// lost says that the directory is not as this store left it.
func (k *pebbleKV) lost(what string) error {
	return banyan.Errorf(banyan.Corrupt, "the store in %s is damaged: %s: put the file back as it was; or, %s", k.dir, what, corruptRemedy)
}

func (k *pebbleKV) readSeal(name string) ([]byte, error) {
	f, err := k.fs.Open(k.fs.PathJoin(k.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, sealBytes+1))
}
