package replica

import (
	"maps"
	"math"
	"slices"
	"time"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"banyan"
)

// A shard in which nothing happens is quiet: its replicas count no ticks and
// send no heartbeats, so that what many shards cost does not depend on how many
// there are. (CockroachDB calls it quiescence, and learns which nodes live from
// records of their own; here each two nodes vouch for what rests between them.)
//
// It becomes quiet by consent. The leader of a shard that was still for
// quietAfter ticks, and whose replicas have all of its log, offers it with its
// heartbeats (Reject, which raft leaves empty there). A replica that has applied
// just what the heartbeat says is quiet from then on, and agrees in its answer
// (Reject and Index). When all have agreed, the leader is quiet too. Older
// nodes never agree.
//
// It stays so by beats. Each beatTicks a node sends one message to each node
// with which shards rest that it leads: a digest of which, in which terms, up to
// which index, and how fresh they are. One that has the same at rest says so,
// which is to all of them what a heartbeat and its answer are to one. If not,
// something was lost or forgotten, and both wake what rests between them.
//
// It wakes by whatever is done or said about it; and by silence. Replicas that
// miss the beats of their leader forget it and elect; a leader that misses an
// answer sends heartbeats again, and raft finds out whether it leads still. So
// each two replicas of which one waits for the other hear of each other, as in
// raft, and no proof of leadership rests on anything said here: reads and
// writes ask a quorum.

const (
	quietAfter = 10 // ticks
	beatTicks  = 5
)

// BeatShard is where beats go: no shard has this number.
const BeatShard banyan.ShardID = math.MaxUint32

// bond is what rests between this node and another.
type bond struct {
	led      int    // shards that this node leads,
	digest   uint64 // of them,
	old      time.Duration
	silent   int // and ticks since the other agreed about them
	followed int // shards that the other leads,
	unheard  int // and ticks since it said so

	round uint64 // of the last beat,
	sent  uint64 // the digest in it,
	at    time.Duration
}

func (c *Core) bond(id uint64) *bond {
	b := c.bonds[id]
	if b == nil {
		b = &bond{}
		c.bonds[id] = b
	}
	return b
}

// patience is how many ticks without a word are silence: a beat may be late.
func (c *Core) patience() int { return c.cfg.ElectionTicks + beatTicks }

// TickIn is how many ticks may pass until Tick is called next: when all is
// quiet there is nothing to do at most of them.
func (c *Core) TickIn() int {
	if c.awake > 0 {
		return 1
	}
	return beatTicks
}

// beat sends the beats that are due, n ticks after the last call, and notices
// who is silent.
func (c *Core) beat(n int) {
	c.tie()
	c.sinceBeat += n
	due := c.sinceBeat >= beatTicks
	if due {
		c.sinceBeat = 0
	}
	for _, id := range slices.Sorted(maps.Keys(c.bonds)) {
		b := c.bonds[id]
		if b.silent, b.unheard = b.silent+n, b.unheard+n; b.led == 0 && b.followed == 0 {
			delete(c.bonds, id)
			continue
		}
		if b.followed > 0 && b.unheard >= c.patience() {
			c.missed(id)
		}
		switch {
		case b.led == 0:
			b.silent = 0
		case b.silent >= c.patience():
			c.wakeLed(id)
			b.silent = 0
		case due:
			b.round, b.sent, b.at = b.round+1, b.digest, c.now
			c.beats = append(c.beats, c.message(id, &raftpb.Message{
				Type: raftpb.MsgHeartbeat.Enum(), Index: new(b.round), Commit: new(b.digest), RejectHint: new(1 + uint64(b.old.Milliseconds())),
			}))
		}
	}
}

// tie looks at what rests with whom.
func (c *Core) tie() {
	for _, b := range c.bonds {
		b.led, b.digest, b.old, b.followed = 0, 0, 0, 0
	}
	for _, g := range c.order {
		if g.quiet && !g.leader {
			c.bond(g.lead).followed++
		}
		for id := range g.rests {
			b := c.bond(id)
			b.led++
			b.digest += g.digest()
			b.old = max(b.old, g.age.old(g))
		}
	}
}

