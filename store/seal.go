package store

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
)

// sealFile holds the checksum of Pebble's manifest as it was when the store was
// closed: Pebble takes damage at the manifest's end for a write cut short and
// would silently forget tables. It is not synced; a seal that is missing,
// older or damaged itself says nothing, and the next opening outdates it.
const sealFile = "CLOSED"

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

func (k *pebbleKV) seal() error {
	desc, err := pebble.Peek(k.dir, k.fs)
	if err != nil {
		return err
	}
	b, err := k.readFile(desc.ManifestFilename)
	if err != nil {
		return err
	}
	f, err := k.fs.Create(k.fs.PathJoin(k.dir, sealFile), vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	s := seal{k.fs.PathBase(desc.ManifestFilename), len(b), crc32.Checksum(b, castagnoli())}
	_, err = f.Write(s.encode())
	return errors.Join(err, f.Close())
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
		return banyan.Errorf(banyan.Corrupt, "the store in %s is damaged: %s is not what it was when the store was closed: %s",
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
