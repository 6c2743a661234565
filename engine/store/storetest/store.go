package storetest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/engine/store"
)

// Store runs what Store promises, over a machine's KV.
func Store(t *testing.T, boot func(seed uint64) Machine) {
	t.Run("bootstrap", func(t *testing.T) { testBootstrap(t, boot(1)) })
	t.Run("refusals", func(t *testing.T) { testRefusals(t, boot(1)) })
	t.Run("tombstone", func(t *testing.T) { testTombstone(t, boot(1)) })
	t.Run("stage", func(t *testing.T) { testStage(t, boot(1)) })
	t.Run("fork", func(t *testing.T) { testFork(t, boot(1)) })
	t.Run("fork late", func(t *testing.T) { testForkLate(t, boot(1)) })
	t.Run("view", func(t *testing.T) { testView(t, boot(1)) })
	t.Run("log", func(t *testing.T) {
		for seed := range uint64(8) {
			testLog(t, seed, boot(seed))
		}
	})
	t.Run("crash", func(t *testing.T) {
		for seed := range uint64(30) {
			testStoreCrash(t, seed, boot(seed))
		}
	})
}

// Entries makes the entries [from, to] of one term.
func Entries(term, from, to uint64) []*raftpb.Entry {
	var ents []*raftpb.Entry
	for i := from; i <= to; i++ {
		ents = append(ents, &raftpb.Entry{Term: new(term), Index: new(i), Data: fmt.Appendf(nil, "entry %d of term %d", i, term)})
	}
	return ents
}

// HardState makes one.
func HardState(term, vote, commit uint64) *raftpb.HardState {
	return &raftpb.HardState{Term: &term, Vote: &vote, Commit: &commit}
}

