package store

import (
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// View is a shard's applied state at one moment. It reads rows (mvcc.Reader)
// and may be used by several goroutines; Close it soon, it pins disk space.
type View struct {
	rows
	snap          KVSnapshot
	applied, term uint64
	conf          *raftpb.ConfState
}

var _ mvcc.Reader = (*View)(nil)

// View is the shard's applied state as of now, fixed until closed. A shard
// that has nothing on this disk is banyan.NotFound.
func (s *Store) View(id banyan.ShardID) (*View, error) {
	sh := s.Shard(id)
	sh.where.RLock()
	defer sh.where.RUnlock()
	m := sh.meta()
	if !m.exists {
		return nil, banyan.Errorf(banyan.NotFound, "shard %d has no replica on this node", id)
	}
	snap, err := s.kv.Snapshot()
	if err != nil {
		return nil, err
	}
	v := &View{rows: rows{r: snap, at: m.at}, snap: snap}
	if err := v.load(id); err != nil {
		snap.Close()
		return nil, err
	}
	return v, nil
}

// load reads from the snapshot itself what it covers: the shard in memory may
// be a commit behind it.
func (v *View) load(id banyan.ShardID) error {
	key := metaKey(nil, id, kindApplied)
	row, err := v.snap.Get(key)
	if err != nil || row == nil {
		return err
	}
	if err := decodeNumbers(key, row, &v.applied, &v.term); err != nil {
		return err
	}
	key = metaKey(nil, id, kindConf)
	if row, err = v.snap.Get(key); err != nil || row == nil {
		return err
	}
	v.conf, err = decodeConf(key, row)
	return err
}

// AppliedIndex is the index up to which this state was applied.
func (v *View) AppliedIndex() uint64 { return v.applied }

// Term is the term of the entry at AppliedIndex.
func (v *View) Term() uint64 { return v.term }

// ConfState is the configuration at AppliedIndex.
func (v *View) ConfState() *raftpb.ConfState { return raftpb.EnsureConfState(v.conf) }

// Close releases the view.
func (v *View) Close() { v.snap.Close() }
