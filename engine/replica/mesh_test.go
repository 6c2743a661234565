package replica

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// mesh is several Hosts in one process; messages are calls.
type mesh struct {
	t     testing.TB
	mu    sync.RWMutex
	hosts map[banyan.NodeID]*meshNode
}

type meshNode struct {
	*Host
	store  *store.Store
	cancel context.CancelFunc
	ended  chan error

	reading sync.RWMutex // of the store
	closed  bool
}

func newMesh(t testing.TB) *mesh { return &mesh{t: t, hosts: map[banyan.NodeID]*meshNode{}} }

func (m *mesh) at(id banyan.NodeID) *meshNode {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.hosts[id]
}

func memStore(t testing.TB) *store.Store {
	t.Helper()
	st, err := store.Open("db", store.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// add starts a host over st.
func (m *mesh) add(id banyan.NodeID, st *store.Store) *meshNode {
	m.t.Helper()
	level := slog.LevelWarn
	if os.Getenv("REPLICA_TEST_LOG") != "" {
		level = slog.LevelDebug
	}
	h, err := New(Config{
		Node: id, Store: st, Protocol: banyan.ProtocolVersion,
		Send: func(to banyan.NodeID, shard banyan.ShardID, msg *raftpb.Message) {
			if n := m.at(to); n != nil {
				n.Step(shard, msg)
			}
		},
		SendSnapshot: func(ctx context.Context, to banyan.NodeID, shard banyan.ShardID, msg *raftpb.Message, v *store.View) error {
			n := m.at(to)
			if n == nil {
				return errors.New("down")
			}
			rows, err := allRows(v)
			if err != nil {
				return err
			}
			return n.ReceiveSnapshot(ctx, shard, msg, rows)
		},
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})).With("node", uint64(id)),
	})
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &meshNode{Host: h, store: st, cancel: cancel, ended: make(chan error, 1)}
	m.mu.Lock()
	m.hosts[id] = n
	m.mu.Unlock()
	go func() { n.ended <- h.Run(ctx) }()
	m.t.Cleanup(func() { m.stop(id) })
	return n
}

// stop ends a host and closes its store.
func (m *mesh) stop(id banyan.NodeID) {
	n := m.at(id)
	if n == nil {
		return
	}
	m.mu.Lock()
	delete(m.hosts, id)
	m.mu.Unlock()
	n.cancel()
	if err := <-n.ended; err != nil {
		m.t.Errorf("host %v: %v", id, err)
	}
	n.reading.Lock()
	defer n.reading.Unlock()
	n.closed = true
	if err := n.store.Close(); err != nil {
		m.t.Errorf("store of %v: %v", id, err)
	}
}

// get reads a key while the store is open.
func (n *meshNode) get(shard banyan.ShardID, key []byte) (*mvcc.Row, error) {
	n.reading.RLock()
	defer n.reading.RUnlock()
	if n.closed {
		return nil, errors.New("down")
	}
	row, _, err := n.Get(shard, key)
	return row, err
}

func allRows(v mvcc.Reader) (Rows, error) {
	var keys, values [][]byte
	err := v.Scan(nil, nil, func(k, val []byte) bool {
		keys, values = append(keys, append([]byte{}, k...)), append(values, append([]byte{}, val...))
		return true
	})
	i := 0
	return func() ([]byte, []byte, error) {
		if i == len(keys) {
			return nil, nil, io.EOF
		}
		i++
		return keys[i-1], values[i-1], nil
	}, err
}

func put(key, value string) *mvcc.Command {
	return &mvcc.Command{
		Request: banyan.NewRequestID(),
		Muts:    []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(key), Value: []byte(value)}},
	}
}

func deadline(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// awaitLeaders waits until the host leads the shards.
func awaitLeaders(t testing.TB, h *Host, shards int) {
	t.Helper()
	feed := h.Leadership()
	defer feed.Close()
	led := map[banyan.ShardID]bool{}
	for len(led) < shards {
		ls, err := feed.Next(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range ls {
			if l.Leading {
				led[l.Shard] = true
			}
		}
	}
}

// grow makes the shards of hosts[0] three-voter shards.
func (m *mesh) grow(shards int, ids ...banyan.NodeID) {
	m.t.Helper()
	ctx := deadline(m.t)
	first := m.at(ids[0])
	var wg sync.WaitGroup
	for s := range banyan.ShardID(shards) {
		wg.Go(func() {
			if err := first.Reconfigure(ctx, s, ids[:1], ids[1:]); err != nil {
				m.t.Errorf("learners of shard %d: %v", s, err)
			}
			for {
				err := first.Reconfigure(ctx, s, ids, nil)
				if err == nil {
					return
				}
				if !banyan.IsKind(err, banyan.Unavailable) || ctx.Err() != nil {
					m.t.Errorf("voters of shard %d: %v", s, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func threeHosts(t testing.TB, shards int) *mesh {
	t.Helper()
	m := newMesh(t)
	st := memStore(t)
	ids := make([]banyan.ShardID, shards)
	for i := range ids {
		ids[i] = banyan.ShardID(i)
	}
	if err := st.Bootstrap(ids, 1); err != nil {
		t.Fatal(err)
	}
	m.add(1, st)
	m.add(2, memStore(t))
	m.add(3, memStore(t))
	awaitLeaders(t, m.at(1).Host, shards)
	m.grow(shards, 1, 2, 3)
	return m
}
