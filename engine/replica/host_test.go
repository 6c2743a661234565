package replica

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
)

func TestOneNodeLeadsAtOnce(t *testing.T) {
	m := newMesh(t)
	st := memStore(t)
	if err := st.Bootstrap([]banyan.ShardID{0, 1, 2}, 1); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	h := m.add(1, st)
	awaitLeaders(t, h.Host, 3)
	t.Logf("led after %v", time.Since(began))
	ctx := deadline(t)
	res, err := h.Propose(ctx, 1, put("a", "1"))
	if err != nil || !res.OK {
		t.Fatalf("%+v, %v", res, err)
	}
	if err := h.ReadIndex(ctx, 1); err != nil {
		t.Fatal(err)
	}
	row, _, err := h.Get(1, []byte("a"))
	if err != nil || string(row.Value) != "1" {
		t.Fatalf("%+v, %v", row, err)
	}
}

// anywhere proposes a command at whoever leads, again and again under the same
// request id, as clients do.
func (m *mesh) anywhere(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	for id := banyan.NodeID(1); ; id = id%3 + 1 {
		if n := m.at(id); n != nil {
			res, err := n.Propose(ctx, shard, cmd)
			switch banyan.KindOf(err) {
			case banyan.NotLeader, banyan.Unavailable, banyan.Stale:
			default:
				return res, err
			}
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return mvcc.Result{}, ctx.Err()
		}
	}
}

// kill stops a node and lets the others notice.
func (m *mesh) kill(id banyan.NodeID) {
	m.stop(id)
	for other := range banyan.NodeID(4) {
		if n := m.at(other); n != nil {
			n.PeerLost(id)
		}
	}
}

// increment adds 1 to a counter by compare-and-swap and returns what it wrote.
func (m *mesh) increment(ctx context.Context, shard banyan.ShardID, key []byte) (uint64, error) {
	for id := banyan.NodeID(1); ; id = id%3 + 1 {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		n := m.at(id)
		if n == nil || n.ReadIndex(ctx, shard) != nil {
			continue
		}
		row, err := n.get(shard, key)
		if err != nil {
			continue // it was stopped
		}
		var now uint64
		var mod banyan.Revision
		if row != nil {
			now, mod = binary.BigEndian.Uint64(row.Value), row.Mod
		}
		cmd := put(string(key), string(binary.BigEndian.AppendUint64(nil, now+1)))
		cmd.Conds = []mvcc.Cond{{Key: key, Test: mvcc.ModEquals, Number: uint64(mod)}}
		res, err := m.anywhere(ctx, shard, cmd)
		if err != nil || res.OK {
			return now + 1, err
		}
	}
}

