package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/route"
	"banyan/engine/store"
	"banyan/internal/pause"
)

// nodeRow is the root shard's row of one node: n/<id, 16 hex digits>.
type nodeRow struct {
	ID       banyan.NodeID `json:"id"`
	Name     string        `json:"name"`
	Address  string        `json:"address"`
	Zone     string        `json:"zone,omitempty"`
	Slots    int           `json:"slots"`
	JoinMs   int64         `json:"join_ms"`
	Draining bool          `json:"draining,omitempty"`

	// LeavingMs is since when the node is to be removed and hands over what it holds.
	LeavingMs int64 `json:"leaving_ms,omitempty"`

	// RemovedMs is when the node was taken out of the cluster, for good: the row
	// stays, so that whoever shows its certificate can be told.
	RemovedMs int64 `json:"removed_ms,omitempty"`
}

const nodePrefix = rootPrefix + "n/"

func nodeKey(id banyan.NodeID) []byte { return fmt.Appendf(nil, "%s%016x", nodePrefix, uint64(id)) }

func (n nodeRow) encode() []byte {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err) // a struct of numbers and strings
	}
	return b
}

// nodeTable is this node's copy of the node rows, kept fresh by a watch. It
// starts with what node.json remembers, so that the others can be found before
// the root shard answers.
type nodeTable struct {
	self    banyan.NodeID
	removed atomic.Pointer[map[banyan.NodeID]int64]    // since when
	in      atomic.Pointer[map[banyan.NodeID]struct{}] // the nodes of rows
	unknown *unknowns

	mu      sync.Mutex
	at      banyan.Revision           // what rows are as of, at least
	rows    map[banyan.NodeID]nodeRow // of members
	changed chan struct{}             // closed and replaced at every change
}

func newNodeTable(f *nodeFile) *nodeTable {
	t := &nodeTable{self: f.Node, rows: map[banyan.NodeID]nodeRow{}, changed: make(chan struct{}), unknown: newUnknowns()}
	t.removed.Store(&map[banyan.NodeID]int64{})
	t.update(func(rows map[banyan.NodeID]nodeRow) {
		for id, addr := range f.Peers {
			rows[id] = nodeRow{ID: id, Address: addr}
		}
		rows[f.Node] = nodeRow{ID: f.Node, Name: f.Name, Address: f.Address, Zone: f.Zone, Slots: f.Slots}
	})
	return t
}

// load takes over the rows that a replica of the root shard on this disk has:
// node.json may be older than they are.
func (t *nodeTable) load(st *store.Store) error {
	rows, err := rootRows(st, nodePrefix)
	if err != nil {
		return err
	}
	return t.replace(rows, 0)
}

// rootRows gives the rows under a prefix that a replica of the root shard on
// this disk has, nil if there is no such replica.
func rootRows(st *store.Store, prefix string) ([]mvcc.Row, error) {
	root, err := st.View(banyan.RootShard)
	if banyan.IsKind(err, banyan.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return everyPage([]byte(prefix), func(lo []byte) ([]mvcc.Row, bool, error) {
		return mvcc.Range(root, mvcc.Query{Lo: lo, Hi: mvcc.PrefixEnd([]byte(prefix))})
	})
}

// readRoot gives the rows of the root shard under a prefix, all of one revision.
func readRoot(ctx context.Context, db *route.Router, prefix string) (rows []mvcc.Row, at banyan.Revision, err error) {
	rows, err = everyPage([]byte(prefix), func(lo []byte) ([]mvcc.Row, bool, error) {
		res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: lo, End: mvcc.PrefixEnd([]byte(prefix)), At: at})
		if at == 0 {
			at = res.Revision
		}
		return res.Rows, res.More, err
	})
	return rows, at, err
}

// everyPage asks for page after page, each beginning behind the one before.
func everyPage(lo []byte, page func(lo []byte) ([]mvcc.Row, bool, error)) (all []mvcc.Row, err error) {
	for {
		rows, more, err := page(lo)
		if err != nil {
			return nil, err
		}
		all = append(all, rows...)
		if !more || len(rows) == 0 {
			return all, nil
		}
		lo = append(bytes.Clone(rows[len(rows)-1].Key), 0)
	}
}

func (t *nodeTable) get(id banyan.NodeID) (nodeRow, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, ok := t.rows[id]
	return n, ok
}

// list gives all rows by id.
func (t *nodeTable) list() []nodeRow {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.SortedFunc(maps.Values(t.rows), func(a, b nodeRow) int { return int(a.ID) - int(b.ID) })
}

// watch gives a channel that is closed at the next change.
func (t *nodeTable) watch() <-chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.changed
}

func (t *nodeTable) update(fn func(map[banyan.NodeID]nodeRow)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	fn(t.rows)
	removed := maps.Clone(*t.removed.Load())
	for id, n := range t.rows {
		if n.RemovedMs != 0 {
			removed[id] = n.RemovedMs
		}
	}
	for id := range removed {
		delete(t.rows, id)
	}
	in := make(map[banyan.NodeID]struct{}, len(t.rows))
	for id := range t.rows {
		in[id] = struct{}{}
	}
	t.in.Store(&in)
	t.removed.Store(&removed)
	close(t.changed)
	t.changed = make(chan struct{})
}

