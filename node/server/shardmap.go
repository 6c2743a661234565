package server

import (
	"sync/atomic"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/store"
)

// shardMapNote is the note of the store that holds the newest map this node has
// seen: a node that starts needs one before it can ask the root shard.
const shardMapNote = "shard map"

// mapHolder holds the newest shard map that this node has seen.
type mapHolder struct {
	store   *store.Store
	now     atomic.Pointer[shardmap.Map]
	changed chan struct{} // has a value when there is a newer map; for one listener
}

// writeMap notes the first map of a node.
func writeMap(st *store.Store, m *shardmap.Map) error { return st.SetNote(shardMapNote, m.Encode()) }

// readMap reads the map that a node's store holds.
func readMap(st *store.Store) (*shardmap.Map, error) {
	b, err := st.Note(shardMapNote)
	if err != nil {
		return nil, err
	}
	if b == nil {
		return nil, banyan.Errorf(banyan.Corrupt, "the store has no shard map: restore it from a copy, or let this machine join as a new node")
	}
	return shardmap.Decode(b)
}

func openMap(st *store.Store) (*mapHolder, error) {
	m, err := readMap(st)
	if err != nil {
		return nil, err
	}
	h := &mapHolder{store: st, changed: make(chan struct{}, 1)}
	h.now.Store(m)
	return h, nil
}

// get is the newest map.
func (h *mapHolder) get() *shardmap.Map { return h.now.Load() }

// take takes over the root shard's row of the map. It is called by one
// goroutine at a time; older maps are passed over.
func (h *mapHolder) take(row []byte) error {
	m, err := shardmap.Decode(row)
	if err != nil || m.Epoch <= h.get().Epoch {
		return err
	}
	if err := writeMap(h.store, m); err != nil {
		return err
	}
	h.now.Store(m)
	select {
	case h.changed <- struct{}{}:
	default:
	}
	return nil
}

// beginShards makes shards of the map that nobody has, empty, with this node as
// the only voter, and tells each the range of row keys that it holds.
func beginShards(st *store.Store, m *shardmap.Map, ids []banyan.ShardID, node banyan.NodeID) error {
	if err := st.Bootstrap(ids, node); err != nil {
		return err
	}
	b := st.NewBatch()
	for _, id := range ids {
		lo, hi, _ := m.Bounds(id)
		if err := mvcc.SetBounds(b.State(id), lo, hi); err != nil {
			b.Reset()
			return err
		}
	}
	return b.Commit(true)
}
