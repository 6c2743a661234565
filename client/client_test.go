package client_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/client"
	"banyan/door/gate"
	"banyan/node/pki"
)

// cluster is several doors on loopback, with real TLS, to one fake.
type cluster struct {
	*fake
	ca    *pki.CA
	cfg   client.Config
	addrs []string
	stop  []func()       // each door
	calls []atomic.Int64 // requests that came to each door
	hang  []atomic.Bool  // the door takes requests and never answers

	sessionless bool         // the doors are of an older version, without sessions
	refusal     *banyan.Kind // of sessions on connections of their own; a kind that is none: the doors know none
	streams     atomic.Int64 // sessions that came as streams
	upgrades    atomic.Int64 // and those that had a connection of their own
}

func newCluster(t testing.TB, nodes int) *cluster {
	t.Helper()
	ca, err := pki.NewCA("c-test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	user, err := pki.NewKeeper(ca, pki.Subject{Kind: pki.User, Name: "ann"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{fake: newFake(), ca: ca, calls: make([]atomic.Int64, nodes), hang: make([]atomic.Bool, nodes)}
	c.topology = &banyanv1.MapResponse{Slots: make([]uint32, banyan.Slots), Shards: []*banyanv1.Shard{{Id: 0}}}
	for i := range nodes {
		c.start(t, i, ca)
		c.topology.Nodes = append(c.topology.Nodes, &banyanv1.Node{Id: uint64(i + 1), Address: c.addrs[i]})
	}
	c.cfg = client.Config{Addresses: c.addrs, TLS: user.ClientTLS("h2")}
	return c
}

func (c *cluster) start(t testing.TB, i int, ca *pki.CA) {
	t.Helper()
	id := banyan.NodeID(i + 1)
	keeper, err := pki.NewKeeper(ca, pki.Subject{Kind: pki.Node, Name: "node", Node: id}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked := func(ctx context.Context) {
		c.calls[i].Add(1)
		if c.hang[i].Load() {
			<-ctx.Done()
		}
	}
	door := c.fake.handler(id, ca.Cluster(), asked)
	srv := gate.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked(r.Context())
		if c.sessionless && r.URL.Path == banyanv1connect.KVSessionProcedure {
			http.NotFound(w, r)
			return
		}
		if r.URL.Path == banyanv1connect.KVSessionProcedure && r.Method == http.MethodPost {
			c.streams.Add(1)
		}
		if r.Header.Get("Upgrade") != "" {
			c.upgrades.Add(1)
			if c.refusal != nil {
				w.Header().Set(wire.KindHeader, fmt.Sprint(int(*c.refusal)))
				http.Error(w, "no sessions here", http.StatusTeapot)
				return
			}
		}
		door.ServeHTTP(w, r)
	}), slog.New(slog.DiscardHandler))
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(tls.NewListener(listener, keeper.ServerTLS("h2", "http/1.1"))) }()
	stop := sync.OnceFunc(func() { srv.Close(); <-ended })
	c.stop = append(c.stop, stop)
	t.Cleanup(stop)
	c.addrs = append(c.addrs, listener.Addr().String())
}

func (c *cluster) open(t testing.TB) *client.Client {
	t.Helper()
	cl, err := client.Open(c.cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cl.Close(); err != nil {
			t.Error(err)
		}
	})
	return cl
}

func mustPut(t *testing.T, c *client.Client, key, value string) banyan.Revision {
	t.Helper()
	rev, err := c.KV().Put(t.Context(), []byte(key), []byte(value))
	if err != nil {
		t.Fatal(err)
	}
	return rev
}

func wantError(t *testing.T, what string, err error, kind banyan.Kind, says string) {
	t.Helper()
	var e *banyan.Error
	if !errors.As(err, &e) || e.Kind != kind || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v (%v), want %v saying %q", what, err, banyan.KindOf(err), kind, says)
	}
}

func TestCallsGoOnWhenNodesDie(t *testing.T) {
	c := newCluster(t, 3)
	cl := c.open(t)
	for i := range c.stop {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
		if got, err := cl.KV().Get(t.Context(), []byte("a/x")); err != nil || string(got.Value) != fmt.Sprint(i) {
			t.Errorf("with %d dead: %v, %v", i, got, err)
		}
		if i < 2 {
			c.stop[i]()
		}
	}
}

