package server

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"os"
	"runtime"
	"runtime/pprof"
	"slices"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/engine/replica"
	"banyan/internal/pause"

	"connectrpc.com/connect"
)

const (
	dumpPieceBytes = 64 << 10
	profileSeconds = 10 // if none are given
	lookTimeout    = 3 * time.Second
	looksAtOnce    = 32 // nodes asked at once for one answer
)

// debugService answers banyan.v1.Debug.
type debugService struct{ n *Server }

// Dump reads one thing of this node, or has another node do it.
func (s debugService) Dump(ctx context.Context, req *banyanv1.DumpRequest, send func(*banyanv1.DumpResponse) error) error {
	if id := banyan.NodeID(req.Node); id != 0 && id != s.n.file.Node {
		return s.passOn(ctx, id, req, send)
	}
	out := &pieces{send: send, left: banyan.DumpBytesMax}
	if err := s.dump(ctx, req, out); err != nil {
		return err
	}
	return out.flush()
}

func (s debugService) dump(ctx context.Context, req *banyanv1.DumpRequest, out io.Writer) error {
	switch req.Kind {
	case banyanv1.DumpKind_DUMP_KIND_METRICS:
		return s.n.metrics.WriteText(out)
	case banyanv1.DumpKind_DUMP_KIND_LOG:
		_, err := out.Write(s.n.lines.Bytes())
		return err
	case banyanv1.DumpKind_DUMP_KIND_GOROUTINES:
		return pprof.Lookup("goroutine").WriteTo(out, 1)
	case banyanv1.DumpKind_DUMP_KIND_HEAP:
		return pprof.Lookup("heap").WriteTo(out, 0)
	case banyanv1.DumpKind_DUMP_KIND_CPU:
		return profileCPU(ctx, int(req.Seconds), out)
	case banyanv1.DumpKind_DUMP_KIND_CONFIG:
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		return e.Encode(s.n.describe())
	}
	return banyan.Errorf(banyan.Invalid, "node %v (banyan %s) has no dump of kind %v: upgrade it", s.n.file.Node, banyan.Version, req.Kind)
}

func profileCPU(ctx context.Context, seconds int, out io.Writer) error {
	if seconds == 0 {
		seconds = profileSeconds
	}
	if seconds < 0 || seconds > banyan.ProfileSecondsMax {
		return banyan.Errorf(banyan.Invalid, "a profile of %d seconds: give 1 to %d (ProfileSecondsMax)", seconds, banyan.ProfileSecondsMax)
	}
	if err := pprof.StartCPUProfile(out); err != nil {
		return banyan.Errorf(banyan.Conflict, "a CPU profile of this node is being taken already: wait for it to end: %w", err)
	}
	_ = pause.For(ctx, time.Duration(seconds)*time.Second)
	pprof.StopCPUProfile()
	return ctx.Err()
}

// description is what there is to know of how a node was started. It goes into
// bug reports: nothing secret may be added.
type description struct {
	Node        string   `json:"node"`
	Cluster     string   `json:"cluster"`
	Name        string   `json:"name"`
	Version     string   `json:"version"`
	Protocol    int      `json:"protocol"`
	Go          string   `json:"go"`
	Platform    string   `json:"platform"`
	CPUs        int      `json:"cpus"`
	GoMaxProcs  int      `json:"gomaxprocs"`
	PID         int      `json:"pid"`
	StartMs     int64    `json:"start_ms"`
	Dir         string   `json:"dir"`
	Listen      string   `json:"listen"`
	Address     string   `json:"address"`
	Zone        string   `json:"zone"`
	Slots       int      `json:"slots"`
	Shards      int      `json:"shards"`
	Replication int      `json:"replication"`
	DeadAfterMs int64    `json:"dead_after_ms"`
	Environment []string `json:"environment"` // of these variables only
}

