package server

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/door/gate"
	"banyan/engine/blob"
	"banyan/engine/member"
	"banyan/engine/replica"
	"banyan/engine/route"
	"banyan/engine/store"
	"banyan/engine/transport"
	"banyan/internal/pause"
	"banyan/layer/coord"
	"banyan/layer/shards"
	"banyan/layer/work"
	"banyan/node/exec"
	"banyan/node/pki"
	"banyan/node/worker"
	"banyan/obs"
	"banyan/obs/metric"

	"golang.org/x/sync/errgroup"
)

// Server is one node. Its parts in the order in which they are built; they
// stop in reverse.
//
//	store ── replica.Host ─┐
//	transport ── member ───┼─ route.Router ─┬─ kv ──────┐
//	blob.Disk ── Replicated┘                ├─ work ────┼─ gate (HTTP)
//	                                        └─ worker   │
//	placement, tidy, renew, nodeTable ──────────────────┘
type Server struct {
	cfg    Config
	file   *nodeFile
	log    *slog.Logger
	lines  obs.Lines // the end of the log
	start  time.Time
	keeper *pki.Keeper // nil: embedded

	metrics *metric.Set
	store   *store.Store
	shards  *mapHolder
	sweeps  sweeper
	asked   int                  // data shards that a new cluster was to have; 0: nobody said
	lives   *lives               // nil: embedded
	port    *transport.Transport // nil: embedded
	host    *replica.Host
	members *member.List // nil: embedded
	nodes   *nodeTable
	facts   *facts
	router  *route.Router
	blobs   *blob.Replicated
	work    *work.Service
	coord   *coord.Service
	layers  []layer
	splits  *shards.Service
	runner  *exec.Runner
	worker  *worker.Worker
	leaders *leaders
	guesses *guesses
	handler http.Handler
	// stranger answers those without a certificate.
	stranger http.Handler
	peers    *peers

	sending, receiving pace // of snapshots

	recovered []*Recovery // by an operator, on this node, ever
	evacuated atomic.Bool // this node is leaving, and others have its blobs
	expelled  chan error  // it was removed from the cluster
	outside   atomic.Bool // expelled, and about to end

	disks   *disks
	told    bool                                     // of the disks' level
	crowded atomic.Pointer[map[banyan.ShardID]error] // shards led here that have no room; nil: none

	claimed atomic.Pointer[map[banyan.ShardID]claim] // by gossip

	silent silences
	leads  *leads
	uneven patience
	ready  chan struct{}
	led    chan struct{} // closed once this node has led every shard at once
	ledAll sync.Once
}

