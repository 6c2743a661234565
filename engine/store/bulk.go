package store

import (
	"context"
	"fmt"
	"strings"

	"github.com/cockroachdb/pebble/v2/objstorage/objstorageprovider"
	"github.com/cockroachdb/pebble/v2/sstable"
	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	bulkPrefix     = "BULK-" // begins the names of its files, which Pebble does not know
	bulkTableBytes = 64 << 20
	bulkSyncBytes  = 512 << 10 // written between syncs in the background: not all at the end
)

// pebbleBulk writes tables of its own, which Pebble then takes over as they
// are: the log is not written, no memtable filled, nothing flushed or compacted.
type pebbleBulk struct {
	k      *pebbleKV
	id     uint64
	files  []string
	table  *sstable.Writer
	closed bool
}

func (k *pebbleKV) NewBulk() KVBulk { return &pebbleBulk{k: k, id: k.bulks.Add(1)} }

func (b *pebbleBulk) Add(rows []KVRow) error {
	return b.k.beside("write to", func() error {
		for _, r := range rows {
			if b.table == nil {
				if err := b.begin(); err != nil {
					return err
				}
			}
			if err := b.table.Set(r.Key, r.Value); err != nil {
				return err
			}
			if b.table.Raw().EstimatedSize() >= bulkTableBytes {
				if err := b.end(); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (b *pebbleBulk) begin() error {
	fs := b.k.options.FS
	name := fs.PathJoin(b.k.dir, fmt.Sprintf("%s%d-%d", bulkPrefix, b.id, len(b.files)))
	file, err := fs.Create(name, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	b.files = append(b.files, name)
	file = vfs.NewSyncingFile(file, vfs.SyncingFileOptions{BytesPerSync: bulkSyncBytes})
	b.table = sstable.NewWriter(objstorageprovider.NewFileWritable(file), b.k.options.MakeWriterOptions(bottomLevel, engineFormat.MaxTableFormat()))
	return nil
}

// bottomLevel is where the tables will mostly come to lie.
const bottomLevel = 6

// end makes a table durable.
func (b *pebbleBulk) end() error {
	table := b.table
	b.table = nil
	if table == nil {
		return nil
	}
	return table.Close()
}

func (b *pebbleBulk) Commit() error {
	if err := b.k.beside("write to", func() error {
		if err := b.end(); err != nil || len(b.files) == 0 {
			return err
		}
		return b.k.db.Ingest(context.Background(), b.files)
	}); err != nil {
		return err
	}
	b.Close()
	return nil
}

func (b *pebbleBulk) Close() {
	select {
	case <-b.k.stopped: // Add may still be at it
		return
	default:
	}
	if b.closed {
		return
	}
	b.closed = true
	_ = b.k.beside("remove files of", func() error {
		if err := b.end(); err != nil {
			return err
		}
		for _, name := range b.files {
			_ = b.k.fs.Remove(name) // what stays goes when the store is opened
		}
		return nil
	})
}

// dropBulks removes what a bulk that did not end has left behind.
func (k *pebbleKV) dropBulks() error {
	names, err := k.fs.List(k.dir)
	if err != nil {
		return k.explain("look at", err)
	}
	for _, name := range names {
		if strings.HasPrefix(name, bulkPrefix) {
			if err := k.fs.Remove(k.fs.PathJoin(k.dir, name)); err != nil {
				return k.explain("remove files of", err)
			}
		}
	}
	return nil
}