func (n *Server) describe() description {
	d := description{
		Node: n.file.Node.String(), Cluster: n.file.Cluster, Name: n.cfg.Name, Version: banyan.Version, Protocol: banyan.ProtocolVersion,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CPUs: runtime.NumCPU(), GoMaxProcs: runtime.GOMAXPROCS(0),
		PID: os.Getpid(), StartMs: n.start.UnixMilli(), Dir: n.cfg.Dir, Listen: n.file.Listen, Address: n.file.Address,
		Zone: n.file.Zone, Slots: n.slots(), Shards: len(n.shards.get().Data()), Replication: n.cfg.Replication, DeadAfterMs: n.cfg.DeadAfter.Milliseconds(),
		Environment: []string{},
	}
	for _, name := range []string{"GOMAXPROCS", "GOGC", "GOMEMLIMIT", "GODEBUG"} {
		if v, ok := os.LookupEnv(name); ok {
			d.Environment = append(d.Environment, name+"="+v)
		}
	}
	return d
}

// pieces cuts what is written to it into messages, up to a bound.
type pieces struct {
	send func(*banyanv1.DumpResponse) error
	buf  []byte
	left int
}

// Write never fails for being too much: what is beyond the bound is dropped.
func (p *pieces) Write(b []byte) (int, error) {
	n := len(b)
	b = b[:min(n, p.left)]
	p.left -= len(b)
	p.buf = append(p.buf, b...)
	for len(p.buf) >= dumpPieceBytes {
		if err := p.send(&banyanv1.DumpResponse{Data: p.buf[:dumpPieceBytes]}); err != nil {
			return 0, err
		}
		p.buf = append(p.buf[:0], p.buf[dumpPieceBytes:]...)
	}
	return n, nil
}

func (p *pieces) flush() error {
	if len(p.buf) == 0 {
		return nil
	}
	return p.send(&banyanv1.DumpResponse{Data: p.buf})
}

// passOn has another node answer.
func (s debugService) passOn(ctx context.Context, id banyan.NodeID, req *banyanv1.DumpRequest, send func(*banyanv1.DumpResponse) error) error {
	c, err := s.n.debugAt(id)
	if err != nil {
		return err
	}
	takes := lookTimeout
	if req.Kind == banyanv1.DumpKind_DUMP_KIND_CPU {
		takes += time.Duration(cmp.Or(req.Seconds, profileSeconds)) * time.Second
	}
	silent := banyan.Errorf(banyan.Conflict, "node %v cannot be asked: it does not answer; 'banyan status' says more", id)
	ctx, moves, stop := whileMoving(ctx, takes, silent)
	defer stop()
	err = passAll(ctx, c, req, func(m *banyanv1.DumpResponse) error {
		moves(lookTimeout)
		return send(m)
	})
	switch {
	case err != nil && errors.Is(context.Cause(ctx), silent):
		return silent
	case banyan.IsKind(err, banyan.Unavailable): // to ask elsewhere would not help
		return banyan.Errorf(banyan.Conflict, "node %v cannot be asked: %w", id, err)
	}
	return err
}

func passAll(ctx context.Context, c banyanv1connect.DebugClient, req *banyanv1.DumpRequest, send func(*banyanv1.DumpResponse) error) error {
	stream, err := c.Dump(ctx, connect.NewRequest(req))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := send(stream.Msg()); err != nil {
			return err
		}
	}
	return stream.Err()
}

// debugAt gives the debug door of another node.
func (n *Server) debugAt(id banyan.NodeID) (banyanv1connect.DebugClient, error) {
	if _, ok := n.nodes.get(id); !ok || n.port == nil {
		return nil, banyan.Errorf(banyan.NotFound, "there is no node %v: 'banyan nodes' lists the nodes there are", id)
	}
	return banyanv1connect.NewDebugClient(n.port.HTTPClient(), n.port.URL(id), connect.WithInterceptors(wire.ClientInterceptor())), nil
}

