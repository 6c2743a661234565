package shardmap

import (
	"bytes"
	"math/rand/v2"
	"reflect"
	"testing"

	"banyan"
)

func TestNewDealsEverySlot(t *testing.T) {
	for _, n := range []int{1, 2, 3, 8, 64, banyan.ShardsMax} {
		m := New(n)
		count := map[banyan.ShardID]int{}
		for slot := range banyan.Slots {
			count[m.OfSlot(slot)]++
		}
		if len(count) != n {
			t.Errorf("%d shards: %d have slots", n, len(count))
		}
		for s, c := range count {
			if c < banyan.Slots/n || c > banyan.Slots/n+1 || s == banyan.RootShard {
				t.Errorf("%d shards: shard %d has %d slots", n, s, c)
			}
		}
		if m.OfSlot(banyan.SlotRoot) != banyan.RootShard {
			t.Error("the root shard's slot is not the root shard's")
		}
	}
}

// TestSplits splits at random and holds the map to what it was before.
func TestSplits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	m := New(4)
	for n := range 60 {
		parent := m.Data()[rng.IntN(len(m.Data()))]
		at, ok := m.Middle(parent, func(int) int64 { return rng.Int64N(100) })
		if !ok {
			continue
		}
		decided, err := m.Decide(parent, at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := decided.Decide(parent, at); !banyan.IsKind(err, banyan.Unavailable) {
			t.Fatalf("two splits at once: %v", err)
		}
		roundTrip(t, decided)
		done := decided.Finish(banyan.Revision(n + 1))
		roundTrip(t, done)
		child := decided.Pending.Child
		for slot := range banyan.Slots {
			want := m.OfSlot(slot)
			if want == parent && bytes.Compare(banyan.SlotKey(slot), at) >= 0 {
				want = child
			}
			if got := done.OfSlot(slot); got != want {
				t.Fatalf("slot %d went to shard %d, not %d", slot, got, want)
			}
		}
		if done.Epoch != m.Epoch+2 || decided.GiveUp().Has(child) {
			t.Fatalf("epoch %d after %d", done.Epoch, m.Epoch)
		}
		m = done
	}
}

// TestShares splits shard 1 into 1 | 3 at revision 10, then 3 into 3 | 4 at 20,
// then 1 into 1 | 5 at 30.
func TestShares(t *testing.T) {
	m := New(2)
	for _, s := range []struct {
		parent banyan.ShardID
		slot   int
		at     banyan.Revision
	}{{1, 200, 10}, {3, 300, 20}, {1, 100, 30}} {
		decided, err := m.Decide(s.parent, banyan.SlotKey(s.slot))
		if err != nil {
			t.Fatal(err)
		}
		m = decided.Finish(s.at)
		roundTrip(t, m)
	}
	for _, c := range []struct {
		of    banyan.ShardID
		known banyan.Revision
		with  banyan.ShardID
		want  bool
	}{
		{1, 99, 1, true},
		{1, 10, 3, true}, {1, 11, 3, false},
		{1, 10, 4, true}, {1, 11, 4, false}, {1, 20, 4, false}, // 1 was not 4's history any more
		{3, 20, 4, true}, {3, 21, 4, false},
		{1, 30, 5, true}, {1, 31, 5, false},
		{3, 5, 1, false}, // what was split off does not come back
		{4, 5, 3, false}, {3, 5, 5, false},
		{2, 0, 1, false}, {9, 0, 1, false}, {1, 0, 9, false},
	} {
		if got := m.Shares(c.of, c.known, c.with); got != c.want {
			t.Errorf("revision %d of shard %d with shard %d: %v, want %v", c.known, c.of, c.with, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	m := New(2)
	for _, c := range []struct {
		parent banyan.ShardID
		at     []byte
		kind   banyan.Kind
	}{
		{banyan.RootShard, []byte{0xff, 0xff}, banyan.Invalid},
		{9, []byte{1, 0}, banyan.NotFound},
		{1, nil, banyan.Invalid},
		{1, banyan.SlotKey(512), banyan.Invalid},
		{2, banyan.SlotKey(512), banyan.Invalid},
		{2, banyan.SlotKey(banyan.SlotRoot), banyan.Invalid},
	} {
		if _, err := m.Decide(c.parent, c.at); !banyan.IsKind(err, c.kind) {
			t.Errorf("Decide(%d, %x): %v, want %v", c.parent, c.at, err, c.kind)
		}
	}
	if New(1).Finish(7).Epoch != 1 {
		t.Error("Finish without a split made another map")
	}
}

func roundTrip(t *testing.T, m *Map) {
	t.Helper()
	got, err := Decode(m.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Encode(), m.Encode()) || !reflect.DeepEqual(got.All(), m.All()) {
		t.Fatalf("%v came back as %v", m, got)
	}
}

func FuzzDecode(f *testing.F) {
	m := New(3)
	f.Add(m.Encode())
	d, _ := m.Decide(2, banyan.SlotKey(500))
	f.Add(d.Encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		for _, row := range [][]byte{nil, {0}, {0xff, 0xfe, 1}, b} {
			if !m.Has(m.Of(row)) {
				t.Fatalf("row %x is in no shard", row)
			}
		}
		roundTrip(t, m)
	})
}
