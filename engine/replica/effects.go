package replica

import (
	"fmt"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// Effects is what Core.Process asks its driver to do. The order is part of the
// type:
//
//  1. Send at once. These need not wait for the disk: above all the leader's
//     MsgApp, which so travels while the leader writes, and heartbeats; never a
//     vote, the request for one, or an acknowledgement.
//  2. Write Appends in this order, after all earlier ones, and then send each
//     one's After (Persist). When that has returned, tell Core.Appended.
//  3. Apply Applies in this order, after all earlier ones (Applier.Apply). It
//     may overlap with 2: raft hands out only entries that are on this disk.
//     When that has returned, tell Core.Applied.
//  4. Snapshots: stream a view of the shard to the node, any time; tell
//     Core.ReportSnapshot how it went.
//  5. Leadership and Views are for whoever listens, in this order.
type Effects struct {
	Send       []Envelope
	Appends    []*Append
	Applies    []*Apply
	Snapshots  []Envelope
	Leadership []Leadership
	Views      []View
}

// Reset empties e for the next Process and keeps its memory.
func (e *Effects) Reset() {
	clear(e.Send)
	clear(e.Appends)
	clear(e.Applies)
	clear(e.Snapshots)
	e.Send, e.Appends, e.Applies = e.Send[:0], e.Appends[:0], e.Applies[:0]
	e.Snapshots, e.Leadership, e.Views = e.Snapshots[:0], e.Leadership[:0], e.Views[:0]
}

// Envelope is a raft message on its way to another node. The message must not
// be modified: its entries are shared with the log.
type Envelope struct {
	To      banyan.NodeID
	Shard   banyan.ShardID
	Message *raftpb.Message
}

// Leadership says that this node leads a shard in a term, announced when it
// has applied an entry of its own term (so that it knows all that was
// acknowledged before), or that it no longer does. It is said again, in the
// same term, when the shard was split: some of its rows are another's.
type Leadership struct {
	Shard   banyan.ShardID
	Term    uint64
	Leading bool
}

// View is what a shard's replica knows about itself, published when it changes.
type View struct {
	Shard   banyan.ShardID
	Leader  banyan.NodeID // 0: not known
	Term    uint64
	Leading bool          // here, and announced
	Fresh   time.Duration // Core's clock when applied state was last known to be the leader's newest
	Always  bool          // the only voter: never older than now
	Quiet   bool          // nothing happens, and its leader sends no heartbeats
	Gone    bool          // the replica was removed
	Acts    uint32        // the protocol at which the cluster acts (Core.Act)
	// Outdated: it follows nobody, or too slowly, so that watches are better
	// served elsewhere. It may be one that its shard's configuration lacks.
	Outdated bool
}

// Age is how old at most applied state is at a time of Core's clock, taking
// messages to travel in no time. It is Unavailable until a leader was heard of.
func (v View) Age(now time.Duration) (time.Duration, error) {
	switch {
	case v.Always:
		return 0, nil
	case v.Fresh <= 0:
		return 0, banyan.Errorf(banyan.Unavailable, "the replica of shard %d here has not heard of a leader yet, so how old it is cannot be said: ask another node", v.Shard)
	}
	return max(now-v.Fresh, 0), nil
}

// Append is one shard's part of a disk write.
type Append struct {
	Shard   banyan.ShardID
	Entries []*raftpb.Entry
	Hard    *raftpb.HardState // nil: unchanged
	Sync    bool              // needs an fsync
	After   []Envelope        // to be sent when it and all before it are durable

	truncate uint64 // drop the log up to here, if not 0
	install  *raftpb.SnapshotMetadata
	stage    *store.Stage
	destroy  bool

	group *group
	self  []*raftpb.Message // raft's notes to itself, stepped by Appended
}

// empty says whether there is nothing to write.
func (a *Append) empty() bool {
	return len(a.Entries) == 0 && a.Hard == nil && !a.Sync && a.truncate == 0 && a.install == nil && !a.destroy
}

// Persist writes appends (WriteAppends) and only then gives send what had to
// wait for the disk. An error is final: the process must end.
func Persist(batch *store.Batch, appends []*Append, send func(Envelope)) error {
	if err := WriteAppends(batch, appends); err != nil {
		return err
	}
	for _, a := range appends {
		for _, e := range a.After {
			send(e)
		}
	}
	return nil
}

// WriteAppends writes appends in order through batch, which must be empty, and
// waits for the disk if any of them needs it. An error is final: the process
// must end, and nothing more may be sent.
func WriteAppends(batch *store.Batch, appends []*Append) error {
	sync := false
	flush := func() error {
		if batch.Empty() {
			return nil
		}
		s := sync
		sync = false
		return batch.Commit(s)
	}
	for _, a := range appends {
		if a.install != nil || a.destroy {
			if err := flush(); err != nil {
				return err
			}
		}
		if a.destroy {
			batch.Destroy(a.Shard)
			if err := batch.Commit(true); err != nil {
				return err
			}
			continue
		}
		if err := a.installSnapshot(); err != nil {
			return err
		}
		sync = sync || a.Sync
		if len(a.Entries) > 0 {
			batch.Append(a.Shard, a.Entries)
		}
		if a.Hard != nil {
			batch.SetHardState(a.Shard, a.Hard)
		}
		if a.truncate > 0 {
			batch.Truncate(a.Shard, a.truncate)
		}
	}
	return flush()
}

// installSnapshot makes the staged rows the shard's state. Entries that follow
// the snapshot and the commit index that covers them are written after it.
func (a *Append) installSnapshot() error {
	if a.install == nil {
		return nil
	}
	if a.stage == nil {
		panic(fmt.Sprintf("replica: shard %d: raft accepted a snapshot that was not staged", a.Shard))
	}
	m := a.install
	var hard *raftpb.HardState
	if a.Hard != nil {
		hard = &raftpb.HardState{Term: a.Hard.Term, Vote: a.Hard.Vote, Commit: m.Index}
	}
	return a.stage.Install(m.GetIndex(), m.GetTerm(), m.GetConfState(), hard)
}

// Proposal is one command on its way into a shard's log.
type Proposal struct {
	Data []byte // mvcc encoding; not to be modified any more
	Term uint64 // propose only in this term

	// Done is called once, from whichever call into Core or Applier decides it,
	// and must not block. An error of kind NotLeader, Stale or Exhausted means
	// that nothing happened; IsUncertain tells those where it may still happen.
	Done func(mvcc.Result, error)

	loggedAt, committedAt time.Duration // by Core's clock; 0: not yet
}

// Prepare makes cmd a proposal of node, whose latest View v is, in v's term. A
// cmd with a Term is for that term only. cmd is not modified or kept; Done is
// left to the caller.
func (v View) Prepare(node banyan.NodeID, cmd *mvcc.Command, nowMs int64) (*Proposal, error) {
	if v.Leader != node {
		return nil, errNotLeader(v.Shard, v.Leader)
	}
	own := *cmd
	own.Time = banyan.TimestampOf(nowMs)
	if own.Term == 0 {
		own.Term = v.Term
	}
	if own.Term != v.Term {
		return nil, errStale(v.Shard, own.Term, v.Term)
	}
	if err := own.Validate(); err != nil {
		return nil, err
	}
	return &Proposal{Data: own.Encode(nil), Term: own.Term}, nil
}

// Apply is a run of committed entries of one shard.
type Apply struct {
	Shard   banyan.ShardID
	Entries []*raftpb.Entry

	proposals []pack         // parallel to Entries, or nil; nil where it was not proposed here
	reload    bool           // a snapshot replaced the state
	splits    []appliedSplit // set by the Applier
	drop      bool           // the replica was removed

	confs   []*raftpb.ConfChangeV2 // set by the Applier: the configuration changes it took
	confsAt []uint64               // their indexes
	conf    *raftpb.ConfState      // set by the Applier: the configuration after them
	group   *group
	self    []*raftpb.Message
}
