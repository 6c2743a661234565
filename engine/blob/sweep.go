package blob

import (
	"context"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"slices"

	"banyan"
	"banyan/core/sweep"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// condemnedFile lists what is condemned, in records of one length: what was
// when the last sweep ended, and behind that what has been freed since. Losing
// it only has chunks stay longer.
const (
	condemnedFile   = "condemned"
	condemnedRecord = 8 + 32 + 4 // since which epoch (0: freed), the hash, a checksum
)

// Marks calls fn with every chunk that rows refer to and whose hash begins with a
// byte of [from, to]. It reads every shard, each at one revision behind its fence
// of the epoch, or fails.
type Marks func(ctx context.Context, epoch uint64, from, to byte, fn func(banyan.Hash)) error

// Swept is what a sweep did on this node.
type Swept struct {
	Epoch     uint64
	Chunks    int   // looked at
	Condemned int   // now
	Gone      int   // removed
	Freed     int64 // bytes
}

// Epoch is the latest epoch of sweeping that this node knows.
func (d *Disk) Epoch() uint64 {
	d.hold.Lock()
	defer d.hold.Unlock()
	return d.holder.Epoch()
}

// Learn tells of an epoch.
func (d *Disk) Learn(epoch uint64) {
	d.hold.Lock()
	defer d.hold.Unlock()
	d.holder.Learn(epoch)
}

// Condemned says whether nothing referred to a chunk when that was last looked at.
func (d *Disk) Condemned(h banyan.Hash) bool {
	d.hold.Lock()
	defer d.hold.Unlock()
	return d.holder.Condemned(h) != 0
}

// Check says which chunks are here, to somebody who will refer to them and knew
// an epoch before he asked.
func (d *Disk) Check(epoch uint64, hs []banyan.Hash) ([]bool, error) {
	if err := d.touch(epoch, hs...); err != nil {
		return nil, err
	}
	return d.HasAll(hs)
}

// touch ends that chunks are condemned, before anybody is told that they are here.
func (d *Disk) touch(epoch uint64, hs ...banyan.Hash) error {
	d.hold.Lock()
	defer d.hold.Unlock()
	d.holder.Learn(epoch)
	return d.free(hs)
}

// free has chunks condemned no longer, durably. The lock is held.
func (d *Disk) free(hs []banyan.Hash) error {
	var b []byte
	for _, h := range hs {
		if d.holder.Condemned(h) != 0 {
			b = appendCondemned(b, 0, h)
		}
	}
	if len(b) == 0 {
		return nil
	}
	path := d.fs.PathJoin(d.dir, condemnedFile)
	f, err := d.fs.OpenReadWrite(path, vfs.WriteCategoryUnspecified)
	if err != nil {
		return d.failed("open", path, err)
	}
	if _, err = f.WriteAt(b, d.condemnedSize); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return d.failed("write", path, err)
	}
	d.condemnedSize += int64(len(b))
	for _, h := range hs {
		d.holder.Free(h)
	}
	return nil
}

func appendCondemned(b []byte, since uint64, h banyan.Hash) []byte {
	at := len(b)
	b = binary.BigEndian.AppendUint64(b, since)
	b = append(b, h[:]...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[at:]))
}

// loadCondemned reads what is condemned. A list that is damaged counts for
// nothing: chunks are then condemned anew.
func (d *Disk) loadCondemned() error {
	d.holder = sweep.NewHolder(nil)
	path := d.fs.PathJoin(d.dir, condemnedFile)
	f, err := d.fs.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return d.failed("open", path, err)
	}
	b, err := io.ReadAll(f)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return d.failed("read", path, err)
	}
	condemned := map[banyan.Hash]uint64{}
	for ; len(b) >= condemnedRecord; b = b[condemnedRecord:] {
		since, h := binary.BigEndian.Uint64(b), banyan.Hash(b[8:40])
		if crc32.ChecksumIEEE(b[:40]) != binary.BigEndian.Uint32(b[40:]) {
			condemned = nil
			break
		}
		if condemned[h] = since; since == 0 {
			delete(condemned, h)
		}
	}
	d.holder = sweep.NewHolder(condemned)
	return d.saveCondemned() // without what is torn
}