// ask asks one node, or with 0 all of them at once, and gives the answers by
// node. Of all, those that have nothing to say (NotFound) are left out.
func ask[T any](ctx context.Context, n *Server, node uint64, here func() (T, error), there func(context.Context, banyanv1connect.DebugClient, uint64) (T, error)) ([]T, []*banyanv1.NodeError) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	var (
		mu      sync.Mutex
		wg      sync.WaitGroup
		answers = map[uint64]T{}
		failed  []*banyanv1.NodeError
		places  = make(chan struct{}, looksAtOnce)
	)
	for _, id := range n.lookAt(node) {
		wg.Go(func() {
			places <- struct{}{}
			defer func() { <-places }()
			answer, err := askNode(ctx, n, id, node == 0, here, there)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				answers[uint64(id)] = answer
			case node != 0 || !banyan.IsKind(err, banyan.NotFound):
				failed = append(failed, &banyanv1.NodeError{Node: uint64(id), Error: err.Error()})
			}
		})
	}
	wg.Wait()
	slices.SortFunc(failed, func(a, b *banyanv1.NodeError) int { return cmp.Compare(a.Node, b.Node) })
	return sorted(answers), failed
}

func askNode[T any](ctx context.Context, n *Server, id banyan.NodeID, ofAll bool, here func() (T, error), there func(context.Context, banyanv1connect.DebugClient, uint64) (T, error)) (answer T, err error) {
	if id == n.file.Node {
		return here()
	}
	if state := n.stateOf(id); ofAll && (state == "dead" || state == "left") { // the others would wait for it
		return answer, banyan.Errorf(banyan.Unavailable, "it is %s", state)
	}
	c, err := n.debugAt(id)
	if err != nil {
		return answer, err
	}
	return there(ctx, c, uint64(id))
}

func (n *Server) lookAt(node uint64) []banyan.NodeID {
	if node != 0 {
		return []banyan.NodeID{banyan.NodeID(node)}
	}
	var all []banyan.NodeID
	for _, row := range n.nodes.list() {
		all = append(all, row.ID)
	}
	return all
}

