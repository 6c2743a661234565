package store

import (
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// stageBatchBytes is how much of a snapshot is held in memory at a time.
const stageBatchBytes = 1 << 20

// Stage takes in a snapshot. One goroutine uses it and ends it with Install or
// Abort; a crash before Install leaves nothing.
type Stage struct {
	sh      *Shard
	gen     uint32
	moves   uint64 // of the shard when the stage began
	kv      KVBatch
	bytes   int
	flushed bool // rows are in the KV
}

// Stage begins to take in a snapshot of the shard beside its present state.
func (s *Store) Stage(id banyan.ShardID) (*Stage, error) {
	if err := s.Err(); err != nil {
		return nil, err
	}
	sh := s.Shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.m.tombstone {
		return nil, banyan.Errorf(banyan.NotFound, "the replica of shard %d was removed from this node", id)
	}
	return &Stage{sh: sh, gen: sh.newGeneration(), moves: sh.m.moves}, nil
}

// newGeneration is one that no state row has. mu is held.
func (sh *Shard) newGeneration() uint32 {
	sh.genMax = max(sh.genMax, sh.m.gen) + 1
	return sh.genMax
}

// Put adds one row (copied). Memory is bounded: rows go to disk, unsynced.
func (st *Stage) Put(key, value []byte) error {
	if st.kv == nil {
		st.kv = st.sh.s.kv.NewBatch()
	}
	st.kv.Set(append(statePrefix(st.sh.id, st.gen), key...), value)
	st.bytes += len(key) + len(value)
	if st.bytes < stageBatchBytes {
		return nil
	}
	kv := st.kv
	st.kv, st.bytes, st.flushed = nil, 0, true
	return st.sh.s.commit(kv, false)
}

// Current says whether the shard is still the one the stage was made for: not
// destroyed, taken back or installed since. Another one can only be aborted.
func (st *Stage) Current() bool { return st.sh.meta().moves == st.moves }

// Install replaces the shard's state by the staged rows and its log by nothing
// after index, atomically and synced. Term and vote are those of hs, kept if it
// is nil; commit is index, also if hs says more: a Ready that brings entries
// after the snapshot appends them, with its hard state, in the next batch.
//
// No batch may touch the shard meanwhile. Of several stages of a shard the
// first to be installed wins, the others are refused (banyan.Stale). After an
// error the stage is aborted.
func (st *Stage) Install(index, term uint64, conf *raftpb.ConfState, hs *raftpb.HardState) error {
	defer st.Abort()
	b := st.sh.s.NewBatch()
	defer b.Reset()
	b.kv, st.kv = st.kv, nil
	c := b.touch(st.sh.id)
	if c.m.moves != st.moves {
		return banyan.Errorf(banyan.Stale, "shard %d was replaced while its snapshot came in: send a new one", st.sh.id)
	}
	if index < c.m.committed() {
		b.refuse(c, "the snapshot is older than what is committed")
	}
	b.SetHardState(st.sh.id, hs)
	b.SetConfState(st.sh.id, conf)
	c.m.exists, c.m.gen, c.moved = true, st.gen, true
	c.m.trunc, c.m.truncTerm, c.m.last = index, term, index
	c.m.applied, c.m.appliedTerm = index, term
	c.m.commit = index
	if c.m.term < term {
		c.m.term, c.m.vote = term, 0
	}
	if err := b.Commit(true); err != nil {
		return err
	}
	st.flushed = false
	return nil
}

// Abort drops the staged rows. After Install it does nothing.
func (st *Stage) Abort() {
	if st.kv != nil {
		st.kv.Close()
		st.kv = nil
	}
	if !st.flushed {
		return
	}
	st.flushed = false
	b, lo := st.sh.s.kv.NewBatch(), statePrefix(st.sh.id, st.gen)
	b.DeleteRange(lo, prefixEnd(lo))
	_ = st.sh.s.commit(b, false) // what stays is dropped when the store is opened
}