// Counters lose and repeat nothing, and watchers on every node see each change
// once and in order, while leaders die.
func TestNothingIsLostOrDoubled(t *testing.T) {
	const shards, clients, each = 2, 8, 60
	m := threeHosts(t, shards)
	ctx := deadline(t)
	stores := map[banyan.NodeID]*store.Store{}
	watched := make([]chan []uint64, 0)
	for _, id := range []banyan.NodeID{2, 3} {
		stores[id] = m.at(id).store
		for shard := range banyan.ShardID(shards) {
			w, err := m.at(id).Watch(shard, []byte("counter"), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			out := make(chan []uint64, 1)
			watched = append(watched, out)
			go func() { out <- follow(ctx, w, clients*each/shards) }()
		}
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	wrote := map[banyan.ShardID][]uint64{}
	for c := range clients {
		shard := banyan.ShardID(c % shards)
		wg.Go(func() {
			for range each {
				v, err := m.increment(ctx, shard, []byte("counter"))
				if err != nil {
					t.Errorf("increment: %v", err)
					return
				}
				mu.Lock()
				wrote[shard] = append(wrote[shard], v)
				if n := len(wrote[0]) + len(wrote[1]); n == clients*each/3 {
					wg.Go(func() { m.kill(1) })
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	want := make([]uint64, clients*each/shards)
	for i := range want {
		want[i] = uint64(i + 1)
	}
	for shard, got := range wrote {
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("shard %d: the counter took %v", shard, got)
		}
	}
	for i, out := range watched {
		if got := <-out; !slices.Equal(got, want) {
			t.Errorf("watcher %d saw %v", i, got)
		}
	}
}

// follow collects the values of n events.
func follow(ctx context.Context, w *Watcher, n int) (values []uint64) {
	defer w.Close()
	for len(values) < n {
		events, _, err := w.Next(ctx)
		if err != nil {
			return values
		}
		for _, e := range events {
			values = append(values, binary.BigEndian.Uint64(e.Row.Value))
		}
	}
	return values
}

// lonely is a leader whose messages go nowhere: it commits nothing.
func lonely(t *testing.T) (*mesh, *meshNode) {
	t.Helper()
	m := threeHosts(t, 1)
	ctx := deadline(t)
	if _, err := m.at(1).Propose(ctx, 0, put("a", "1")); err != nil {
		t.Fatal(err)
	}
	m.stop(2)
	m.stop(3)
	return m, m.at(1)
}

func TestBackPressure(t *testing.T) {
	m, n := lonely(t)
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	cmd := put("big", string(make([]byte, banyan.ValueBytesMax)))
	answers := make(chan error, 100)
	for range cap(answers) {
		go func() {
			_, err := n.Propose(ctx, 0, cmd)
			answers <- err
		}()
	}
	// 64 MiB may wait: of 100 commands of 1 MiB, 37 cannot.
	for range 37 {
		if err := <-answers; !banyan.IsKind(err, banyan.Exhausted) {
			t.Fatalf("not refused: %v", err)
		}
	}
	m.stop(1) // answers the rest
	for range cap(answers) - 37 {
		if err := <-answers; !banyan.IsKind(err, banyan.Unavailable) || !IsUncertain(err) {
			t.Fatalf("not told that the outcome is unknown: %v", err)
		}
	}
}

func TestWaitersAreAnswered(t *testing.T) {
	m, n := lonely(t)
	ctx := deadline(t)
	answers := make(chan error, 8)
	readThen := func() error { return <-await(n.ReadThen, 0) }
	w, err := n.Watch(0, nil, nil, 1)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(f func() error) { go func() { answers <- f() }() }
	ask(func() error { _, err := n.Propose(ctx, 0, put("b", "1")); return err })
	ask(func() error { return n.ReadIndex(ctx, 0) })
	ask(readThen)
	ask(func() error { return n.Reconfigure(ctx, 0, []banyan.NodeID{1}, nil) })
	ask(func() error { _, _, err := w.Next(ctx); return err })
	if _, err := n.Statuses(ctx); err != nil {
		t.Fatal(err)
	}
	m.stop(1)
	ask(func() error { _, err := n.Propose(ctx, 0, put("c", "1")); return err })
	ask(func() error { _, err := n.Statuses(ctx); return err })
	ask(readThen)
	for range cap(answers) {
		if err := <-answers; !banyan.IsKind(err, banyan.Unavailable) && !banyan.IsKind(err, banyan.NotLeader) {
			t.Errorf("answered: %v", err)
		}
	}
}

func TestNoRequestIDNoRetry(t *testing.T) {
	m, n := lonely(t)
	cmd := put("b", "1")
	cmd.Request = banyan.RequestID{}
	answer := make(chan error, 1)
	go func() { _, err := n.Propose(deadline(t), 0, cmd); answer <- err }()
	for n.waiting() == 0 {
		time.Sleep(time.Millisecond)
	}
	m.stop(1)
	if err := <-answer; !banyan.IsKind(err, banyan.Timeout) {
		t.Fatalf("a router would send it again: %v", err)
	}
}

func (n *meshNode) waiting() int64 { return n.slot(0).proposals.Load() }

// A host does without its ticks: what is waited for is heard of at once.
func TestWithoutTicks(t *testing.T) {
	st := memStore(t)
	if err := st.Bootstrap([]banyan.ShardID{0, 1}, 1); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Node: 1, Store: st, TickMs: 1e9, Send: func(banyan.NodeID, banyan.ShardID, *raftpb.Message) {}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(deadline(t))
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	awaitLeaders(t, h, 2)
	for i := range 100 {
		for shard := range banyan.ShardID(2) {
			if _, err := h.Propose(ctx, shard, put("a", fmt.Sprint(i))); err != nil {
				t.Fatal(err)
			}
			if err := h.ReadIndex(ctx, shard); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := h.Reconfigure(ctx, 0, []banyan.NodeID{1}, []banyan.NodeID{2}); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
}

// A disk that fails ends the host with its error, and nothing it could not
// write is acknowledged.
func TestDiskFailure(t *testing.T) {
	disk := simdisk.New(1)
	kv, err := disk.Open()
	if err != nil {
		t.Fatal(err)
	}
	st, err := store.New(kv, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Bootstrap([]banyan.ShardID{0}, 1); err != nil {
		t.Fatal(err)
	}
	h, err := New(Config{Node: 1, Store: st, Send: func(banyan.NodeID, banyan.ShardID, *raftpb.Message) {}})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- h.Run(context.Background()) }()
	awaitLeaders(t, h, 1)
	broken := errors.New("broken")
	disk.Inject(func(op simdisk.Op) error {
		if op == simdisk.Sync {
			return broken
		}
		return nil
	})
	if _, err := h.Propose(deadline(t), 0, put("a", "1")); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("proposal: %v", err)
	}
	if err := <-ended; !errors.Is(err, broken) || !errors.Is(err, store.ErrFatal) {
		t.Errorf("the host ended with %v", err)
	}
}

// A learner that is added under load catches up by snapshot and log.
func TestSnapshotUnderLoad(t *testing.T) {
	m := newMesh(t)
	st := memStore(t)
	if err := st.Bootstrap([]banyan.ShardID{0}, 1); err != nil {
		t.Fatal(err)
	}
	one := m.add(1, st)
	awaitLeaders(t, one.Host, 1)
	ctx := deadline(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if _, err := one.Propose(ctx, 0, put(fmt.Sprintf("k%d-%d", c, i), "v")); err != nil {
					t.Errorf("propose: %v", err)
					return
				}
			}
		})
	}
	m.add(2, memStore(t))
	m.add(3, memStore(t))
	m.grow(1, 1, 2, 3)
	close(stop)
	wg.Wait()
	if _, err := one.Propose(ctx, 0, put("last", "v")); err != nil {
		t.Fatal(err)
	}
	s, err := one.Status(ctx, 0)
	if err != nil {
		t.Fatal(err)
	}
	want := rowsOf(t, one)
	for id := banyan.NodeID(2); id <= 3; id++ {
		w, err := m.at(id).Watch(0, []byte("last"), nil, s.Revision-1)
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := w.Next(ctx); err != nil {
			t.Fatal(err)
		}
		if got := rowsOf(t, m.at(id)); got != want {
			t.Errorf("replica %v differs: %d bytes of rows, want %d", id, len(got), len(want))
		}
	}
}

func rowsOf(t *testing.T, n *meshNode) string {
	t.Helper()
	v, err := n.View(0)
	if err != nil {
		t.Fatal(err)
	}
	defer v.Close()
	var b []byte
	if err := v.Scan(nil, nil, func(k, val []byte) bool {
		b = fmt.Appendf(b, "%q=%q\n", k, val)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestLeadershipFeed(t *testing.T) {
	b := newBoard()
	early := b.subscribe()
	b.post([]Leadership{{1, 2, true}, {2, 2, true}})
	late := b.subscribe()
	b.post([]Leadership{{1, 2, false}, {1, 4, true}, {2, 2, false}})
	for name, f := range map[string]*LeadershipFeed{"early": early, "late": late} {
		got, err := f.Next(deadline(t))
		if want := []Leadership{{1, 4, true}, {2, 2, false}}; err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		if got, err := f.Next(ctx); !banyan.IsKind(err, banyan.Canceled) {
			t.Errorf("%s: told twice: %v, %v", name, got, err)
		}
		f.Close()
	}
}

// Every replica wakes those who wait for another leader.
func TestLeaderChange(t *testing.T) {
	m := threeHosts(t, 1)
	ctx := deadline(t)
	if m.at(1).LeaderChange(7) != nil {
		t.Error("there is no replica of shard 7, and its leader may change")
	}
	var changes []<-chan struct{}
	for id := range banyan.NodeID(3) {
		changes = append(changes, m.at(id+1).LeaderChange(0))
	}
	select {
	case <-changes[0]:
		t.Error("nothing has changed yet")
	default:
	}
	for err := banyan.Errorf(banyan.Unavailable, "not tried yet"); err != nil; {
		if err = m.at(1).TransferLeader(ctx, 0, 2); err != nil && !banyan.IsKind(err, banyan.Unavailable) {
			t.Fatal(err)
		}
	}
	for i, change := range changes {
		select {
		case <-change:
		case <-ctx.Done():
			t.Errorf("node %d does not tell", i+1)
		}
	}
}

// A watcher that does not read falls back to history and misses nothing.
func TestSlowWatcher(t *testing.T) {
	m := newMesh(t)
	st := memStore(t)
	if err := st.Bootstrap([]banyan.ShardID{0}, 1); err != nil {
		t.Fatal(err)
	}
	n := m.add(1, st)
	awaitLeaders(t, n.Host, 1)
	ctx := deadline(t)
	w, err := n.Watch(0, nil, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok, err := w.TryNext(); ok || err != nil {
		t.Fatal("something before anything happened")
	}
	muts := make([]mvcc.Mutation, 1000)
	for i := range muts {
		muts[i] = mvcc.Mutation{Op: mvcc.Put, Key: fmt.Appendf(nil, "k%04d", i), Value: []byte("v")}
	}
	const commands = banyan.WatchQueueMax/1000 + 2
	for range commands {
		if _, err := n.Propose(ctx, 0, &mvcc.Command{Request: banyan.NewRequestID(), Muts: muts}); err != nil {
			t.Fatal(err)
		}
	}
	w.topic.mu.Lock()
	if w.live || len(w.queue) > 0 {
		t.Error("the queue is longer than its bound")
	}
	w.topic.mu.Unlock()
	seen := 0
	for seen < commands*len(muts) {
		events, _, err := w.Next(ctx)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events {
			if want := banyan.Revision(seen/len(muts) + 1); e.Row.Mod != want {
				t.Fatalf("event %d is of revision %d", seen, e.Row.Mod)
			}
			seen++
		}
	}
	if _, _, ok, err := w.TryNext(); ok || err != nil {
		t.Error("more events than changes", err)
	}
}

// TestReadsOutliveTheirVoters: a proof of leadership whose voters leave before
// they answer is begun anew, and the reads that wait for it are served.
func TestReadsOutliveTheirVoters(t *testing.T) {
	m := threeHosts(t, 1)
	one, ctx := m.at(1), deadline(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := one.ReadIndex(ctx, 0); err != nil {
					t.Errorf("read: %v", err)
					return
				}
			}
		})
	}
	for range 50 {
		err := one.Reconfigure(ctx, 0, []banyan.NodeID{1}, nil)
		if err == nil {
			err = one.ReadIndex(ctx, 0)
		}
		if err != nil {
			t.Errorf("one voter: %v", err)
			break
		}
		m.grow(1, 1, 2, 3)
	}
	close(stop)
	wg.Wait()
}
