package storetest

import (
	"fmt"
	"strings"
	"testing"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// The rows of a parent, and where it is cut. Slot FFFF stays behind, records
// are copied, the machine's own row is the caller's.
var (
	forkRows = []string{"a\x00\x01k", "a\x02\x00k", "c\x00\x01k", "c\x02\x00k", "c\x02\x01k", "c\xff\xffk",
		"h\x00\xff\x01k\x00\x0112345678", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679"}
	forkAt = []byte{2, 0}
)

func testFork(t *testing.T, m Machine) {
	s := open(t, m)
	must(t, s.Bootstrap([]banyan.ShardID{1}, 1))
	b := s.NewBatch()
	for _, k := range forkRows {
		b.State(1).Set([]byte(k), []byte("v"))
	}
	b.SetApplied(1, 10, 1)
	must(t, b.Commit(true))
	fork(t, s, 1, 2, forkAt)
	wantRows(t, s, 1, "a\x00\x01k", "c\x00\x01k", "c\xff\xffk", "h\x00\xff\x01k\x00\x0112345678", "m", "r12345678", "r12345679")
	child := []string{"a\x02\x00k", "c\x02\x00k", "c\x02\x01k", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679"}
	wantRows(t, s, 2, child...)

	// What is the shards' own does not collide, and a range ends at the part's bounds.
	b.State(1).Set([]byte("c\xff\xffz"), []byte("parent"))
	b.State(2).Set([]byte("c\xff\xffz"), []byte("child"))
	b.State(2).DeleteRange([]byte("c"), []byte("d"))
	b.State(1).DeleteRange([]byte("r"), []byte("s"))
	must(t, b.Commit(true))
	wantRows(t, s, 1, "a\x00\x01k", "c\x00\x01k", "c\xff\xffk", "c\xff\xffz", "h\x00\xff\x01k\x00\x0112345678", "m")
	wantRows(t, s, 2, "a\x02\x00k", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679")

	// A restart finds both; one's removal leaves the other whole.
	closeStore(t, s)
	s = open(t, m)
	wantRows(t, s, 2, "a\x02\x00k", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679")
	b = s.NewBatch()
	b.Destroy(1)
	must(t, b.Commit(true))
	wantRows(t, s, 2, "a\x02\x00k", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679")
	b.Destroy(2)
	must(t, b.Commit(true))
	closeStore(t, s)
	kv := m.Open(t)
	must(t, kv.Scan([]byte("s"), []byte("t"), func(k, _ []byte) bool {
		t.Errorf("a row is left of shards that were destroyed: %q", k)
		return true
	}))
	must(t, kv.Close())
}

// forkTerm is the term of the entry of a split.
const forkTerm = 6

// fork cuts parent and leaves the machine's row of the child to a row of its own.
func fork(t *testing.T, s *store.Store, parent, child banyan.ShardID, at []byte) mvcc.ReadWriter {
	t.Helper()
	b := s.NewBatch()
	to, err := b.Fork(parent, child, at, forkTerm, &raftpb.ConfState{Voters: []uint64{1, 2, 3}})
	must(t, err)
	if to != nil {
		to.Set([]byte("m"), []byte("child"))
	}
	must(t, b.Commit(true))
	return to
}

func wantRows(t *testing.T, s *store.Store, shard banyan.ShardID, want ...string) {
	t.Helper()
	var got []string
	must(t, s.Shard(shard).Latest().Scan(nil, nil, func(k, _ []byte) bool {
		got = append(got, string(k))
		return true
	}))
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		t.Errorf("shard %d holds\n%s\nwant\n%s", shard, quoted(got), quoted(want))
	}
	for _, k := range want {
		if v, err := s.Shard(shard).Latest().Get([]byte(k)); v == nil || err != nil {
			t.Errorf("shard %d: Get %q: %q, %v", shard, k, v, err)
		}
	}
}

func quoted(ks []string) string {
	var b strings.Builder
	for _, k := range ks {
		fmt.Fprintf(&b, "  %q\n", k)
	}
	return b.String()
}

// testForkLate forks into replicas that are there already.
func testForkLate(t *testing.T, m Machine) {
	s := open(t, m)
	defer closeStore(t, s)
	must(t, s.Bootstrap([]banyan.ShardID{1}, 1))
	b := s.NewBatch()
	for _, k := range forkRows {
		b.State(1).Set([]byte(k), []byte("v"))
	}
	b.SetApplied(1, 10, 1)
	b.SetHardState(2, HardState(7, 3, 0)) // has voted
	must(t, b.Commit(true))
	st, err := s.Stage(2)
	must(t, err)
	if fork(t, s, 1, 2, forkAt) == nil {
		t.Error("a replica that has only voted was taken for one with state")
	}
	hs, conf, err := s.Shard(2).InitialState()
	must(t, err)
	if hs.GetTerm() != 7 || hs.GetVote() != 3 || hs.GetCommit() != 10 || len(conf.GetVoters()) != 3 {
		t.Errorf("the fork has %v, %v: want the term and vote it had, and three voters", hs, conf)
	}
	if st.Current() {
		t.Error("a snapshot of before the fork can still be installed")
	}
	st.Abort()
	if fork(t, s, 2, 5, []byte{3, 0}) == nil {
		t.Error("nothing was forked")
	}
	if hs, _, err := s.Shard(5).InitialState(); err != nil || hs.GetTerm() != forkTerm || hs.GetVote() != 0 {
		t.Errorf("the fork has %v, %v: want the term of the entry that made it, and no vote in it", hs, err)
	}

	// A snapshot of the grandchild came first: it stays, and the rows go.
	st, err = s.Stage(3)
	must(t, err)
	must(t, st.Put([]byte("c\x02\x01newer"), []byte("v")))
	must(t, st.Install(20, 4, &raftpb.ConfState{Voters: []uint64{1}}, HardState(4, 0, 20)))
	if fork(t, s, 2, 3, []byte{2, 1}) != nil {
		t.Error("a replica with state was forked over")
	}
	wantRows(t, s, 3, "c\x02\x01newer")
	wantRows(t, s, 2, "a\x02\x00k", "c\x02\x00k", "h\x02\x00\xffk\x00\x0112345678", "m", "q\x02\x00k", "r12345678", "r12345679")

	// So does one that was removed from here.
	b = s.NewBatch()
	b.Destroy(4)
	must(t, b.Commit(true))
	if fork(t, s, 1, 4, []byte{0, 1}) != nil || !s.Tombstoned(4) {
		t.Error("a replica that was removed came back by a fork")
	}
	wantRows(t, s, 1, "c\xff\xffk", "m", "r12345678", "r12345679")
}