// One address is enough: the others are learned.
func TestOtherNodesAreLearned(t *testing.T) {
	c := newCluster(t, 2)
	c.cfg.Addresses = c.addrs[:1]
	cl := c.open(t)
	for i := range 20 {
		mustPut(t, cl, fmt.Sprint("a/", i), "")
	}
	waitFor(t, cl.Learned) // not only asked
	c.stop[0]()
	mustPut(t, cl, "a/x", "")
}

// waitFor polls for what happens in the background.
func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	for ctx := t.Context(); !ok(); {
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			t.Fatal("it never happened")
		}
	}
}

func TestLeadersAreAskedDirectly(t *testing.T) {
	c := newCluster(t, 3)
	c.topology.Shards[0].Leader = 3
	cl := c.open(t)
	for range 10 {
		mustPut(t, cl, "a/x", "")
	}
	waitFor(t, func() bool { before := c.calls[2].Load(); mustPut(t, cl, "a/x", ""); return c.calls[2].Load() > before })
	others := c.calls[0].Load() + c.calls[1].Load()
	for range 10 {
		mustPut(t, cl, "a/x", "")
	}
	if now := c.calls[0].Load() + c.calls[1].Load(); now != others {
		t.Errorf("%d calls went to nodes that do not lead", now-others)
	}
	// The leader moves: NotLeader says where to.
	c.mu.Lock()
	c.topology.Shards[0].Leader = 2
	first := true
	c.fail = func(call string) error {
		if call == "Put" && first {
			first = false
			return &banyan.Error{Kind: banyan.NotLeader, Msg: "moved", Leader: 2}
		}
		return nil
	}
	c.mu.Unlock()
	before := c.calls[1].Load()
	mustPut(t, cl, "a/x", "")
	if c.calls[1].Load() == before {
		t.Error("the hint was not followed")
	}
}

// A node that does not lead passes calls on, and says so: the next ones go to
// the leader.
func TestALeaderThatMovedIsFollowed(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	for _, leader := range []uint64{2, 1} {
		c.mu.Lock()
		c.topology.Shards[0].Leader = leader
		c.mu.Unlock()
		waitFor(t, func() bool {
			before := c.calls[leader-1].Load()
			mustPut(t, cl, "a/x", "")
			return c.calls[leader-1].Load() > before
		})
	}
}

// A write whose answer was lost is sent again and applied once.
func TestRepeatedWritesAreAppliedOnce(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	lost := 0
	c.lose = func(call string) bool { lost++; return call == "Put" && lost%2 == 1 }
	for i := range 5 {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
	}
	got, err := cl.KV().Get(t.Context(), []byte("a/x"))
	if err != nil || got.Version != 5 || lost != 10 {
		t.Errorf("applied %d times of 5, %d tries, %v", got.GetVersion(), lost, err)
	}
}

func TestErrorsThatWillNotPassAreNotRepeated(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	for _, kind := range []banyan.Kind{banyan.Invalid, banyan.Conflict, banyan.PermissionDenied, banyan.Internal, banyan.Compacted, banyan.Forgotten} {
		tries := 0
		c.mu.Lock()
		c.fail = func(string) error { tries++; return banyan.Errorf(kind, "no") }
		c.mu.Unlock()
		_, err := cl.KV().Put(t.Context(), []byte("a/x"), nil)
		if banyan.KindOf(err) != kind || tries != 1 {
			t.Errorf("%v: %d tries, %v", kind, tries, err)
		}
	}
}

// TestAFullNodeIsPassedBy, and no more than a few are asked when all are full.
func TestAFullNodeIsPassedBy(t *testing.T) {
	c := newCluster(t, 5)
	cl := c.open(t)
	full, tries := 1, 0
	c.mu.Lock()
	c.fail = func(call string) error {
		if call != "Put" {
			return nil // the client learns the addresses now and then
		}
		if tries++; tries <= full {
			return banyan.Errorf(banyan.Exhausted, "full")
		}
		return nil
	}
	c.mu.Unlock()
	if _, err := cl.KV().Put(t.Context(), []byte("a/x"), nil); err != nil {
		t.Errorf("with one node full: %v", err)
	}
	asked := 0
	for i := range c.calls {
		if c.calls[i].Load() > 0 {
			asked++
		}
	}
	if asked != 2 {
		t.Errorf("%d nodes were asked when one was full", asked)
	}
	c.mu.Lock()
	full, tries = 1000, 0
	c.mu.Unlock()
	if _, err := cl.KV().Put(t.Context(), []byte("a/x"), nil); !banyan.IsKind(err, banyan.Exhausted) || tries < 3 || tries > 4 { // with the try over the session
		t.Errorf("with all nodes full: %d tries, %v", tries, err)
	}
}