// New opens or creates the node in cfg.Dir and builds everything, but starts
// nothing. Whatever is wrong with directory, certificates, store or address
// comes to light here. A Server that is not Run must be Closed.
func New(cfg Config) (*Server, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	asked := cfg.Shards
	cfg = cfg.withDefaults()
	if err := cfg.checkFirstListen(); err != nil {
		return nil, err
	}
	if err := prepareDir(cfg); err != nil {
		return nil, err
	}
	sweep(cfg)
	f, err := readNodeFile(cfg)
	if err == nil && f != nil {
		err = checkStore(cfg, f)
	}
	if err == nil && f == nil {
		cfg.Listen = cmp.Or(cfg.Listen, DefaultListen)
		if err = cfg.checkNew(); err == nil {
			f, err = create(cfg)
		}
	}
	if err != nil {
		return nil, err
	}
	n := &Server{cfg: cfg, file: f, asked: asked, start: time.Now(), metrics: metric.NewSet(), ready: make(chan struct{}), led: make(chan struct{}), expelled: make(chan error, 1), silent: silences{}, leads: newLeads()}
	n.log, n.lines = obs.KeepLines(cfg.Logger)
	if err := n.build(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

func (n *Server) build() error {
	if err := n.openStore(); err != nil {
		return err
	}
	var err error
	if n.shards, err = openMap(n.store); err != nil {
		return err
	}
	if has := n.shards.get().Made(); n.asked != 0 && n.asked != has && !n.cfg.Embedded {
		return banyan.Errorf(banyan.Conflict, "the cluster of the node in %s was made with %d data shards, not %d, and --shards is for a new one: leave it out, or give another --dir", n.cfg.Dir, has, n.asked)
	}
	if !n.cfg.Embedded {
		if err := n.openPort(); err != nil {
			return err
		}
	}
	n.nodes = newNodeTable(n.file)
	n.facts = newFacts()
	n.facts.moved = n.shards.take
	if err := errors.Join(n.nodes.load(n.store), n.facts.load(n.store)); err != nil {
		return err
	}
	recovered, err := readRecoveries(n.cfg)
	if err != nil {
		return err
	}
	for _, r := range recovered {
		n.nodes.giveUp(r.Lost, r.TimeMs)
	}
	n.recovered = recovered
	if err := n.nodes.admit(n.file.Node); err != nil {
		return err
	}
	n.guesses = newGuesses(n.log, n.metrics)
	n.disks = newDisks(n.cfg)
	n.claimed.Store(&map[banyan.ShardID]claim{})
	n.peers = newPeers(n)
	n.leaders = newLeaders(n)
	n.host, err = replica.New(replica.Config{
		Node: n.file.Node, Store: n.store, Logger: n.log, Metrics: n.metrics,
		Send:         n.sendRaft,
		SendSnapshot: n.sendSnapshot,
		NowMs:        func() int64 { return time.Now().UnixMilli() },
		Protocol:     n.facts.acts(),
	})
	if err != nil {
		return err
	}
	n.facts.rose = n.host.Act
	if err := n.openRunner(); err != nil {
		return err
	}
	if !n.cfg.Embedded {
		if err := n.openMembers(); err != nil {
			return err
		}
	}
	n.router = route.New(route.Config{
		Node: n.file.Node, Map: n.shards.get, Host: n.host, Members: n.claims(), Dial: n.peers.client, Logger: n.log, Metrics: n.metrics, Room: n.room,
	})
	n.splits = shards.New(shards.Config{DB: n.router, Row: []byte(shardMapKey), Logger: n.log})
	if err := n.openBlobs(); err != nil {
		return err
	}
	return n.openWork()
}

// openStore opens the store and checks that it belongs to this node.
func (n *Server) openStore() (err error) {
	n.store, err = store.Open(n.cfg.storeDir(), store.Options{Logger: n.log, Metrics: n.metrics})
	if err != nil {
		return err
	}
	id, ok := n.store.Identity()
	if !ok {
		return errNoStore(n.cfg, n.file)
	}
	if id.Cluster != n.file.Cluster || id.Node != n.file.Node {
		return banyan.Errorf(banyan.Conflict, "%s holds the data of node %v of cluster %q, but %s says node %v of cluster %q: this directory was put together from two; restore it from one copy", n.cfg.storeDir(), id.Node, id.Cluster, n.cfg.nodeFile(), n.file.Node, n.file.Cluster)
	}
	return nil
}

func (n *Server) openPort() (err error) {
	n.keeper, err = pki.OpenKeeper(n.cfg.pkiDir(), time.Now)
	if err != nil {
		return err
	}
	if s := n.keeper.Subject(); s.Node != n.file.Node || n.keeper.CA().Cluster() != n.file.Cluster {
		return banyan.Errorf(banyan.Conflict, "%s holds the certificate of node %v of cluster %s, but %s says node %v of cluster %s: restore the directory from one copy", n.cfg.pkiDir(), s.Node, n.keeper.CA().Cluster(), n.cfg.nodeFile(), n.file.Node, n.file.Cluster)
	}
	listen := n.cfg.Listen
	if listen == "" {
		listen = n.file.Listen
	}
	if n.lives, err = beginLife(n.store, n.cfg.Dir); err != nil {
		return err
	}
	n.port, err = transport.Listen(transport.Config{
		Node: n.file.Node, Listen: listen, Keeper: n.keeper, Logger: n.log, Metrics: n.metrics,
		Resolve: func(id banyan.NodeID) (string, bool) { return n.resolve(id) },
		Admit:   func(id banyan.NodeID) error { return n.nodes.admit(id) },
		Acts:    func() uint32 { return n.facts.acts() },
		Life:    n.lives.own,
		Meet:    n.lives.meet,
	})
	if err != nil {
		return err
	}
	return n.settleAddress(listen)
}

// settleAddress takes over what flags changed and what port 0 became.
func (n *Server) settleAddress(listen string) error {
	f := *n.file
	f.Listen = listen
	bound := n.port.Addr().String()
	switch {
	case n.cfg.Advertise != "":
		f.Address = n.cfg.Advertise
	case f.Address == "" || n.cfg.Listen != "":
		f.Address = reachable(bound)
	}
	if _, port, _ := net.SplitHostPort(listen); port == "0" {
		f.Listen = bound
	}
	f.Name, f.Zone, f.Slots, f.Memory = n.cfg.Name, n.cfg.Zone, n.cfg.Slots, n.cfg.Memory
	n.file = &f
	return f.write(n.cfg)
}

// reachable turns a bound address into one that others can dial: an
// unspecified host becomes this machine's first global address.
func reachable(bound string) string {
	host, port, err := net.SplitHostPort(bound)
	if err != nil || !net.ParseIP(host).IsUnspecified() {
		return bound
	}
	addrs, _ := net.InterfaceAddrs() // none: loopback it is
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && ip.IP.IsGlobalUnicast() && ip.IP.To4() != nil {
			return net.JoinHostPort(ip.IP.String(), port)
		}
	}
	return net.JoinHostPort("127.0.0.1", port)
}

// Ready is closed when the node answers requests.
func (n *Server) Ready() <-chan struct{} { return n.ready }

// Handler is the door for the program that runs the node: the caller is the
// operator. Never give it to a listener.
func (n *Server) Handler() http.Handler { return gate.Operator(n.handler) }

// Name is the node's name as people see it.
func (n *Server) Name() string { return n.file.Name }

// Node is the node's id.
func (n *Server) Node() banyan.NodeID { return n.file.Node }

// Cluster is the cluster's id.
func (n *Server) Cluster() string { return n.file.Cluster }

// Address is where others reach the node, host:port.
func (n *Server) Address() string { return n.file.Address }

// Run runs the node until ctx ends, then stops it in order. It returns nil
// after an orderly stop, else the error that ended the node. After one that
// wraps store.ErrFatal nothing is waited for: end the process. Call it once.
func (n *Server) Run(ctx context.Context) (err error) {
	defer func() {
		if !errors.Is(err, store.ErrFatal) {
			err = errors.Join(err, n.Close())
		}
	}()
	// Workers stop first, while the engine still takes their results; then the
	// doors and the controllers; the engine last.
	engine, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	doors, stopDoors := context.WithCancel(engine)
	defer stopDoors()
	workers, stopWorkers := context.WithCancel(doors)
	defer stopWorkers()

	failed := make(chan error, 1)
	var engineGroup, doorGroup, workGroup errgroup.Group
	start := func(g *errgroup.Group, ctx context.Context, run func(context.Context) error) {
		g.Go(func() error {
			err := run(ctx)
			if err != nil && ctx.Err() == nil {
				select {
				case failed <- err:
				default:
				}
			}
			return err
		})
	}
	if n.port != nil {
		n.port.Start(n.portHandlers())
		if err := n.introduce(ctx); err != nil {
			return err
		}
		start(&doorGroup, doors, n.serveHTTP)
	}
	start(&engineGroup, engine, n.host.Run)
	start(&engineGroup, engine, n.watchDisk)
	start(&engineGroup, engine, n.watchPauses)
	for _, l := range n.layers {
		start(&doorGroup, doors, l.run)
	}
	start(&doorGroup, doors, n.background)
	start(&workGroup, workers, n.worker.Run)
	start(&workGroup, workers, n.begin)

	select {
	case <-ctx.Done():
	case err = <-failed:
	case err = <-n.expelled:
	}
	if errors.Is(err, store.ErrFatal) {
		n.hush()
		return err // nothing can be recorded or handed over any more; the process must end
	}
	n.log.Info("stopping", "node", n.file.Node)
	stopWorkers()
	_ = workGroup.Wait() // its error, if any, came through failed
	n.closeRunner()
	if !banyan.IsKind(err, banyan.Removed) && !banyan.IsKind(err, banyan.TooNew) { // else nobody listens
		n.sayGoodbye()
	}
	n.keepAtTheEnd(err)
	stopDoors()
	_ = doorGroup.Wait()
	stopEngine()
	return errors.Join(err, engineGroup.Wait())
}

func (n *Server) closeRunner() {
	if err := n.runner.Close(); err != nil {
		n.log.Warn("working directories not removed; the next start does", "error", err)
	}
}

// hush ends every connection. The end of the process does so too, but the
// kernel may keep one that waits for a disk.
func (n *Server) hush() {
	if n.port != nil {
		_ = n.port.Drop()
	}
}

// watchDisk ends the node when its disk has failed: what is on it is unknown,
// so nothing may be answered from it any more.
func (n *Server) watchDisk(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-n.store.Failed():
		return n.store.Err()
	}
}

