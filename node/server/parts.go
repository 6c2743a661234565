package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/core/mvcc"
	"banyan/door/gate"
	"banyan/engine/blob"
	"banyan/engine/member"
	"banyan/engine/replica"
	"banyan/engine/transport"
	"banyan/internal/pause"
	"banyan/layer/kv"
	"banyan/layer/work"
	"banyan/node/exec"
	"banyan/node/pki"
	"banyan/node/worker"

	"connectrpc.com/connect"
	"go.etcd.io/raft/v3/raftpb"
	"golang.org/x/sync/errgroup"
)

// openBlobs opens the chunk store of this node as part of the cluster's.
func (n *Server) openBlobs() error {
	disk, err := blob.OpenDisk(n.cfg.blobDir(), nil)
	if err != nil {
		return err
	}
	c := blob.Config{Self: n.file.Node, Local: disk.Of(fmt.Sprintf("node %v", n.file.Node)), Nodes: n.keepers, Factor: n.cfg.Replication, Logger: n.log, Metrics: n.metrics}
	if !n.cfg.Embedded {
		c.Peers = gate.BlobPeers(n.peers.bulk)
	}
	n.blobs = blob.New(c)
	n.facts.mu.Lock()
	n.facts.began = disk.Learn
	disk.Learn(n.facts.epoch)
	n.facts.mu.Unlock()
	return nil
}

// slots is how many attempts the worker runs at once: as configured, or fewer
// where this process may not have so many files or processes.
func (n *Server) slots() int {
	most := exec.Capacity()
	if most < n.cfg.offered() {
		n.log.Warn("fewer tasks at once than slots: the limits of files or processes allow no more (ulimit -n, ulimit -u)", "slots", n.cfg.Slots, "at_once", most)
	}
	return min(n.cfg.offered(), most)
}

// private is the directory that is kept from jobs: this node's, unless it is
// inside a command, for whoever submits there owns it.
func (n *Server) private() string {
	if n.cfg.Embedded {
		return ""
	}
	return n.cfg.Dir
}

// openRunner makes what runs attempts. It comes before others are told how many
// this node takes: none, if they cannot be kept from it as was asked for.
func (n *Server) openRunner() (err error) {
	c := exec.Config{
		Dir: n.cfg.workDir(), Private: n.private(), Node: fmt.Sprintf("%v (%s)", n.file.Node, n.cfg.Name), Logger: n.log,
		MemoryMax: n.cfg.TaskMemory, ProcessesMax: banyan.TaskProcessesMax,
	}
	// Whoever submits to a node inside a command owns it: sudo works there.
	if !n.cfg.Embedded {
		c.Cgroup, c.NoNewPrivileges = true, true
		c.Isolation, c.Warden = n.cfg.Isolation, n.cfg.Warden
		if n.cfg.ConfigDir != "" {
			c.Hidden = []string{n.cfg.ConfigDir}
		}
	}
	if n.runner, err = exec.New(c); err != nil {
		return err
	}
	got := n.runner.Isolated()
	switch {
	case c.Isolation == "" || c.Isolation == exec.IsolationNone:
	case got.By == "" && c.Isolation == exec.IsolationStrict:
		n.cfg.NoWork = true
		n.log.Error("this node takes no tasks: they cannot be kept from it as --isolation strict wants", "error", got.Why)
	case got.By == "":
		n.log.Warn("tasks are not kept from this node's files: whoever may submit owns the cluster", "error", got.Why)
	case got.Root:
		n.log.Warn("this node runs as root, and so do its tasks: what is covered is unseen, but who is root owns the machine", "by", got.By)
	case got.Why != nil:
		n.log.Warn("tasks are kept from this node's files by less than there could be", "by", got.By, "error", got.Why)
	}
	return nil
}

// isolation says how tasks are kept from this node, as others are told.
func (n *Server) isolation(out *peerv1.InfoResponse) {
	if n.cfg.Isolation == "" || n.cfg.Embedded {
		return
	}
	got := n.runner.Isolated()
	out.Isolation = cmp.Or(got.By, "none")
	if got.Why != nil {
		out.IsolationWhy = got.Why.Error()
	}
	out.IsolationRefused = got.By == "" && n.cfg.Isolation == exec.IsolationStrict
}

