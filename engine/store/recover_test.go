package store_test

import (
	"slices"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
)

func TestRecover(t *testing.T) {
	disk := simdisk.New(1)
	open := func() *store.Store {
		kv, err := disk.Open()
		if err != nil {
			t.Fatal(err)
		}
		st, err := store.New(kv, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	st := open()
	if err := st.Bootstrap([]banyan.ShardID{3}, 2); err != nil {
		t.Fatal(err)
	}
	b := st.NewBatch()
	b.SetConfState(3, &raftpb.ConfState{Voters: []uint64{1, 2, 4}, Learners: []uint64{5}})
	b.SetHardState(3, &raftpb.HardState{Term: new(uint64(4)), Vote: new(uint64(1)), Commit: new(uint64(10))})
	b.Append(3, []*raftpb.Entry{
		{Index: new(uint64(11)), Term: new(uint64(4)), Data: []byte("kept")},
		{Index: new(uint64(12)), Term: new(uint64(4)), Type: raftpb.EntryConfChangeV2.Enum(), Data: []byte("brings the lost back")},
	})
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	if err := b.Recover(3, 2, true); err != nil {
		t.Fatal(err)
	}
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	sh := open().Shard(3)
	hard, conf, err := sh.InitialState()
	if err != nil || !slices.Equal(conf.GetVoters(), []uint64{2}) || len(conf.GetLearners()) > 0 {
		t.Errorf("configuration %v, %v: want n2 alone", conf, err)
	}
	if hard.GetTerm() != 4+store.RecoveryTerms || hard.GetVote() != 0 || hard.GetCommit() != 10 {
		t.Errorf("hard state %v", hard)
	}
	es, err := sh.Entries(11, 13, 1<<20)
	if err != nil || len(es) != 2 || string(es[0].GetData()) != "kept" {
		t.Fatalf("entries %v, %v", es, err)
	}
	if e := es[1]; e.GetType() != raftpb.EntryNormal || len(e.GetData()) > 0 || e.GetTerm() != 4 {
		t.Errorf("a waiting change of configuration is now %v: want an empty entry", e)
	}
}
