package route

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/replica"
	"banyan/engine/store"

	"connectrpc.com/connect"
	"github.com/cockroachdb/pebble/v2/vfs"
	"go.etcd.io/raft/v3/raftpb"
)

// peer is another node, of which only Commit and Read are asked.
type peer struct {
	peerv1connect.PeerClient
	commit func(*peerv1.CommitRequest) (*peerv1.CommitResponse, error)
}

// Read tells of revision 6, and of no rows.
func (p peer) Read(context.Context, *connect.Request[peerv1.ReadRequest]) (*connect.Response[peerv1.ReadResponse], error) {
	return connect.NewResponse(&peerv1.ReadResponse{Revision: 6}), nil
}

func (p peer) Commit(_ context.Context, req *connect.Request[peerv1.CommitRequest]) (*connect.Response[peerv1.CommitResponse], error) {
	res, err := p.commit(req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// crowd is a fixed membership.
type crowd struct {
	leader banyan.NodeID
	alive  []banyan.NodeID
}

func (c crowd) Leader(banyan.ShardID) (banyan.NodeID, uint64) { return c.leader, 1 }
func (c crowd) Alive() []banyan.NodeID                        { return c.alive }

// host runs node 1, alone or without any shard.
func host(t *testing.T, shards ...banyan.ShardID) *replica.Host {
	t.Helper()
	return hostAt(t, banyan.ProtocolVersion, shards...)
}

// hostAt is host in a cluster that acts at a protocol.
func hostAt(t *testing.T, acts uint32, shards ...banyan.ShardID) *replica.Host {
	t.Helper()
	st, err := store.Open("db", store.Options{FS: vfs.NewMem()})
	if err != nil {
		t.Fatal(err)
	}
	if len(shards) > 0 {
		if err := st.Bootstrap(shards, 1); err != nil {
			t.Fatal(err)
		}
	}
	h, err := replica.New(replica.Config{Node: 1, Store: st, Protocol: acts, Send: func(banyan.NodeID, banyan.ShardID, *raftpb.Message) {}, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, st.Close()); err != nil {
			t.Error(err)
		}
	})
	return h
}

func put(key, value string) *mvcc.Command {
	return &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(key), Value: []byte(value)}}}
}

func TestRowsHere(t *testing.T) {
	r := New(Config{Node: 1, Map: dealt(1), Host: host(t, 0, 1)})
	if _, err := r.WaitLeader(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if res, err := r.Commit(t.Context(), 1, put(fmt.Sprintf("a/%d", i), "v")); err != nil || !res.OK {
			t.Fatalf("Commit: %+v, %v", res, err)
		}
	}
	one, err := r.Read(t.Context(), 1, ReadQuery{Key: []byte("a/3")})
	if err != nil || len(one.Rows) != 1 || string(one.Rows[0].Value) != "v" {
		t.Fatalf("Read one: %+v, %v", one, err)
	}
	page, err := r.Read(t.Context(), 1, ReadQuery{Key: []byte("a/"), End: []byte("a0"), Limit: 3})
	if err != nil || len(page.Rows) != 3 || !page.More {
		t.Fatalf("Read a page: %+v, %v", page, err)
	}
	stale, err := r.Read(t.Context(), 1, ReadQuery{Key: []byte("a/4"), Stale: true})
	if err != nil || len(stale.Rows) != 1 {
		t.Fatalf("Read stale: %+v, %v", stale, err)
	}
}

