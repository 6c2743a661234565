package store

import (
	"cmp"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"banyan"
	"banyan/core/mvcc"
)

// deletesMax is the number of log entries that are deleted one by one; more
// are deleted as a range. Many small range deletions make Pebble's reads slow.
const deletesMax = 256

// Batch collects writes to many shards; Commit makes them durable in one go and
// leaves the batch empty for the next use. Mistakes of the caller (a gap in the
// log, applied beyond the log, truncation beyond applied) are refused by Commit
// and nothing is written.
//
// At most one uncommitted batch may touch a shard's log (Append, SetHardState,
// Truncate), and at most one its state (State, SetApplied, SetConfState); one
// that calls Destroy or ClearTombstone must be the only one.
type Batch struct {
	s       *Store
	kv      KVBatch // nil while nothing was written
	changes []*change
	spare   []*change
	err     error // the first mistake
	key     []byte
	row     []byte
}

// change is what a batch does to one shard: m is the shard as the batch leaves
// it, of which only the touched parts count.
type change struct {
	sh      *Shard
	was, m  meta
	entries []*raftpb.Entry // contiguous, up to m.last

	log, hard, applied, conf bool // touched parts
	cut                      bool // its part of the state rows became smaller
	moved                    bool // destroyed, revived, bootstrapped, forked or installed: all of m counts
}

// merge brings cur, the shard as it is now, to what the change makes of it.
func (c *change) merge(cur meta) meta {
	if c.moved {
		return c.m
	}
	cur.exists = true
	if c.log {
		cur.trunc, cur.truncTerm, cur.last = c.m.trunc, c.m.truncTerm, c.m.last
	}
	if c.hard {
		cur.term, cur.vote, cur.commit = c.m.term, c.m.vote, c.m.commit
	}
	if c.applied {
		cur.applied, cur.appliedTerm = c.m.applied, c.m.appliedTerm
	}
	if c.conf {
		cur.conf = c.m.conf
	}
	if c.cut {
		cur.at = c.m.at
	}
	return cur
}

// NewBatch returns an empty batch. One goroutine uses it, as often as it likes.
func (s *Store) NewBatch() *Batch { return &Batch{s: s} }

// find gives the change of a shard, tombstoned or not.
func (b *Batch) find(id banyan.ShardID) *change {
	for _, c := range b.changes {
		if c.sh.id == id {
			return c
		}
	}
	c := &change{}
	if n := len(b.spare); n > 0 {
		c, b.spare = b.spare[n-1], b.spare[:n-1]
	}
	sh := b.s.Shard(id)
	m := sh.meta()
	*c = change{sh: sh, was: m, m: m, entries: c.entries[:0]}
	b.changes = append(b.changes, c)
	return c
}

func (b *Batch) touch(id banyan.ShardID) *change {
	c := b.find(id)
	if c.m.tombstone {
		b.refuse(c, "its replica was removed from this node")
	}
	return c
}

func (b *Batch) refuse(c *change, why string) {
	if b.err == nil {
		b.err = banyan.Errorf(banyan.Internal, "write to shard %d refused: %s", c.sh.id, why)
	}
}

// Append adds entries, removing a conflicting suffix of the log. Entries are
// kept and must not be modified afterwards.
func (b *Batch) Append(id banyan.ShardID, entries []*raftpb.Entry) {
	c := b.touch(id)
	for len(entries) > 0 && entries[0].GetIndex() <= c.m.trunc {
		entries = entries[1:]
	}
	if len(entries) == 0 {
		return
	}
	first := entries[0].GetIndex()
	switch {
	case first > c.m.last+1:
		b.refuse(c, "the entries leave a gap in the log")
		return
	case first <= c.was.committed():
		b.refuse(c, "the entries replace committed ones")
		return
	}
	for i, e := range entries {
		if e.GetIndex() != first+uint64(i) {
			b.refuse(c, "the entries are not contiguous")
			return
		}
	}
	if len(c.entries) > 0 {
		from := c.entries[0].GetIndex()
		c.entries = c.entries[:max(first, from)-from]
	}
	c.entries = append(c.entries, entries...)
	c.m.last = entries[len(entries)-1].GetIndex()
	c.log = true
}

