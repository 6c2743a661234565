// Package route finds the replica that must answer and asks it: here, or on
// the node that leads the shard. It is the one place that knows about
// forwarding; layers above see rows of shards and nothing of nodes.
package route

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"slices"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/replica"
	"banyan/internal/pause"
	"banyan/obs"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

// CallTimeout bounds a call whose context has no deadline.
const CallTimeout = 10 * time.Second

// mapPause is the longest between two looks at the map.
const mapPause = 50 * time.Millisecond

// Members tells what gossip knows: who claims to lead a shard, and who is
// worth asking about it.
type Members interface {
	// Leader gives the claim with the highest term, or 0.
	Leader(shard banyan.ShardID) (node banyan.NodeID, term uint64)
	// Alive lists the nodes believed alive, this one included.
	Alive() []banyan.NodeID
}

// Config is what a Router is made of. All fields are needed but Members, which
// a node without a cluster leaves nil.
type Config struct {
	Node    banyan.NodeID
	Map     func() *shardmap.Map // the newest known here; does not block
	Host    *replica.Host
	Members Members
	// Dial gives a client of another node. It does not block; calls do.
	Dial    func(banyan.NodeID) (peerv1connect.PeerClient, error)
	Logger  *slog.Logger
	Metrics *metric.Set // nil: none
	// Room refuses what users write to a shard that this node leads while disks
	// are low (Exhausted); nil: never. See UserWrite.
	Room func(banyan.ShardID) error
}

type userWrite struct{}

// UserWrite marks commands that bring new data of users. Where disks are low
// their leader refuses them; all other commands (deletes, results, leases,
// policy, membership) go on.
func UserWrite(ctx context.Context) context.Context { return context.WithValue(ctx, userWrite{}, true) }

func isUserWrite(ctx context.Context) bool { return ctx.Value(userWrite{}) != nil }

// room refuses a user's write that has no room.
func (r *Router) room(ctx context.Context, shard banyan.ShardID) error {
	if r.cfg.Room == nil {
		return nil
	}
	if err := r.cfg.Room(shard); err != nil && isUserWrite(ctx) {
		return err
	}
	return nil
}

// Router commits, reads and watches rows of any shard from any node.
type Router struct {
	cfg   Config
	meter meter
}

// New builds a Router.
func New(cfg Config) *Router { return &Router{cfg, newMeter(cfg.Metrics)} }

// ReadQuery asks for one key, or with End for the range [Key, End).
type ReadQuery struct {
	Key, End []byte
	At       banyan.Revision // 0: now
	Limit    int             // rows; 0: ListRowsMax
	EachSlot bool            // Key and End are what follows the slot: see mvcc.Query
	// With EachSlot: of the slots [FromSlot, UntilSlot). The shard must hold the
	// first; up to where it holds them says the answer. See ReadSpan. UntilSlot 0:
	// of those that the shard has.
	FromSlot, UntilSlot int
	KeysOnly            bool
	Stale               bool // from the nearest replica; the answer tells its age
}

// ReadResult is what a replica answered.
type ReadResult struct {
	Rows     []mvcc.Row
	Revision banyan.Revision // of the shard when it was read
	More     bool            // the range has more rows behind the last
	Age      time.Duration   // with Stale: at most this old
	// With UntilSlot asked: the rows are those of the slots before this one.
	UntilSlot int
}

// ShardOf gives the shard that holds a partition.
func (r *Router) ShardOf(partition []byte) banyan.ShardID {
	return r.cfg.Map().OfSlot(banyan.SlotOf(partition))
}

// ShardOfSlot gives the shard that holds the first row of a slot.
func (r *Router) ShardOfSlot(slot int) banyan.ShardID { return r.cfg.Map().OfSlot(slot) }

// DataShards lists every shard but the root, as far as is known here. Who must
// miss no row goes by Spans.
func (r *Router) DataShards() []banyan.ShardID { return r.cfg.Map().Data() }

// Map is the newest shard map that is known here.
func (r *Router) Map() *shardmap.Map { return r.cfg.Map() }

// Leader gives the node that leads a shard as far as is known here.
func (r *Router) Leader(shard banyan.ShardID) (banyan.NodeID, bool) {
	node, term := r.cfg.Host.Leader(shard)
	if r.cfg.Members != nil {
		if claimed, t := r.cfg.Members.Leader(shard); claimed != 0 && (node == 0 && t >= term || t > term) {
			node = claimed
		}
	}
	return node, node != 0
}

// WaitLeader waits until a leader of the shard is known.
func (r *Router) WaitLeader(ctx context.Context, shard banyan.ShardID) (banyan.NodeID, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	var wait pause.Retry
	for {
		if node, ok := r.Leader(shard); ok {
			return node, nil
		}
		if err := r.rest(ctx, shard, wait.Next()); err != nil {
			return 0, banyan.Errorf(banyan.Unavailable, "shard %d has no leader: a majority of its replicas must be up ('banyan status' shows which are not)", shard)
		}
	}
}

