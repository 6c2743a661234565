package shards

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
	"banyan/core/shardmap"
	"banyan/engine/route"
)

const row = "\xff\xfe\x04\x00map"

// root is a root shard in memory, and leaders that split when asked.
type root struct {
	mu     sync.Mutex
	rows   *memrows.Rows
	m      *mvcc.Machine
	term   uint64
	splits []shardmap.Split // carried out
	refuse error
	lose   bool // the answer of the next split
	counts []mvcc.Count
	done   chan struct{} // a value for each split
}

func newRoot(t *testing.T, shards int) *root {
	t.Helper()
	r := &root{rows: memrows.New(), term: 1, done: make(chan struct{}, 100)}
	var err error
	if r.m, err = mvcc.OpenWindow(r.rows, 10); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Commit(t.Context(), banyan.RootShard, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(row), Value: shardmap.New(shards).Encode()}}}); err != nil {
		t.Fatal(err)
	}
	return r
}

func (r *root) Commit(_ context.Context, _ banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	res, _, err := r.m.Apply(r.rows, r.term, cmd)
	r.m.Flush(r.rows)
	if err == nil && res.Stale {
		err = banyan.Errorf(banyan.Stale, "term %d", r.term)
	}
	return res, err
}

func (r *root) Read(_ context.Context, _ banyan.ShardID, q route.ReadQuery) (route.ReadResult, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	row, err := mvcc.Get(r.rows, q.Key, 0)
	if row == nil {
		return route.ReadResult{}, err
	}
	return route.ReadResult{Rows: []mvcc.Row{*row}}, err
}

func (r *root) Split(_ context.Context, shard banyan.ShardID, at []byte, child banyan.ShardID) (banyan.Revision, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		return 0, r.refuse
	}
	r.splits = append(r.splits, shardmap.Split{Parent: shard, At: at, Child: child})
	r.done <- struct{}{}
	if r.lose {
		r.lose = false
		return 0, banyan.Errorf(banyan.Unavailable, "the answer is lost")
	}
	return 7, nil
}

func (r *root) Counts(context.Context, banyan.ShardID) ([]mvcc.Count, error) { return r.counts, nil }

func (r *root) now(t *testing.T) *shardmap.Map {
	t.Helper()
	m, _, err := service(r).read(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func service(r *root) *Service {
	return New(Config{DB: r, Row: []byte(row), Logger: slog.New(slog.DiscardHandler)})
}

// TestASplitIsCarriedOut: also when the answer of the first try is lost, and the
// root shard's leader dies behind it; with the same numbers, and once in the map.
func TestASplitIsCarriedOut(t *testing.T) {
	r := newRoot(t, 2)
	s := service(r)
	r.counts = []mvcc.Count{{Slot: 3, Bytes: 10}, {Slot: 100, Bytes: 1000}, {Slot: 200, Bytes: 100}}
	d, err := s.Decide(t.Context(), 1, -1, 1)
	if err != nil || d.Child != 3 || string(d.At) != string(banyan.SlotKey(101)) {
		t.Fatalf("%+v, %v", d, err)
	}
	again, err := s.Decide(t.Context(), 1, -1, 1) // its answer was lost
	if err != nil || again.Child != 3 || again.Epoch != d.Epoch {
		t.Errorf("%+v, %v", again, err)
	}
	for _, other := range []func() (Decided, error){
		func() (Decided, error) { return s.Decide(t.Context(), 2, -1, 1) },
		func() (Decided, error) { return s.Decide(t.Context(), 2, -1, d.Epoch) },
	} {
		if _, err := other(); !banyan.IsKind(err, banyan.Conflict) {
			t.Errorf("a second one beside it: %v", err)
		}
	}
	r.lose = true
	if _, err := s.step(t.Context(), 1); !banyan.IsKind(err, banyan.Unavailable) {
		t.Error(err)
	}
	<-r.done
	r.term = 2
	if _, err := s.step(t.Context(), 1); !banyan.IsKind(err, banyan.Stale) {
		t.Errorf("a leader of before has changed the map: %v", err)
	}
	if m := r.now(t); m.Pending == nil || m.Has(3) {
		t.Fatalf("%+v", m)
	}
	next := service(r)
	next.Lead(t.Context(), 2)
	defer next.Unlead()
	for r.now(t).Pending != nil {
		<-r.done
	}
	m := r.now(t)
	if !m.Has(3) || m.OfSlot(100) != 1 || m.OfSlot(101) != 3 || !m.Shares(1, 7, 3) || m.Shares(1, 8, 3) || m.Made() != 2 {
		t.Errorf("%+v", m)
	}
	for _, did := range r.splits {
		if did.Parent != 1 || did.Child != 3 || string(did.At) != string(d.At) {
			t.Errorf("split %+v", did)
		}
	}
	if _, err := s.Decide(t.Context(), 1, -1, d.Epoch); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("decided again behind its end: %v", err)
	}
}

func TestWhatCannotBeSplit(t *testing.T) {
	r := newRoot(t, banyan.Slots/4)
	s := service(r)
	for _, c := range []struct {
		shard banyan.ShardID
		slot  int
		kind  banyan.Kind
	}{{0, -1, banyan.Invalid}, {9999, -1, banyan.NotFound}, {1, 0, banyan.Invalid}, {1, 4, banyan.Invalid}, {2, 3, banyan.Invalid}} {
		if _, err := s.Decide(t.Context(), c.shard, c.slot, 1); !banyan.IsKind(err, c.kind) {
			t.Errorf("shard %d at %d: %v", c.shard, c.slot, err)
		}
	}
	r = newRoot(t, 2)
	s = service(r)
	r.refuse = banyan.Errorf(banyan.Invalid, "no")
	if _, err := s.Decide(t.Context(), 1, 1, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := s.step(t.Context(), 1); err != nil || r.now(t).Pending != nil || r.now(t).Has(3) {
		t.Errorf("%v, %+v", err, r.now(t))
	}
	r.refuse = nil
	if _, err := s.Decide(t.Context(), 1, 1, r.now(t).Epoch); err != nil {
		t.Fatal(err)
	}
	if _, err := s.step(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if m := r.now(t); m.Has(3) || !m.Has(4) {
		t.Errorf("the number of a split that was given up is used again: %+v", m)
	}
	if _, err := s.Decide(t.Context(), 1, -1, r.now(t).Epoch); !banyan.IsKind(err, banyan.Invalid) || errors.Is(err, context.Canceled) {
		t.Errorf("a shard of one slot: %v", err)
	}
}