func (c *Core) message(to uint64, m *raftpb.Message) Envelope {
	m.From, m.To = new(uint64(c.cfg.Node)), new(to)
	return Envelope{banyan.NodeID(to), BeatShard, m}
}

// heardBeat takes a beat, or the answer to one.
func (c *Core) heardBeat(m *raftpb.Message) {
	switch from := m.GetFrom(); m.GetType() {
	case raftpb.MsgHeartbeat:
		same := c.digestOf(from) == m.GetCommit()
		c.follow(from, same, m.GetRejectHint())
		c.beats = append(c.beats, c.message(from, &raftpb.Message{
			Type: raftpb.MsgHeartbeatResp.Enum(), Index: new(m.GetIndex()), Commit: new(m.GetCommit()), Reject: new(!same),
		}))
	case raftpb.MsgHeartbeatResp:
		b := c.bonds[from]
		if b == nil || m.GetIndex() != b.round || m.GetCommit() != b.sent {
			return // of another beat, or another life
		}
		if m.GetReject() {
			c.wakeLed(from)
			return
		}
		b.silent = 0
		for _, g := range c.order {
			if g.quiet && g.leader && g.rests[from] && g.quietSince <= b.at {
				g.age.heard[from] = max(g.age.heard[from], b.at)
				g.age.quorum(g)
				g.touch()
			}
		}
	}
}

// digestOf is the digest of what rests here that a node leads.
func (c *Core) digestOf(leader uint64) (sum uint64) {
	for _, g := range c.order {
		if g.restsUnder(leader) {
			sum += g.digest()
		}
	}
	return sum
}

// follow takes the beat of a leader that has the same at rest as this node, or not.
func (c *Core) follow(leader uint64, same bool, hint uint64) {
	for _, g := range c.order {
		switch {
		case !g.restsUnder(leader):
		case same:
			c.bond(leader).unheard = 0
			g.age.note(g, g.applied, hint)
			g.touch()
		default:
			g.wake()
		}
	}
}

// wakeLed wakes what rests with a node and is led here.
func (c *Core) wakeLed(id uint64) {
	for _, g := range c.order {
		if g.leader && g.rests[id] {
			g.wake()
		}
	}
}

// missed gives up a leader that is silent. Raft's own timeout would begin only
// now.
func (c *Core) missed(leader uint64) {
	for _, g := range c.order {
		if g.restsUnder(leader) {
			g.abandonLeader()
		}
	}
}

// restsUnder says whether this replica is at rest and follows a leader.
func (g *group) restsUnder(leader uint64) bool { return g.quiet && !g.leader && g.lead == leader }

// digest names a shard's state.
func (g *group) digest() uint64 {
	return mix(mix(mix(uint64(g.shard))^g.term) ^ g.applied)
}

// mix spreads the bits of x (the finalizer of splitmix64: Steele, Lea, Flood,
// "Fast splittable pseudorandom number generators", 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// still is what a leader remembers to see whether anything happens.
type still struct {
	ticks          int
	commit, proofs uint64
}

// rest makes a leader's shard quiet, or brings it nearer to it, n ticks after
// the last call; it says whether it is now.
func (g *group) rest(n int) bool {
	now := still{commit: g.commit, proofs: g.proofs}
	if now.commit == g.still.commit && now.proofs == g.still.proofs && g.announced && g.idle() {
		now.ticks = g.still.ticks + n
	}
	g.still = now
	if g.still.ticks < quietAfter || !g.settled() || !g.level() {
		g.rests = nil
		return false
	}
	if g.rests == nil {
		g.rests = map[uint64]bool{}
	}
	if len(g.rests) < len(g.conf.GetVoters())+len(g.conf.GetLearners())-1 {
		return false
	}
	g.sleep()
	return true
}

