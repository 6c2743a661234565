package replica

import (
	"bytes"
	"context"
	"encoding/binary"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
)

// A shard splits by forking. One entry of the parent's log says: the row keys
// from At on are the child's. Every replica of the parent that applies it makes
// a replica of the child in the same batch (store.Batch.Fork), with the same
// voters, at the same first index, and with the parent's revision, horizon and
// remembered requests: so revisions and fencing tokens do not go back, and a
// copy of a request is known on the side where its rows are now.
//
// A replica of the child can be there before the parent's entry is applied
// here: the child's leader, on a node that was faster, has sent a message or a
// snapshot.
//   - It is empty: an empty replica has no log and no vote, so nobody counts on
//     it. The Core takes it out when the entry comes up, and hands the entry out
//     (held) when nothing of it is on its way to the disk: written after the
//     fork, its hard state would undo the fork's, and opened before that is
//     written, the child would not know the term that it has voted in.
//   - A snapshot of it is being installed: the entry waits for that, too.
//   - It has a state: it keeps it, and the parent only gives up the rows.

// splitVersion begins the data of a split entry; no command and no pack does.
const splitVersion = 0x81

// splitKeyBytes is the length of a bound between slots (banyan.SlotKey).
const splitKeyBytes = 2

// Split is one split.
type Split struct {
	At    []byte // the first row key of the child
	Child banyan.ShardID
}

func (s Split) encode() []byte {
	b := binary.BigEndian.AppendUint32([]byte{splitVersion}, uint32(s.Child))
	return append(b, s.At...)
}

// splitOf reads a split entry; ok is false if it is another.
func splitOf(e *raftpb.Entry) (s Split, ok bool) {
	b := e.GetData()
	if len(b) < 5 || b[0] != splitVersion || e.GetType() != raftpb.EntryNormal {
		return Split{}, false
	}
	return Split{Child: banyan.ShardID(binary.BigEndian.Uint32(b[1:])), At: b[5:]}, true
}

// splitting is a Split that was proposed here.
type splitting struct {
	child banyan.ShardID
	done  func(error)
}

// Split makes the row keys of a shard from s.At on a shard of their own, whose
// number no shard had before, and calls done when it is one here. After
// Unavailable it may still happen: ask again, with the same numbers; a shard that
// ends at or before s.At is not split again, and the answer is Conflict.
func (c *Core) Split(shard banyan.ShardID, s Split, done func(error)) {
	g, err := c.led(shard)
	switch {
	case err != nil:
	case g.split != nil:
		err = banyan.Errorf(banyan.Unavailable, "shard %d is being split: try again", shard)
	case joint(g.conf):
		err = banyan.Errorf(banyan.Unavailable, "the replicas of shard %d are being changed: split it when that is done", shard)
	case len(s.At) != splitKeyBytes:
		err = banyan.Errorf(banyan.Invalid, "shard %d cannot be split at %x: shards are split between slots", shard, s.At)
	default:
		err = g.rn.Step(&raftpb.Message{
			Type: raftpb.MsgProp.Enum(), From: new(uint64(c.cfg.Node)),
			Entries: []*raftpb.Entry{{Data: s.encode()}},
		})
		if err != nil {
			err = errNotLeader(shard, banyan.NodeID(g.rn.BasicStatus().LeadTransferee))
		}
	}
	if err != nil {
		done(err)
		return
	}
	g.split = &splitting{s.Child, done}
	g.touch()
}

// fork is a child that this node is about to make, from when the entry comes up
// until the replica is opened.
type fork struct{ old *group } // the empty replica that was here before; nil: none

// prepareFork readies the Core for a split entry that is about to be handed to
// the applier. It says whether the entry must wait.
func (c *Core) prepareFork(g *group, child banyan.ShardID) (wait bool) {
	old := c.groups[child]
	if f := c.forks[child]; f != nil {
		old = f.old
	} else {
		switch {
		case old != nil && old.incoming != nil && old.incoming.installing, old != nil && old.removal != nil:
			c.held[child] = g
			return true
		case old != nil && old.applied > 0:
			return false
		}
		c.forks[child] = &fork{old: old}
		if old != nil {
			c.dropEmpty(old, g.shard)
		}
	}
	if old != nil && (old.appends > 0 || old.applies > 0) {
		c.held[child] = g
		return true
	}
	return false
}

// dropEmpty takes an empty replica out of the Core, because a split of parent
// makes it anew.
func (c *Core) dropEmpty(g *group, parent banyan.ShardID) {
	g.fail(errNoReplica(g.shard), uncertain(g.shard))
	if in := g.incoming; in != nil {
		g.incoming = nil
		in.done(banyan.Errorf(banyan.Unavailable, "shard %d is made by a split of shard %d here: a snapshot of it is not needed", g.shard, parent))
	}
	c.forget(g)
}

