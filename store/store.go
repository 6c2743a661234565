// Package store keeps the raft logs and the applied state of every shard of a
// node in one ordered store, so that one fsync covers a batch of many shards.
//
// Store and Shard are what replica drives; KV is what they stand on: Pebble on
// real nodes (Open), the simulated disk of store/simdisk in simulations (New).
// Every row of ours carries a version and a CRC-32C that covers its key.
package store

import (
	"errors"
	"log/slog"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/mvcc"
)

// ErrFatal is wrapped by the error of a write or fsync that failed, and by
// every error after it: what is on disk is unknown, so the process must end
// and open the store anew. It is never retried.
var ErrFatal = errors.New("the store has stopped")

// Options has working defaults in its zero value.
type Options struct {
	FS         vfs.FS       // the real file system if nil
	Logger     *slog.Logger // silent if nil
	CacheBytes int64        // block cache; 16 MiB if 0
}

// Identity says whose data a store holds.
type Identity struct {
	Cluster string
	Node    banyan.NodeID
}

// Store holds the replicas of one node. Its methods may be called concurrently.
type Store struct{}

// Open opens or creates the Pebble store in dir. It refuses a newer format
// (banyan.TooNew), damage (banyan.Corrupt), a directory that another process
// has open (banyan.Unavailable) and one that holds other files (banyan.Invalid).
func Open(dir string, o Options) (*Store, error) { panic("soon") }

// New opens a store over any KV and owns it, also when it returns an error.
func New(kv KV, log *slog.Logger) (*Store, error) { panic("soon") }

// Close closes the store after the last batch, view and stage are done.
func (s *Store) Close() error { panic("soon") }

// Err is the error that stopped the store (it wraps ErrFatal), or nil.
func (s *Store) Err() error { panic("soon") }

// Size is the number of bytes on disk, roughly.
func (s *Store) Size() int64 { panic("soon") }

// Identity is what SetIdentity wrote; false if it was never called.
func (s *Store) Identity() (Identity, bool) { panic("soon") }

// SetIdentity writes the identity and waits for the disk. It is written once;
// another one is refused (banyan.Conflict).
func (s *Store) SetIdentity(id Identity) error { panic("soon") }

// Shards lists, ascending, the replicas that have anything on this disk, also
// those that have only voted.
func (s *Store) Shards() []banyan.ShardID { panic("soon") }

// Tombstoned says whether the replica was destroyed here.
func (s *Store) Tombstoned(id banyan.ShardID) bool { panic("soon") }

// Bootstrap writes the first state of a new cluster's shards in one synced
// batch: voter alone, log starting after index 10 of term 1, all applied.
func (s *Store) Bootstrap(ids []banyan.ShardID, voter banyan.NodeID) error { panic("soon") }

// Shard is the replica's log and state, empty if the disk has none. The same
// pointer is returned every time.
func (s *Store) Shard(id banyan.ShardID) *Shard { panic("soon") }

// View is the shard's applied state as of now, fixed until closed.
func (s *Store) View(id banyan.ShardID) (*View, error) { panic("soon") }

// Stage begins to take in a snapshot of the shard beside its present state.
func (s *Store) Stage(id banyan.ShardID) (*Stage, error) { panic("soon") }

// NewBatch returns an empty batch. One goroutine uses it, as often as it likes.
func (s *Store) NewBatch() *Batch { panic("soon") }

// Shard is one replica on this disk. It implements raft.Storage: entries and
// terms of the recent log come from memory. A batch's effect is seen here when
// its Commit has returned.
type Shard struct{}

// Applied is the index and term up to which the state has been applied.
func (sh *Shard) Applied() (index, term uint64) { panic("soon") }

// ConfState is the configuration as of the applied index; do not modify it.
func (sh *Shard) ConfState() *raftpb.ConfState { panic("soon") }

// Latest reads the newest committed state, each call for itself: two calls may
// see different commits. Get copies. For more than one row take a View.
func (sh *Shard) Latest() mvcc.Reader { panic("soon") }

// InitialState implements raft.Storage.
func (sh *Shard) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) { panic("soon") }

// Entries implements raft.Storage.
func (sh *Shard) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) { panic("soon") }

// Term implements raft.Storage.
func (sh *Shard) Term(i uint64) (uint64, error) { panic("soon") }

