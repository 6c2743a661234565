package replica

import (
	"fmt"
	"slices"

	"go.etcd.io/raft/v3"
	"go.etcd.io/raft/v3/confchange"
	"go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"

	"banyan"
)

type progress = tracker.Progress

// caughtUpEntries is how far a learner may be behind and still be promoted: it
// will have the rest in one message.
const caughtUpEntries = 256

// change is a Reconfigure under way.
type change struct {
	voters, learners []uint64
	done             func(error)
}

// transfer is a TransferLeader under way.
type transfer struct {
	to   uint64
	done []func(error)
}

// Reconfigure makes voters and learners the shard's replicas, by joint
// consensus if more than one changes, and calls done when the new
// configuration alone is in force. The leader stays a voter.
func (c *Core) Reconfigure(shard banyan.ShardID, voters, learners []banyan.NodeID, done func(error)) {
	g, err := c.led(shard)
	if err == nil {
		err = g.reconfigure(rawIDs(voters), rawIDs(learners), done)
	}
	if err != nil {
		done(err)
	}
}

// led is the group if this node leads it and has announced so.
func (c *Core) led(shard banyan.ShardID) (*group, error) {
	g := c.groups[shard]
	switch {
	case g == nil, g.removal != nil:
		return nil, errNoReplica(shard)
	case !g.leader:
		return nil, errNotLeader(shard, banyan.NodeID(g.lead))
	case !g.announced:
		return nil, banyan.Errorf(banyan.Unavailable, "shard %d has only just elected this leader: try again", shard)
	}
	return g, nil
}

func (g *group) reconfigure(voters, learners []uint64, done func(error)) error {
	if g.change != nil || joint(g.conf) {
		return banyan.Errorf(banyan.Unavailable, "the replicas of shard %d are being changed: try again when that is done", g.shard)
	}
	changes, err := planChange(g.conf, voters, learners)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		done(nil)
		return nil
	}
	if !slices.Contains(voters, uint64(g.core.cfg.Node)) {
		// It would step down before the others know that they may go on without
		// it. If they need its vote until then, they would wait for ever.
		return banyan.Errorf(banyan.Invalid, "shard %d cannot do without its leader %v: hand it over first, and have the next leader change its replicas", g.shard, g.core.cfg.Node)
	}
	if err := g.promotable(voters); err != nil {
		return err
	}
	typ, data, err := raftpb.MarshalConfChange(&raftpb.ConfChangeV2{Changes: changes})
	if err != nil {
		return err
	}
	m := &raftpb.Message{
		Type:    raftpb.MsgProp.Enum(),
		From:    new(uint64(g.core.cfg.Node)),
		Entries: []*raftpb.Entry{{Type: typ.Enum(), Data: data}},
	}
	err = g.rn.Step(m)
	g.touch()
	if err != nil || m.Entries[0].GetType() == raftpb.EntryNormal { // raft put an empty entry in its place
		return banyan.Errorf(banyan.Unavailable, "the replicas of shard %d cannot be changed now (an earlier change or a handover is not finished): try again", g.shard)
	}
	g.change = &change{voters, learners, done}
	return nil
}

// promotable refuses new voters that would not be able to vote for what is
// committed: each must have been a learner here and have caught up.
func (g *group) promotable(voters []uint64) error {
	for _, id := range voters {
		if !slices.Contains(g.conf.GetVoters(), id) && !g.follows(id) {
			return banyan.Errorf(banyan.Unavailable, "%v is not caught up with shard %d: promote it later", banyan.NodeID(id), g.shard)
		}
	}
	return nil
}

// follows says whether a replica has nearly all that is committed, and is
// being sent the rest.
func (g *group) follows(id uint64) (ok bool) {
	g.rn.WithProgress(func(other uint64, _ raft.ProgressType, pr progress) {
		if other == id {
			ok = pr.State == tracker.StateReplicate && pr.Match+caughtUpEntries >= g.commit
		}
	})
	return ok
}