func TestAHungNodeIsLeftAfterAWhile(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	cl.SetPatience(50 * time.Millisecond)
	c.hang[0].Store(true)
	mustPut(t, cl, "a/x", "")
	if c.calls[0].Load() == 0 || c.calls[1].Load() == 0 {
		t.Errorf("calls: %d and %d", c.calls[0].Load(), c.calls[1].Load())
	}
}

// TestStatusWaitsForNoSilentNode: with patience without end it would wait for
// ever at the first one.
func TestStatusWaitsForNoSilentNode(t *testing.T) {
	c := newCluster(t, 4)
	cl := c.open(t)
	cl.SetPatience(time.Hour)
	for i := range 3 {
		c.hang[i].Store(true)
	}
	if m, err := cl.Cluster().Status(t.Context()); err != nil || m.ClusterId != "fake" {
		t.Errorf("status with three of four nodes silent: %v, %v", m, err)
	}
}

func TestWhenNobodyAnswers(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	c.stop[0]()
	c.stop[1]()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := cl.Cluster().Status(ctx)
	wantError(t, "all dead", err, banyan.Unavailable, c.addrs[0]+", "+c.addrs[1])
	wantError(t, "all dead", err, banyan.Unavailable, "refused")
	ctx, cancel = context.WithCancel(t.Context())
	cancel()
	_, err = cl.Cluster().Status(ctx)
	wantError(t, "canceled", err, banyan.Canceled, "")

	c = newCluster(t, 1)
	c.hang[0].Store(true)
	ctx, cancel = context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = c.open(t).Cluster().Status(ctx)
	wantError(t, "silent", err, banyan.Timeout, c.addrs[0])
}

func TestWrongPlaces(t *testing.T) {
	c := newCluster(t, 1)
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()

	other := newCluster(t, 1)
	c.cfg.Addresses = other.addrs
	_, err := c.open(t).Cluster().Status(ctx)
	wantError(t, "another cluster", err, banyan.Unauthenticated, "")

	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.NotFoundHandler()}
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(plain) }()
	defer func() { srv.Close(); <-ended }()
	c.cfg.Addresses = []string{plain.Addr().String()}
	_, err = c.open(t).Cluster().Status(ctx)
	wantError(t, "no TLS there", err, banyan.Unavailable, "not a banyan node")

	for what, cfg := range map[string]client.Config{"no TLS": {Addresses: []string{"a:1"}}, "no address": {TLS: &tls.Config{}}, "no port": {TLS: &tls.Config{}, Addresses: []string{"host"}}} {
		_, err := client.Open(cfg)
		wantError(t, what, err, banyan.Invalid, "client: ")
	}
}

func TestWatchGoesOnElsewhere(t *testing.T) {
	c := newCluster(t, 2)
	cl, writer := c.open(t), c.open(t)
	const alone = 200 * time.Millisecond
	cl.SetAlone(alone)
	broken := false
	var got []string
	stop := errors.New("enough")
	err := cl.KV().Watch(t.Context(), &banyanv1.WatchRequest{Key: []byte("w/"), Prefix: true}, func(m *banyanv1.WatchResponse) error {
		for _, e := range m.Events {
			got = append(got, string(e.Kv.Key))
		}
		switch {
		case len(got) == 0 && !broken:
			mustPut(t, writer, "w/1", "")
		case len(got) == 1 && !broken:
			broken = true
			time.Sleep(2 * alone) // a stream that was quiet for longer is no stream that was gone
			c.stop[0]()
			mustPut(t, writer, "w/2", "")
			mustPut(t, writer, "w/3", "")
		case len(got) == 3:
			return stop
		}
		return nil
	})
	if err != stop || !slices.Equal(got, []string{"w/1", "w/2", "w/3"}) { //nolint:errorlint // the very same
		t.Errorf("%q, %v", got, err)
	}
}