// openWork builds what does the work, and the door in front of everything.
func (n *Server) openWork() error {
	n.work = work.New(work.Config{
		Node: n.file.Node, ShardOf: n.router.ShardOf,
		Led: replicas{n, localRows{n}}, Committer: n.router, Nodes: n.workNodes,
		Caller: func(ctx context.Context) banyan.NodeID {
			who, _ := gate.Caller(ctx)
			return who.Node
		},
		HoldUnfinished: n.cfg.Embedded,
		Room:           n.room,
		Chunks:         n.chunks(),
		Logger:         n.log,
		Metrics:        n.metrics,
	})
	var err error
	runner := worker.Runner(n.runner)
	if n.cfg.Runner != nil {
		runner = n.cfg.Runner(n.runner)
	}
	n.worker, err = worker.New(worker.Config{
		Node: n.file.Node, Slots: n.slots(), Memory: n.cfg.memory(), Ledger: n.cfg.ledger(), Runner: runner, Blobs: n.blobs, Chunks: n.blobs, Env: n.cfg.TaskEnv,
		Leaders: n.leaders, Dial: n.peers.client, Logger: n.log, Metrics: n.metrics,
	})
	if err != nil {
		return err
	}
	n.openCoord()
	n.openLayers()
	c := gate.Config{
		Node: n.file.Node, Cluster: n.file.Cluster, Logger: n.log, Metrics: n.metrics, Debug: debugService{n},
		Admit: func(who pki.Subject) error {
			if who.Kind != pki.Node {
				return nil
			}
			return n.nodes.admit(who.Node)
		},
		KV: kv.New(n.router), Clusters: clusterService{n}, Blobs: roomyBlobs{n.blobs, n}, Jobs: n.work, Coord: n.coord,
		Leaders: n.router, Tail: n.worker,
		Peer: peerService{Handler: n.router.Handler(), PeerBlobs: gate.PeerBlobs{Store: n.blobs}, n: n},
	}
	if !n.cfg.Embedded {
		c.JobsAt, c.CoordAt, c.PeerAt = n.jobsAt, n.coordAt, n.peers.client
	}
	n.handler, n.stranger = gate.New(c), gate.Strangers(c)
	n.metrics.Read(n.readMetrics)
	return nil
}

// jobsAt gives the jobs of another node, for calls that are passed on to it.
func (n *Server) jobsAt(id banyan.NodeID) (banyanv1connect.JobsClient, error) {
	return banyanv1connect.NewJobsClient(n.port.HTTPClient(), n.port.URL(id), connect.WithInterceptors(wire.ClientInterceptor())), nil
}

// localRows reads the rows of shards that this node leads.
type localRows struct{ n *Server }

// Range reads applied state.
func (l localRows) Range(_ context.Context, shard banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	view, err := l.n.host.View(shard)
	if err != nil {
		return nil, false, err
	}
	defer view.Close()
	if !q.EachSlot { // what is asked of all slots is what the shard has of them
		if err := replica.Held(view, shard, q.Lo, q.Hi); err != nil {
			return nil, false, err
		}
	}
	return mvcc.Range(view, q)
}

// Bounds gives the row keys that a shard holds by what is applied here.
func (l localRows) Bounds(_ context.Context, shard banyan.ShardID) (lo, hi []byte, err error) {
	view, err := l.n.host.View(shard)
	if err != nil {
		return nil, nil, err
	}
	defer view.Close()
	return mvcc.BoundsOf(view)
}

// workNodes is the cluster as controllers see it.
func (n *Server) workNodes() []work.NodeInfo {
	var out []work.NodeInfo
	for _, row := range n.nodes.list() {
		state := n.stateOf(row.ID)
		info := work.NodeInfo{
			ID: row.ID, Name: row.Name, State: state, Slots: row.Slots, Draining: row.Draining,
			Alive: state == "alive" || state == "suspect",
		}
		if row.Draining && info.Alive {
			info.State = "draining"
		}
		if n.port != nil && row.ID != n.file.Node {
			info.Silent = time.Since(n.port.LastContact(row.ID))
		}
		out = append(out, info)
	}
	return out
}

