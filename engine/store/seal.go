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

// A seal holds the checksum of what was last synced of Pebble's manifest, and
// of its log: Pebble takes damage at the end of either for a write cut short and
// would silently forget what followed, up to an acknowledged write. Seals are
// not synced, but written only when what they are about was: one that is
// missing, older or damaged itself says less, never what is wrong. Numbers in
// names of files are not used twice.
const (
	sealPrefix   = "SEAL-"
	sealManifest = sealPrefix + "manifest"
	sealLog      = sealPrefix + "log"

	sealBytes = 96 // of the file, so that a new one covers the last
)

type seal struct {
	file string
	size int64
	sum  uint32
}

func (s seal) encode() []byte {
	line := fmt.Appendf(nil, "banyan-seal 1 %s %d %08x", s.file, s.size, s.sum)
	line = fmt.Appendf(line, " %08x", crc32.Checksum(line, castagnoli()))
	return fmt.Appendf(nil, "%-*s\n", sealBytes-1, line)
}

// decodeSeal gives false for anything that encode did not make.
func decodeSeal(b []byte) (s seal, ok bool) {
	var sum uint32
	if len(b) != sealBytes {
		return seal{}, false
	}
	n, err := fmt.Sscanf(string(b), "banyan-seal 1 %s %d %x %x", &s.file, &s.size, &s.sum, &sum)
	if n != 4 || err != nil || string(s.encode()) != string(b) {
		return seal{}, false
	}
	return s, true
}

// sealOf names the seal of a file, "" if it has none.
func sealOf(name string) string {
	switch {
	case strings.HasPrefix(name, "MANIFEST-"):
		return sealManifest
	case strings.HasSuffix(name, ".log"):
		return sealLog
	}
	return ""
}

// sealedFile seals what is written to a new file, at every sync. Pebble uses
// such a file from one goroutine at a time.
type sealedFile struct {
	stopFile
	kept vfs.File // where the seal is
	name string
	size int64
	sum  hash.Hash32
}

func (f stopFS) sealed(name string, file vfs.File) vfs.File {
	base := f.PathBase(name)
	kept := f.open("open a file in", func() (vfs.File, error) {
		return f.FS.OpenReadWrite(f.PathJoin(f.PathDir(name), sealOf(base)), vfs.WriteCategoryUnspecified)
	})
	return &sealedFile{stopFile: stopFile{file, f}, kept: kept, name: base, sum: crc32.New(castagnoli())}
}

func (f *sealedFile) Write(p []byte) (int, error) {
	f.size += int64(len(p))
	f.sum.Write(p)
	return f.stopFile.Write(p)
}

func (f *sealedFile) Sync() error {
	err := f.stopFile.Sync()
	f.seal()
	return err
}

func (f *sealedFile) SyncData() error {
	err := f.stopFile.SyncData()
	f.seal()
	return err
}

func (f *sealedFile) seal() {
	f.fs.do("write to", func() error {
		_, err := f.kept.WriteAt(seal{f.name, f.size, f.sum.Sum32()}.encode(), 0)
		return err
	})
}

func (f *sealedFile) Close() error { return errors.Join(f.stopFile.Close(), f.kept.Close()) }

// checkSeals compares the manifest in use and the newest log with their seals.
func (k *pebbleKV) checkSeals(manifest string) error {
	names, err := k.fs.List(k.dir)
	if err != nil {
		return k.explain("look at", err)
	}
	newest := ""
	for _, name := range names {
		if sealOf(name) == sealLog && (len(name) > len(newest) || len(name) == len(newest) && name > newest) {
			newest = name
		}
	}
	return errors.Join(k.checkSeal(sealManifest, k.fs.PathBase(manifest)), k.checkSeal(sealLog, newest))
}

// checkSeal compares a file with its seal, if there is one of it.
func (k *pebbleKV) checkSeal(kept, file string) error {
	b, err := k.readSeal(kept)
	if err != nil {
		return k.explain("look at", err)
	}
	s, ok := decodeSeal(b)
	if !ok || s.file != file {
		return nil
	}
	f, err := k.fs.Open(k.fs.PathJoin(k.dir, file))
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
		return banyan.Errorf(banyan.Corrupt, "the store in %s is damaged: %s is not what was written: %s", k.dir, file, corruptRemedy)
	}
	return nil
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