func TestFollowGivesEveryResultOnce(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	id := banyan.NewJobID(1, 1)
	tasks := 20
	inputs := func(yield func(*banyanv1.Input) bool) {
		for i := range tasks {
			if !yield(banyanv1.NewInput(fmt.Sprint(i))) {
				return
			}
		}
	}
	if n, err := cl.Jobs().Submit(t.Context(), id, &banyanv1.JobSpec{}, inputs); err != nil || n != uint32(tasks) {
		t.Fatalf("%d, %v", n, err)
	}
	c.mu.Lock()
	c.fail = func(call string) error { // every third result breaks the stream off
		if call == "Follow" && c.nth[call]%3 == 0 {
			return banyan.Errorf(banyan.Unavailable, "broke")
		}
		return nil
	}
	c.mu.Unlock()
	var got []uint32
	var last *banyanv1.FollowResponse
	err := cl.Jobs().Follow(t.Context(), id, 0, func(m *banyanv1.FollowResponse) error {
		for _, r := range m.Results {
			got = append(got, r.Task)
		}
		last = m
		return nil
	})
	if err != nil || len(got) != tasks || !slices.IsSorted(got) || last.State != banyanv1.JobState_JOB_STATE_SUCCEEDED {
		t.Errorf("%v, %v, %v", got, last, err)
	}
	own := errors.New("mine")
	if err := cl.Jobs().Follow(t.Context(), id, 0, func(*banyanv1.FollowResponse) error { return own }); err != own { //nolint:errorlint // the very same
		t.Errorf("the caller's error became %v", err)
	}
	err = cl.Jobs().Follow(t.Context(), banyan.NewJobID(1, 2), 0, nil)
	wantError(t, "a job that is not there", err, banyan.NotFound, "no job")
}

func TestSubmitIsRepeatedWhole(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	tries := 0
	c.lose = func(call string) bool { tries++; return tries == 1 }
	long := strings.Repeat("x", 100<<10)
	n, err := cl.Jobs().Submit(t.Context(), banyan.NewJobID(1, 1), &banyanv1.JobSpec{Name: "big"}, func(yield func(*banyanv1.Input) bool) {
		for range 50 {
			if !yield(banyanv1.NewInput(long)) {
				return
			}
		}
	})
	if err != nil || n != 50 || tries != 2 {
		t.Errorf("%d tasks, %d tries, %v", n, tries, err)
	}
	job, err := cl.Jobs().Get(t.Context(), banyan.NewJobID(1, 1))
	if err != nil || job.Tasks != 50 || job.Spec.Name != "big" {
		t.Errorf("%v, %v", job, err)
	}
	c.mu.Lock()
	c.fail = func(string) error { return banyan.Errorf(banyan.Invalid, "bad spec") }
	c.mu.Unlock()
	_, err = cl.Jobs().Submit(t.Context(), banyan.NewJobID(1, 2), &banyanv1.JobSpec{}, slices.Values([]*banyanv1.Input{{Columns: banyanv1.Bytes(long)}}))
	wantError(t, "refused while sending", err, banyan.Invalid, "bad spec")
}

func TestLogs(t *testing.T) {
	c := newCluster(t, 1)
	cl := c.open(t)
	id := banyan.NewJobID(1, 1)
	if _, err := cl.Jobs().Submit(t.Context(), id, &banyanv1.JobSpec{}, slices.Values([]*banyanv1.Input{{}})); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	ended := false
	err := cl.Jobs().Logs(t.Context(), &banyanv1.LogsRequest{JobId: string(id)}, func(m *banyanv1.LogsResponse) error {
		got.Write(m.Data)
		ended = m.Ended
		return nil
	})
	if err != nil || got.String() != "task 1\n" || !ended {
		t.Errorf("%q, %v, %v", &got, ended, err)
	}
}