// keepers lists the live nodes that blobs are kept on: those that stay.
func (n *Server) keepers() []banyan.NodeID {
	return slices.DeleteFunc(n.alive(), func(id banyan.NodeID) bool {
		row, ok := n.nodes.get(id)
		return ok && row.LeavingMs != 0
	})
}

// alive lists the nodes believed alive, this one included.
func (n *Server) alive() []banyan.NodeID {
	out := []banyan.NodeID{n.file.Node}
	for _, row := range n.nodes.list() {
		if row.ID != n.file.Node && n.stateOf(row.ID) == "alive" {
			out = append(out, row.ID)
		}
	}
	return out
}

// claims adapts gossip to what route asks.
func (n *Server) claims() claims { return claims{n} }

type claims struct{ n *Server }

// Leader gives the claim with the highest term among live nodes.
func (c claims) Leader(shard banyan.ShardID) (node banyan.NodeID, term uint64) {
	best := (*c.n.claimed.Load())[shard]
	return best.node, best.term
}

// claim is what a node says it leads, and since which term.
type claim struct {
	node banyan.NodeID
	term uint64
}

// all looks at what gossip says now.
func (c claims) all() map[banyan.ShardID]claim {
	out := map[banyan.ShardID]claim{}
	for _, m := range c.n.members.Members() {
		if m.State != member.Alive && m.State != member.Suspect {
			continue
		}
		for _, l := range m.Leads {
			if l.Term >= out[l.Shard].term {
				out[l.Shard] = claim{m.ID, l.Term}
			}
		}
	}
	return out
}

// Alive lists the nodes believed alive.
func (c claims) Alive() []banyan.NodeID { return c.n.alive() }

func (n *Server) openMembers() (err error) {
	n.members, err = member.New(member.Config{
		Node: n.file.Node, Name: n.cfg.Name, Addr: n.file.Address, Zone: n.file.Zone, Slots: n.cfg.offered(),
		Known: n.file.Peers, Network: n.port, Logger: n.log,
	})
	return err
}

// resolve says where a node listens: as it said itself, else as its row says.
func (n *Server) resolve(id banyan.NodeID) (string, bool) {
	if addr, ok := n.members.Addr(id); ok {
		return addr, true
	}
	return n.nodes.resolve(id)
}

func (n *Server) portHandlers() transport.Handlers {
	return transport.Handlers{
		OnRaft: func(from banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
			if m.GetFrom() == uint64(from) && n.nodes.admit(from) == nil { // nobody speaks for another node
				n.host.Step(shard, m)
			}
		},
		OnPacket:   n.members.HandlePacket,
		OnStream:   n.members.HandleStream,
		OnFound:    n.members.Found,
		OnExpelled: n.refuse,
		OnOutdated: n.expel,
		OnLost: func(id banyan.NodeID) {
			n.log.Warn("a node's process is gone", "node", id)
			n.host.PeerLost(id)
			n.members.Lost(id)
			n.work.NodesChanged()
		},
	}
}

// serveHTTP answers at the port until ctx ends.
func (n *Server) serveHTTP(ctx context.Context) error {
	serving, ctx := errgroup.WithContext(ctx)
	serving.Go(func() error { return serve(ctx, gate.NewServer(n.handler, n.log), n.port.HTTPListener()) })
	serving.Go(func() error { return serve(ctx, gate.NewStrangers(n.stranger, n.log), n.port.StrangersListener()) })
	return serving.Wait()
}

