package replica

import (
	"encoding/binary"
	"log/slog"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// CoreConfig has no optional fields but those with a stated default.
type CoreConfig struct {
	Node           banyan.NodeID
	Store          *store.Store
	ElectionTicks  int
	HeartbeatTicks int
	LogEntriesKept uint64 // 0: LogEntriesKept
	LogBytesKept   uint64 // 0: LogBytesKept
	Protocol       uint32 // at which the cluster acts (Act); 0: banyan.ProtocolMin
	Logger         *slog.Logger
}

// The tail of the log that is kept for replicas that are behind: entries or
// bytes, whichever is less, but not fewer than LogEntriesLeast. The leader
// keeps more for a replica that it knows to need it. What is truncated while it
// still lies in the store's memory is never written to a table, so under load
// the tail should be shorter than that.
const (
	LogEntriesKept  = 1024
	LogBytesKept    = 512 << 10
	LogEntriesLeast = 32
	LogTailFactor   = 32       // for a replica in need: times LogEntriesKept
	LogTailBytesMax = 64 << 20 // and at most this; more after a snapshot: see sending.go
)

// Sizes of raft's flow control, per shard.
const (
	messageBytesMax  = 1 << 20  // of entries in one MsgApp, or one entry
	inflightMax      = 256      // MsgApps on the way to one replica
	inflightBytesMax = 16 << 20 // of entries on the way to one replica
	applyBytesMax    = 8 << 20  // of entries handed out and not yet applied
)

// Core holds the raft groups of one node and decides what is written, sent and
// applied when. It starts no goroutine, reads no clock and does no I/O but
// reads of its Store: the driver (Host, or a simulation) tells it the time,
// hands in what happened and carries out the Effects of Process. Everything it
// does follows from those calls, the Store and crypto/rand.Reader, from which
// raft draws election timeouts.
//
// One goroutine uses it. Its methods panic with a *StorageError if the Store
// cannot be read.
type Core struct {
	cfg    CoreConfig
	now    time.Duration
	groups map[banyan.ShardID]*group
	order  []*group // by shard
	dirty  []*group // with work for Process, in the order they got it
	drops  []*Apply // for the applier, of groups that are gone
	forks  map[banyan.ShardID]*fork
	held   map[banyan.ShardID]*group // parents whose entries wait for a replica of this child

	waiting int // groups that want to hear of Appended and Applied at once

	awake     int // groups that are not quiet
	bonds     map[uint64]*bond
	beats     []Envelope // to be sent, and answers
	sinceBeat int        // ticks
}

// NewCore opens every replica that is on the disk. A replica that is its
// shard's only voter starts to campaign at once.
func NewCore(cfg CoreConfig) (*Core, error) {
	if cfg.LogEntriesKept == 0 {
		cfg.LogEntriesKept = LogEntriesKept
	}
	if cfg.LogBytesKept == 0 {
		cfg.LogBytesKept = LogBytesKept
	}
	cfg.Protocol = max(cfg.Protocol, banyan.ProtocolMin)
	c := &Core{
		cfg: cfg, groups: map[banyan.ShardID]*group{}, bonds: map[uint64]*bond{},
		forks: map[banyan.ShardID]*fork{}, held: map[banyan.ShardID]*group{},
	}
	for _, shard := range cfg.Store.Shards() {
		g, err := c.open(shard)
		if err != nil {
			return nil, err
		}
		c.scheduleFirst(g)
	}
	return c, nil
}

func (c *Core) open(shard banyan.ShardID) (_ *group, err error) {
	defer caught(&err)
	st := c.cfg.Store.Shard(shard)
	applied, _ := st.Applied()
	first, err := st.FirstIndex()
	if err != nil {
		return nil, err
	}
	rn, err := raft.NewRawNode(&raft.Config{
		ID:                        uint64(c.cfg.Node),
		ElectionTick:              c.cfg.ElectionTicks,
		HeartbeatTick:             c.cfg.HeartbeatTicks,
		Storage:                   storage{st},
		Applied:                   applied,
		AsyncStorageWrites:        true,
		MaxSizePerMsg:             messageBytesMax,
		MaxCommittedSizePerReady:  applyBytesMax,
		MaxInflightMsgs:           inflightMax,
		MaxInflightBytes:          inflightBytesMax,
		CheckQuorum:               true,
		PreVote:                   true,
		DisableProposalForwarding: true,
		StepDownOnRemoval:         true,
		Logger:                    raftLog{c.cfg.Logger.With("shard", uint32(shard))},
	})
	if err != nil {
		return nil, err
	}
	last, err := st.LastIndex()
	if err != nil {
		return nil, err
	}
	g := &group{core: c, shard: shard, rn: rn, applied: applied, handed: applied, logged: last, truncated: first - 1, conf: st.ConfState()}
	c.groups[shard] = g
	c.awake++
	at, _ := slices.BinarySearchFunc(c.order, shard, func(o *group, s banyan.ShardID) int { return int(o.shard) - int(s) })
	c.order = slices.Insert(c.order, at, g)
	g.published = View{Shard: shard, Gone: true} // differs from any real view
	g.touch()
	return g, nil
}

// Advance tells the time, counted from any fixed moment, and starts the
// elections that are due. Call it before other calls; it never goes back.
func (c *Core) Advance(now time.Duration) {
	c.now = max(c.now, now)
	c.campaignDue()
}

// Act says at which protocol the cluster acts: entries are written in the
// newest form that it has, for every member can read that. It never goes back.
func (c *Core) Act(protocol uint32) {
	if protocol <= c.cfg.Protocol {
		return
	}
	c.cfg.Protocol = protocol
	for _, g := range c.order {
		g.touch() // its View tells
	}
}

// Tick says that n ticks have passed since it was called last: 1, or as many as
// TickIn then allowed.
func (c *Core) Tick(n int) {
	c.beat(n)
	for _, g := range c.order {
		if g.removal == nil && !g.quiet && !g.rest(n) {
			g.rn.Tick()
			g.leaveJoint()
			g.settle()
			g.shedStalled()
			g.followSendings(n)
			g.touch()
		}
	}
}

// Step takes a message from another node. One for a shard that is not here
// makes an empty replica, unless the shard was removed from this node.
// Messages that do not belong on the network are dropped.
func (c *Core) Step(shard banyan.ShardID, m *raftpb.Message) {
	from, self := m.GetFrom(), uint64(c.cfg.Node)
	if shard == BeatShard && m.GetTo() == self && from != raft.None && from != self {
		c.heardBeat(m)
		return
	}
	if !stepped(m.GetType()) || m.GetTo() != self || from == raft.None || from == self {
		c.cfg.Logger.Debug("dropped a raft message that is not for this replica",
			"shard", shard, "type", m.GetType().String(), "from", from, "to", m.GetTo())
		return
	}
	g := c.groups[shard]
	if g == nil {
		if g = c.create(shard, m.GetType()); g == nil {
			return
		}
	}
	if g.removal != nil {
		return
	}
	if m.GetType() == raftpb.MsgPreVote && from == g.lead && m.GetTerm() > g.term {
		_ = g.rn.ForgetLeader() // it says itself that it leads no more: it was restarted, or lost its quorum
	}
	if g.quiet && g.disturbs(m) {
		g.wake()
	}
	if m = g.admit(m); m == nil || g.differs(m) {
		return
	}
	_ = g.rn.Step(m) // what raft refuses it also logs
	g.heard(m)
	g.agree(m)
	g.touch()
}

// stepped says which messages replicas send each other. Proposals and reads
// are not forwarded, and snapshots come with their rows (StepSnapshot).
func stepped(t raftpb.MessageType) bool {
	switch t {
	case raftpb.MsgApp, raftpb.MsgAppResp, raftpb.MsgHeartbeat, raftpb.MsgHeartbeatResp,
		raftpb.MsgVote, raftpb.MsgVoteResp, raftpb.MsgPreVote, raftpb.MsgPreVoteResp, raftpb.MsgTimeoutNow:
		return true
	}
	return false
}

// create makes the empty replica that a first message asks for.
func (c *Core) create(shard banyan.ShardID, t raftpb.MessageType) *group {
	switch t {
	case raftpb.MsgApp, raftpb.MsgHeartbeat, raftpb.MsgSnap:
	default:
		return nil
	}
	if c.cfg.Store.Tombstoned(shard) || len(c.groups) > banyan.ShardsMax || c.forks[shard] != nil {
		return nil
	}
	g, err := c.open(shard)
	if err != nil {
		c.cfg.Logger.Error("cannot create a replica", "shard", shard, "error", err)
		return nil
	}
	return g
}

// Propose queues a command.
func (c *Core) Propose(shard banyan.ShardID, p *Proposal) {
	g := c.groups[shard]
	if g == nil || g.removal != nil {
		p.Done(mvcc.Result{}, errNoReplica(shard))
		return
	}
	g.queue = append(g.queue, p)
	g.touch()
}

// Read asks for a linearizable point: done(nil) is called when this node has
// led the shard after the call and has applied all that was acknowledged
// before it. One proof is under way per shard; reads that come meanwhile share
// the next.
func (c *Core) Read(shard banyan.ShardID, done func(error)) {
	g := c.groups[shard]
	if g == nil || g.removal != nil {
		done(errNoReplica(shard))
		return
	}
	g.reads = append(g.reads, done)
	g.touch()
}

// Process lets raft act on all that was handed in and adds what it wants done
// to eff. Call it after each round of other calls.
func (c *Core) Process(eff *Effects) {
	eff.Applies = append(eff.Applies, c.drops...)
	c.drops = c.drops[:0]
	eff.Send = append(eff.Send, c.beats...)
	clear(c.beats)
	c.beats = c.beats[:0]
	for i := 0; i < len(c.dirty); i++ { // may grow
		g := c.dirty[i]
		g.isDirty = false
		g.process(eff)
		g.count()
	}
	clear(c.dirty)
	c.dirty = c.dirty[:0]
}

// Waiting says whether anything can go on only with the next Appended or
// Applied. Otherwise they are as welcome later, with whatever comes next.
func (c *Core) Waiting() bool { return c.waiting > 0 }

// Appended says that a and everything written before it is as durable as it
// asked to be, and that a.After has been sent.
func (c *Core) Appended(a *Append) {
	g := a.group
	g.appends--
	g.stalled = 0
	if g.gone {
		c.release(g.shard)
		return
	}
	g.touch()
	if a.destroy {
		c.removed(g)
		return
	}
	if a.truncate > 0 {
		g.truncating = false
	}
	if a.install != nil {
		g.installed(a.install)
		c.release(g.shard)
	}
	g.stepSelf(a.self)
}

// Applied says that a has been applied and can be read.
func (c *Core) Applied(a *Apply) {
	if a.drop {
		return
	}
	g := a.group
	g.applies--
	if g.gone {
		c.release(g.shard)
		return
	}
	g.touch()
	for _, s := range a.splits {
		c.splitApplied(g, s)
	}
	for i, cc := range a.confs {
		g.changeConf(cc, a.confsAt[i])
	}
	if a.conf != nil {
		g.conf = a.conf
		if g.settles = g.logged; g.announced && !joint(g.conf) {
			_ = g.rn.Propose(nil) // if it is not taken now, settle tries again
		}
	}
	if n := len(a.Entries); n > 0 {
		last := a.Entries[n-1]
		g.applied = last.GetIndex()
		g.appliedTerm = last.GetTerm()
	}
	g.stepSelf(a.self)
	g.reconfigured()
}

// ReportSnapshot says how sending a snapshot (Effects.Snapshots) ended.
func (c *Core) ReportSnapshot(shard banyan.ShardID, to banyan.NodeID, ok bool) {
	g := c.groups[shard]
	if g == nil || g.removal != nil {
		return
	}
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
		delete(g.sendings, uint64(to))
	}
	g.rn.ReportSnapshot(uint64(to), status)
	g.touch()
}