// Peer gives a client of another node.
func (r *Router) Peer(node banyan.NodeID) (peerv1connect.PeerClient, error) { return r.cfg.Dial(node) }

// Commit applies a command at the shard's leader. It tries again under the
// same request id while there is no leader, leadership moves or the network
// fails, until ctx ends (CallTimeout if it has no deadline), and follows rows
// that another shard holds now; only what it cannot follow is Moved (see
// shardmap.Map.Shares). A command that carries a term is fenced: it is proposed
// here once, or not at all.
func (r *Router) Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	if cmd.Term != 0 {
		return r.propose(ctx, shard, cmd)
	}
	ctx, cancel := bounded(ctx)
	defer cancel()
	own := cmd.Request == banyan.RequestID{}
	if err := r.name(ctx, shard, cmd); err != nil {
		return mvcc.Result{}, err
	}
	return r.commit(ctx, shard, cmd, own)
}

// commit is Commit of a command that has a request id; own says that it is the
// Router's, and not its caller's.
func (r *Router) commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, own bool) (mvcc.Result, error) {
	var res mvcc.Result
	var refused error // for good
	err := r.following(ctx, shard, rowsOf(cmd), func(to banyan.ShardID) error {
		if refused = r.carry(ctx, shard, to, cmd, own); refused != nil {
			return errRefused
		}
		shard = to
		return r.atLeader(ctx, shard, func(ctx context.Context) (err error) {
			res, err = r.propose(ctx, shard, cmd)
			return err
		}, func(ctx context.Context, peer peerv1connect.PeerClient) error {
			reply, err := peer.Commit(ctx, connect.NewRequest(&peerv1.CommitRequest{
				Shard: uint32(shard), Command: cmd.Encode(nil), UserWrite: isUserWrite(ctx),
			}))
			if err != nil {
				return err
			}
			res, err = mvcc.DecodeResult(reply.Msg.Result)
			return err
		})
	})
	return res, errFirst(refused, err)
}

// errRefused ends following, which Moved would not.
var errRefused = errors.New("the command cannot be carried over to another shard")

// carry readies a command that a shard has refused as moved for the one that
// holds its rows now. What it says was known before it was first sent is of the
// first one's history. Where the two have that in common the second knows, or
// cannot know, whether it was carried out, as the first would. Else nobody has
// carried it out, and a name of the Router's own is changed for a new one.
func (r *Router) carry(ctx context.Context, from, to banyan.ShardID, cmd *mvcc.Command, own bool) error {
	if from == to || cmd.Earliest == 0 || r.cfg.Map().Shares(from, cmd.Earliest-1, to) {
		return nil
	}
	if !own {
		return banyan.Errorf(banyan.Moved, "shard %d holds these rows now, and shard %d did when the request was made: make it anew", to, from)
	}
	cmd.Request = banyan.RequestID{}
	return r.name(ctx, to, cmd)
}

// Judge looks at what the sender of a request for a shard says to have known: a
// revision, of that shard or (of) another one. Moved: the request can be made
// anew, nobody has carried it out or will.
func (r *Router) Judge(shard, of banyan.ShardID, known banyan.Revision) error {
	m := r.cfg.Map()
	switch {
	case of == shard, of == 0:
		return nil
	case !m.Has(of):
		return banyan.Errorf(banyan.Unavailable, "this node does not know of shard %d yet: try again, or ask another node", of)
	case !m.Shares(of, known, shard):
		return banyan.Errorf(banyan.Moved, "shard %d holds these rows, and shard %d did not any more at revision %d: make the request anew, with what is known of shard %d", shard, of, known, shard)
	}
	return nil
}

// rowsOf lists the rows that a command is about and that move when its shard is
// split.
func rowsOf(cmd *mvcc.Command) [][]byte {
	own := banyan.SlotKey(banyan.SlotOwn)
	var rows [][]byte
	add := func(row []byte) {
		if len(row) > 0 && !bytes.HasPrefix(row, own) {
			rows = append(rows, row)
		}
	}
	for i := range cmd.Conds {
		add(cmd.Conds[i].Key)
	}
	for _, muts := range [][]mvcc.Mutation{cmd.Muts, cmd.Else} {
		for i := range muts {
			add(muts[i].Key)
		}
	}
	return rows
}