func serve(ctx context.Context, srv *gate.Server, l net.Listener) error {
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(l) }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownMax/5)
	defer cancel()
	if srv.Shutdown(stop) != nil {
		_ = srv.Close() // streams that would go on for ever
	}
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// background is what a node does by itself, all the time.
func (n *Server) background(ctx context.Context) error {
	var wg sync.WaitGroup
	run := func(fn func(context.Context) error) {
		wg.Go(func() {
			if err := fn(ctx); err != nil && ctx.Err() == nil {
				n.log.Error("a background loop ended", "error", err)
			}
		})
	}
	run(n.watchLeadership)
	run(n.compact)
	run(n.keepJobs)
	if !n.cfg.Embedded {
		run(func(ctx context.Context) error { n.members.Run(ctx); return nil })
		run(n.seek)
		run(n.tellMembers)
		run(n.watchSpace)
		run(n.keepRoom)
		run(n.tellControllers)
		run(func(ctx context.Context) error { return n.nodes.follow(ctx, n.router) })
		run(n.place)
		run(n.tidy)
		run(n.sweepTokens)
		run(func(ctx context.Context) error { n.keeper.Run(ctx, n.log); return nil })
		run(n.askRoot)
		run(n.remember)
		run(n.watchRemoval)
		run(n.tellRecoveries)
		run(n.evacuate)
		run(n.countEpochs)
		run(n.sweepChunks)
		run(func(ctx context.Context) error { return n.facts.follow(ctx, n.router) })
		run(n.blobs.Run)
	}
	wg.Wait()
	return nil
}

// seekEvery is how often a node that was named by --peer and does not answer is
// tried again.
const seekEvery = 2 * time.Second

// seek looks for nodes at the addresses that an operator named, until each has
// answered. Who answers proves by its certificate which node it is, and gossip
// tells both sides where the others are: one node with the addresses of the
// others is enough after all of them have moved.
func (n *Server) seek(ctx context.Context) error {
	said := map[string]bool{}
	for left := slices.Clone(n.cfg.Peers); len(left) > 0 && ctx.Err() == nil; {
		left = slices.DeleteFunc(left, func(peer string) bool {
			err := n.seekAt(ctx, peer)
			if err != nil && ctx.Err() == nil && !said[peer] {
				said[peer] = true
				n.log.Warn("no node found where --peer says, trying on", "peer", peer, "error", err)
			}
			return err == nil
		})
		if len(left) > 0 {
			_ = pause.For(ctx, seekEvery)
		}
	}
	return nil
}

// seekAt exchanges members with every node at an address, whose host may be a
// name with many; one that answers is enough.
func (n *Server) seekAt(ctx context.Context, peer string) error {
	host, port, err := net.SplitHostPort(peer)
	if err != nil {
		return err
	}
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return err
	}
	found := false
	var errs []error
	for _, ip := range ips {
		addr := net.JoinHostPort(ip, port)
		if addr == n.file.Address {
			continue // a name for all nodes is one for this one, too
		}
		err := n.members.Join(ctx, []string{addr})
		found = found || err == nil
		errs = append(errs, err)
	}
	if found {
		return nil
	}
	return errors.Join(errs...)
}

// remember writes where the other nodes are into node.json, so that they are
// found again after every node was down.
func (n *Server) remember(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := n.nodes.watch()
		peers := map[banyan.NodeID]string{}
		for _, row := range n.nodes.list() {
			if row.ID != n.file.Node {
				peers[row.ID] = row.Address
			}
		}
		f := *n.file
		f.Peers = peers
		if err := f.write(n.cfg); err != nil {
			n.log.Warn("node.json not written", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-changed:
			_ = pause.For(ctx, time.Second)
		}
	}
	return nil
}

// tellMembers passes what node rows say on to gossip and to the worker: where
// others listen, and whether this node is to be drained.
func (n *Server) tellMembers(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := n.nodes.watch()
		for _, row := range n.nodes.list() {
			if row.ID != n.file.Node {
				n.members.Learn(row.ID, row.Address)
				continue
			}
			n.members.SetDraining(row.Draining)
			n.drainWorker()
		}
		select {
		case <-ctx.Done():
		case <-changed:
		}
	}
	return nil
}

// tellControllers wakes the controllers when a node comes, goes or drains.
func (n *Server) tellControllers(ctx context.Context) error {
	members, stop := n.members.Watch()
	defer stop()
	for ctx.Err() == nil {
		n.work.NodesChanged()
		select {
		case <-ctx.Done():
		case <-members:
		case <-n.nodes.watch():
		}
	}
	return nil
}