// readContext names one read proof of a shard.
func readContext(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

// Remove destroys the replica here and leaves a tombstone, so that no late
// message brings it back; done is called when that is on the disk. The caller
// has made sure, after it saw this tenure in its Status, that the shard no
// longer counts on it; if it has heard more since it is not removed
// (Unavailable), because it may have been placed here again.
func (c *Core) Remove(shard banyan.ShardID, seen Tenure, done func(error)) {
	g := c.groups[shard]
	switch {
	case g == nil:
		done(nil)
	case g.removal != nil:
		done(banyan.Errorf(banyan.Unavailable, "the replica of shard %d is being removed already", shard))
	case seen != g.heardLast():
		done(errHeardMore(shard))
	default:
		g.removal = done
		g.fail(errNotLeader(shard, 0), uncertain(shard))
		if g.incoming != nil && !g.incoming.installing {
			g.incoming.done(errNoReplica(shard))
			g.incoming = nil
		}
		g.touch()
	}
}

// abandon answers everything that waits; the Core is not used any more.
func (c *Core) abandon(err error) {
	for _, g := range c.order {
		g.fail(err, err)
	}
}

// removed forgets a group whose removal is on the disk.
func (c *Core) removed(g *group) {
	c.forget(g)
	c.drops = append(c.drops, &Apply{Shard: g.shard, drop: true})
	c.release(g.shard)
	g.removal(nil)
}

// forget takes a group out of the Core. What of it is under way is still heard of.
func (c *Core) forget(g *group) {
	if !g.quiet {
		c.awake--
	}
	if g.waits {
		c.waiting--
		g.waits = false
	}
	g.gone = true
	delete(c.groups, g.shard)
	c.order = slices.DeleteFunc(c.order, func(o *group) bool { return o == g })
}
