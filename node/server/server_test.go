package server

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/store"
	"banyan/node/pki"
)

// start runs an embedded node in dir until the test, or the returned func, ends it.
func start(t *testing.T, dir string) (*Server, func()) {
	t.Helper()
	return run(t, Config{Dir: dir, Embedded: true, Slots: 1})
}

func run(t *testing.T, c Config) (*Server, func()) {
	t.Helper()
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	select {
	case <-n.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	return n, stop
}

func TestKeysOutliveTheNode(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n, stop := start(t, dir)
	c, err := client.Open(client.Config{Transport: client.InProcess(n.Handler())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.KV().Put(t.Context(), []byte("a/b"), []byte("kept")); err != nil {
		t.Fatal(err)
	}
	_ = c.Close()
	stop()
	n, _ = start(t, dir)
	c, err = client.Open(client.Config{Transport: client.InProcess(n.Handler())})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	kv, err := c.KV().Get(t.Context(), []byte("a/b"))
	if err != nil || string(kv.Value) != "kept" {
		t.Fatalf("Get after a restart: %v, %v", kv, err)
	}
}

func TestTwoNodesOnOneDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	start(t, dir)
	_, err := New(Config{Dir: dir, Embedded: true})
	if !banyan.IsKind(err, banyan.Unavailable) {
		t.Fatalf("second node on %s: %v", dir, err)
	}
}

func TestBadDirectories(t *testing.T) {
	f := func(name string, want banyan.Kind, prepare func(dir string)) {
		t.Helper()
		dir := filepath.Join(t.TempDir(), name)
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		prepare(dir)
		if _, err := New(Config{Dir: dir, Embedded: true}); !banyan.IsKind(err, want) {
			t.Errorf("%s: %v, want kind %v", name, err, want)
		}
	}
	write := func(path, text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f("foreign", banyan.Invalid, func(dir string) { write(filepath.Join(dir, "thesis.tex"), "x") })
	f("newer", banyan.TooNew, func(dir string) { write(filepath.Join(dir, "node.json"), `{"version": 99, "shiny": true}`) })
	f("of format 1", banyan.TooNew, func(dir string) { write(filepath.Join(dir, "node.json"), `{"version": 1, "shards": 1}`) })
	f("torn", banyan.Corrupt, func(dir string) { write(filepath.Join(dir, "node.json"), `{"version": 2, "clu`) })
	f("unknown", banyan.Invalid, func(dir string) {
		write(filepath.Join(dir, "node.json"), `{"version": 2, "cluster": "c", "node": 1, "slots": 1, "extra": 1}`)
	})
	f("mixed", banyan.Conflict, func(dir string) {
		st, err := store.Open(filepath.Join(dir, "store"), store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(st.SetIdentity(store.Identity{Cluster: "other", Node: 7}), st.Close()); err != nil {
			t.Fatal(err)
		}
		write(filepath.Join(dir, "node.json"), `{"version": 2, "cluster": "mine", "node": 1, "name": "x", "slots": 1}`)
	})
}

func TestConfigIsCheckedFirst(t *testing.T) {
	for _, c := range []Config{
		{}, {Dir: "d", Listen: "here"}, {Dir: "d", Advertise: "1.2.3.4"}, {Dir: "d", Slots: -1},
		{Dir: "d", Replication: 2}, {Dir: "d", Shards: banyan.ShardsMax + 1}, {Dir: "d", Zone: strings.Repeat("z", 300)},
		{Dir: "d", Advertise: "0.0.0.0:7117"}, {Dir: "d", Advertise: "[::]:7117"}, {Dir: "d", Advertise: ":7117"}, {Dir: "d", Advertise: "lab:0"},
		{Dir: "d", Advertise: "lab:99999"}, {Dir: "d", Name: "a\nb"},
	} {
		if err := c.Validate(); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestANodeInsideACommandIsAlone, and does not send its user to wait for others.
func TestANodeInsideACommandIsAlone(t *testing.T) {
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	c := clusterService{n}
	for call, fn := range map[string]func() error{
		"CreateToken": func() error { _, err := c.CreateToken(t.Context(), &banyanv1.CreateTokenRequest{}); return err },
		"Join": func() error {
			_, err := c.Join(t.Context(), &banyanv1.JoinRequest{NowMs: time.Now().UnixMilli()})
			return err
		},
		"Drain":          func() error { _, err := c.Drain(t.Context(), &banyanv1.DrainRequest{Node: 1}); return err },
		"RemoveNode":     func() error { _, err := c.RemoveNode(t.Context(), &banyanv1.RemoveNodeRequest{Node: 1}); return err },
		"ChangeSettings": func() error { _, err := c.ChangeSettings(t.Context(), &banyanv1.ChangeSettingsRequest{}); return err },
	} {
		if err := fn(); !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), "'banyan up' starts a cluster") {
			t.Errorf("%s: %v", call, err)
		}
	}
}

func TestANodeThatIsOutSendsCallersOfStatusOn(t *testing.T) {
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	c := clusterService{n}
	if _, err := c.Status(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	n.outside.Store(true)
	if _, err := c.Status(t.Context(), nil); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("a node that the others refuse told of the cluster: %v", err)
	}
}

func TestANodeKeepsWhatItWasStartedWith(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	for _, c := range []struct{ give, want Config }{
		{Config{Name: "rack7", Zone: "east", Slots: 3}, Config{Name: "rack7", Zone: "east", Slots: 3}},
		{Config{}, Config{Name: "rack7", Zone: "east", Slots: 3}},
		{Config{Name: "rack8", Slots: 5}, Config{Name: "rack8", Zone: "east", Slots: 5}},
		{Config{NoWork: true}, Config{Name: "rack8", Zone: "east", Slots: 5}}, // for this start only
		{Config{}, Config{Name: "rack8", Zone: "east", Slots: 5}},
	} {
		c.give.Dir, c.give.Listen = dir, "127.0.0.1:0"
		n, err := New(c.give)
		if err != nil {
			t.Fatal(err)
		}
		got := Config{Name: n.cfg.Name, Zone: n.cfg.Zone, Slots: n.cfg.Slots}
		if file := (Config{Name: n.file.Name, Zone: n.file.Zone, Slots: n.file.Slots}); !reflect.DeepEqual(got, c.want) || !reflect.DeepEqual(file, c.want) {
			t.Errorf("given %+v: %+v, in node.json %+v, want %+v", c.give, got, file, c.want)
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := New(Config{Dir: dir, Shards: DefaultShards + 1}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("more shards than the cluster has: %v, %v", n, err)
	}
}

// TestAContextKnowsAllNodes, and is not made anew to learn them.
func TestAContextKnowsAllNodes(t *testing.T) {
	config := t.TempDir()
	n, err := New(Config{Dir: filepath.Join(t.TempDir(), "node"), Listen: "127.0.0.1:0", ConfigDir: config})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	load := func() *pki.Context {
		t.Helper()
		if err := n.ensureContext(); err != nil {
			t.Fatal(err)
		}
		c, err := pki.LoadContext(config, n.file.Cluster)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	one := load()
	n.nodes.update(func(rows map[banyan.NodeID]nodeRow) { rows[2] = nodeRow{ID: 2, Address: "192.0.2.2:7117"} })
	two := load()
	if want := []string{n.file.Address, "192.0.2.2:7117"}; len(one.Addresses) != 1 || !slices.Equal(two.Addresses, want) {
		t.Errorf("addresses %v, then %v, want %v", one.Addresses, two.Addresses, want)
	}
	two.Addresses = []string{"192.0.2.2:7117", n.file.Address} // as another node wrote it
	if err := pki.SaveContext(config, two); err != nil {
		t.Fatal(err)
	}
	if three := load(); three.Key != one.Key || !slices.Equal(three.Addresses, []string{n.file.Address, "192.0.2.2:7117"}) {
		t.Errorf("a context that knows the node was made anew, with %v", three.Addresses)
	}
}

func TestEditNodeKeepsBothOfTwoEdits(t *testing.T) {
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	if err := found(t.Context(), n.router, clusterRow{ID: "c"}, shardmap.New(1), nodeRow{ID: 1, Slots: 0}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := editNode(t.Context(), n.router, 1, func(r *nodeRow) bool { r.Slots++; return true }); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	row, err := editNode(t.Context(), n.router, 1, func(*nodeRow) bool { return false })
	if err != nil || row.Slots != 8 {
		t.Errorf("after 8 edits: %+v, %v", row, err)
	}
	if _, err := editNode(t.Context(), n.router, 9, func(*nodeRow) bool { return true }); !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("a node that is not there: %v", err)
	}
}

// TestNodeRowsOnDiskAreNewerThanNodeJSON cuts a node off before it has noted
// in node.json that another one joined.
func TestNodeRowsOnDiskAreNewerThanNodeJSON(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	table := newNodeTable(&nodeFile{Node: 1, Address: "a:1"})
	if err := table.load(st); err != nil {
		t.Fatalf("without a replica of the root shard: %v", err)
	}
	if err := st.Bootstrap([]banyan.ShardID{banyan.RootShard}, 1); err != nil {
		t.Fatal(err)
	}
	b := st.NewBatch()
	rows := b.State(banyan.RootShard)
	m, err := mvcc.Open(rows)
	if err != nil {
		t.Fatal(err)
	}
	put := &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: nodeKey(2), Value: nodeRow{ID: 2, Address: "b:2"}.encode()}}}
	if _, _, err := m.Apply(rows, 1, put); err != nil {
		t.Fatal(err)
	}
	m.Flush(rows)
	if err := b.Commit(true); err != nil {
		t.Fatal(err)
	}
	if err := table.load(st); err != nil {
		t.Fatal(err)
	}
	if addr, ok := table.resolve(2); !ok || addr != "b:2" {
		t.Errorf("node n2 is at %q, %v", addr, ok)
	}
}

// TestANodeIsNotForgotten: what was read before a node joined must not replace
// what the watch has told since, and the other way round.
func TestANodeIsNotForgotten(t *testing.T) {
	row := func(id banyan.NodeID, zone string, mod banyan.Revision) mvcc.Row {
		return mvcc.Row{Key: nodeKey(id), Value: nodeRow{ID: id, Zone: zone}.encode(), Mod: mod}
	}
	table := newNodeTable(&nodeFile{Node: 1})
	table.apply([]mvcc.Event{{Row: row(1, "new", 5)}, {Row: row(2, "", 6)}}, 6)
	if err := table.replace([]mvcc.Row{row(1, "old", 4)}, 5); err != nil {
		t.Fatal(err)
	}
	if n1, _ := table.get(1); n1.Zone != "new" || len(table.list()) != 2 {
		t.Errorf("after an older reading: %+v", table.list())
	}
	if err := table.replace([]mvcc.Row{row(1, "newer", 8), row(2, "", 6)}, 8); err != nil {
		t.Fatal(err)
	}
	table.apply([]mvcc.Event{{Row: row(1, "", 7)}, {Row: row(3, "", 9)}}, 9)
	if n1, _ := table.get(1); n1.Zone != "newer" || len(table.list()) != 3 {
		t.Errorf("after older events: %+v", table.list())
	}
}

// TestTheNewestSettingsStay: what another has changed meanwhile may be told
// before what was changed here.
func TestTheNewestSettingsStay(t *testing.T) {
	f := newFacts()
	for _, step := range []struct {
		value string
		mod   banyan.Revision
		want  settings
	}{
		{`{"voters":3,"dead_after_ms":9000}`, 5, settings{Voters: 3, DeadAfterMs: 9000}},
		{`{"voters":5}`, 7, settings{Voters: 5, DeadAfterMs: 0}},
		{`{"voters":1}`, 6, settings{Voters: 5, DeadAfterMs: 0}},
		{`{"voters":7}`, 8, settings{Voters: 7, DeadAfterMs: 0}},
	} {
		if err := f.take(&mvcc.Row{Key: []byte(settingsKey), Value: []byte(step.value), Mod: step.mod}); err != nil {
			t.Fatal(err)
		}
		if got := f.chosen(); got != step.want {
			t.Errorf("after %s at revision %d: %+v, want %+v", step.value, step.mod, got, step.want)
		}
	}
}