// SetHardState replaces term, vote and commit. An empty one is ignored.
func (b *Batch) SetHardState(id banyan.ShardID, hs *raftpb.HardState) {
	if hs.GetTerm() == 0 && hs.GetVote() == 0 && hs.GetCommit() == 0 {
		return
	}
	c := b.touch(id)
	if hs.GetTerm() < c.m.term || hs.GetCommit() < c.m.commit {
		b.refuse(c, "its term or commit index would go back")
	}
	c.m.term, c.m.vote, c.m.commit = hs.GetTerm(), hs.GetVote(), hs.GetCommit()
	c.hard = true
}

// SetApplied says what State now contains; it goes into the same batch.
func (b *Batch) SetApplied(id banyan.ShardID, index, term uint64) {
	c := b.touch(id)
	if index < c.m.applied {
		b.refuse(c, "its applied index would go back")
	}
	c.m.applied, c.m.appliedTerm = index, term
	c.applied = true
}

// SetConfState goes into the batch of the SetApplied that applied the change.
func (b *Batch) SetConfState(id banyan.ShardID, cs *raftpb.ConfState) {
	c := b.touch(id)
	c.m.conf = raftpb.EnsureConfState(proto.CloneOf(cs))
	c.conf = true
}

// Truncate drops the log entries up to index, which must have been applied.
func (b *Batch) Truncate(id banyan.ShardID, index uint64) {
	c := b.touch(id)
	if index <= c.m.trunc {
		return
	}
	term, err := c.termOf(index)
	if err != nil {
		b.refuse(c, "the log has no term for the entry to truncate at: "+err.Error())
		return
	}
	c.m.trunc, c.m.truncTerm = index, term
	c.log = true
}

func (c *change) termOf(index uint64) (uint64, error) {
	if len(c.entries) > 0 {
		if first := c.entries[0].GetIndex(); index >= first && index <= c.m.last {
			return c.entries[index-first].GetTerm(), nil
		}
	}
	return c.sh.Term(index)
}

// State is the shard's state rows inside this batch, valid until Commit.
func (b *Batch) State(id banyan.ShardID) mvcc.ReadWriter {
	c := b.touch(id)
	return &stateRows{rows: rows{r: b.batch(), at: c.m.at}, w: b.kv}
}

func (b *Batch) batch() KVBatch {
	if b.kv == nil {
		b.kv = b.s.kv.NewBatch()
	}
	return b.kv
}

// Destroy removes the replica and leaves a tombstone: until ClearTombstone
// nothing can be written to the shard here. The tombstone keeps term and vote.
func (b *Batch) Destroy(id banyan.ShardID) {
	c := b.find(id)
	c.m = meta{tombstone: true, at: c.m.at, moves: c.m.moves, term: c.m.term, vote: c.m.vote}
	c.entries = c.entries[:0]
	c.moved = true
}

// ClearTombstone lets the shard be placed here again, empty but for the term
// and vote it had: a replica must not vote twice in a term.
func (b *Batch) ClearTombstone(id banyan.ShardID) {
	c := b.find(id)
	if !c.m.tombstone {
		return
	}
	c.m.at = b.s.place(id)
	c.m.tombstone, c.m.exists, c.moved = false, true, true
}

// A shard begins with this entry applied and not in the log, on all replicas.
const (
	firstIndex = 10
	firstTerm  = 1
)

func (b *Batch) bootstrap(id banyan.ShardID, voter banyan.NodeID) {
	c := b.touch(id)
	c.m = meta{
		exists: true, at: c.m.at, moves: c.m.moves,
		trunc: firstIndex, truncTerm: firstTerm, last: firstIndex, term: firstTerm,
		commit: firstIndex, applied: firstIndex, appliedTerm: firstTerm,
		conf: raftpb.EnsureConfState(&raftpb.ConfState{Voters: []uint64{uint64(voter)}}),
	}
	c.moved = true
}

// Empty says whether Commit would write nothing.
func (b *Batch) Empty() bool { return len(b.changes) == 0 && b.err == nil }

// Reset drops what was collected.
func (b *Batch) Reset() {
	if b.kv != nil {
		b.kv.Close()
	}
	for _, c := range b.changes {
		clear(c.entries)
		b.spare = append(b.spare, c)
	}
	b.kv, b.changes, b.err = nil, b.changes[:0], nil
}