func TestListAsksPageAfterPage(t *testing.T) {
	c := newCluster(t, 1)
	cl := c.open(t)
	var want []string
	for i := range 7 {
		want = append(want, fmt.Sprint("l/", i))
		mustPut(t, cl, want[i], "v")
	}
	var got []string
	for kv, err := range cl.KV().List(t.Context(), []byte("l/")) {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(kv.Key))
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
	if n, err := cl.KV().DeletePrefix(t.Context(), []byte("l/")); n != 7 || err != nil {
		t.Errorf("deleted %d, %v", n, err)
	}
}

func TestBlobsAreSentOnce(t *testing.T) {
	c := newCluster(t, 2)
	cl := c.open(t)
	data := make([]byte, 2*banyan.BlobChunkBytes+1000)
	rand.NewChaCha8([32]byte{2}).Read(data)
	for range 2 {
		chunks, size, err := cl.Blobs().Upload(t.Context(), bytes.NewReader(data))
		if err != nil || len(chunks) != 3 || size != int64(len(data)) {
			t.Fatalf("%d chunks, %d bytes, %v", len(chunks), size, err)
		}
		var got bytes.Buffer
		if err := cl.Blobs().Download(t.Context(), chunks, &got); err != nil || !bytes.Equal(got.Bytes(), data) {
			t.Errorf("%d bytes came back, %v", got.Len(), err)
		}
	}
	if c.puts != 4 { // the short last chunk is not asked about
		t.Errorf("%d chunks were sent", c.puts)
	}
	if chunks, size, err := cl.Blobs().Upload(t.Context(), strings.NewReader("")); len(chunks) != 0 || size != 0 || err != nil {
		t.Errorf("nothing: %v, %d, %v", chunks, size, err)
	}
	own := errors.New("cannot read")
	_, _, err := cl.Blobs().Upload(t.Context(), io.MultiReader(bytes.NewReader(data), failing{own}))
	if !errors.Is(err, own) {
		t.Errorf("the reader's error became %v", err)
	}
	err = cl.Blobs().Download(t.Context(), [][]byte{make([]byte, 32)}, io.Discard)
	wantError(t, "a chunk that is not there", err, banyan.NotFound, "no blob")
	c.mu.Lock()
	c.fail = func(string) error { return banyan.Errorf(banyan.Exhausted, "disk full") }
	c.mu.Unlock()
	_, _, err = cl.Blobs().Upload(t.Context(), bytes.NewReader(slices.Concat([]byte("new"), data, data, data)))
	wantError(t, "a full disk", err, banyan.Exhausted, "disk full")
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestManyCallsAtOnce(t *testing.T) {
	c := newCluster(t, 1)
	cl := c.open(t)
	var wg sync.WaitGroup
	for i := range 300 {
		wg.Go(func() { mustPut(t, cl, fmt.Sprint("m/", i), "v") })
	}
	wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.keys) != 300 {
		t.Errorf("%d keys", len(c.keys))
	}
}

// A node of an older version knows no sessions: calls go one by one.
func TestANodeWithoutSessions(t *testing.T) {
	c := newCluster(t, 1)
	c.sessionless = true
	cl := c.open(t)
	for i := range 3 {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
	}
	if got, err := cl.KV().Get(t.Context(), []byte("a/x")); err != nil || string(got.Value) != "2" {
		t.Errorf("%v, %v", got, err)
	}
}

// A session has a connection of its own, and comes back when that breaks; with a
// node of an older version it is a stream.
func TestSessionsHaveConnections(t *testing.T) {
	c := newCluster(t, 1)
	cl := c.open(t)
	for i := range 3 {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
	}
	if c.upgrades.Load() != 1 || c.streams.Load() != 0 {
		t.Errorf("%d connections, %d streams", c.upgrades.Load(), c.streams.Load())
	}
	none := banyan.Kind(banyan.Kinds)
	c.refusal = &none
	cl = c.open(t)
	for i := range 3 {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
	}
	if c.upgrades.Load() != 2 || c.streams.Load() != 1 {
		t.Errorf("%d connections, %d streams, when only streams are known", c.upgrades.Load(), c.streams.Load())
	}
	refused := banyan.PermissionDenied
	c.refusal = &refused
	_, err := c.open(t).KV().Put(t.Context(), []byte("a/x"), nil)
	wantError(t, "a session that is refused", err, banyan.PermissionDenied, "no sessions here")
}

