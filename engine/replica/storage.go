package replica

import (
	"errors"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan/engine/store"
)

// StorageError is what Core's methods panic with when the log cannot be read:
// raft has no other way to stop. Host.Run returns it; any other panic is a
// broken invariant and ends the process.
type StorageError struct{ Err error }

// Error gives the store's message.
func (e *StorageError) Error() string { return "reading the log: " + e.Err.Error() }

// Unwrap gives the store's error.
func (e *StorageError) Unwrap() error { return e.Err }

// storage is a shard's log as raft reads it: errors that raft does not expect
// are thrown from here, and so look the same wherever raft reads.
type storage struct{ *store.Shard }

var _ raft.Storage = storage{}

func must(err error) error {
	if err == nil || errors.Is(err, raft.ErrCompacted) || errors.Is(err, raft.ErrUnavailable) || errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		return err
	}
	panic(&StorageError{err})
}

// Entries implements raft.Storage.
func (s storage) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	es, err := s.Shard.Entries(lo, hi, maxSize)
	return es, must(err)
}

// Term implements raft.Storage.
func (s storage) Term(i uint64) (uint64, error) {
	t, err := s.Shard.Term(i)
	return t, must(err)
}

// Snapshot implements raft.Storage.
func (s storage) Snapshot() (*raftpb.Snapshot, error) {
	m, err := s.Shard.Snapshot()
	return m, must(err)
}

// caught makes a StorageError that was thrown the function's error.
func caught(err *error) {
	switch thrown := recover().(type) {
	case nil:
	case *StorageError:
		*err = thrown
	default:
		panic(thrown)
	}
}
