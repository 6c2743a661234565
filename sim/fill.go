package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/placement"
)

// fill is a while in which every disk has little room and a user writes as much
// as is taken. Nodes know each other's levels a moment late, as by gossip.
type fill struct {
	w      *world
	dice   dice
	until  time.Duration
	writes int
	voters map[banyan.ShardID][]banyan.NodeID // as last heard of a leader
}

// Sizes of a fill: of room on a disk above its first mark, of the mark, and of
// what is written at a time.
const (
	fillRoom  = 256 << 10
	fillMark  = 1 << 20 // of several looks, as a real one
	fillValue = 4 << 10
	fillEvery = 4 * time.Millisecond
)

func (w *world) beginFill() {
	if w.plan.fillAt == 0 || w.plan.fillAt >= w.plan.length {
		return
	}
	w.after(w.plan.fillAt, func() {
		d := newDice(w.cfg.Seed, 0xf111ed)
		f := &fill{w: w, dice: d, until: w.now + d.between(time.Second, 4*time.Second), voters: map[banyan.ShardID][]banyan.NodeID{}}
		w.fault(disksFill)
		for _, n := range w.nodes {
			if n.kv != nil && !n.gone {
				n.capacity = n.kv.Size() + fillMark + int64(d.IntN(2*fillRoom))
				n.disk.SetCapacity(n.capacity)
				n.taken = false
			}
		}
		f.look()
		f.write()
	})
}

// over says whether the fill has ended, and ends it.
func (f *fill) over() bool {
	if f.w.now < f.until && !f.w.faultless {
		return false
	}
	for _, n := range f.w.nodes {
		if n.capacity != 0 {
			n.capacity, n.level, n.ranFull = 0, placement.DiskWell, false
			n.disk.SetCapacity(0)
		}
	}
	return true
}

// look is what nodes' watching of their disks and gossip come to, and the check:
// never do all voters of a shard run into full disks by what users write. A disk
// that another program fills at once, the fault "disk full", does not count.
func (f *fill) look() {
	if f.over() {
		return
	}
	for _, n := range f.w.nodes {
		if n.capacity != 0 && n.proc != nil {
			n.level = placement.DiskLevelOf(n.capacity-n.kv.Size(), fillMark, n.level)
		}
	}
	for _, shard := range f.w.shards() {
		if _, st := f.w.operator.leader(shard); st != nil {
			f.voters[shard] = st.Voters
		}
		full := func(id banyan.NodeID) bool { return f.w.node(id).ranFull }
		if v := f.voters[shard]; len(v) > 0 && !slices.ContainsFunc(v, func(id banyan.NodeID) bool { return !full(id) }) {
			f.w.fail("shard %d: all its voters %v ran into full disks", shard, v)
			return
		}
	}
	f.w.after(100*time.Millisecond, f.look)
}

// write puts a large value somewhere, or, when that is refused, deletes one.
func (f *fill) write() {
	if f.over() || f.w.over {
		return
	}
	shard := pick(f.dice, f.w.shards())
	if p, _ := f.w.operator.leader(shard); p != nil {
		cmd := &mvcc.Command{}
		f.writes++
		binary.BigEndian.PutUint64(cmd.Request[:], f.w.cfg.Seed<<8|0xff)
		binary.BigEndian.PutUint64(cmd.Request[8:], uint64(f.writes))
		switch err := p.room(shard); {
		case err == nil:
			cmd.Muts = []mvcc.Mutation{{Op: mvcc.Put, Key: fmt.Appendf(nil, "f/%d", f.writes), Value: make([]byte, fillValue)}}
			p.propose(shard, cmd, func(mvcc.Result, error) {})
		case f.dice.chance(0.02):
			f.w.reach("write refused for want of room")
			cmd.Muts = []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: fmt.Appendf(nil, "f/%d", f.dice.IntN(10)), End: []byte("f/~")}}
			p.propose(shard, cmd, func(res mvcc.Result, err error) {
				if err == nil && res.OK {
					f.w.reach("deleted while disks are low")
				}
			})
		}
	}
	f.w.after(fillEvery, f.write)
}

// room is what server asks before a leader takes a user's write.
func (p *process) room(shard banyan.ShardID) error {
	var voters []banyan.NodeID
	low := false
	for _, id := range p.store.Shard(shard).ConfState().GetVoters() {
		voters = append(voters, banyan.NodeID(id))
		low = low || p.w.node(banyan.NodeID(id)).level != placement.DiskWell
	}
	sound := func(id banyan.NodeID) bool {
		n := p.w.node(id)
		return n.proc != nil && n.level == placement.DiskWell
	}
	if !low || placement.Room(voters, sound) {
		return nil
	}
	return banyan.Errorf(banyan.Exhausted, "shard %d has no room", shard)
}
