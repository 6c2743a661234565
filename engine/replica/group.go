package replica

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// group is one shard's replica as the Core sees it.
type group struct {
	core    *Core
	shard   banyan.ShardID
	rn      *raft.RawNode
	isDirty bool
	gone    bool // removed from the Core

	// As last observed in raft.
	lead      uint64
	term      uint64
	commit    uint64
	leader    bool
	announced bool // leads, and an entry of its own term is applied

	// As acknowledged by the driver.
	conf        *raftpb.ConfState
	applied     uint64
	appliedTerm uint64
	handed      uint64 // to the applier, up to here
	appends     int    // handed out, not yet acknowledged
	applies     int
	stalled     int // ticks since the disk last finished something of this shard, if it has any

	logged    uint64            // the last index that was handed to the disk
	unwritten *raftpb.HardState // newer than the disk's by a commit index
	settles   uint64            // leader: see settle.go
	unsettled int               // ticks

	differsFrom uint64              // see differ.go; the replica or leader, 0: none
	sendings    map[uint64]*sending // leader: see sending.go

	truncated  uint64
	truncating bool
	logBytes   uint64 // of entries since truncated, an estimate

	queue    []*Proposal // not yet in the log
	flight   []pack      // in the log from index flightAt on, not yet handed out; nil where others' entries are
	flightAt uint64

	reads   []func(error) // wait for the next proof
	proving []func(error) // wait for the proof under way
	proofs  uint64
	proved  []provedReads // wait for applied

	incoming *incoming
	reload   bool // a snapshot was installed; the applier must hear of it
	removal  func(error)
	destroy  bool // the removal has been handed to the disk
	change   *change
	split    *splitting
	parted   bool     // it was split: who leads its rows must look at them anew
	held     []*Apply // not yet handed to the applier: see prepareFork
	transfer *transfer
	inJoint  int // ticks

	campaignAt   time.Duration
	campaignStep time.Duration
	campaigns    int // left

	quiet      bool // see quiet.go
	quietSince time.Duration
	rests      map[uint64]bool // leader that is quiet, or would be: the replicas that are
	still      still

	age       age
	acked     ack // the last
	ackedAt   time.Duration
	waits     bool // wants is counted in Core.waiting
	tenure    tenure
	published View
}

// wants says whether the group can go on only when it hears that the disk or
// the applier is done with something: a leader or candidate with its own write,
// a leader with readers or without an entry of its term, whoever changes
// replicas, leaders or all of its state, and anyone with what is committed and
// was not handed out for what is before it.
func (g *group) wants() bool {
	switch {
	case g.appends == 0 && g.applies == 0:
		return false
	case g.incoming != nil, g.removal != nil, g.change != nil, g.transfer != nil, g.split != nil, g.gone:
		return true
	case g.leader && (!g.announced || len(g.proved) > 0):
		return true
	case g.appends > 0 && g.rn.BasicStatus().RaftState != raft.StateFollower:
		return true
	}
	return g.commit > g.handed
}

// count keeps Core.waiting.
func (g *group) count() {
	was := g.waits
	g.waits = g.wants()
	switch {
	case g.waits && !was:
		g.core.waiting++
	case was && !g.waits:
		g.core.waiting--
	}
}

// provedReads may be answered when index is applied.
type provedReads struct {
	index uint64
	done  []func(error)
}

func (g *group) touch() {
	if !g.isDirty {
		g.isDirty = true
		g.core.dirty = append(g.core.dirty, g)
	}
}

func (g *group) stepSelf(ms []*raftpb.Message) {
	for _, m := range ms {
		_ = g.rn.Step(m) // an acknowledgement of a term or replica that is over
	}
}

// process turns what was handed in into effects, until raft wants nothing more.
func (g *group) process(eff *Effects) {
	if g.gone {
		return
	}
	if len(g.held) > 0 {
		g.handOut(eff)
	}
	if g.removal != nil {
		g.remove(eff)
		return
	}
	if g.reload {
		g.reload = false
		g.apply(eff, &Apply{Shard: g.shard, reload: true, group: g})
	}
	g.stepIncoming()
	for {
		g.observe(eff)
		stepped := g.propose()
		g.prove()
		if !g.rn.HasReady() {
			break
		}
		g.ready(eff, g.rn.Ready(), stepped)
	}
	g.rejectIncoming()
	g.answerReads()
	g.truncate(eff)
	if g.quiet && !g.idle() {
		g.wake()
	}
	g.publish(eff)
}