// planChange lists what turns conf into the wanted configuration.
func planChange(conf *raftpb.ConfState, voters, learners []uint64) ([]*raftpb.ConfChangeSingle, error) {
	// A sole voter moves to another node through two: nobody else could lead
	// then. A second learner says that the shard is to grow to three.
	moves := len(voters) == 2 && len(conf.GetVoters()) == 1 && len(conf.GetLearners()) == 1
	if len(voters)%2 == 0 && !moves && !sameIDs(conf.GetVoters(), voters) {
		return nil, banyan.Errorf(banyan.Invalid, "%d voters: give an odd number, an even one survives no more failures than one less", len(voters))
	}
	all := slices.Concat(voters, learners)
	slices.Sort(all)
	if len(slices.Compact(slices.Clone(all))) != len(all) || slices.Contains(all, raft.None) {
		return nil, banyan.Errorf(banyan.Invalid, "voters %v and learners %v: name each node once", voters, learners)
	}
	var out []*raftpb.ConfChangeSingle
	add := func(t raftpb.ConfChangeType, id uint64) {
		out = append(out, &raftpb.ConfChangeSingle{Type: t.Enum(), NodeId: new(id)})
	}
	for _, id := range voters {
		if slices.Contains(conf.GetVoters(), id) {
			continue
		}
		if !slices.Contains(conf.GetLearners(), id) {
			return nil, banyan.Errorf(banyan.Invalid, "%v cannot become a voter: make it a learner first, so that it catches up before it counts", banyan.NodeID(id))
		}
		add(raftpb.ConfChangeAddNode, id)
	}
	for _, id := range learners {
		if !slices.Contains(conf.GetLearners(), id) {
			add(raftpb.ConfChangeAddLearnerNode, id)
		}
	}
	for _, id := range slices.Concat(conf.GetVoters(), conf.GetLearners()) {
		if !slices.Contains(all, id) {
			add(raftpb.ConfChangeRemoveNode, id)
		}
	}
	return out, nil
}

// reconfigured answers a Reconfigure whose outcome has been applied.
func (g *group) reconfigured() {
	ch := g.change
	if ch == nil || joint(g.conf) {
		return
	}
	if !sameIDs(g.conf.GetVoters(), ch.voters) || !sameIDs(g.conf.GetLearners(), ch.learners) {
		return // entries from before the change
	}
	g.change = nil
	ch.done(nil)
}

// jointTicks is how long a joint configuration may last before it is looked at.
const jointTicks = 5

// leaveJoint makes up for an automatic step out of a joint configuration that
// raft dropped because leadership was being handed over: it tries that only
// when an entry is applied, and there may be none for long.
func (g *group) leaveJoint() {
	if !g.announced || !joint(g.conf) {
		g.inJoint = 0
		return
	}
	if g.inJoint++; g.inJoint%jointTicks == 0 {
		_ = g.rn.ProposeConfChange(&raftpb.ConfChangeV2{}) // dropped again: until next time
	}
}

// shedStalled hands leadership away from a disk that has stopped answering:
// without it this node can acknowledge nothing, while its heartbeats, which need
// no disk, would keep the others from electing one of them.
func (g *group) shedStalled() {
	if g.appends == 0 {
		return
	}
	g.stalled++
	if !g.leader || g.stalled%g.core.cfg.ElectionTicks != 0 {
		return
	}
	var best, match uint64
	for _, id := range g.conf.GetVoters() {
		g.rn.WithProgress(func(other uint64, _ raft.ProgressType, pr progress) {
			if other == id && id != uint64(g.core.cfg.Node) && pr.State == tracker.StateReplicate && pr.Match >= match {
				best, match = id, pr.Match
			}
		})
	}
	if best == 0 {
		return
	}
	g.core.cfg.Logger.Warn("the disk does not answer: handing leadership over", "shard", g.shard, "to", best)
	g.rn.TransferLeader(best)
}