func open(t testing.TB, m Machine) *store.Store {
	t.Helper()
	s, err := store.New(m.Open(t), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeStore(t testing.TB, s *store.Store) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Dump writes out everything a store holds; two stores that hold the same give
// the same. It fails like the first read that fails.
func Dump(s *store.Store) (string, error) {
	var b bytes.Buffer
	id, ok := s.Identity()
	fmt.Fprintln(&b, "identity", id, ok)
	for _, shard := range s.Shards() {
		sh := s.Shard(shard)
		hs, conf, err := sh.InitialState()
		if err != nil {
			return "", err
		}
		first, _ := sh.FirstIndex()
		last, _ := sh.LastIndex()
		before, err := sh.Term(first - 1)
		if err != nil {
			return "", err
		}
		applied, term := sh.Applied()
		fmt.Fprintln(&b, "shard", shard, hs.GetTerm(), hs.GetVote(), hs.GetCommit(), conf.GetVoters(), conf.GetLearners(),
			"log", first, before, last, "applied", applied, term)
		for i := first; i <= last; {
			ents, err := sh.Entries(i, last+1, 1000)
			if err != nil {
				return "", err
			}
			for _, e := range ents {
				fmt.Fprintf(&b, "%d.%d %v %q\n", e.GetIndex(), e.GetTerm(), e.GetType(), e.GetData())
			}
			i += uint64(len(ents))
		}
		if err := dumpState(s, shard, &b); err != nil {
			return "", err
		}
	}
	for shard := range banyan.ShardID(8) {
		if s.Tombstoned(shard) {
			fmt.Fprintln(&b, "tombstone", shard)
		}
	}
	return b.String(), nil
}

func dumpState(s *store.Store, shard banyan.ShardID, b *bytes.Buffer) error {
	v, err := s.View(shard)
	if err != nil {
		return err
	}
	defer v.Close()
	fmt.Fprintln(b, "state", v.AppliedIndex(), v.Term(), v.ConfState().GetVoters())
	return v.Scan(nil, nil, func(k, v []byte) bool {
		fmt.Fprintf(b, "%q=%.40q\n", k, v)
		return true
	})
}

func dump(t testing.TB, s *store.Store) string {
	t.Helper()
	d, err := Dump(s)
	must(t, err)
	return d
}

func testBootstrap(t *testing.T, m Machine) {
	s := open(t, m)
	if ids := s.Shards(); len(ids) != 0 {
		t.Fatalf("an empty store has shards %v", ids)
	}
	if _, ok := s.Identity(); ok {
		t.Fatal("an empty store has an identity")
	}
	unknown := s.Shard(7)
	if first, _ := unknown.FirstIndex(); first != 1 {
		t.Fatalf("an unknown shard begins at %d", first)
	}
	if hs, conf, err := unknown.InitialState(); hs != nil || conf == nil || err != nil {
		t.Fatalf("an unknown shard has %v, %v, %v", hs, conf, err)
	}
	if _, err := unknown.Snapshot(); !errors.Is(err, raft.ErrSnapshotTemporarilyUnavailable) {
		t.Fatalf("an unknown shard has a snapshot: %v", err)
	}
	if _, err := s.View(7); !banyan.IsKind(err, banyan.NotFound) {
		t.Fatalf("an unknown shard has a view: %v", err)
	}
	me := store.Identity{Cluster: "c", Node: 4}
	must(t, s.SetIdentity(me))
	must(t, s.SetIdentity(me))
	if err := s.SetIdentity(store.Identity{Cluster: "d", Node: 4}); !banyan.IsKind(err, banyan.Conflict) {
		t.Fatalf("another identity: %v", err)
	}
	must(t, s.SetNote("met n2", []byte("one")))
	must(t, s.SetNote("met n2", []byte("two")))
	must(t, s.SetNote("life", nil))
	must(t, s.Bootstrap([]banyan.ShardID{0, 1, 300}, 4))
	if err := s.Bootstrap([]banyan.ShardID{2, 1}, 4); !banyan.IsKind(err, banyan.AlreadyExists) {
		t.Fatalf("a second bootstrap: %v", err)
	}
	m.Crash()
	s = open(t, m)
	defer closeStore(t, s)
	if got, ok := s.Identity(); got != me || !ok {
		t.Fatalf("identity is %v, %v", got, ok)
	}
	for name, want := range map[string][]byte{"met n2": []byte("two"), "life": {}, "met n3": nil} {
		if got, err := s.Note(name); err != nil || !bytes.Equal(got, want) || (got == nil) != (want == nil) {
			t.Fatalf("note %q is %q, %v", name, got, err)
		}
	}
	if ids := s.Shards(); !slices.Equal(ids, []banyan.ShardID{0, 1, 300}) {
		t.Fatalf("shards are %v", ids)
	}
	sh := s.Shard(300)
	hs, conf, err := sh.InitialState()
	if err != nil || hs.GetTerm() != 1 || hs.GetCommit() != 10 || !slices.Equal(conf.GetVoters(), []uint64{4}) {
		t.Fatalf("bootstrapped to %v, %v, %v", hs, conf, err)
	}
	snap, err := sh.Snapshot()
	if err != nil || snap.GetMetadata().GetIndex() != 10 || snap.GetMetadata().GetTerm() != 1 ||
		!slices.Equal(snap.GetMetadata().GetConfState().GetVoters(), []uint64{4}) {
		t.Fatalf("its snapshot is %v, %v", snap, err)
	}
}

// testRefusals: a caller's mistake writes nothing and stops nothing.
func testRefusals(t *testing.T, m Machine) {
	s := open(t, m)
	defer closeStore(t, s)
	must(t, s.Bootstrap([]banyan.ShardID{1, 2}, 1))
	b := s.NewBatch()
	b.Append(2, Entries(1, 11, 11))
	b.SetHardState(2, HardState(1, 1, 10))
	b.SetApplied(2, 11, 1) // replica may write the commit index later
	b.Append(1, Entries(1, 11, 15))
	b.SetHardState(1, HardState(1, 1, 13))
	b.SetApplied(1, 12, 1)
	must(t, b.Commit(true))
	before := dump(t, s)
	for name, mistake := range map[string]func(){
		"gap in the log":            func() { b.Append(1, Entries(1, 17, 18)) },
		"gap in the entries":        func() { b.Append(1, append(Entries(1, 16, 16), Entries(1, 18, 18)...)) },
		"committed entry replaced":  func() { b.Append(1, Entries(2, 13, 14)) },
		"applied entry replaced":    func() { b.Append(2, Entries(2, 11, 11)) },
		"applied beyond the log":    func() { b.SetApplied(1, 16, 1) },
		"applied goes back":         func() { b.SetApplied(1, 11, 1) },
		"truncated beyond applied":  func() { b.Truncate(1, 13) },
		"truncated beyond the log":  func() { b.Truncate(1, 99) },
		"committed beyond the log":  func() { b.SetHardState(1, HardState(1, 1, 16)) },
		"commit goes back":          func() { b.SetHardState(1, HardState(1, 1, 12)) },
		"term goes back":            func() { b.SetHardState(1, HardState(0, 1, 13)) },
		"applied without configure": func() { b.Append(3, Entries(1, 1, 1)); b.SetHardState(3, HardState(1, 1, 1)); b.SetApplied(3, 1, 1) },
	} {
		b.State(1).Set([]byte("cmistake"), []byte("made"))
		mistake()
		err := b.Commit(true)
		if !banyan.IsKind(err, banyan.Internal) || errors.Is(err, store.ErrFatal) {
			t.Errorf("%s: %v", name, err)
		}
		if !b.Empty() {
			t.Errorf("%s: the batch is not empty after Commit", name)
		}
		if after := dump(t, s); after != before {
			t.Fatalf("%s: changed\n%s\nto\n%s", name, before, after)
		}
	}
	b.Truncate(1, 12)
	must(t, b.Commit(false))
	b.SetApplied(1, 13, 1)
	b.Truncate(1, 13) // in the batch that applies it
	must(t, b.Commit(false))
	if first, _ := s.Shard(1).FirstIndex(); first != 14 {
		t.Fatalf("first index %d after the truncation", first)
	}
}

func testTombstone(t *testing.T, m Machine) {
	s := open(t, m)
	must(t, s.Bootstrap([]banyan.ShardID{1, 2}, 1))
	b := s.NewBatch()
	for _, id := range []banyan.ShardID{1, 2} {
		b.Append(id, Entries(5, 11, 12))
		b.SetHardState(id, HardState(5, 3, 12))
		b.State(id).Set([]byte("ck"), []byte("v"))
		b.SetApplied(id, 12, 5)
	}
	must(t, b.Commit(true))
	b.State(1).Set([]byte("clate"), []byte("v"))
	b.Destroy(1)
	must(t, b.Commit(true))
	for range 2 {
		if !s.Tombstoned(1) || s.Tombstoned(2) || !slices.Equal(s.Shards(), []banyan.ShardID{2}) {
			t.Fatalf("after Destroy: %v %v %v", s.Tombstoned(1), s.Tombstoned(2), s.Shards())
		}
		b = s.NewBatch()
		b.SetHardState(1, HardState(6, 1, 0))
		if err := b.Commit(true); err == nil {
			t.Fatal("a removed replica was written")
		}
		if _, err := s.Stage(1); !banyan.IsKind(err, banyan.NotFound) {
			t.Fatalf("a removed replica takes a snapshot: %v", err)
		}
		if err := s.Bootstrap([]banyan.ShardID{1}, 1); !banyan.IsKind(err, banyan.AlreadyExists) {
			t.Fatalf("a removed replica was bootstrapped: %v", err)
		}
		m.Crash()
		s = open(t, m)
	}
	b = s.NewBatch()
	b.ClearTombstone(1)
	must(t, b.Commit(true))
	m.Crash()
	s = open(t, m)
	defer closeStore(t, s)
	hs, conf, err := s.Shard(1).InitialState()
	if err != nil || hs.GetTerm() != 5 || hs.GetVote() != 3 || hs.GetCommit() != 0 || len(conf.GetVoters()) != 0 {
		t.Fatalf("placed again, it forgot that it voted: %v, %v, %v", hs, conf, err)
	}
	if last, _ := s.Shard(1).LastIndex(); last != 0 || s.Tombstoned(1) {
		t.Fatalf("placed again, its log ends at %d, tombstone %v", last, s.Tombstoned(1))
	}
	must(t, s.Shard(1).Latest().Scan(nil, nil, func(k, _ []byte) bool {
		t.Errorf("placed again, it has row %q", k)
		return true
	}))
}

func testStage(t *testing.T, m Machine) {
	s := open(t, m)
	must(t, s.Bootstrap([]banyan.ShardID{1, 3}, 1))
	b := s.NewBatch()
	b.Append(1, Entries(2, 11, 20))
	b.SetHardState(1, HardState(2, 1, 12))
	b.State(1).Set([]byte("cold"), []byte("v"))
	b.State(3).Set([]byte("cother"), []byte("v"))
	must(t, b.Commit(true))
	before := dump(t, s)

	fill := func(id banyan.ShardID) *store.Stage {
		st, err := s.Stage(id)
		must(t, err)
		for i := range 40 {
			must(t, st.Put(fmt.Appendf(nil, "cnew%02d", i), bytes.Repeat([]byte{'x'}, 60<<10)))
		}
		return st
	}
	conf := &raftpb.ConfState{Voters: []uint64{1, 2}}
	fill(1).Abort()
	if got := dump(t, s); got != before {
		t.Fatalf("an aborted stage changed\n%s\nto\n%s", before, got)
	}
	fill(2) // the machine crashes before Install
	fill(1)
	must(t, b.Commit(true)) // their rows are on disk
	m.Crash()
	s = open(t, m)
	if got := dump(t, s); got != before {
		t.Fatalf("a stage that was never installed changed\n%s\nto\n%s", before, got)
	}
	closeStore(t, s)
	checkGenerations(t, m, 2)
	s = open(t, m)
	late, old := fill(1), s.NewBatch()
	old.State(1).Set([]byte("cold"), []byte("of the state before"))
	if err := fill(1).Install(11, 2, conf, nil); err == nil {
		t.Fatal("a snapshot older than what is committed was installed")
	}
	must(t, fill(1).Install(30, 4, conf, HardState(5, 2, 33)))
	if err := old.Commit(false); !banyan.IsKind(err, banyan.Internal) {
		t.Fatalf("a batch begun on the state before: %v", err)
	}
	if err := late.Install(31, 4, conf, nil); !banyan.IsKind(err, banyan.Stale) {
		t.Fatalf("a stage begun before another was installed: %v", err)
	}
	must(t, fill(2).Install(30, 4, conf, nil))
	want := dump(t, s)
	m.Crash()
	checkGenerations(t, m, 3)
	s = open(t, m)
	defer closeStore(t, s)
	if got := dump(t, s); got != want {
		t.Fatalf("after the crash\n%s\nwant\n%s", got, want)
	}
	for _, id := range []banyan.ShardID{1, 2} {
		checkInstalled(t, s, id)
	}
	if v, err := s.Shard(3).Latest().Get([]byte("cother")); string(v) != "v" {
		t.Fatalf("the neighbour lost its state: %q, %v", v, err)
	}
	b = s.NewBatch()
	b.Append(1, Entries(5, 31, 33))
	b.SetHardState(1, HardState(5, 2, 33))
	must(t, b.Commit(true))
}

// checkGenerations: each of n shards has rows of one generation, the others are
// gone from the disk.
func checkGenerations(t *testing.T, m Machine, n int) {
	t.Helper()
	kv := m.Open(t)
	defer kv.Close()
	found := map[string]bool{}
	must(t, kv.Scan([]byte{'s'}, []byte{'t'}, func(k, _ []byte) bool {
		found[fmt.Sprintf("%x", k[:9])] = true
		return true
	}))
	if len(found) != n {
		t.Fatalf("state rows of %v, want one generation of %d shards", found, n)
	}
}

func checkInstalled(t *testing.T, s *store.Store, id banyan.ShardID) {
	t.Helper()
	sh := s.Shard(id)
	first, _ := sh.FirstIndex()
	last, _ := sh.LastIndex()
	term, err := sh.Term(30)
	hs, conf, _ := sh.InitialState()
	if first != 31 || last != 30 || term != 4 || err != nil || hs.GetCommit() != 30 || len(conf.GetVoters()) != 2 {
		t.Fatalf("shard %d: log [%d, %d], term %d, %v, %v, %v", id, first, last, term, err, hs, conf)
	}
	if id == 1 && (hs.GetTerm() != 5 || hs.GetVote() != 2) {
		t.Fatalf("shard %d: %v", id, hs)
	}
	v, err := s.View(id)
	must(t, err)
	defer v.Close()
	n := 0
	must(t, v.Scan(nil, nil, func(k, _ []byte) bool {
		n++
		if !bytes.HasPrefix(k, []byte("cnew")) {
			t.Errorf("shard %d: row %q", id, k)
		}
		return true
	}))
	if n != 40 || v.AppliedIndex() != 30 || v.Term() != 4 {
		t.Fatalf("shard %d: %d rows, applied %d of term %d", id, n, v.AppliedIndex(), v.Term())
	}
}

func testView(t *testing.T, m Machine) {
	s := open(t, m)
	defer closeStore(t, s)
	must(t, s.Bootstrap([]banyan.ShardID{1, 2}, 1))
	b := s.NewBatch()
	write := func(index uint64, value string) {
		b.Append(1, Entries(1, index, index))
		b.SetHardState(1, HardState(1, 1, index))
		st := b.State(1)
		st.Set([]byte("ck"), []byte(value))
		if got, err := st.Get([]byte("ck")); string(got) != value || err != nil {
			t.Fatalf("the batch reads %q, %v", got, err)
		}
		b.SetApplied(1, index, 1)
		must(t, b.Commit(false))
	}
	write(11, "one")
	v, err := s.View(1)
	must(t, err)
	defer v.Close()
	write(12, "two")
	if got, _ := v.Get([]byte("ck")); string(got) != "one" || v.AppliedIndex() != 11 {
		t.Fatalf("the view moved to %q, applied %d", got, v.AppliedIndex())
	}
	if got, _ := s.Shard(1).Latest().Get([]byte("ck")); string(got) != "two" {
		t.Fatalf("the newest is %q", got)
	}
	if got, _ := s.Shard(2).Latest().Get([]byte("ck")); got != nil {
		t.Fatalf("shards share rows: %q", got)
	}
	b.State(1).DeleteRange(nil, nil)
	b.State(2).Set([]byte("ck"), []byte("mine"))
	must(t, b.Commit(false))
	if got, _ := s.Shard(1).Latest().Get([]byte("ck")); got != nil {
		t.Fatalf("after DeleteRange of all: %q", got)
	}
	if got, _ := s.Shard(2).Latest().Get([]byte("ck")); string(got) != "mine" {
		t.Fatalf("DeleteRange of all took the neighbour's row: %q", got)
	}
}

// testStoreCrash: after a crash the shards are all as one moment left them, and
// no later sync was acknowledged.
func testStoreCrash(t *testing.T, seed uint64, m Machine) {
	rng := rand.New(rand.NewPCG(seed, 5))
	s := open(t, m)
	must(t, s.Bootstrap([]banyan.ShardID{1, 2, 3}, 1))
	for life := range 3 {
		moments := []string{dump(t, s)}
		for range rng.IntN(15) {
			sync := rng.IntN(4) == 0
			must(t, step(t, rng, s).Commit(sync))
			if sync {
				moments = nil
			}
			moments = append(moments, dump(t, s))
		}
		m.Crash()
		s = open(t, m)
		if got := dump(t, s); !slices.Contains(moments, got) {
			t.Fatalf("seed %d, life %d: after the crash\n%s\nwhich was never so since the last sync", seed, life, got)
		}
	}
	closeStore(t, s)
}

// step does to some shards what a Ready of raft would.
func step(t testing.TB, rng *rand.Rand, s *store.Store) *store.Batch {
	b := s.NewBatch()
	for id := banyan.ShardID(1); id <= 3; id++ {
		if rng.IntN(2) == 0 {
			continue
		}
		sh := s.Shard(id)
		hs, _, _ := sh.InitialState()
		last, _ := sh.LastIndex()
		term, commit := hs.GetTerm()+uint64(rng.IntN(2)), hs.GetCommit()
		from := last + 1 - uint64(rng.IntN(int(last-commit+1)))
		ents := Entries(term, from, from+uint64(rng.IntN(4)))
		b.Append(id, ents)
		commit += uint64(rng.IntN(int(from + uint64(len(ents)) - commit)))
		b.SetHardState(id, HardState(term, 1, commit))
		applied, appliedTerm := sh.Applied()
		for applied < commit {
			applied++
			if applied < from {
				var err error
				appliedTerm, err = sh.Term(applied)
				must(t, err)
			} else {
				appliedTerm = term
			}
			b.State(id).Set(fmt.Appendf(nil, "row%d", applied%5), fmt.Appendf(nil, "by %d.%d", applied, appliedTerm))
		}
		b.SetApplied(id, applied, appliedTerm)
		if first, _ := sh.FirstIndex(); rng.IntN(5) == 0 && applied >= first {
			b.Truncate(id, first+uint64(rng.IntN(int(applied-first+1))))
		}
	}
	return b
}