// observe notices what stepping has changed about leadership.
func (g *group) observe(eff *Effects) {
	s := g.rn.BasicStatus()
	leader := s.RaftState == raft.StateLeader
	if g.leader && (!leader || s.GetTerm() != g.term) {
		g.stepDown(eff, banyan.NodeID(s.Lead))
	}
	if leader && !g.leader {
		g.age.lead(g)
		g.tenure.began = map[uint64]uint64{}
	}
	if g.quiet && (leader != g.leader || s.Lead != g.lead || s.GetTerm() != g.term || s.GetCommit() != g.commit) {
		g.wake()
	}
	if s.GetTerm() != g.term {
		g.differsFrom = 0
	}
	g.leader, g.lead, g.term, g.commit = leader, s.Lead, s.GetTerm(), s.GetCommit()
	if g.parted && g.announced {
		g.parted = false
		eff.Leadership = append(eff.Leadership, Leadership{g.shard, g.term, true})
	}
	if leader && !g.announced && g.appliedTerm == g.term {
		g.announced = true
		g.settles = g.logged
		eff.Leadership = append(eff.Leadership, Leadership{g.shard, g.term, true})
	}
	g.transferred(s)
}

// stepDown answers everybody who waits for this leader.
func (g *group) stepDown(eff *Effects, to banyan.NodeID) {
	if g.announced {
		g.announced = false
		eff.Leadership = append(eff.Leadership, Leadership{g.shard, g.term, false})
	}
	g.sendings = nil
	g.fail(errNotLeader(g.shard, to), uncertain(g.shard))
}

// fail answers all proposals and reads: refused for those that did not start,
// unknown for the proposals that are in the log.
func (g *group) fail(refused, unknown error) {
	for _, p := range g.flight {
		p.done(mvcc.Result{}, unknown)
	}
	g.flight = nil
	g.failQueue(refused)
	for _, done := range g.proving {
		done(refused)
	}
	for _, r := range g.proved {
		for _, done := range r.done {
			done(refused)
		}
	}
	g.proving, g.proved = nil, nil
	g.failReads(refused)
	if g.change != nil {
		g.change.done(unknown)
		g.change = nil
	}
	if g.split != nil {
		g.split.done(unknown)
		g.split = nil
	}
	if g.transfer != nil && g.removal != nil {
		g.transferOver(refused)
	}
}

func (g *group) failQueue(err error) {
	for _, p := range g.queue {
		p.Done(mvcc.Result{}, err)
	}
	clear(g.queue)
	g.queue = g.queue[:0]
}

func (g *group) failReads(err error) {
	for _, done := range g.reads {
		done(err)
	}
	clear(g.reads)
	g.reads = g.reads[:0]
}

// propose moves the queue into the log as one raft proposal and returns what
// the next Ready's last entries are.
func (g *group) propose() []pack {
	if len(g.queue) == 0 {
		return nil
	}
	if !g.leader {
		g.failQueue(errNotLeader(g.shard, banyan.NodeID(g.lead)))
		return nil
	}
	ready := make([]*Proposal, 0, len(g.queue))
	for _, p := range g.queue {
		if p.Term != g.term {
			p.Done(mvcc.Result{}, errStale(g.shard, p.Term, g.term))
			continue
		}
		p.loggedAt = g.core.now
		ready = append(ready, p)
	}
	clear(g.queue)
	g.queue = g.queue[:0]
	if len(ready) == 0 {
		return nil
	}
	stepped := packs(ready)
	entries := make([]*raftpb.Entry, 0, len(stepped))
	for _, p := range stepped {
		entries = append(entries, p.entry())
	}
	err := g.rn.Step(&raftpb.Message{Type: raftpb.MsgProp.Enum(), From: new(uint64(g.core.cfg.Node)), Entries: entries})
	if err == nil {
		return stepped
	}
	to := banyan.NodeID(g.rn.BasicStatus().LeadTransferee) // raft refuses only while it hands over
	for _, p := range stepped {
		p.done(mvcc.Result{}, errNotLeader(g.shard, to))
	}
	return nil
}

// prove starts the next proof that this node still leads.
func (g *group) prove() {
	if len(g.reads) == 0 {
		return
	}
	if !g.leader {
		g.failReads(errNotLeader(g.shard, banyan.NodeID(g.lead)))
		return
	}
	if !g.announced || len(g.proving) > 0 {
		return
	}
	g.proving, g.reads = g.reads, nil
	g.proofs++
	g.rn.ReadIndex(readContext(g.proofs))
}