// A call that is too large for a session is no other call's trouble.
func TestLargeCallsGoByThemselves(t *testing.T) {
	c := newCluster(t, 1)
	cl := c.open(t)
	mustPut(t, cl, "a/x", "")
	_, err := cl.KV().Put(t.Context(), []byte("a/x"), make([]byte, banyan.RequestBytesMax))
	wantError(t, "a value that is too long", err, banyan.Exhausted, "")
	mustPut(t, cl, "a/x", strings.Repeat("v", banyan.CommandBytesMax+1))
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() { mustPut(t, cl, fmt.Sprint("a/", i), strings.Repeat("v", banyan.ValueBytesMax)) })
	}
	wg.Wait()
	for i := range 10 {
		wg.Go(func() {
			if kv, err := cl.KV().Get(t.Context(), []byte(fmt.Sprint("a/", i))); err != nil || len(kv.Value) != banyan.ValueBytesMax {
				t.Errorf("%d bytes, %v", len(kv.GetValue()), err)
			}
		})
	}
	wg.Wait()
	if c.upgrades.Load() != 1 {
		t.Errorf("%d sessions", c.upgrades.Load())
	}
}

// TestWritesSayWhatWasKnown: every copy of a write says the same revision, which
// the shard had before the first copy was sent; who knows none asks.
func TestWritesSayWhatWasKnown(t *testing.T) {
	c := newCluster(t, 2)
	c.rev = 41
	var said [][2]uint64 // of each copy: what it says, and what the shard is at
	c.put = func(req *banyanv1.PutRequest) {
		if req.KnownRevision == nil {
			t.Error("a put says nothing")
		}
		said = append(said, [2]uint64{req.GetKnownRevision(), c.rev})
	}
	lost := 0
	c.lose = func(call string) bool { lost++; return call == "Put" && lost%2 == 1 }
	cl := c.open(t)
	for i := range 3 {
		mustPut(t, cl, "a/x", fmt.Sprint(i))
	}
	if want := [][2]uint64{{41, 41}, {41, 42}, {42, 42}, {42, 43}, {43, 43}, {43, 44}}; !slices.Equal(said, want) {
		t.Errorf("%v, want %v", said, want)
	}
	gets := func() int {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.nth["Get"]
	}
	if gets() != 1 {
		t.Errorf("asked %d times", gets())
	}
	if _, err := c.open(t).KV().Delete(t.Context(), []byte("b")); err != nil || gets() != 2 {
		t.Errorf("another client has asked %d times, %v", gets()-1, err)
	}
}

// TestAWriteFollowsASplit: told that its shard had given the key away, the client
// makes the write anew, under another id, with what the other shard tells. The
// revisions of the two are never mixed up.
func TestAWriteFollowsASplit(t *testing.T) {
	c := newCluster(t, 2)
	c.rev = 41
	var said []string
	ids := map[string]bool{}
	c.put = func(req *banyanv1.PutRequest) {
		said = append(said, fmt.Sprintf("%d of %d", req.GetKnownRevision(), req.KnownShard))
		ids[string(req.RequestId)] = true
	}
	cl := c.open(t)
	mustPut(t, cl, "a/x", "1")
	c.mu.Lock()
	c.shard, c.rev = 9, 20
	c.mu.Unlock()
	mustPut(t, cl, "a/x", "2")
	mustPut(t, cl, "a/x", "3")
	if want := []string{"41 of 1", "42 of 1", "20 of 9", "21 of 9"}; !slices.Equal(said, want) || len(ids) != len(want) {
		t.Errorf("%q under %d ids, want %q", said, len(ids), want)
	}
}

// TestAMessageThatCannotBeMadeIsSaid: the error names the job and not the node,
// and no other node is asked.
func TestAMessageThatCannotBeMadeIsSaid(t *testing.T) {
	cl := newCluster(t, 1).open(t)
	_, err := cl.Jobs().Submit(t.Context(), banyan.NewJobID(1, 2), &banyanv1.JobSpec{Name: "caf\xe9", Command: banyanv1.NewCommand("true")}, slices.Values([]*banyanv1.Input{banyanv1.NewInput("x")}))
	if !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), "cannot be sent") {
		t.Errorf("%v", err)
	}
}
