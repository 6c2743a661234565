package server

import (
	"bytes"
	"path/filepath"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/store"
)

// TestShardsKnowTheirBounds: a new cluster's shards hold the ranges of its map,
// and so does one that is made anew in a recovery.
func TestShardsKnowTheirBounds(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	m := shardmap.New(5)
	if err := beginShards(st, m, m.All(), 1); err != nil {
		t.Fatal(err)
	}
	for _, id := range m.All() {
		lo, hi, err := mvcc.BoundsOf(st.Shard(id).Latest())
		wantLo, wantHi, _ := m.Bounds(id)
		if err != nil || !bytes.Equal(lo, wantLo) || !bytes.Equal(hi, wantHi) {
			t.Errorf("shard %d holds %x to %x, %v: the map says %x to %x", id, lo, hi, err, wantLo, wantHi)
		}
	}
	machine, err := mvcc.Open(st.Shard(2).Latest())
	if err != nil {
		t.Fatal(err)
	}
	b := st.NewBatch()
	defer b.Reset()
	for slot, want := range map[int]bool{0: false, 300: true, banyan.Slots - 1: false, banyan.SlotRoot: false, banyan.SlotOwn: true} {
		row := banyan.AppendRowKey(nil, slot, banyan.LayerKV, banyan.SpaceDefault)
		res, _, err := machine.Apply(b.State(2), 1, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: row}}})
		if err != nil || res.Moved == want {
			t.Errorf("a row of slot %d in shard 2 of 5: %+v, %v", slot, res, err)
		}
	}
}

// TestNewerMapsAreTaken: an older row of the map changes nothing, and what was
// taken is there after a restart.
func TestNewerMapsAreTaken(t *testing.T) {
	st, err := store.Open(filepath.Join(t.TempDir(), "store"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := openMap(st); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("a store without a map: %v", err)
	}
	first := shardmap.New(2)
	if err := writeMap(st, first); err != nil {
		t.Fatal(err)
	}
	h, err := openMap(st)
	if err != nil {
		t.Fatal(err)
	}
	newer, err := first.Decide(1, banyan.SlotKey(7))
	if err != nil {
		t.Fatal(err)
	}
	newer = newer.Finish(1)
	for _, m := range []*shardmap.Map{newer, first} {
		if err := h.take(m.Encode()); err != nil {
			t.Fatal(err)
		}
	}
	again, err := openMap(st)
	if err != nil {
		t.Fatal(err)
	}
	if h.get().Epoch != newer.Epoch || again.get().Epoch != newer.Epoch || again.get().OfSlot(8) != 3 {
		t.Errorf("epoch %d, after a restart %d, want %d", h.get().Epoch, again.get().Epoch, newer.Epoch)
	}
}