// idle says whether nothing of the shard is under way here.
func (g *group) idle() bool {
	return g.appends == 0 && g.applies == 0 && len(g.queue) == 0 && len(g.flight) == 0 &&
		len(g.reads) == 0 && len(g.proving) == 0 && len(g.proved) == 0 &&
		g.change == nil && g.transfer == nil && g.incoming == nil && g.removal == nil && !g.reload && !joint(g.conf)
}

// level says whether every replica has all of the log, and this one has applied it.
func (g *group) level() bool {
	level := g.applied == g.commit && g.last() == g.commit
	g.rn.WithProgress(func(_ uint64, _ raft.ProgressType, pr progress) {
		level = level && pr.Match == g.commit && pr.State == tracker.StateReplicate
	})
	return level
}

// last is the last index of the log on the disk.
func (g *group) last() uint64 {
	last, err := g.core.cfg.Store.Shard(g.shard).LastIndex()
	if err != nil {
		return 0
	}
	return last
}

// offer marks a heartbeat on its way out, or the answer to one.
func (g *group) offer(m *raftpb.Message) {
	switch {
	case len(m.GetContext()) > 0:
	case m.GetType() == raftpb.MsgHeartbeat && g.rests != nil && !g.quiet:
		m.Reject = new(true)
	case m.GetType() == raftpb.MsgHeartbeatResp && g.quiet:
		m.Reject, m.Index = new(true), new(g.applied)
	}
}

// disturbs says whether a message that raft is about to step is more to a quiet
// replica than what keeps it so. The answer to a pre-vote follows from what it
// knows; if its leader is gone, it will hear no beat, and if not, the
// candidate asks the leader too.
func (g *group) disturbs(m *raftpb.Message) bool {
	switch m.GetType() {
	case raftpb.MsgHeartbeat:
		return !m.GetReject() || g.leader
	case raftpb.MsgHeartbeatResp:
		return !g.leader
	case raftpb.MsgPreVote:
		return g.leader
	}
	return true
}

// agree takes the offer in a heartbeat, or the consent in the answer to one,
// that raft has stepped.
func (g *group) agree(m *raftpb.Message) {
	if !m.GetReject() {
		return
	}
	switch from := m.GetFrom(); m.GetType() {
	case raftpb.MsgHeartbeat:
		s := g.rn.BasicStatus()
		if g.leader || s.RaftState != raft.StateFollower || s.Lead != from || s.GetTerm() != m.GetTerm() || s.GetCommit() != m.GetIndex() ||
			g.applied != m.GetIndex() || g.last() != m.GetIndex() || !g.idle() {
			g.wake()
			return
		}
		g.core.bond(from).unheard = 0
		g.sleep()
	case raftpb.MsgHeartbeatResp:
		if g.leader && g.rests != nil && m.GetTerm() == g.term && m.GetIndex() == g.commit &&
			(slices.Contains(g.conf.GetVoters(), from) || slices.Contains(g.conf.GetLearners(), from)) {
			g.rests[from] = true
			g.core.bond(from).silent = 0
		}
	}
}

func (g *group) sleep() {
	if !g.quiet {
		g.quiet, g.quietSince = true, g.core.now
		g.core.awake--
		g.touch()
	}
}

// wake ends the rest. A leader lets its replicas know at once.
func (g *group) wake() {
	g.rests, g.still = nil, still{}
	if !g.quiet {
		return
	}
	g.quiet = false
	g.core.awake++
	g.touch()
	if g.leader {
		g.rn.Tick()
	}
}

// abandonLeader wakes a replica whose leader is gone, and plans an election.
func (g *group) abandonLeader() {
	lead := g.lead
	g.wake()
	_ = g.rn.ForgetLeader() // cannot fail in a follower
	g.touch()
	g.schedule(lostDelay, lostStep, lead)
}