// begin makes a new cluster's first rows, then says that the node is ready.
func (n *Server) begin(ctx context.Context) error {
	if n.file.Node == 1 && !n.cfg.Embedded {
		self, _ := n.nodes.get(n.file.Node)
		self.JoinMs = time.Now().UnixMilli()
		err := retry(ctx, func() error {
			return found(ctx, n.router, clusterRow{ID: n.file.Cluster, Replication: n.cfg.Replication, CreateMs: self.JoinMs}, n.shards.get(), self)
		})
		if err != nil {
			return err
		}
	}
	if n.cfg.ConfigDir != "" && !n.cfg.Embedded {
		if err := n.ensureContext(); err != nil {
			return err
		}
	}
	if n.cfg.Embedded { // an answer before would miss what is on the disk
		select {
		case <-n.led:
		case <-ctx.Done():
			return nil
		}
	}
	close(n.ready)
	n.log.Info("ready", "node", n.file.Node, "name", n.cfg.Name, "cluster", n.file.Cluster, "version", banyan.Version, "address", n.file.Address, "dir", n.cfg.Dir)
	if n.cfg.Embedded {
		return nil
	}
	return n.announce(ctx)
}

// announce brings this node's row up to date with its flags.
func (n *Server) announce(ctx context.Context) error {
	return retry(ctx, func() error {
		_, err := editNode(ctx, n.router, n.file.Node, func(row *nodeRow) bool {
			want := *row
			want.Name, want.Address, want.Zone, want.Slots = n.cfg.Name, n.file.Address, n.file.Zone, n.cfg.offered()
			change := want != *row
			*row = want
			return change
		})
		return err
	})
}

