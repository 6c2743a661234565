package store

import (
	"sync"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"banyan"
	"banyan/core/mvcc"
)

const (
	// Each shard keeps its newest log entries in memory, up to its share of
	// banyan.LogCacheBytesMax, of which there are at least this many.
	logCacheShares = 16

	entryMemoryBytes = 96 // of an entry beside its data, in memory
	entryWireBytes   = 32 // at most, of an entry beside its data, as raft counts
)

// Shard is one replica on this disk. It implements raft.Storage: entries and
// terms of the recent log come from memory. A batch's effect is seen here when
// its Commit has returned.
type Shard struct {
	s  *Store
	id banyan.ShardID

	// where is held while the place of the state rows changes (Install, Fork,
	// Destroy) and shared by those who read or commit them. Taken before mu.
	where sync.RWMutex

	mu        sync.RWMutex
	m         meta
	tail      []*raftpb.Entry // the end of the log, up to m.last; elements are never overwritten
	tailBytes int
}

var _ raft.Storage = (*Shard)(nil)

// meta is what is known of a replica, as far as it is committed:
// trunc ≤ applied ≤ last and commit ≤ last. What is applied was committed, but
// replica writes commit only with entries or a new term: it may be behind.
type meta struct {
	exists    bool // there is a descriptor row
	tombstone bool
	at        *layout // where the state rows lie; nil only while the store is loaded
	moves     uint64  // how often all of it was replaced; not on disk

	trunc, truncTerm     uint64 // the entry before the first of the log
	last                 uint64
	term, vote, commit   uint64 // the hard state
	applied, appliedTerm uint64
	conf                 *raftpb.ConfState
}

func (m *meta) committed() uint64 { return max(m.commit, m.applied) }

// check finds what no correct caller writes and no correct disk holds.
func (m *meta) check() string {
	switch {
	case m.trunc > m.applied:
		return "the log is truncated beyond what was applied"
	case m.applied > m.last:
		return "more is applied than in the log"
	case m.commit > m.last:
		return "more is committed than in the log"
	case m.applied > 0 && m.conf == nil:
		return "it has state but no configuration"
	}
	return ""
}

func (sh *Shard) meta() meta {
	sh.mu.RLock()
	defer sh.mu.RUnlock()
	return sh.m
}

// Applied is the index and term up to which the state has been applied.
func (sh *Shard) Applied() (index, term uint64) {
	m := sh.meta()
	return m.applied, m.appliedTerm
}

// ConfState is the configuration as of the applied index; do not modify it.
func (sh *Shard) ConfState() *raftpb.ConfState { return raftpb.EnsureConfState(sh.meta().conf) }

// InitialState implements raft.Storage. Commit covers what is applied.
func (sh *Shard) InitialState() (*raftpb.HardState, *raftpb.ConfState, error) {
	m := sh.meta()
	conf := raftpb.EnsureConfState(nil)
	if m.conf != nil {
		conf = proto.CloneOf(m.conf)
	}
	if m.term == 0 && m.vote == 0 && m.commit == 0 {
		return nil, conf, nil
	}
	commit := m.committed()
	return &raftpb.HardState{Term: &m.term, Vote: &m.vote, Commit: &commit}, conf, nil
}

// FirstIndex implements raft.Storage.
func (sh *Shard) FirstIndex() (uint64, error) { return sh.meta().trunc + 1, nil }

// LastIndex implements raft.Storage.
func (sh *Shard) LastIndex() (uint64, error) { return sh.meta().last, nil }

// Term implements raft.Storage.
func (sh *Shard) Term(i uint64) (uint64, error) {
	sh.mu.RLock()
	m, tail := sh.m, sh.tail
	sh.mu.RUnlock()
	switch {
	case i < m.trunc:
		return 0, raft.ErrCompacted
	case i == m.trunc:
		return m.truncTerm, nil
	case i > m.last:
		return 0, raft.ErrUnavailable
	case len(tail) > 0 && i >= tail[0].GetIndex():
		return tail[i-tail[0].GetIndex()].GetTerm(), nil
	}
	ents, err := sh.readLog(i, i+1, 0)
	if err != nil {
		return 0, err
	}
	return ents[0].GetTerm(), nil
}

// Entries implements raft.Storage.
func (sh *Shard) Entries(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	sh.mu.RLock()
	m, tail := sh.m, sh.tail
	sh.mu.RUnlock()
	switch {
	case lo <= m.trunc:
		return nil, raft.ErrCompacted
	case hi > m.last+1:
		return nil, raft.ErrUnavailable
	case lo >= hi:
		return nil, nil
	}
	cached := m.last + 1 - uint64(len(tail)) // index of the first entry in memory
	if lo >= cached {
		return limit(tail[lo-cached:hi-cached], maxSize), nil
	}
	ents, err := sh.readLog(lo, min(hi, cached), maxSize)
	if err != nil {
		return nil, err
	}
	if hi > cached && lo+uint64(len(ents)) == cached {
		ents = limit(append(ents, tail[:hi-cached]...), maxSize)
	}
	return ents, nil
}