// proveAgain starts the proof under way anew: in another configuration. Raft
// counts a proof's answers as they come in, and with one voter left none comes.
func (g *group) proveAgain() {
	if len(g.proving) > 0 {
		g.reads = append(g.proving, g.reads...)
		g.proving = nil
	}
}

// ready turns one Ready into effects. Raft runs with asynchronous storage
// writes: what must wait for the disk comes attached to MsgStorageAppend. We
// add MsgVote to that. Raft would let it go at once, and counts the
// candidate's own vote only when that is on the disk; but the votes of two
// others are enough, and a leader whose term is not on its disk can crash,
// forget the term, be elected in it once more by the same votes, and put other
// entries where its first ones are.
func (g *group) ready(eff *Effects, rd raft.Ready, stepped []pack) {
	var votes []Envelope
	for _, m := range rd.Messages { // what is for the disk comes last
		switch m.GetType() {
		case raftpb.MsgVote:
			votes = append(votes, g.envelope(m))
		case raftpb.MsgStorageAppend:
			a := g.append(&rd, m, stepped)
			a.After = append(votes, a.After...)
			votes = nil
			g.hand(eff, a)
		case raftpb.MsgStorageApply:
			g.apply(eff, g.take(m))
		case raftpb.MsgSnap:
			eff.Snapshots = append(eff.Snapshots, g.envelope(m))
		default:
			g.age.stamp(g, m)
			g.offer(m)
			eff.Send = append(eff.Send, g.envelope(m))
		}
	}
	if len(votes) > 0 {
		panic(fmt.Sprintf("replica: shard %d: a campaign that changes nothing on the disk", g.shard))
	}
	for _, rs := range rd.ReadStates {
		if string(rs.RequestCtx) == string(readContext(g.proofs)) && len(g.proving) > 0 {
			g.proved = append(g.proved, provedReads{rs.Index, g.proving})
			g.proving = nil
		}
	}
}

func (g *group) envelope(m *raftpb.Message) Envelope {
	g.tenure.put(m)
	return Envelope{banyan.NodeID(m.GetTo()), g.shard, m}
}

func (g *group) append(rd *raft.Ready, m *raftpb.Message, stepped []pack) *Append {
	a := &Append{Shard: g.shard, Entries: m.Entries, Sync: rd.MustSync, group: g}
	if !raft.IsEmptyHardState(rd.HardState) {
		g.unwritten = rd.HardState
	}
	if rd.MustSync { // else only the commit index moved: it goes with the next entry
		a.Hard, g.unwritten = g.unwritten, nil
	}
	if n := len(m.Entries); n > 0 {
		g.logged = m.Entries[n-1].GetIndex()
	}
	if s := m.GetSnapshot(); s != nil {
		a.install, a.stage, a.Sync = s.GetMetadata(), g.incoming.stage, true
		g.incoming.installing = true
	}
	for _, r := range m.Responses {
		if r.GetTo() == uint64(g.core.cfg.Node) {
			a.self = append(a.self, r)
		} else if !g.told(r) {
			a.After = append(a.After, g.envelope(r))
		}
	}
	for _, e := range m.Entries {
		g.logBytes += uint64(len(e.GetData())) + entryOverhead
	}
	g.launch(m.Entries, stepped)
	return a
}

// hand gives an Append to the disk, or carries it out at once if there is
// nothing to write and nothing to wait for.
func (g *group) hand(eff *Effects, a *Append) {
	if g.appends == 0 && a.empty() {
		eff.Send = append(eff.Send, a.After...)
		g.stepSelf(a.self)
		return
	}
	g.appends++
	eff.Appends = append(eff.Appends, a)
}

// ack is what a leader was told: that this replica has the log up to index.
type ack struct{ to, term, index uint64 }

// ackAgain is when a leader is told again what it was told.
const ackAgain = 50 * time.Millisecond

// told says whether m only repeats what its leader was told a moment ago, as
// the answer to a message does that brings a commit index and no entries. Such
// an m is not sent, as if it had been lost: if the first was, the answer to
// the leader's next heartbeat makes it ask again.
func (g *group) told(m *raftpb.Message) bool {
	if m.GetType() != raftpb.MsgAppResp || m.GetReject() {
		return false
	}
	a := ack{m.GetTo(), m.GetTerm(), m.GetIndex()}
	if a == g.acked && g.core.now < g.ackedAt+ackAgain {
		return true
	}
	g.acked, g.ackedAt = a, g.core.now
	return false
}

// entryOverhead is about what an entry takes in the log besides its data.
const entryOverhead = 32

