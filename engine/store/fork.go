package store

import (
	"bytes"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"banyan"
	"banyan/core/mvcc"
)

// forkRows is how many rows are copied at a time.
const forkRows = 1024

// Fork makes the row keys from at on, which were the parent's, a shard of their
// own: child, with the configuration conf, at the first index and in the term of
// the entry of the split, as on every replica that applies that entry. The
// child's leaders so have higher terms than those that led its rows in the
// parent: what is numbered by terms, as attempts at tasks are, does not go back.
// Fork gives the child's state rows inside this batch, where the records of the
// parent's revisions are copied to; the machine's own row is the caller's to
// write.
//
// If the child's replica has a state here already, because a snapshot of it
// came before the parent's entry was applied, or was removed from here, it
// stays as it is: the parent's rows go, and the answer is nil.
//
// Term and vote of a replica of the child that has only voted are kept. Nothing
// else may be under way for the child meanwhile.
func (b *Batch) Fork(parent, child banyan.ShardID, at []byte, term uint64, conf *raftpb.ConfState) (mvcc.ReadWriter, error) {
	p := b.touch(parent)
	was := p.m.at
	p.m.at = newLayout(was.state, parent, was.lo, bytes.Clone(at))
	p.cut = true
	gone := newLayout(was.state, child, bytes.Clone(at), was.hi)
	c := b.find(child)
	if c.m.tombstone || c.m.applied > 0 {
		gone.each(nil, nil, func(part *part, from, to []byte) bool {
			if !part.own {
				b.batch().DeleteRange(from, to)
			}
			return true
		})
		return nil, nil
	}
	vote := c.m.vote
	if c.m.term < term {
		vote = 0 // it was given in an older term
	}
	c.m = meta{
		exists: true, at: gone, moves: c.m.moves,
		trunc: firstIndex, truncTerm: term, last: firstIndex,
		term: max(c.m.term, term), vote: vote,
		commit: firstIndex, applied: firstIndex, appliedTerm: term,
		conf: raftpb.EnsureConfState(proto.CloneOf(conf)),
	}
	c.entries, c.moved = c.entries[:0], true
	to := &stateRows{rows: rows{r: b.batch(), at: gone}, w: b.kv}
	return to, copyRecords(rows{r: b.batch(), at: was}, to)
}

// copyRecords copies what is filed by revision.
func copyRecords(from mvcc.Reader, to mvcc.Writer) error {
	lo, hi := mvcc.Records()
	for {
		var some []KVRow
		err := from.Scan(lo, hi, func(k, v []byte) bool {
			some = append(some, KVRow{bytes.Clone(k), bytes.Clone(v)})
			return len(some) < forkRows
		})
		if err != nil {
			return err
		}
		for _, r := range some {
			to.Set(r.Key, r.Value)
		}
		if len(some) < forkRows {
			return nil
		}
		lo = append(some[len(some)-1].Key, 0)
	}
}
