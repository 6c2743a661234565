package store_test

import (
	"fmt"
	"testing"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/storetest"
)

// TestRestart goes once over the real file system with the defaults.
func TestRestart(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap([]banyan.ShardID{0, 1, 2}, 1); err != nil {
		t.Fatal(err)
	}
	b := s.NewBatch()
	for n := range uint64(20) {
		for id := range banyan.ShardID(3) {
			i := 11 + n
			b.Append(id, storetest.Entries(2, i, i))
			b.SetHardState(id, storetest.HardState(2, 1, i))
			b.State(id).Set(fmt.Appendf(nil, "k%d", n), []byte("v"))
			b.SetApplied(id, i, 2)
		}
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
	}
	b.Truncate(1, 25)
	if err := b.Commit(false); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = store.Open(dir, store.Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if ids := s.Shards(); len(ids) != 3 {
		t.Fatal(ids)
	}
	ents, err := s.Shard(1).Entries(26, 31, 1<<20)
	if err != nil || len(ents) != 5 || string(ents[4].Data) != "entry 30 of term 2" {
		t.Fatal(ents, err)
	}
	v, err := s.View(1)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	if got, err := v.Get([]byte("k19")); string(got) != "v" || v.AppliedIndex() != 30 {
		t.Fatal(got, err, v.AppliedIndex())
	}
}