// launch remembers at which indexes the stepped proposals came to lie: they
// are the last of entries, because nothing was stepped between.
func (g *group) launch(entries []*raftpb.Entry, stepped []pack) {
	if len(stepped) == 0 {
		return
	}
	first := entries[len(entries)-len(stepped)].GetIndex()
	if len(g.flight) == 0 {
		g.flight, g.flightAt = stepped, first
		return
	}
	for g.flightAt+uint64(len(g.flight)) < first {
		g.flight = append(g.flight, nil)
	}
	g.flight = append(g.flight, stepped...)
}

// take makes an Apply of committed entries and hands over their proposals.
func (g *group) take(m *raftpb.Message) *Apply {
	a := &Apply{Shard: g.shard, Entries: m.Entries, self: m.Responses, group: g}
	last := m.Entries[len(m.Entries)-1].GetIndex()
	g.handed = last
	if len(g.flight) == 0 || g.flightAt > last {
		return a
	}
	a.proposals = make([]pack, len(m.Entries))
	for i, e := range m.Entries {
		if e.GetIndex() == g.flightAt && len(g.flight) > 0 {
			a.proposals[i] = g.flight[0]
			for _, p := range a.proposals[i] {
				p.committedAt = g.core.now
			}
			g.flight = g.flight[1:]
			g.flightAt++
		}
	}
	return a
}

func (g *group) apply(eff *Effects, a *Apply) {
	g.applies++
	g.held = append(g.held, a)
	g.handOut(eff)
}

// answerReads serves the proved reads that applied state now covers.
func (g *group) answerReads() {
	n := 0
	for ; n < len(g.proved) && g.proved[n].index <= g.applied; n++ {
		for _, done := range g.proved[n].done {
			done(nil)
		}
	}
	g.proved = g.proved[n:]
}

// publish tells what has changed for the outside.
func (g *group) publish(eff *Effects) {
	v := View{
		Shard:   g.shard,
		Leader:  banyan.NodeID(g.lead),
		Term:    g.term,
		Leading: g.announced,
		Fresh:   g.age.fresh,
		Acts:    g.core.cfg.Protocol,
		Always:  g.announced && soleVoter(g.conf, g.core.cfg.Node),
		Quiet:   g.quiet,

		Outdated: !g.leader && g.core.now-g.age.fresh > outdatedAfter,
	}
	if v != g.published {
		g.published = v
		eff.Views = append(eff.Views, v)
	}
}

// truncate drops the front of the log when its tail is long enough for the
// replicas that are behind.
func (g *group) truncate(eff *Effects) {
	cfg, n := &g.core.cfg, g.applied-g.truncated
	keep := cfg.LogEntriesKept
	if fit := n * cfg.LogBytesKept / max(g.logBytes, 1); fit < keep {
		keep = max(fit, min(keep, LogEntriesLeast))
	}
	if g.truncating || n <= 2*keep {
		return
	}
	to := g.applied - keep
	if floor := g.slowest(); floor < to && g.tail() < 1 {
		to = floor
	}
	if to < g.truncated+max(keep/8, 1) {
		return
	}
	g.truncating = true
	g.logBytes -= g.logBytes / n * (to - g.truncated)
	g.truncated = to
	g.appends++
	eff.Appends = append(eff.Appends, &Append{Shard: g.shard, truncate: to, group: g})
}

// tail is how full the log's tail is that is kept for a replica in need: 1 is
// the most.
func (g *group) tail() float64 {
	most := g.tailBytes()
	full := float64(g.logBytes) / float64(most)
	if most > LogTailBytesMax {
		return full
	}
	return max(full, float64(g.applied-g.truncated)/float64(LogTailFactor*g.core.cfg.LogEntriesKept))
}

// slowest is the index up to which every other replica has what it needs, as
// the leader knows; others do not know and need not care.
func (g *group) slowest() uint64 {
	floor := g.applied
	if !g.leader {
		return floor
	}
	g.rn.WithProgress(func(_ uint64, _ raft.ProgressType, pr progress) {
		floor = min(floor, max(pr.Match, pr.PendingSnapshot))
	})
	return floor
}

// remove destroys the replica when nothing of it is under way.
func (g *group) remove(eff *Effects) {
	if g.destroy || g.appends > 0 || g.applies > 0 {
		return
	}
	g.destroy = true
	g.appends++
	if g.announced {
		eff.Leadership = append(eff.Leadership, Leadership{g.shard, g.term, false})
	}
	eff.Views = append(eff.Views, View{Shard: g.shard, Gone: true})
	eff.Appends = append(eff.Appends, &Append{Shard: g.shard, destroy: true, Sync: true, group: g})
}
