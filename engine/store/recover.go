package store

import (
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// RecoveryTerms is by how much Recover raises the term of the replica that goes
// on, so that no leader of the replicas that were given up has a later one.
const RecoveryTerms = 1 << 16

// Recover makes voter the shard's only voter, after a majority of its voters
// was lost for good: the one thing here that no quorum has agreed to. It is for
// a stopped node. Changes of configuration that wait in the log to be applied
// become empty entries: they would bring the lost voters back. lead says that
// this replica is the one that goes on; the others, given the same voter, can
// follow it.
func (b *Batch) Recover(id banyan.ShardID, voter banyan.NodeID, lead bool) error {
	c := b.touch(id)
	for i := c.m.applied + 1; i <= c.m.last; i++ {
		es, err := c.sh.Entries(i, i+1, 0)
		if err != nil {
			return err
		}
		for _, e := range es {
			if e.GetType() == raftpb.EntryNormal {
				continue
			}
			key := logKey(nil, id, i)
			b.batch().Set(key, appendEntry(nil, key, &raftpb.Entry{Index: e.Index, Term: e.Term, Type: raftpb.EntryNormal.Enum()}))
		}
	}
	c.m.conf = raftpb.EnsureConfState(&raftpb.ConfState{Voters: []uint64{uint64(voter)}})
	c.conf = true
	if lead {
		c.m.term, c.m.vote = c.m.term+RecoveryTerms, 0
		c.hard = true
	}
	return nil
}
