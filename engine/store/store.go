// Package store keeps the raft logs and the applied state of every shard of a
// node in one ordered store, so that one fsync covers a batch of many shards.
//
// Store and Shard are what replica drives; KV is what they stand on: Pebble on
// real nodes (Open), the simulated disk of engine/store/simdisk in simulations (New).
// Every row of ours carries a version and a CRC-32C that covers its key; state
// rows belong to mvcc and are covered by the KV's own checksums.
package store

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"

	"banyan"
	"banyan/obs/metric"
)

// ErrFatal is wrapped by the error of a write or fsync that failed or hung, and
// by every error after it: what is on disk is unknown, so the process must end
// and open the store anew. It is never retried.
var ErrFatal = errors.New("the store has stopped")

const corruptRemedy = "if its shards have replicas on other nodes, " +
	"move this node's directory away and join as a new node; else restore it from a copy"

// Options has working defaults in its zero value.
type Options struct {
	FS         vfs.FS        // the real file system if nil
	Logger     *slog.Logger  // silent if nil
	CacheBytes int64         // block cache; 128 MiB if 0
	StageBytes int           // of a snapshot that comes in, held in memory; 256 KiB if 0
	Metrics    *metric.Set   // nil: none
	HangMax    time.Duration // a write that takes longer stops the store; banyan.DiskSilenceSecondsMax if 0
}

// Identity says whose data a store holds.
type Identity struct {
	Cluster string
	Node    banyan.NodeID
}

// Store holds the replicas of one node. Its methods may be called concurrently.
type Store struct {
	kv    KV
	log   *slog.Logger
	fatal atomic.Pointer[error]

	failed chan struct{} // closed when fatal is set

	stageBytes int

	states   atomic.Uint64 // the highest state id given out
	replicas atomic.Int32  // len(shards)
	mu       sync.Mutex
	shards   map[banyan.ShardID]*Shard
	identity Identity
}

// Open opens or creates the Pebble store in dir. It refuses a newer format
// (banyan.TooNew), damage (banyan.Corrupt), a directory that another process
// has open (banyan.Unavailable) and one that holds other files (banyan.Invalid).
func Open(dir string, o Options) (*Store, error) {
	if o.FS == nil {
		o.FS = vfs.Default
	}
	s := newStore(o)
	o.Logger = s.log
	kv, err := openPebble(dir, o, func(err error) { _ = s.fail(err) })
	if err != nil {
		return nil, err
	}
	return s.start(kv)
}

// New opens a store over any KV and owns it, also when it returns an error. Of
// the options, Logger and StageBytes count.
func New(kv KV, o Options) (*Store, error) {
	return newStore(o).start(kv)
}

func newStore(o Options) *Store {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.StageBytes == 0 {
		o.StageBytes = stageBytes
	}
	return &Store{log: o.Logger, stageBytes: o.StageBytes, failed: make(chan struct{})}
}

func (s *Store) start(kv KV) (*Store, error) {
	s.kv, s.shards = kv, map[banyan.ShardID]*Shard{}
	if err := s.load(); err != nil {
		return nil, errors.Join(err, kv.Close())
	}
	return s, nil
}

// Close closes the store after the last batch, view and stage are done.
func (s *Store) Close() error {
	return s.kv.Close()
}

// Err is the error that stopped the store (it wraps ErrFatal), or nil.
func (s *Store) Err() error {
	if err := s.fatal.Load(); err != nil {
		return *err
	}
	return nil
}

// Failed is closed when the store stops; Err then says why. End the process:
// work in the background, or a call that was not a write, may never return.
func (s *Store) Failed() <-chan struct{} { return s.failed }

// fail stops the store for good and gives the error that stopped it first.
func (s *Store) fail(err error) error {
	wrapped := fmt.Errorf("%w: %w", ErrFatal, err)
	if s.fatal.CompareAndSwap(nil, &wrapped) {
		close(s.failed)
	}
	return s.Err()
}

// commit is the only way anything is written.
func (s *Store) commit(b KVBatch, sync bool) error {
	if err := s.Err(); err != nil {
		b.Close()
		return err
	}
	if err := b.Commit(sync); err != nil {
		return s.fail(err)
	}
	return s.Err()
}

// Size is the number of bytes on disk, roughly.
func (s *Store) Size() int64 { return s.kv.Size() }

// Identity is what SetIdentity wrote; false if it was never called.
func (s *Store) Identity() (Identity, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.identity, s.identity != Identity{}
}

// SetIdentity writes the identity and waits for the disk. It is written once;
// another one is refused (banyan.Conflict).
func (s *Store) SetIdentity(id Identity) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.identity {
	case id:
		return nil
	case Identity{}:
	default:
		return banyan.Errorf(banyan.Conflict,
			"this store belongs to node %v of cluster %s, not to node %v of cluster %s: give another directory",
			s.identity.Node, s.identity.Cluster, id.Node, id.Cluster)
	}
	b, key := s.kv.NewBatch(), []byte{prefixIdentity}
	b.Set(key, encodeIdentity(key, id))
	if err := s.commit(b, true); err != nil {
		return err
	}
	s.identity = id
	return nil
}

// Note is what SetNote wrote last, nil if nothing: small things that this node
// must not forget and that are of no shard.
func (s *Store) Note(name string) ([]byte, error) {
	key := append([]byte{prefixNote}, name...)
	row, err := s.kv.Get(key)
	if err != nil || row == nil {
		return nil, err
	}
	value, err := openRow(key, row)
	if err != nil {
		return nil, s.damaged(err)
	}
	return value, nil
}

// SetNote replaces a note and waits for the disk.
func (s *Store) SetNote(name string, value []byte) error {
	b, key := s.kv.NewBatch(), append([]byte{prefixNote}, name...)
	b.Set(key, finishRow(key, append(startRow(nil), value...)))
	return s.commit(b, true)
}

// Shards lists, ascending, the replicas that have anything on this disk, also
// those that have only voted.
func (s *Store) Shards() []banyan.ShardID {
	var ids []banyan.ShardID
	for _, sh := range s.all() {
		sh.mu.RLock()
		if sh.m.exists {
			ids = append(ids, sh.id)
		}
		sh.mu.RUnlock()
	}
	slices.Sort(ids)
	return ids
}

func (s *Store) all() []*Shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	shards := make([]*Shard, 0, len(s.shards))
	for _, sh := range s.shards {
		shards = append(shards, sh)
	}
	return shards
}

// Tombstoned says whether the replica was destroyed here.
func (s *Store) Tombstoned(id banyan.ShardID) bool { return s.Shard(id).meta().tombstone }

// Bootstrap writes the first state of a new cluster's shards in one synced
// batch: voter alone, log starting after index 10 of term 1, all applied.
func (s *Store) Bootstrap(ids []banyan.ShardID, voter banyan.NodeID) error {
	b := s.NewBatch()
	for _, id := range ids {
		if sh := s.Shard(id).meta(); sh.exists || sh.tombstone {
			return banyan.Errorf(banyan.AlreadyExists, "shard %d is already on this disk: give an empty directory", id)
		}
		b.bootstrap(id, voter)
	}
	return b.Commit(true)
}

// Shard is the replica's log and state, empty if the disk has none. The same
// pointer is returned every time.
func (s *Store) Shard(id banyan.ShardID) *Shard {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.shards[id]
	if sh == nil {
		sh = &Shard{s: s, id: id, m: meta{at: s.place(id)}}
		s.shards[id] = sh
		s.replicas.Store(int32(len(s.shards)))
	}
	return sh
}
