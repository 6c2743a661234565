package store

import (
	"bytes"
	"errors"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// stageBytes is how much of a snapshot is held in memory at a time, unless
// Options say otherwise.
const stageBytes = 256 << 10

// Stage takes in a snapshot. One goroutine uses it and ends it with Install or
// Abort; a crash before Install leaves nothing.
type Stage struct {
	sh    *Shard
	at    *layout
	moves uint64 // of the shard when the stage began
	rows  []KVRow
	held  []byte // what they are made of
	bulk  KVBulk // nil while all rows are in memory
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
	return &Stage{sh: sh, at: s.place(id), moves: sh.m.moves}, nil
}

// place is an empty place for a replica's state rows, its own alone.
func (s *Store) place(id banyan.ShardID) *layout {
	return newLayout(s.states.Add(1), id, nil, nil)
}

// Put adds one row (copied); their keys ascend. Memory is bounded: rows go to
// disk, beside what else is written.
func (st *Stage) Put(key, value []byte) error {
	if st.held == nil {
		st.held = make([]byte, 0, st.sh.s.stageBytes)
	}
	if need := stateBytes + shardBytes + len(key) + len(value); len(st.held) > 0 && len(st.held)+need > cap(st.held) {
		if err := st.spill(); err != nil {
			return err
		}
	}
	at := len(st.held)
	st.held = st.at.key(st.held, key)
	row := KVRow{Key: st.held[at:len(st.held):len(st.held)]}
	if n := len(st.rows); n > 0 && bytes.Compare(st.rows[n-1].Key, row.Key) >= 0 {
		return banyan.Errorf(banyan.Corrupt, "the rows of a snapshot of shard %d are not in order", st.sh.id)
	}
	at = len(st.held)
	st.held = append(st.held, value...)
	row.Value = st.held[at:len(st.held):len(st.held)]
	st.rows = append(st.rows, row)
	return nil
}

// spill hands what is in memory to the bulk, but for the last row, with which
// the next one is compared.
func (st *Stage) spill() error {
	s, n := st.sh.s, len(st.rows)-1
	if err := s.Err(); err != nil || n == 0 {
		return err
	}
	if st.bulk == nil {
		st.bulk = s.kv.NewBulk()
	}
	if err := st.bulk.Add(st.rows[:n]); err != nil {
		return s.fail(err)
	}
	last := st.rows[n]
	st.rows = append(st.rows[:0], KVRow{bytes.Clone(last.Key), bytes.Clone(last.Value)})
	st.held = st.held[:0]
	return nil
}

// settle brings the rows into the KV, with b if all of them are in memory.
func (st *Stage) settle(b KVBatch) error {
	s := st.sh.s
	if st.bulk == nil {
		for _, r := range st.rows {
			b.Set(r.Key, r.Value)
		}
		return nil
	}
	if err := s.Err(); err != nil {
		return err
	}
	err := st.bulk.Add(st.rows)
	if err == nil {
		err = st.bulk.Commit()
	}
	if err != nil {
		return s.fail(err)
	}
	return nil
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
	s := st.sh.s
	b := s.NewBatch()
	defer b.Reset()
	c := b.touch(st.sh.id)
	if c.m.moves != st.moves {
		return banyan.Errorf(banyan.Stale, "shard %d was replaced while its snapshot came in: send a new one", st.sh.id)
	}
	if index < c.m.committed() {
		b.refuse(c, "the snapshot is older than what is committed")
	}
	b.SetHardState(st.sh.id, hs)
	b.SetConfState(st.sh.id, conf)
	c.m.exists, c.m.at, c.moved = true, st.at, true
	c.m.trunc, c.m.truncTerm, c.m.last = index, term, index
	c.m.applied, c.m.appliedTerm = index, term
	c.m.commit = index
	if c.m.term < term {
		c.m.term, c.m.vote = term, 0
	}
	if b.err != nil {
		return b.err
	}
	if err := st.settle(b.batch()); err != nil {
		return err
	}
	err := b.Commit(true)
	if err != nil && st.bulk != nil && s.Err() == nil {
		err = errors.Join(err, st.drop())
	}
	return err
}

// drop removes the rows of a bulk that was committed.
func (st *Stage) drop() error {
	s := st.sh.s
	b := s.kv.NewBatch()
	st.at.wipe(b)
	return s.commit(b, false) // what stays is dropped when the store is opened
}

// Abort drops the staged rows. After Install it does nothing.
func (st *Stage) Abort() {
	if st.bulk != nil {
		st.bulk.Close()
	}
	st.rows, st.held, st.bulk = nil, nil, nil
}