// limit cuts ents to maxSize bytes but at least one entry, and its capacity so
// that appending to it copies.
func limit(ents []*raftpb.Entry, maxSize uint64) []*raftpb.Entry {
	var size uint64
	for i, e := range ents {
		size += uint64(len(e.GetData()) + entryWireBytes)
		if size > maxSize && i > 0 {
			return ents[:i:i]
		}
	}
	return ents[:len(ents):len(ents)]
}

// readLog reads entries [lo, hi) from disk until they exceed maxSize bytes.
func (sh *Shard) readLog(lo, hi, maxSize uint64) ([]*raftpb.Entry, error) {
	var (
		ents   []*raftpb.Entry
		size   uint64
		broken error
	)
	err := sh.s.kv.Scan(logKey(nil, sh.id, lo), logKey(nil, sh.id, hi), func(k, v []byte) bool {
		e, err := decodeEntry(k, v)
		if err != nil {
			broken = err
			return false
		}
		if e.GetIndex() != lo+uint64(len(ents)) {
			return false // a gap
		}
		size += uint64(len(e.GetData()) + entryWireBytes)
		if size > maxSize && len(ents) > 0 {
			return false
		}
		ents = append(ents, e)
		return size <= maxSize
	})
	switch {
	case err != nil:
		return nil, err
	case broken != nil:
		return nil, sh.damaged(broken)
	}
	if size <= maxSize && uint64(len(ents)) < hi-lo || len(ents) == 0 {
		if lo <= sh.meta().trunc {
			return nil, raft.ErrCompacted // truncated while we read
		}
		return nil, sh.damaged(banyan.Errorf(banyan.Corrupt, "log entry %d is missing", lo+uint64(len(ents))))
	}
	return ents, nil
}

// damaged names the shard and the remedy.
func (sh *Shard) damaged(err error) error {
	if banyan.IsKind(err, banyan.TooNew) {
		return banyan.Errorf(banyan.TooNew, "shard %d: %w", sh.id, err)
	}
	return banyan.Errorf(banyan.Corrupt, "the stored replica of shard %d is damaged: %w: %s", sh.id, err, corruptRemedy)
}

// Snapshot implements raft.Storage: the metadata of the applied state, no data.
func (sh *Shard) Snapshot() (*raftpb.Snapshot, error) {
	m := sh.meta()
	if m.applied == 0 {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: &m.applied, Term: &m.appliedTerm, ConfState: proto.CloneOf(m.conf),
	}}, nil
}

// remember puts new entries, contiguous with the log up to their first, at the
// end of the tail and keeps the tail within its share. mu is held.
func (sh *Shard) remember(ents []*raftpb.Entry) {
	if len(ents) > 0 && len(sh.tail) > 0 {
		first, next := sh.tail[0].GetIndex(), ents[0].GetIndex()
		keep := min(uint64(len(sh.tail)), max(next, first)-first)
		for _, e := range sh.tail[keep:] {
			sh.tailBytes -= len(e.GetData()) + entryMemoryBytes
		}
		if keep < uint64(len(sh.tail)) {
			sh.tail = sh.tail[:keep:keep] // raft may hold the elements after it
		}
	}
	for _, e := range ents {
		sh.tailBytes += len(e.GetData()) + entryMemoryBytes
	}
	sh.tail = append(sh.tail, ents...)
	sh.forget()
}

// forget drops from the front what was truncated or is too much.
func (sh *Shard) forget() {
	n, share := 0, banyan.LogCacheBytesMax/max(logCacheShares, int(sh.s.replicas.Load()))
	for n < len(sh.tail) && (sh.tail[n].GetIndex() <= sh.m.trunc ||
		sh.tailBytes > share && n < len(sh.tail)-1) {
		sh.tailBytes -= len(sh.tail[n].GetData()) + entryMemoryBytes
		n++
	}
	sh.tail = sh.tail[n:]
}

// Latest reads the newest committed state, each call for itself: two calls may
// see different commits. Get copies. For more than one row take a View.
func (sh *Shard) Latest() mvcc.Reader { return latest{sh} }

type latest struct{ sh *Shard }

func (l latest) rows() rows { return rows{r: l.sh.s.kv, at: l.sh.meta().at} }

func (l latest) Get(key []byte) ([]byte, error) {
	l.sh.where.RLock()
	defer l.sh.where.RUnlock()
	return l.rows().Get(key)
}

// Scan blocks Install and Destroy of the shard while it runs.
func (l latest) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	l.sh.where.RLock()
	defer l.sh.where.RUnlock()
	return l.rows().Scan(lo, hi, fn)
}