// confAfter is the configuration that cc makes of cs. An error means that cc
// does not fit and must be passed over, by every replica alike.
func confAfter(cs *raftpb.ConfState, cc *raftpb.ConfChangeV2) (*raftpb.ConfState, error) {
	trk := tracker.MakeProgressTracker(1, 0)
	cfg, prs, err := confchange.Restore(confchange.Changer{Tracker: trk}, cs)
	if err != nil {
		return nil, fmt.Errorf("configuration %v: %w", cs, err)
	}
	trk.Config, trk.Progress = cfg, prs
	changer := confchange.Changer{Tracker: trk}
	if cc.LeaveJoint() {
		cfg, _, err = changer.LeaveJoint()
	} else if auto, ok := cc.EnterJoint(); ok {
		cfg, _, err = changer.EnterJoint(auto, cc.Changes...)
	} else {
		cfg, _, err = changer.Simple(cc.Changes...)
	}
	if err != nil {
		return nil, err
	}
	trk.Config = cfg
	return trk.ConfState(), nil
}

// TransferLeader hands leadership to another voter; done is called when it has
// gone there, or failed.
func (c *Core) TransferLeader(shard banyan.ShardID, to banyan.NodeID, done func(error)) {
	g, err := c.led(shard)
	switch {
	case err != nil:
		done(err)
	case to == c.cfg.Node:
		done(nil)
	case !slices.Contains(g.conf.GetVoters(), uint64(to)):
		done(banyan.Errorf(banyan.Invalid, "%v is no voter of shard %d: leadership can only go to one of %v", to, shard, nodeIDs(g.conf.GetVoters())))
	case g.transfer != nil && g.transfer.to != uint64(to):
		done(banyan.Errorf(banyan.Unavailable, "shard %d is being handed to %v: try again", shard, banyan.NodeID(g.transfer.to)))
	case !g.follows(uint64(to)):
		done(banyan.Errorf(banyan.Unavailable, "%v is not caught up with shard %d: hand over later, or to another", to, shard))
	default:
		if g.transfer == nil {
			g.transfer = &transfer{to: uint64(to)}
			g.rn.TransferLeader(uint64(to))
			g.touch()
		}
		g.transfer.done = append(g.transfer.done, done)
	}
}

// transferred answers a TransferLeader that is over.
func (g *group) transferred(s raft.BasicStatus) {
	t := g.transfer
	if t == nil {
		return
	}
	var err error
	switch {
	case g.leader && s.LeadTransferee == t.to:
		return
	case g.leader:
		err = banyan.Errorf(banyan.Unavailable, "%v did not take over shard %d in time: try again", banyan.NodeID(t.to), g.shard)
	}
	g.transferOver(err)
}

func (g *group) transferOver(err error) {
	for _, done := range g.transfer.done {
		done(err)
	}
	g.transfer = nil
}

func joint(cs *raftpb.ConfState) bool { return len(cs.GetVotersOutgoing()) > 0 }

func soleVoter(cs *raftpb.ConfState, id banyan.NodeID) bool {
	return len(cs.GetVoters()) == 1 && cs.GetVoters()[0] == uint64(id) && !joint(cs)
}

func sameIDs(a, b []uint64) bool {
	a, b = slices.Clone(a), slices.Clone(b)
	slices.Sort(a)
	slices.Sort(b)
	return slices.Equal(a, b)
}

func rawIDs(ids []banyan.NodeID) []uint64 {
	out := make([]uint64, len(ids))
	for i, id := range ids {
		out[i] = uint64(id)
	}
	return out
}

func nodeIDs(ids []uint64) []banyan.NodeID {
	out := make([]banyan.NodeID, len(ids))
	for i, id := range ids {
		out[i] = banyan.NodeID(id)
	}
	return out
}