// Commit writes everything atomically, waiting for the disk if sync. An error
// that wraps ErrFatal is final for the whole store. The batch is empty after.
func (b *Batch) Commit(sync bool) error {
	defer b.Reset()
	defer b.lock()()
	for _, c := range b.changes {
		cur := c.sh.meta()
		m := c.merge(cur)
		if cur.moves != c.was.moves {
			b.refuse(c, "its replica was replaced or removed meanwhile")
		} else if why := m.check(); why != "" {
			b.refuse(c, why)
		}
	}
	if b.err != nil {
		return b.err
	}
	kv := b.batch()
	for _, c := range b.changes {
		b.write(kv, c)
	}
	b.kv = nil
	if err := b.s.commit(kv, sync); err != nil {
		return err
	}
	for _, c := range b.changes {
		c.publish()
	}
	return nil
}

// lock keeps the place of each shard's state as it is, or to itself where the
// batch changes it, in one order for all batches, and gives the function that
// unlocks.
func (b *Batch) lock() func() {
	slices.SortFunc(b.changes, func(x, y *change) int { return cmp.Compare(x.sh.id, y.sh.id) })
	for _, c := range b.changes {
		if c.moved || c.cut {
			c.sh.where.Lock()
		} else {
			c.sh.where.RLock()
		}
	}
	return func() {
		for _, c := range b.changes {
			if c.moved || c.cut {
				c.sh.where.Unlock()
			} else {
				c.sh.where.RUnlock()
			}
		}
	}
}

// write turns a change into rows.
func (b *Batch) write(kv KVBatch, c *change) {
	id, m := c.sh.id, &c.m
	if c.moved && (c.was.exists || c.was.tombstone || m.tombstone) {
		b.wipe(kv, c)
	}
	if m.tombstone {
		b.numbers(kv, id, kindTombstone, m.term, m.vote)
		return
	}
	if c.log {
		b.writeLog(kv, c)
	}
	if !c.was.exists || c.moved || m.trunc != c.was.trunc {
		b.numbers(kv, id, kindDescriptor, m.at.state, m.trunc, m.truncTerm)
	}
	if c.cut || c.moved && !m.at.whole() {
		key := metaKey(nil, id, kindBounds)
		kv.Set(key, encodeBounds(key, m.at.lo, m.at.hi))
	}
	if c.hard || c.moved {
		b.numbers(kv, id, kindHardState, m.term, m.vote, m.commit)
	}
	if c.applied || c.moved {
		b.numbers(kv, id, kindApplied, m.applied, m.appliedTerm)
	}
	if c.conf || c.moved && m.conf != nil {
		key := metaKey(nil, id, kindConf)
		kv.Set(key, encodeConf(key, m.conf))
	}
}

// wipe removes every row of a shard, except the state that it will have.
func (b *Batch) wipe(kv KVBatch, c *change) {
	for _, p := range []byte{prefixLog, prefixMeta} {
		lo := shardPrefix(p, c.sh.id)
		kv.DeleteRange(lo, prefixEnd(lo))
	}
	if c.m.tombstone || c.was.at.state != c.m.at.state {
		c.was.at.wipe(kv)
	}
}

func (b *Batch) writeLog(kv KVBatch, c *change) {
	b.deleteLog(kv, c.sh.id, c.was.trunc+1, min(c.m.trunc, c.was.last))
	b.deleteLog(kv, c.sh.id, c.m.last+1, c.was.last)
	for _, e := range c.entries {
		if e.GetIndex() > c.m.trunc {
			b.key = logKey(b.key[:0], c.sh.id, e.GetIndex())
			b.row = appendEntry(b.row[:0], b.key, e)
			kv.Set(b.key, b.row)
		}
	}
}

// deleteLog deletes the entries [from, to].
func (b *Batch) deleteLog(kv KVBatch, id banyan.ShardID, from, to uint64) {
	if from > to {
		return
	}
	if to-from >= deletesMax {
		kv.DeleteRange(logKey(nil, id, from), logKey(nil, id, to+1))
		return
	}
	for i := from; i <= to; i++ {
		b.key = logKey(b.key[:0], id, i)
		kv.Delete(b.key)
	}
}

func (b *Batch) numbers(kv KVBatch, id banyan.ShardID, kind byte, ns ...uint64) {
	b.key = metaKey(b.key[:0], id, kind)
	b.row = encodeNumbers(b.row, b.key, ns...)
	kv.Set(b.key, b.row)
}

// publish shows the committed change to readers of the shard.
func (c *change) publish() {
	sh := c.sh
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.m = c.merge(sh.m)
	if c.moved {
		sh.m.moves++
		sh.tail, sh.tailBytes = nil, 0
	}
	sh.remember(c.entries)
}