// release gives the parent's entries another try that waited for a replica of
// the child.
func (c *Core) release(child banyan.ShardID) {
	if g := c.held[child]; g != nil {
		delete(c.held, child)
		g.touch()
	}
}

// handOut gives the applier what waits for it, in order, up to a split that
// must itself wait.
func (g *group) handOut(eff *Effects) {
	for len(g.held) > 0 {
		for _, e := range g.held[0].Entries {
			if s, ok := splitOf(e); ok && g.core.prepareFork(g, s.Child) {
				return
			}
		}
		eff.Applies = append(eff.Applies, g.held[0])
		g.held = g.held[1:]
	}
	g.held = nil
}

// splitApplied tells the Core what the applier made of a split entry.
func (c *Core) splitApplied(g *group, s appliedSplit) {
	if f := c.forks[s.Child]; f != nil {
		delete(c.forks, s.Child)
		c.openFork(s.Child, g.leader)
	}
	g.parted = g.parted || s.err == nil && g.announced
	if g.split == nil || g.split.child != s.Child {
		return
	}
	done := g.split.done
	g.split = nil
	if s.err != nil {
		done(s.err)
		return
	}
	done(nil)
}

// openFork opens the child, which the store has now. lead says that the
// parent's leader is here.
func (c *Core) openFork(child banyan.ShardID, lead bool) {
	if applied, _ := c.cfg.Store.Shard(child).Applied(); applied == 0 {
		return // the entry did nothing, or the child was removed from here
	}
	g, err := c.open(child)
	if err != nil {
		panic(&StorageError{err})
	}
	c.scheduleFirst(g)
	if lead {
		g.campaignAt = c.now // before the others: it has what the parent's leader has
	}
}

// appliedSplit is what the applier did about a split entry.
type appliedSplit struct {
	Split
	err error // nil: the parent has been cut
}

// split applies a split entry. One that is not inside the shard's bounds does
// nothing, on any replica.
func (a *Applier) split(t *Apply, m *machine, s Split, term uint64) error {
	s.At = bytes.Clone(s.At)
	lo, hi := m.mvcc.Bounds()
	if len(s.At) != splitKeyBytes || bytes.Compare(s.At, lo) <= 0 || len(hi) > 0 && bytes.Compare(s.At, hi) >= 0 {
		t.splits = append(t.splits, appliedSplit{s, banyan.Errorf(banyan.Conflict, "shard %d does not reach beyond the key where it should be split: it has been already, or the key is another shard's", m.shard)})
		return nil
	}
	rows := a.batch.State(m.shard)
	m.mvcc.Flush(rows)
	child, err := a.batch.Fork(m.shard, s.Child, s.At, term, m.conf)
	if err != nil {
		return err
	}
	if child != nil {
		if err := m.mvcc.Fork(rows, child, s.At, hi); err != nil {
			return err
		}
		delete(a.shards, s.Child)
		a.forked = append(a.forked, s.Child)
	}
	if err := m.mvcc.Cut(rows, lo, s.At); err != nil {
		return err
	}
	m.cut = s.At
	t.splits = append(t.splits, appliedSplit{Split: s})
	return nil
}

// publishCuts says, before the batch is committed, what the parents will not hold
// any more. Said after it, a reader that looked in between would find no rows,
// and take that for what the shard holds; and a watcher that read history in
// between would take the parent's next revision for the child's.
func (a *Applier) publishCuts() {
	for _, m := range a.used {
		if m.cut != nil {
			a.hub.Cut(m.shard, m.cut)
			m.cut = nil
		}
	}
}

// publishForks lets watchers see the children.
func (a *Applier) publishForks() error {
	for _, child := range a.forked {
		if err := a.hub.Reset(child, a.store.Shard(child).Latest()); err != nil {
			return err
		}
	}
	a.forked = a.forked[:0]
	return nil
}

// Split makes the row keys of a shard from s.At on a shard of their own, and
// returns when it is one here: see Core.Split.
func (h *Host) Split(ctx context.Context, shard banyan.ShardID, s Split) error {
	return h.call(ctx, "splitting a shard; it may still happen", func(c *Core, done func(error)) { c.Split(shard, s, done) })
}

// ForkOf gives the revision of its parent at which a shard whose first row key is
// at was split off; ok is false if the split has not been applied here.
func (h *Host) ForkOf(child banyan.ShardID, at []byte) (rev banyan.Revision, ok bool, err error) {
	if !h.Hosts(child) {
		return 0, false, nil
	}
	view, err := h.View(child)
	if err != nil {
		return 0, false, err
	}
	defer view.Close()
	lo, _, err := mvcc.BoundsOf(view)
	if err != nil || !bytes.Equal(lo, at) {
		return 0, false, err
	}
	rev, err = mvcc.ForkOf(view)
	return rev, err == nil, err
}