// retry tries until it succeeds, ctx ends (nil), or the error is one that
// waiting will not mend.
func retry(ctx context.Context, fn func() error) error {
	for {
		err := fn()
		switch {
		case err == nil || ctx.Err() != nil:
			return nil //nolint:nilerr // as said above
		case !banyan.IsKind(err, banyan.Unavailable) && !banyan.IsKind(err, banyan.Timeout):
			return err
		}
		_ = pause.For(ctx, 200*time.Millisecond)
	}
}

// ensureContext writes the operator's context once: where it is there already,
// this node's address comes first, and those of nodes it does not know last.
func (n *Server) ensureContext() error {
	have, err := pki.FindContext(n.cfg.ConfigDir, n.file.Cluster)
	if err != nil {
		return err
	}
	known := []string{n.file.Address}
	add := func(addr string) {
		if addr != "" && !slices.Contains(known, addr) && len(known) <= addressesKept {
			known = append(known, addr)
		}
	}
	if have != nil {
		for _, addr := range have.Addresses {
			add(addr)
		}
	}
	for _, row := range n.nodes.list() {
		add(row.Address)
	}
	switch {
	case have == nil:
		return writeContext(n.cfg.ConfigDir, n.keeper, known)
	case slices.Equal(known, have.Addresses):
		return nil
	}
	have.Addresses = known
	return pki.SaveContext(n.cfg.ConfigDir, have)
}

// addressesKept is how many addresses of other nodes a context keeps.
const addressesKept = 7

// Close releases what New opened. It is called by Run; only a Server that was
// never Run needs it.
func (n *Server) Close() error {
	var errs []error
	if n.port != nil { // first: it must not deliver to what is closed
		errs = append(errs, n.port.Close())
	}
	if n.members != nil {
		errs = append(errs, n.members.Close())
	}
	if n.store != nil {
		errs = append(errs, n.store.Close())
		n.store = nil
	}
	return errors.Join(errs...)
}
