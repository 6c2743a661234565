package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
)

// testLog compares a shard's log with raft's own storage in memory under
// random appends, conflicts and truncations, across restarts.
func testLog(t *testing.T, seed uint64, m Machine) {
	rng := rand.New(rand.NewPCG(seed, 4))
	s := open(t, m)
	must(t, s.Bootstrap([]banyan.ShardID{1}, 1))
	model := raft.NewMemoryStorage()
	must(t, model.ApplySnapshot(&raftpb.Snapshot{Metadata: &raftpb.SnapshotMetadata{
		Index: new(uint64(10)), Term: new(uint64(1)), ConfState: &raftpb.ConfState{Voters: []uint64{1}}}}))
	term, commit := uint64(1), uint64(10)
	for step := range 60 {
		b := s.NewBatch()
		last, _ := model.LastIndex()
		first, _ := model.FirstIndex()
		if rng.IntN(3) == 0 {
			term++
		}
		from := last + 1 - min(last-commit, uint64(rng.IntN(3)*rng.IntN(10)))
		ents := Entries(term, from, from+uint64(rng.IntN(5)*rng.IntN(30)))
		must(t, model.Append(ents))
		b.Append(1, ents)
		if rng.IntN(4) == 0 { // a second append in the batch replaces part of the first
			term++
			ents = Entries(term, from+uint64(rng.IntN(len(ents)+1)), from+uint64(len(ents)))
			must(t, model.Append(ents))
			b.Append(1, ents)
		}
		last, _ = model.LastIndex()
		commit += uint64(rng.IntN(int(last - commit + 1)))
		b.SetHardState(1, HardState(term, 1, commit))
		ct, err := model.Term(commit)
		must(t, err)
		b.SetApplied(1, commit, ct)
		if at := first - 1 + uint64(rng.IntN(int(commit-first+2))); rng.IntN(10) == 0 && at >= first {
			b.Truncate(1, at)
			must(t, model.Compact(at))
		}
		must(t, b.Commit(rng.IntN(2) == 0))
		if rng.IntN(8) == 0 {
			closeStore(t, s)
			s = open(t, m)
		}
		compareLogs(t, fmt.Sprintf("seed %d, step %d", seed, step), rng, s.Shard(1), model)
	}
	closeStore(t, s)
}

func compareLogs(t *testing.T, when string, rng *rand.Rand, sh *store.Shard, model *raft.MemoryStorage) {
	t.Helper()
	first, _ := model.FirstIndex()
	last, _ := model.LastIndex()
	gotFirst, _ := sh.FirstIndex()
	gotLast, _ := sh.LastIndex()
	if gotFirst != first || gotLast != last {
		t.Fatalf("%s: log [%d, %d], want [%d, %d]", when, gotFirst, gotLast, first, last)
	}
	for i := max(first, 3) - 3; i <= last+2; i++ {
		want, wantErr := model.Term(i)
		if got, err := sh.Term(i); got != want || !errors.Is(err, wantErr) {
			t.Fatalf("%s: term of %d is %d, %v, want %d, %v", when, i, got, err, want, wantErr)
		}
	}
	if _, err := sh.Entries(first-1, last+1, 100); !errors.Is(err, raft.ErrCompacted) {
		t.Fatalf("%s: a truncated entry: %v", when, err)
	}
	if _, err := sh.Entries(first, last+2, 100); !errors.Is(err, raft.ErrUnavailable) {
		t.Fatalf("%s: an entry that is not there: %v", when, err)
	}
	for range 5 {
		if first > last {
			return
		}
		lo := first + uint64(rng.IntN(int(last-first+1)))
		hi := lo + 1 + uint64(rng.IntN(int(last-lo+1)))
		limit := uint64(rng.IntN(4000))
		want, err := model.Entries(lo, hi, 1<<40)
		must(t, err)
		got, err := sh.Entries(lo, hi, limit)
		must(t, err)
		if len(got) == 0 || limit > 60*(hi-lo) && len(got) < len(want) {
			t.Fatalf("%s: %d entries of [%d, %d), want %d", when, len(got), lo, hi, len(want))
		}
		size := 0
		for i, e := range got {
			size += len(e.GetData())
			if e.GetIndex() != want[i].GetIndex() || e.GetTerm() != want[i].GetTerm() || !bytes.Equal(e.GetData(), want[i].GetData()) {
				t.Fatalf("%s: entry %v, want %v", when, e, want[i])
			}
		}
		if len(got) > 1 && size > int(limit) {
			t.Fatalf("%s: %d bytes of entries, limit %d", when, size, limit)
		}
		_ = append(got, nil) // the caller may
	}
}