// following calls try with the shard, and as long as that answers Moved with the
// one that holds the rows by the map, once that tells of another one. Rows that
// are of several shards by now stay Moved.
func (r *Router) following(ctx context.Context, shard banyan.ShardID, rows [][]byte, try func(banyan.ShardID) error) error {
	for {
		err := try(shard)
		if len(rows) == 0 || !banyan.IsKind(err, banyan.Moved) {
			return err
		}
		next := shard
		for wait := (pause.Retry{}); next == shard; {
			m := r.cfg.Map()
			next = m.Of(rows[0])
			for _, row := range rows[1:] {
				if m.Of(row) != next {
					return err
				}
			}
			if next == shard && pause.For(ctx, min(wait.Next(), mapPause)) != nil {
				return banyan.Errorf(banyan.Unavailable, "shard %d is being split, and who holds these rows now is not known here yet: try again", shard)
			}
		}
		shard = next
		r.meter.retries.Inc()
	}
}

// name gives a command a request id before it is sent for the first time, unless
// its sender has given it one. With the id goes Earliest: the revision after the
// latest that this node knows of the shard. The router sends the same command
// again while its outcome is unknown, and by these two the shard recognises the
// copy, or refuses it when it no longer remembers that far back.
func (r *Router) name(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) error {
	if cmd.Request != (banyan.RequestID{}) {
		return nil
	}
	known := r.cfg.Host.Revision(shard)
	if known == 0 { // there is no replica here, or nothing yet
		res, err := r.Read(ctx, shard, ReadQuery{Key: banyan.SlotKey(banyan.SlotOwn)})
		if err != nil {
			return err
		}
		known = res.Revision
	}
	cmd.Request, cmd.Earliest = banyan.NewRequestID(), known+1
	return nil
}

// CommitThen is Commit for a caller that does not wait: done is called once,
// from a goroutine that must not be held up.
func (r *Router) CommitThen(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	if cmd.Request == (banyan.RequestID{}) && r.cfg.Host.Revision(shard) == 0 {
		go func() { done(r.Commit(ctx, shard, cmd)) }()
		return
	}
	own := cmd.Request == banyan.RequestID{}
	_ = r.name(ctx, shard, cmd) // it need not ask
	_, span := obs.Start(ctx, "commit", slog.Int("shard", int(shard)))
	finish := func(res mvcc.Result, err error) {
		span.End(err)
		switch {
		case cmd.Term != 0 && retryable(err):
			go func() { done(r.Commit(ctx, shard, cmd)) }()
			return
		case cmd.Term == 0 && (retryable(err) || banyan.IsKind(err, banyan.Moved)):
			go func() {
				ctx, cancel := bounded(ctx)
				defer cancel()
				done(r.commit(ctx, shard, cmd, own))
			}()
			return
		}
		done(res, err)
	}
	err := r.room(ctx, shard)
	if err == nil {
		err = r.cfg.Host.ProposeThen(shard, cmd, finish)
	}
	if err != nil {
		finish(mvcc.Result{}, err)
	}
}

// propose commits at the replica here, as a span of the caller's trace.
func (r *Router) propose(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	ctx, span := obs.Start(ctx, "commit", slog.Int("shard", int(shard)))
	err := r.room(ctx, shard)
	var res mvcc.Result
	if err == nil {
		res, err = r.cfg.Host.Propose(ctx, shard, cmd)
	}
	span.End(err)
	return res, err
}

// Read answers a query, linearizable unless it asks for stale.
func (r *Router) Read(ctx context.Context, shard banyan.ShardID, q ReadQuery) (ReadResult, error) {
	ctx, cancel := bounded(ctx)
	defer cancel()
	rows := [][]byte{q.Key}
	switch {
	case q.EachSlot && q.UntilSlot == 0, !q.EachSlot && bytes.HasPrefix(q.Key, banyan.SlotKey(banyan.SlotOwn)):
		rows = nil // they are of this shard alone
	case q.EachSlot:
		rows[0] = banyan.SlotKey(q.FromSlot)
	}
	var res ReadResult
	err := r.following(ctx, shard, rows, func(shard banyan.ShardID) (err error) {
		if q.Stale {
			res, err = r.readStale(ctx, shard, q)
		} else {
			res, err = r.readLeader(ctx, shard, q)
		}
		return err
	})
	return res, err
}

func (r *Router) readLeader(ctx context.Context, shard banyan.ShardID, q ReadQuery) (ReadResult, error) {
	var res ReadResult
	err := r.atLeader(ctx, shard, func(ctx context.Context) (err error) {
		res, err = r.readLocal(ctx, shard, q)
		return err
	}, func(ctx context.Context, peer peerv1connect.PeerClient) (err error) {
		res, err = readPeer(ctx, peer, shard, q)
		return err
	})
	return res, err
}

