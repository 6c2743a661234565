package store

import "banyan/core/mvcc"

// KV is the small storage interface under Store: an ordered map with atomic
// batches in one write-ahead order. Pebble implements it for real nodes,
// simdisk for the simulator; storetest holds both to the contract.
//
// After a crash the map is what a prefix of the committed batches made of it,
// and that prefix reaches at least to the last batch committed with sync.
// Methods may be called concurrently.
type KV interface {
	// Reader reads the newest committed state, each call for itself. Get
	// returns a copy.
	mvcc.Reader
	// NewBatch returns an empty batch; one goroutine uses it.
	NewBatch() KVBatch
	// NewBulk returns a bulk without rows; one goroutine uses it.
	NewBulk() KVBulk
	// Snapshot returns the committed state of this moment, unchanged by later
	// commits. It pins space until closed.
	Snapshot() (KVSnapshot, error)
	// Size is the number of bytes on disk, roughly.
	Size() int64
	// Close makes everything that was committed durable and releases the rest.
	Close() error
}

// KVBatch collects writes and reads through them to the committed state. The
// hi of DeleteRange is never nil; an empty range is nothing.
type KVBatch interface {
	mvcc.ReadWriter
	// Commit makes the writes visible, all or none, and with sync durable
	// together with everything committed before. The batch is spent whether or
	// not it fails; after an error the KV must not be written again.
	Commit(sync bool) error
	// Close drops an uncommitted batch; after Commit it does nothing.
	Close()
}

// KVBulk takes in many rows beside the batches, so that it does not hold them
// up. Nobody else writes between its first key and its last meanwhile. After a
// crash before Commit has returned any of the rows may be there.
type KVBulk interface {
	// Add adds rows, whose keys ascend from one to the next and from call to
	// call. It keeps none of the slices.
	Add(rows []KVRow) error
	// Commit makes the rows visible and durable. The bulk is spent; after an
	// error of Add or Commit the KV must not be written again.
	Commit() error
	// Close drops an uncommitted bulk and its rows; after Commit it does nothing.
	Close()
}

// KVRow is one row.
type KVRow struct{ Key, Value []byte }

// KVSnapshot is a fixed state. Several goroutines may read it.
type KVSnapshot interface {
	mvcc.Reader
	Close()
}