func sorted[T any](byNode map[uint64]T) []T {
	var ids []uint64
	for id := range byNode {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	var out []T
	for _, id := range ids {
		out = append(out, byNode[id])
	}
	return out
}

// Slow gives the slow log of one node or of all.
func (s debugService) Slow(ctx context.Context, req *banyanv1.SlowRequest) (*banyanv1.SlowResponse, error) {
	if banyan.NodeID(req.Node) == s.n.file.Node {
		return s.n.slow()
	}
	answers, failed := ask(ctx, s.n, req.Node, s.n.slow, func(ctx context.Context, c banyanv1connect.DebugClient, node uint64) (*banyanv1.SlowResponse, error) {
		res, err := c.Slow(ctx, connect.NewRequest(&banyanv1.SlowRequest{Node: node}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	})
	out := &banyanv1.SlowResponse{Errors: failed}
	for _, a := range answers {
		out.Operations = append(out.Operations, a.Operations...)
		out.Errors = append(out.Errors, a.Errors...)
	}
	slices.SortStableFunc(out.Operations, func(a, b *banyanv1.SlowOperation) int { return cmp.Compare(a.EndMs, b.EndMs) })
	return out, nil
}

func (n *Server) slow() (*banyanv1.SlowResponse, error) {
	out := &banyanv1.SlowResponse{}
	for _, op := range n.metrics.SlowOps() {
		o := &banyanv1.SlowOperation{
			Node: uint64(n.file.Node), EndMs: op.At.UnixMilli(), What: op.What, Shard: int32(op.Shard),
			DurationUs: op.Took.Microseconds(), Failed: op.Failed,
		}
		for _, w := range op.Waits {
			o.Waits = append(o.Waits, &banyanv1.SlowWait{For: w.For, DurationUs: w.Took.Microseconds()})
		}
		out.Operations = append(out.Operations, o)
	}
	return out, nil
}

// Shard tells how raft is on the replicas of a shard.
func (s debugService) Shard(ctx context.Context, req *banyanv1.ShardRequest) (*banyanv1.ShardResponse, error) {
	if m := s.n.shards.get(); !m.Has(banyan.ShardID(req.Shard)) {
		return nil, banyan.Errorf(banyan.NotFound, "there is no shard %d: this cluster has %v (0 is the root shard)", req.Shard, m.All())
	}
	here := func() (*banyanv1.ShardResponse, error) { return s.n.inspect(ctx, banyan.ShardID(req.Shard)) }
	if banyan.NodeID(req.Node) == s.n.file.Node {
		return here()
	}
	answers, failed := ask(ctx, s.n, req.Node, here, func(ctx context.Context, c banyanv1connect.DebugClient, node uint64) (*banyanv1.ShardResponse, error) {
		res, err := c.Shard(ctx, connect.NewRequest(&banyanv1.ShardRequest{Shard: req.Shard, Node: node}))
		if err != nil {
			return nil, err
		}
		return res.Msg, nil
	})
	out := &banyanv1.ShardResponse{Errors: failed}
	for _, a := range answers {
		out.Replicas = append(out.Replicas, a.Replicas...)
		out.Errors = append(out.Errors, a.Errors...)
	}
	return out, nil
}

// Split decides that a shard is split.
func (s debugService) Split(ctx context.Context, req *banyanv1.SplitShardRequest) (*banyanv1.SplitShardResponse, error) {
	slot := -1
	if req.At != nil {
		slot = int(*req.At)
	}
	d, err := s.n.splits.Decide(ctx, banyan.ShardID(req.Shard), slot, req.Epoch)
	if err != nil {
		return nil, err
	}
	s.n.log.Info("a split was asked for", "shard", d.Parent, "child", d.Child, "epoch", d.Epoch)
	return &banyanv1.SplitShardResponse{Child: uint32(d.Child), At: uint32(binary.BigEndian.Uint16(d.At)), Epoch: d.Epoch}, nil
}

func (n *Server) inspect(ctx context.Context, shard banyan.ShardID) (*banyanv1.ShardResponse, error) {
	if !n.host.Hosts(shard) {
		return nil, banyan.Errorf(banyan.NotFound, "node %v has no replica of shard %d", n.file.Node, shard)
	}
	in, err := n.host.Inspect(ctx, shard)
	if err != nil {
		return nil, err
	}
	return &banyanv1.ShardResponse{Replicas: []*banyanv1.ShardReplica{describeReplica(n.file.Node, in)}}, nil
}

func describeReplica(node banyan.NodeID, in replica.Inspection) *banyanv1.ShardReplica {
	out := &banyanv1.ShardReplica{
		Node: uint64(node), Role: in.Role, Term: in.Term, Leader: uint64(in.Leader), Vote: uint64(in.Vote), Joint: in.Joint,
		Revision: uint64(in.Revision), FirstIndex: in.First, LastIndex: in.Last, CommitIndex: in.Commit, AppliedIndex: in.Applied,
		LogBytes: int64(in.LogBytes), AgeMs: -1, Proposals: uint32(in.Pending), Snapshot: in.Snapshot,
	}
	if in.Age >= 0 {
		out.AgeMs = in.Age.Milliseconds()
	}
	for _, v := range in.Voters {
		out.Voters = append(out.Voters, uint64(v))
	}
	for _, v := range in.Learners {
		out.Learners = append(out.Learners, uint64(v))
	}
	for _, r := range in.Replicas {
		out.Progress = append(out.Progress, &banyanv1.ReplicaProgress{
			Node: uint64(r.Node), Learner: r.Learner, State: r.State, MatchIndex: r.Match, NextIndex: r.Next,
			InFlight: uint32(r.InFlight), Paused: r.Paused, Active: r.Active, SnapshotIndex: r.Snapshot,
		})
	}
	return out
}