// ReadThen is Read for a caller that does not wait: done is called once, from a
// goroutine that must not be held up.
func (r *Router) ReadThen(ctx context.Context, shard banyan.ShardID, q ReadQuery, done func(ReadResult, error)) {
	if q.Stale || q.End != nil { // may take long, or go elsewhere
		go func() { done(r.Read(ctx, shard, q)) }()
		return
	}
	finish := func(err error) {
		var res ReadResult
		if err == nil {
			res, err = r.read(ctx, shard, q)
		}
		if err != nil && (retryable(err) || banyan.IsKind(err, banyan.Moved)) {
			go func() { done(r.Read(ctx, shard, q)) }()
			return
		}
		done(res, err)
	}
	if err := r.cfg.Host.ReadThen(shard, finish); err != nil {
		finish(err)
	}
}

func (r *Router) readStale(ctx context.Context, shard banyan.ShardID, q ReadQuery) (ReadResult, error) {
	res, err := r.readLocal(ctx, shard, q)
	if err == nil || !retryable(err) {
		return res, err
	}
	for _, node := range r.candidates(shard) {
		peer, perr := r.cfg.Dial(node)
		if perr != nil {
			continue
		}
		if res, perr = readPeer(ctx, peer, shard, q); perr == nil {
			return res, nil
		}
	}
	return ReadResult{}, err
}

// atLeader runs local or remote at the shard's leader, following hints and
// waiting out elections.
func (r *Router) atLeader(ctx context.Context, shard banyan.ShardID, local func(context.Context) error, remote func(context.Context, peerv1connect.PeerClient) error) error {
	ctx, cancel := bounded(ctx)
	defer cancel()
	began := time.Now()
	var wait pause.Retry
	var hint banyan.NodeID
	for tries := 0; ; tries++ {
		node := hint
		if node == 0 {
			node = r.guess(shard, tries)
		}
		hint = 0
		err := r.ask(ctx, node, local, remote)
		if err == nil || !retryable(err) {
			if tries > 0 {
				r.meter.settled(shard, began, tries, err)
			}
			return err
		}
		r.meter.retries.Inc()
		var e *banyan.Error
		if errors.As(err, &e) && e.Leader != 0 && e.Leader != node {
			hint = e.Leader
			if tries < 2 {
				continue
			}
		}
		if r.rest(ctx, shard, wait.Next()) != nil {
			r.meter.settled(shard, began, tries, err)
			return giveUp(shard, err)
		}
	}
}

func (r *Router) ask(ctx context.Context, node banyan.NodeID, local func(context.Context) error, remote func(context.Context, peerv1connect.PeerClient) error) error {
	if node == r.cfg.Node {
		return local(ctx)
	}
	if node == 0 {
		return banyan.Errorf(banyan.Unavailable, "no leader is known")
	}
	peer, err := r.cfg.Dial(node)
	if err != nil {
		return err
	}
	return remote(ctx, peer)
}

// guess names the node to ask: the known leader, else any live node in turn.
func (r *Router) guess(shard banyan.ShardID, tries int) banyan.NodeID {
	if node, ok := r.Leader(shard); ok && tries%4 != 3 {
		return node
	}
	others := r.candidates(shard)
	if len(others) == 0 {
		return r.cfg.Node
	}
	return others[rand.IntN(len(others))]
}

// candidates lists other nodes to ask about a shard, its leader first.
func (r *Router) candidates(shard banyan.ShardID) []banyan.NodeID {
	if r.cfg.Members == nil {
		return nil
	}
	nodes := slices.DeleteFunc(slices.Clone(r.cfg.Members.Alive()), func(n banyan.NodeID) bool { return n == r.cfg.Node })
	leader, _ := r.Leader(shard)
	if i := slices.Index(nodes, leader); i > 0 {
		nodes[0], nodes[i] = nodes[i], nodes[0]
	}
	return nodes
}

// retryable says whether another try, here or elsewhere, may succeed. A retry
// of a write is safe: it carries the same request id.
func retryable(err error) bool {
	switch banyan.KindOf(err) {
	case banyan.NotLeader, banyan.Unavailable, banyan.Stale:
		return true
	}
	return false
}

func giveUp(shard banyan.ShardID, err error) error {
	if banyan.IsKind(err, banyan.Stale) || banyan.IsKind(err, banyan.NotLeader) || banyan.IsKind(err, banyan.Unavailable) {
		return banyan.Errorf(banyan.Unavailable, "shard %d did not answer in time (%w): a majority of its replicas must be up; 'banyan status' shows which are not", shard, err)
	}
	return err
}

func bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, CallTimeout)
}

// rest waits, but no longer than until the replica here hears of a leader.
func (r *Router) rest(ctx context.Context, shard banyan.ShardID, d time.Duration) error {
	return pause.Until(ctx, d, r.cfg.Host.LeaderChange(shard))
}