// LastIndex implements raft.Storage.
func (sh *Shard) LastIndex() (uint64, error) { panic("soon") }

// FirstIndex implements raft.Storage.
func (sh *Shard) FirstIndex() (uint64, error) { panic("soon") }

// Snapshot implements raft.Storage: the metadata of the applied state, no data.
func (sh *Shard) Snapshot() (*raftpb.Snapshot, error) { panic("soon") }

// Batch collects writes to many shards; Commit makes them durable in one go and
// leaves the batch empty for the next use. Mistakes of the caller (a gap in the
// log, applied beyond commit, truncation beyond applied) are refused by Commit
// and nothing is written.
//
// At most one uncommitted batch may touch a shard's log (Append, SetHardState,
// Truncate), and at most one its state (State, SetApplied, SetConfState); one
// that calls Destroy or ClearTombstone must be the only one.
type Batch struct{}

// Append adds entries, removing a conflicting suffix of the log. Entries are
// kept and must not be modified afterwards.
func (b *Batch) Append(id banyan.ShardID, entries []*raftpb.Entry) { panic("soon") }

// SetHardState replaces term, vote and commit. An empty one is ignored.
func (b *Batch) SetHardState(id banyan.ShardID, hs *raftpb.HardState) { panic("soon") }

// SetApplied says what State now contains; it goes into the same batch.
func (b *Batch) SetApplied(id banyan.ShardID, index, term uint64) { panic("soon") }

// SetConfState goes into the batch of the SetApplied that applied the change.
func (b *Batch) SetConfState(id banyan.ShardID, cs *raftpb.ConfState) { panic("soon") }

// Truncate drops the log entries up to index, which must have been applied.
func (b *Batch) Truncate(id banyan.ShardID, index uint64) { panic("soon") }

// State is the shard's state rows inside this batch, valid until Commit.
func (b *Batch) State(id banyan.ShardID) mvcc.ReadWriter { panic("soon") }

// Destroy removes the replica and leaves a tombstone: until ClearTombstone
// nothing can be written to the shard here. The tombstone keeps term and vote.
func (b *Batch) Destroy(id banyan.ShardID) { panic("soon") }

// ClearTombstone lets the shard be placed here again, empty but for the term
// and vote it had: a replica must not vote twice in a term.
func (b *Batch) ClearTombstone(id banyan.ShardID) { panic("soon") }

// Empty says whether Commit would write nothing.
func (b *Batch) Empty() bool { panic("soon") }

// Commit writes everything atomically, waiting for the disk if sync. An error
// that wraps ErrFatal is final for the whole store. The batch is empty after.
func (b *Batch) Commit(sync bool) error { panic("soon") }

// Reset drops what was collected.
func (b *Batch) Reset() { panic("soon") }

// View is a shard's applied state at one moment. It reads rows (mvcc.Reader)
// and may be used by several goroutines; Close it soon, it pins disk space.
type View struct{}

// Get implements mvcc.Reader.
func (v *View) Get(key []byte) ([]byte, error) { panic("soon") }

// Scan implements mvcc.Reader.
func (v *View) Scan(lo, hi []byte, fn func(k, v []byte) bool) error { panic("soon") }

// AppliedIndex is the index up to which this state was applied.
func (v *View) AppliedIndex() uint64 { panic("soon") }

// Term is the term of the entry at AppliedIndex.
func (v *View) Term() uint64 { panic("soon") }

// ConfState is the configuration at AppliedIndex.
func (v *View) ConfState() *raftpb.ConfState { panic("soon") }

// Close releases the view.
func (v *View) Close() { panic("soon") }

// Stage takes in a snapshot. One goroutine uses it and ends it with Install or
// Abort; a crash before Install leaves nothing.
type Stage struct{}

// Put adds one row (copied). Bounded memory: rows go to disk, unsynced.
func (st *Stage) Put(key, value []byte) error { panic("soon") }

// Install replaces the shard's state by the staged rows and its log by nothing
// after index, atomically and synced. A nil hs keeps term and vote; commit is
// raised to index. No batch may touch the shard meanwhile.
func (st *Stage) Install(index, term uint64, conf *raftpb.ConfState, hs *raftpb.HardState) error {
	panic("soon")
}

// Abort drops the staged rows. After Install it does nothing.
func (st *Stage) Abort() { panic("soon") }