// resolve says where a node listens.
func (t *nodeTable) resolve(id banyan.NodeID) (string, bool) {
	n, ok := t.get(id)
	return n.Address, ok && n.Address != ""
}

// giveUp takes nodes for removed that a recovery called lost, before the root
// shard says so.
func (t *nodeTable) giveUp(ids []banyan.NodeID, ms int64) {
	t.update(func(rows map[banyan.NodeID]nodeRow) {
		for _, id := range ids {
			rows[id] = nodeRow{ID: id, RemovedMs: ms}
		}
	})
}

func (t *nodeTable) isRemoved(id banyan.NodeID) bool {
	_, ok := (*t.removed.Load())[id]
	return ok
}

// known says that a node is in the rows, or is this one.
func (t *nodeTable) known(id banyan.NodeID) bool {
	_, ok := (*t.in.Load())[id]
	return ok || id == t.self
}

// learn adds the row of a node that has just been let in.
func (t *nodeTable) learn(row nodeRow) {
	t.update(func(rows map[banyan.NodeID]nodeRow) {
		if _, ok := rows[row.ID]; !ok {
			rows[row.ID] = row
		}
	})
}

// admit refuses nodes that are not in: those that were once, and those that
// never joined.
func (t *nodeTable) admit(id banyan.NodeID) error {
	ms, ok := (*t.removed.Load())[id]
	if !ok {
		if t.known(id) {
			return nil
		}
		return t.unknown.judge(id, time.Now())
	}
	return banyan.Errorf(banyan.Removed, "node %v was removed from the cluster at %s, for good: to use its machine again, empty its directory and let it join as a new node", id, time.UnixMilli(ms).UTC().Format(time.RFC3339))
}

// follow keeps the table equal to the root shard's rows until ctx ends.
func (t *nodeTable) follow(ctx context.Context, db *route.Router) error {
	for ctx.Err() == nil {
		at, err := t.reload(ctx, db)
		if err == nil {
			err = db.Watch(ctx, banyan.RootShard, []byte(nodePrefix), mvcc.PrefixEnd([]byte(nodePrefix)), at, func(evs []mvcc.Event, upTo banyan.Revision) error {
				if len(evs) > 0 {
					t.apply(evs, upTo)
				}
				return nil
			})
		}
		if err != nil && ctx.Err() == nil && !banyan.IsKind(err, banyan.Compacted) {
			_ = pause.For(ctx, 200*time.Millisecond) // no leader yet; ask again
		}
	}
	return nil
}

// reload takes over the rows as they are now.
func (t *nodeTable) reload(ctx context.Context, db *route.Router) (banyan.Revision, error) {
	rows, at, err := readRoot(ctx, db, nodePrefix)
	if err != nil {
		return 0, err
	}
	return at, t.replace(rows, at)
}

// replace makes the table what rows were at a revision, unless there are none
// yet or a watch has told what is newer meanwhile.
func (t *nodeTable) replace(rows []mvcc.Row, at banyan.Revision) error {
	fresh := map[banyan.NodeID]nodeRow{}
	for i := range rows {
		var n nodeRow
		if err := json.Unmarshal(rows[i].Value, &n); err != nil {
			return banyan.Errorf(banyan.Corrupt, "node row %q: %w", rows[i].Key, err)
		}
		fresh[n.ID] = n
	}
	if len(fresh) > 0 {
		t.update(func(rows map[banyan.NodeID]nodeRow) {
			if at >= t.at {
				t.at = at
				clear(rows)
				maps.Copy(rows, fresh)
			}
		})
	}
	return nil
}

func (t *nodeTable) apply(evs []mvcc.Event, upTo banyan.Revision) {
	t.update(func(rows map[banyan.NodeID]nodeRow) {
		for i := range evs {
			var n nodeRow
			if !evs[i].Deleted && evs[i].Row.Mod > t.at && json.Unmarshal(evs[i].Row.Value, &n) == nil {
				rows[n.ID] = n
			}
		}
		t.at = max(t.at, upTo)
	})
}

// editNode changes one node's row in a read-modify-write loop.
func editNode(ctx context.Context, db *route.Router, id banyan.NodeID, edit func(*nodeRow) (change bool)) (nodeRow, error) {
	for {
		res, err := db.Read(ctx, banyan.RootShard, route.ReadQuery{Key: nodeKey(id)})
		if err != nil {
			return nodeRow{}, err
		}
		if len(res.Rows) == 0 {
			return nodeRow{}, banyan.Errorf(banyan.NotFound, "there is no node %v: 'banyan nodes' lists the nodes there are", id)
		}
		var n nodeRow
		if err := json.Unmarshal(res.Rows[0].Value, &n); err != nil {
			return n, banyan.Errorf(banyan.Corrupt, "node row of %v: %w", id, err)
		}
		if n.RemovedMs != 0 {
			return n, banyan.Errorf(banyan.NotFound, "node %v was removed from the cluster already", id)
		}
		if !edit(&n) {
			return n, nil
		}
		out, err := db.Commit(ctx, banyan.RootShard, &mvcc.Command{
			Conds: []mvcc.Cond{{Key: nodeKey(id), Test: mvcc.ModEquals, Number: uint64(res.Rows[0].Mod)}},
			Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: nodeKey(id), Value: n.encode()}},
		})
		if err != nil || out.OK {
			return n, err
		}
	}
}
