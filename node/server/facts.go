package server

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"sync"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/route"
	"banyan/engine/store"
	"banyan/internal/pause"
)

// Rows of the root shard about the cluster as a whole, beside those of tokens.go.
const (
	// rootPrefix begins the rows of the root shard: banyan.SlotRoot, LayerCluster, SpaceSystem.
	rootPrefix = "\xff\xfe\x04\x00"

	clusterPrefix = rootPrefix + "c/"
	settingsKey   = clusterPrefix + "settings"
	protocolKey   = clusterPrefix + "protocol"
	keepKey       = clusterPrefix + "keep"
	epochKey      = clusterPrefix + "epoch"
	shardMapKey   = clusterPrefix + "shardmap"
	noticePrefix  = clusterPrefix + "notice/" // and the node, and its own number of the notice
)

// settings are what an operator chose for the whole cluster; zero is not chosen.
type settings struct {
	Voters      int   `json:"voters,omitempty"`
	DeadAfterMs int64 `json:"dead_after_ms,omitempty"`
	KeepMs      int64 `json:"keep_ms,omitempty"` // of the three -1 is for ever
	KeepJobs    int64 `json:"keep_jobs,omitempty"`
	KeepBytes   int64 `json:"keep_bytes,omitempty"`
}

// notice is a durable record of what may have cost data.
type notice struct {
	TimeMs int64         `json:"time_ms"`
	Node   banyan.NodeID `json:"node"`
	Text   string        `json:"text"`
}

// facts is this node's copy of those rows, kept fresh by a watch.
type facts struct {
	mu       sync.Mutex
	settings settings
	chosenAt banyan.Revision // the settings, at which revision
	protocol uint32          // at which the cluster acts
	notices  map[string]notice
	rose     func(protocol uint32)  // called when it rises, if not nil; does not block
	moved    func(row []byte) error // called with each row of the shard map, if not nil
	epoch    uint64                 // of sweeping
	began    func(epoch uint64)     // called with each of those, if not nil; does not block
}

func newFacts() *facts { return &facts{protocol: banyan.ProtocolMin, notices: map[string]notice{}} }

// load takes over the rows that a replica of the root shard on this disk has,
// and refuses a cluster that has moved on to what this binary does not speak.
func (f *facts) load(st *store.Store) error {
	rows, err := rootRows(st, clusterPrefix)
	if err != nil {
		return err
	}
	for i := range rows {
		if err := f.take(&rows[i]); err != nil {
			return err
		}
	}
	if f.protocol > banyan.ProtocolVersion || f.protocol < banyan.ProtocolMin {
		return banyan.Errorf(banyan.TooNew, "the cluster acts at protocol %d, this banyan (%s) speaks %d to %d: start the release that the other nodes run",
			f.protocol, banyan.Version, banyan.ProtocolMin, banyan.ProtocolVersion)
	}
	return nil
}

// take reads one row, unless it is older than what is known.
func (f *facts) take(row *mvcc.Row) error {
	key, value := row.Key, row.Value
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	switch {
	case string(key) == settingsKey:
		if row.Mod > f.chosenAt {
			f.chosenAt, f.settings = row.Mod, settings{}
			err = json.Unmarshal(value, &f.settings)
		}
	case string(key) == protocolKey:
		var v uint64
		v, err = strconv.ParseUint(string(value), 10, 32)
		if p := uint32(v); p > f.protocol {
			f.protocol = p
			if f.rose != nil {
				f.rose(p)
			}
		}
	case string(key) == shardMapKey:
		if f.moved != nil {
			err = f.moved(value)
		}
	case string(key) == epochKey:
		var e epochRow
		if err = json.Unmarshal(value, &e); err == nil {
			f.epoch = max(f.epoch, e.Epoch)
			if f.began != nil {
				f.began(f.epoch)
			}
		}
	case bytes.HasPrefix(key, []byte(noticePrefix)):
		var n notice
		err = json.Unmarshal(value, &n)
		f.notices[string(key)] = n
	}
	if err != nil {
		return banyan.Errorf(banyan.Corrupt, "row %s: %w", key, err)
	}
	return nil
}

// forget takes back a row that is gone. Only notices go.
func (f *facts) forget(key []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.notices, string(key))
}

// follow keeps the facts equal to the root shard's rows until ctx ends.
func (f *facts) follow(ctx context.Context, db *route.Router) error {
	lo, hi := []byte(clusterPrefix), mvcc.PrefixEnd([]byte(clusterPrefix))
	for ctx.Err() == nil {
		rows, at, err := readRoot(ctx, db, clusterPrefix)
		for i := range rows {
			if terr := f.take(&rows[i]); terr != nil {
				return terr
			}
		}
		if err == nil {
			err = db.Watch(ctx, banyan.RootShard, lo, hi, at, func(evs []mvcc.Event, _ banyan.Revision) error {
				for i := range evs {
					if evs[i].Deleted {
						f.forget(evs[i].Row.Key)
						continue
					}
					if err := f.take(&evs[i].Row); err != nil {
						return err
					}
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

func (f *facts) acts() uint32 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.protocol
}

func (f *facts) chosen() settings {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.settings
}

// remembered gives the notices, oldest first.
func (f *facts) remembered() []notice {
	f.mu.Lock()
	defer f.mu.Unlock()
	var out []notice
	for _, n := range f.notices {
		out = append(out, n)
	}
	slices.SortFunc(out, func(a, b notice) int {
		return cmp.Or(cmp.Compare(a.TimeMs, b.TimeMs), cmp.Compare(a.Node, b.Node), cmp.Compare(a.Text, b.Text))
	})
	return out
}

// voters is how many each shard is to have, when there are nodes enough.
func (n *Server) voters() int {
	if v := n.facts.chosen().Voters; v != 0 {
		return v
	}
	return n.cfg.Replication
}

// deadAfter is after which silence a node's replicas are rebuilt elsewhere.
func (n *Server) deadAfter() time.Duration {
	if ms := n.facts.chosen().DeadAfterMs; ms != 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return n.cfg.DeadAfter
}