// saveCondemned replaces the list. The lock is held, or nobody else is there yet.
func (d *Disk) saveCondemned() error {
	var b []byte
	for h, since := range d.holder.All() {
		b = appendCondemned(b, since, h)
	}
	path := d.fs.PathJoin(d.dir, condemnedFile)
	if err := d.writeFile(path+".new", b); err != nil {
		return err
	}
	if err := d.fs.Rename(path+".new", path); err != nil {
		return d.failed("rename", path, err)
	}
	d.condemnedSize = int64(len(b))
	return d.syncDir(d.dir)
}

// Sweep looks which chunks here nothing refers to in an epoch, which the caller
// has just read from the root shard: it condemns them, and removes those that
// are condemned for long enough. It is told that some could not be looked at by
// an error, and then has removed nothing of those.
func (d *Disk) Sweep(ctx context.Context, epoch uint64, marks Marks) (s Swept, err error) {
	d.Learn(epoch)
	s.Epoch = epoch
	chunks, from := map[banyan.Hash]bool{}, 0
	judge := func(to int) error {
		if len(chunks) == 0 {
			return nil
		}
		err := marks(ctx, epoch, byte(from), byte(to), func(h banyan.Hash) {
			if _, here := chunks[h]; here {
				chunks[h] = true
			}
		})
		if err == nil {
			err = d.judge(ctx, epoch, chunks, &s)
		}
		clear(chunks)
		from = to + 1
		return err
	}
	at := 0
	err = d.List(ctx, func(hs []banyan.Hash) error {
		for _, h := range hs {
			at = int(h[0])
			chunks[h] = false
		}
		s.Chunks += len(hs)
		if len(chunks) < banyan.SweepChunksMax {
			return nil
		}
		return judge(at)
	})
	if err == nil {
		err = judge(255)
	}
	d.hold.Lock()
	defer d.hold.Unlock()
	if err == nil {
		err = d.saveCondemned()
	}
	s.Condemned = d.holder.Len()
	return s, err
}

// judge carries out what the marks say of chunks.
func (d *Disk) judge(ctx context.Context, epoch uint64, chunks map[banyan.Hash]bool, s *Swept) error {
	var spared, gone []banyan.Hash
	d.hold.Lock()
	for h, marked := range chunks {
		switch d.holder.Judge(epoch, h, marked) {
		case sweep.Spare:
			spared = append(spared, h)
		case sweep.Condemn:
			if d.holder.Len() < banyan.SweepChunksMax { // else in a later epoch
				d.holder.Condemn(h)
			}
		case sweep.Go:
			gone = append(gone, h)
		case sweep.Keep:
		}
	}
	err := d.free(spared)
	d.hold.Unlock()
	for some := range slices.Chunk(gone, removeAtOnce) {
		if err == nil && ctx.Err() != nil {
			err = waitErr(ctx)
		}
		if err == nil {
			err = d.removeAll(epoch, some, s)
		}
	}
	return err
}

// removeAtOnce is how many chunks are removed while those who touch some wait.
const removeAtOnce = 128

// removeAll removes those of some chunks that nobody has touched since they were
// judged. That they are condemned no longer is on the disk first: what is stored
// again after it may not be taken for what was here before. The lock is not
// released in between, or one could be found here by somebody and then be gone.
func (d *Disk) removeAll(epoch uint64, chunks []banyan.Hash, s *Swept) error {
	d.hold.Lock()
	defer d.hold.Unlock()
	chunks = slices.DeleteFunc(chunks, func(h banyan.Hash) bool { return d.holder.Judge(epoch, h, false) != sweep.Go })
	if err := d.free(chunks); err != nil {
		return err
	}
	for _, h := range chunks {
		size, err := d.remove(h)
		if err != nil {
			return err
		}
		if size >= 0 {
			s.Gone++
			s.Freed += size
		}
	}
	return nil
}

// remove deletes a chunk and gives its size, -1 if it is not there.
func (d *Disk) remove(h banyan.Hash) (size int64, err error) {
	info, err := d.fs.Stat(d.path(h))
	if errors.Is(err, os.ErrNotExist) {
		return -1, nil
	} else if err != nil {
		return 0, d.failed("look at", d.path(h), err)
	}
	return info.Size(), d.Delete(h)
}
