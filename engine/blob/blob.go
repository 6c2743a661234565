// Package blob keeps immutable chunks of bytes, each named by its BLAKE3-256
// hash: Disk on this node, Replicated over as many nodes as the replication
// factor says. Files of any size are lists of chunks (Write, Read).
//
// A row of the replicated machine points at a chunk only after Put returned, so
// only after enough copies were on disk. Every read is checked against the
// name; a bad copy is mended from a good one. Nothing is deleted because it looks
// unused: what may go, and when, is the rule of package core/sweep.
package blob

import (
	"context"

	"banyan"

	"github.com/zeebo/blake3"
)

// Store keeps chunks. Implementations: Disk, Replicated, Memory; all pass the
// suite in engine/blob/blobtest. Both methods may block and may be called by many
// goroutines at once.
type Store interface {
	// Put stores a chunk under its hash and returns when it is durable. It
	// does not keep data. Storing a chunk again is no error and mends a copy
	// that went bad. Errors: Invalid when data does not hash to h or is longer
	// than banyan.BlobChunkBytes, Exhausted when the disk is full, Unavailable
	// when too few copies could be made.
	Put(ctx context.Context, h banyan.Hash, data []byte) error

	// Get reads a chunk; the caller owns the slice. Errors: NotFound when no
	// copy exists, Corrupt when the only copies are bad, Unavailable when
	// nodes that may have it did not answer.
	Get(ctx context.Context, h banyan.Hash) ([]byte, error)
}

// Sum gives the name of a chunk.
func Sum(data []byte) banyan.Hash { return blake3.Sum256(data) }

// check refuses what must not be stored under h.
func check(h banyan.Hash, data []byte) error {
	if len(data) > banyan.BlobChunkBytes {
		return banyan.Errorf(banyan.Invalid, "a chunk of %d bytes is too long: cut it into chunks of at most %d bytes", len(data), banyan.BlobChunkBytes)
	}
	if Sum(data) != h {
		return banyan.Errorf(banyan.Invalid, "the bytes sent do not hash to %v: they were changed on the way or the hash is of something else; send them again", h)
	}
	return nil
}

func notFound(h banyan.Hash, where string) error {
	return banyan.Errorf(banyan.NotFound, "no blob %v %s", h, where)
}
