package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
)

// sealFile holds the checksum of what was last synced of Pebble's manifest:
// Pebble takes damage at the manifest's end for a write cut short and would
// silently forget tables. The seal is not synced, but only written when what it
// is about was: one that is missing, older or damaged itself says less.
const sealFile = "SEAL"

const sealBytesMax = 256

type seal struct {
	manifest string
	size     int
	sum      uint32
}

func (s seal) encode() []byte {
	line := fmt.Appendf(nil, "banyan-seal 1 %s %d %08x", s.manifest, s.size, s.sum)
	return fmt.Appendf(line, " %08x\n", crc32.Checksum(line, castagnoli()))
}

// decodeSeal gives false for anything that encode did not make.
func decodeSeal(b []byte) (s seal, ok bool) {
	var sum uint32
	if len(b) > sealBytesMax {
		return seal{}, false
	}
	n, err := fmt.Sscanf(string(b), "banyan-seal 1 %s %d %x %x\n", &s.manifest, &s.size, &s.sum, &sum)
	if n != 4 || err != nil || string(s.encode()) != string(b) {
		return seal{}, false
	}
	return s, true
}

// manifestFile seals the manifest as it grows.
type manifestFile struct {
	stopFile
	seal seal
}

func (f *manifestFile) Write(p []byte) (int, error) {
	f.seal.size += len(p)
	f.seal.sum = crc32.Update(f.seal.sum, castagnoli(), p)
	return f.stopFile.Write(p)
}

func (f *manifestFile) Sync() error {
	err := f.stopFile.Sync()
	f.fs.need(f.fs.k.write(f.seal))
	return err
}

// write replaces the seal. File systems may bring the new one to disk before
// its name: an empty one is possible, and says nothing.
func (k *pebbleKV) write(s seal) error {
	name := k.fs.PathJoin(k.dir, sealFile)
	f, err := k.fs.Create(name+".new", vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = f.Write(s.encode())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return k.fs.Rename(name+".new", name)
}

// checkSeal compares the manifest with the seal, if there is one of it.
func (k *pebbleKV) checkSeal(manifest string) error {
	b, err := k.readFile(k.fs.PathJoin(k.dir, sealFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return k.explain("look at", err)
	}
	s, ok := decodeSeal(b)
	if !ok || s.manifest != k.fs.PathBase(manifest) {
		return nil
	}
	if b, err = k.readFile(manifest); err != nil {
		return k.explain("look at", err)
	}
	if len(b) < s.size || crc32.Checksum(b[:s.size], castagnoli()) != s.sum {
		return banyan.Errorf(banyan.Corrupt, "the store in %s is damaged: %s is not what was written: %s",
			k.dir, s.manifest, corruptRemedy)
	}
	return nil
}

func (k *pebbleKV) readFile(path string) ([]byte, error) {
	f, err := k.fs.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