func TestWatchGivesEveryChangeOnce(t *testing.T) {
	r := New(Config{Node: 1, Map: dealt(1), Host: host(t, 0, 1)})
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for i := range 50 {
			if _, err := r.Commit(t.Context(), 1, put("a/x", fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
	})
	enough := errors.New("enough")
	next := 0
	err := r.Watch(t.Context(), 1, []byte("a/"), []byte("a0"), 0, func(evs []mvcc.Event, _ banyan.Revision) error {
		for _, e := range evs {
			if string(e.Row.Value) != fmt.Sprint(next) {
				t.Errorf("event %d has value %s", next, e.Row.Value)
			}
			if next++; next == 50 {
				return enough
			}
		}
		return nil
	})
	if !errors.Is(err, enough) {
		t.Fatal(err)
	}
}

// TestCommitFollowsTheLeader: hints are followed, elections are waited out, and
// every try carries the same request id and the revision that was known at
// first.
func TestCommitFollowsTheLeader(t *testing.T) {
	const earliest = 7
	var asked []banyan.NodeID
	ids := map[banyan.RequestID]bool{}
	dial := func(id banyan.NodeID) (peerv1connect.PeerClient, error) {
		return peer{commit: func(req *peerv1.CommitRequest) (*peerv1.CommitResponse, error) {
			asked = append(asked, id)
			cmd, err := mvcc.Decode(req.Command)
			if err != nil {
				t.Fatal(err)
			}
			ids[cmd.Request] = true
			if cmd.Earliest != earliest {
				t.Errorf("the command can have made revision %d, not %d", cmd.Earliest, earliest)
			}
			switch {
			case id == 2:
				return nil, &banyan.Error{Kind: banyan.NotLeader, Msg: "ask node 3", Leader: 3}
			case len(asked) < 4:
				return nil, banyan.Errorf(banyan.Unavailable, "an election is under way")
			}
			res := mvcc.Result{OK: true, Revision: 7}
			return &peerv1.CommitResponse{Result: res.Encode(nil)}, nil
		}}, nil
	}
	r := New(Config{Node: 1, Map: dealt(1), Host: hostAt(t, banyan.ProtocolVersion), Members: crowd{2, []banyan.NodeID{1, 2, 3}}, Dial: dial})
	res, err := r.Commit(t.Context(), 1, put("a", "b"))
	if err != nil || res.Revision != 7 {
		t.Fatalf("Commit: %+v, %v", res, err)
	}
	if asked[0] != 2 || asked[1] != 3 {
		t.Errorf("asked %v: want the known leader, then its hint", asked)
	}
	if len(ids) != 1 {
		t.Errorf("%d request ids for one commit", len(ids))
	}
}

func TestCommitGivesUpInTime(t *testing.T) {
	dial := func(banyan.NodeID) (peerv1connect.PeerClient, error) {
		return nil, banyan.Errorf(banyan.Unavailable, "connection refused")
	}
	r := New(Config{Node: 1, Map: dealt(1), Host: host(t), Members: crowd{2, []banyan.NodeID{1, 2}}, Dial: dial})
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Commit(ctx, 1, put("a", "b")); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("Commit without any leader: %v", err)
	}
}

func TestWhatCannotSucceedIsNotRepeated(t *testing.T) {
	calls := 0
	dial := func(banyan.NodeID) (peerv1connect.PeerClient, error) {
		return peer{commit: func(*peerv1.CommitRequest) (*peerv1.CommitResponse, error) {
			calls++
			return nil, banyan.Errorf(banyan.Invalid, "no")
		}}, nil
	}
	r := New(Config{Node: 1, Map: dealt(1), Host: host(t), Members: crowd{2, []banyan.NodeID{1, 2}}, Dial: dial})
	if _, err := r.Commit(t.Context(), 1, put("a", "b")); !banyan.IsKind(err, banyan.Invalid) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}
	if _, err := r.Commit(t.Context(), 1, &mvcc.Command{Term: 3, Muts: put("a", "b").Muts}); err == nil || calls != 1 {
		t.Errorf("a fenced command left this node: %d calls, %v", calls, err)
	}
}

// dealt is the map of a new cluster with n data shards.
func dealt(n int) func() *shardmap.Map {
	m := shardmap.New(n)
	return func() *shardmap.Map { return m }
}

// TestForgottenRequests: a request that was sent before what the shard remembers
// is refused, at the replica itself and through the one that takes no waiter.
func TestForgottenRequests(t *testing.T) {
	r := New(Config{Node: 1, Map: dealt(1), Host: host(t, 0, 1)})
	if _, err := r.WaitLeader(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	first, err := r.Commit(t.Context(), 1, put("a", "b"))
	if err != nil {
		t.Fatal(err)
	}
	lost := put("a", "c") // of a history that this shard does not have
	lost.Request, lost.Earliest = banyan.NewRequestID(), first.Revision+2
	if _, err := r.Commit(t.Context(), 1, lost); !banyan.IsKind(err, banyan.Forgotten) {
		t.Errorf("Commit: %v", err)
	}
	told := make(chan error, 1)
	r.CommitThen(t.Context(), 1, lost, func(_ mvcc.Result, err error) { told <- err })
	if err := <-told; !banyan.IsKind(err, banyan.Forgotten) {
		t.Errorf("CommitThen: %v", err)
	}
	known := put("a", "d")
	known.Request, known.Earliest = banyan.NewRequestID(), first.Revision+1
	if res, err := r.Commit(t.Context(), 1, known); err != nil || res.Revision != first.Revision+1 {
		t.Errorf("%+v, %v", res, err)
	}
}
