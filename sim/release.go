package sim

import (
	"slices"
	"strconv"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/engine/store"
)

// In a mixed run some machines begin with the release before this one and are
// upgraded one by one, by a restart. The cluster acts at the older protocol
// until all speak the newer one, as node/server/settings.go decides it: a row of the
// root shard says so, which every process hears of in its own time. What the
// older release knows is one form of each entry and row: one that gets to see
// another must stop, and may only if it was put back at the wrong moment.

// older is the protocol of the previous release.
const older = banyan.ProtocolVersion - 1

// mixes says whether there is an older release that can be of one cluster with
// this one. Format 2 began anew with protocol 4.
const mixes = older >= banyan.ProtocolMin

const protocolKey = "\xff\xfe\x04\x00c/protocol"

// commandForm begins a command alone in an entry.
const commandForm = 3

// releases is what the run knows of them.
type releases struct {
	dice   dice
	acts   uint32 // as committed
	rising bool   // to the newest, or risen: older machines do not join any more
}

func (w *world) beginReleases() {
	w.releases = releases{dice: newDice(w.cfg.Seed, 0x2e1ea5e), acts: banyan.ProtocolVersion}
	if w.plan.mixed > 0 {
		w.releases.acts = older
		w.every(300*time.Millisecond, w.raise)
	}
}

// choose says which release a new machine runs, and when it is upgraded.
func (r *releases) choose(n *node) {
	n.speaks = banyan.ProtocolVersion
	if n.w.plan.mixed == 0 || r.rising || r.dice.chance(0.3) {
		return
	}
	n.w.fault(olderRelease)
	n.speaks = older
	n.w.after(r.dice.between(0, n.w.plan.mixed), func() { n.replaceBinary(banyan.ProtocolVersion) })
}

// replaceBinary stops the machine's process; the next one is of another release.
func (n *node) replaceBinary(speaks uint32) {
	if n.gone || n.speaks == speaks {
		return
	}
	n.w.say("%v: the release that speaks protocol %d is put on", n.id, speaks)
	n.speaks, n.putBack = speaks, speaks < banyan.ProtocolVersion
	n.die(kill, "for another release")
}

// raise is server's raiseProtocol: if every member speaks the newest protocol,
// a command in the root shard says that the cluster acts at it.
func (w *world) raise() {
	r := &w.releases
	if w.over || r.acts == banyan.ProtocolVersion {
		return
	}
	for _, n := range w.nodes {
		if !n.gone && (!w.operator.reached(n) || n.proc.speaks < banyan.ProtocolVersion) {
			return
		}
	}
	p, _ := w.operator.leader(banyan.RootShard)
	if p == nil {
		return
	}
	r.rising = true
	if n := pick(r.dice, w.nodes); !w.faultless && !w.cfg.without(putBack) && !n.gone && r.dice.chance(0.5) {
		w.fault(putBack) // by somebody who has looked before
		w.after(r.dice.between(0, 100*time.Millisecond), func() { n.replaceBinary(older) })
		w.after(r.dice.between(time.Second, 4*time.Second), func() { n.replaceBinary(banyan.ProtocolVersion) })
	}
	w.after(r.dice.between(0, 50*time.Millisecond), func() {
		p.propose(banyan.RootShard, &mvcc.Command{
			Conds: []mvcc.Cond{{Key: []byte(protocolKey), Test: mvcc.Missing}},
			Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(protocolKey), Value: strconv.AppendUint(nil, banyan.ProtocolVersion, 10)}},
		}, func(mvcc.Result, error) {})
	})
}

// watch hears what is committed in the root shard.
func (r *releases) watch(w *world, events []mvcc.Event) {
	for i := range events {
		if string(events[i].Row.Key) != protocolKey {
			continue
		}
		r.acts = protocolOf(&events[i].Row)
		w.say("the cluster acts at protocol %d", r.acts)
		for _, p := range w.up() {
			p.hearOfProtocol()
		}
	}
}

// hearOfProtocol tells the core at which protocol the cluster acts, some time
// after that is so.
func (p *process) hearOfProtocol() {
	d := p.w.releases.dice.between(0, 2*time.Second)
	p.after(d, func() {
		acts := p.w.releases.acts
		if p.speaks < acts {
			return
		}
		for _, n := range p.proposals { // any will do
			if n > 0 && p.views[0].Acts < acts {
				p.w.reach("rose to a newer protocol with commands under way")
				break
			}
		}
		p.input(func(c *replica.Core) { c.Act(acts) })
	})
}

// protocolOn is what the root shard's rows on a disk say, as server reads them
// before it starts anything.
func (n *node) protocolOn(st *store.Store) (uint32, error) {
	if n.w.plan.mixed == 0 {
		return banyan.ProtocolVersion, nil
	}
	if !slices.Contains(st.Shards(), banyan.RootShard) {
		return older, nil
	}
	row, err := mvcc.Get(st.Shard(banyan.RootShard).Latest(), []byte(protocolKey), 0)
	if err != nil || row == nil {
		return older, err
	}
	return protocolOf(row), nil
}

func protocolOf(row *mvcc.Row) uint32 {
	v, _ := strconv.ParseUint(string(row.Value), 10, 32)
	return uint32(v)
}

// tooNew is the end of a process of the older release that has met what it does
// not know, as it is there. Only one that was put back can, and it is upgraded.
func (n *node) tooNew(what string) {
	if !n.putBack {
		n.w.fail("%v runs the previous release and meets %s, which that does not know", n.id, what)
		return
	}
	n.w.reach("older release stopped by what it does not know")
	if n.proc == nil {
		_ = n.kv.Close()
		n.w.after(n.w.releases.dice.between(0, time.Second), n.restart)
	}
	n.replaceBinary(banyan.ProtocolVersion)
}

// understands says whether the process's release knows the form of entries: the
// older one knows commands in their first form, one to an entry.
func (p *process) understands(applies []*replica.Apply) bool {
	for _, a := range applies {
		for _, e := range a.Entries {
			data := e.GetData()
			if e.GetType() != raftpb.EntryNormal || len(data) == 0 {
				continue
			}
			if data[0] == commandForm {
				if p.w.releases.acts == older {
					p.w.reach("acted at an older protocol")
				}
				continue
			}
			if p.speaks == older {
				p.n.tooNew("an entry in form " + strconv.Itoa(int(data[0])))
				return false
			}
			if p.w.plan.mixed > 0 {
				p.w.reach("command of a newer form applied after a rise")
			}
		}
	}
	return true
}
