package replica

import (
	"bytes"
	crand "crypto/rand"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

// splitSeeds is how many seeds it takes for each of TestTorture: what it is
// about is rarer.
const splitSeeds = 4

// slotsUsed is how many slots the torture of splits writes to.
const slotsUsed = 12

// splitTorture drives five nodes by chance while shard 1 and its children are
// split again and again. Each key is put once, its command often several times:
// it must have version 1 in the end, in the shard that holds its slot.
type splitTorture struct {
	*torture
	splits []wanted
	puts   []*keyPut
	shards banyan.ShardID // the highest number given out
}

// wanted is a split that was asked for; it may never have happened.
type wanted struct {
	parent banyan.ShardID
	Split
}

type keyPut struct {
	slot     int
	cmd      *mvcc.Command
	revision banyan.Revision // that was acknowledged, or 0
}

func TestSplitTorture(t *testing.T) {
	before := crand.Reader
	defer func() { crand.Reader = before }()
	total := map[string]int{}
	for seed := *tortureFirst; seed < *tortureFirst+uint64(splitSeeds**tortureSeeds); seed++ {
		st := &splitTorture{torture: &torture{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 2)), happened: total}}
		crand.Reader = seeded{st.rng}
		st.run(seed)
		if t.Failed() {
			t.Fatalf("seed %d: go test ./engine/replica -run TestSplitTorture -seed %d -seeds 1", seed, seed)
		}
	}
	t.Log(total)
	if *tortureSeeds >= 40 {
		for _, what := range []string{"acked", "again", "moved", "split", "crashed", "forked over an empty one", "fork waited", "snapshot", "changed"} {
			if total[what] == 0 {
				t.Errorf("never happened: %s", what)
			}
		}
	}
}

func (st *splitTorture) run(seed uint64) {
	st.strict, st.shards = true, 1
	st.keep = uint64(5 + st.rng.IntN(40))
	st.add(1, 1)
	for id := banyan.NodeID(2); id <= 5; id++ {
		st.add(id)
	}
	st.grow(1)
	for n := 0; n < 3000 && !st.t.Failed(); n++ {
		switch p := st.any(); {
		case st.rng.IntN(10) == 0:
			st.put()
		case st.rng.IntN(150) == 0:
			st.split()
		case st.rng.IntN(100) == 0 && p.core != nil:
			st.reconfigure()
		case st.rng.IntN(200) == 0:
			st.tick()
		default:
			st.quietly(st.step)
		}
		st.watchForks()
	}
	st.settle(seed)
}

// quietly runs a step of torture, whose own writes go to shard 0, that is not here.
func (st *splitTorture) quietly(step func()) {
	step()
	st.acked = nil
}

// tick lets time go by everywhere, so that shards get leaders.
func (st *splitTorture) tick() {
	for _, id := range st.ids() {
		st.nodes[id].advance(300 * time.Millisecond)
	}
}

func (st *splitTorture) watchForks() {
	for _, p := range st.nodes {
		if p.core == nil {
			continue
		}
		for _, f := range p.core.forks {
			if f.old != nil {
				st.happened["forked over an empty one"]++
			}
		}
		if len(p.core.held) > 0 {
			st.happened["fork waited"]++
		}
	}
}

// shardOf follows the first n splits that have happened anywhere.
func (st *splitTorture) shardOf(slot, n int) banyan.ShardID {
	shard := banyan.ShardID(1)
	for _, s := range st.splits[:n] {
		if s.parent == shard && bytes.Compare(banyan.SlotKey(slot), s.At) >= 0 && st.exists(s.Child) {
			shard = s.Child
		}
	}
	return shard
}

func (st *splitTorture) exists(shard banyan.ShardID) bool {
	for _, p := range st.nodes {
		if p.core != nil && p.core.groups[shard] != nil && p.core.groups[shard].applied > 0 {
			return true
		}
	}
	return false
}

// put writes a new key, or an old one's command once more.
func (st *splitTorture) put() {
	if len(st.puts) > 0 && st.rng.IntN(4) == 0 {
		st.happened["again"]++
		st.sendPut(st.puts[st.rng.IntN(len(st.puts))])
		return
	}
	st.next++
	slot := st.rng.IntN(slotsUsed)
	key := fmt.Appendf(banyan.AppendRowKey(nil, slot, banyan.LayerKV, banyan.SpaceDefault), "k%06d", st.next)
	cmd := &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: []byte(strings.Repeat("v", st.rng.IntN(50)))}}}
	for i := range cmd.Request {
		cmd.Request[i] = byte(st.rng.Uint32())
	}
	k := &keyPut{slot: slot, cmd: cmd}
	st.puts = append(st.puts, k)
	st.sendPut(k)
}

func (st *splitTorture) sendPut(k *keyPut) {
	known := len(st.splits)
	if known > 0 && st.rng.IntN(5) == 0 {
		known = st.rng.IntN(known)
	}
	shard := st.shardOf(k.slot, known)
	p := st.leader(shard)
	if p == nil {
		return
	}
	p.propose(shard, k.cmd, func(res mvcc.Result, err error) {
		switch {
		case err != nil:
		case res.Moved:
			st.happened["moved"]++
		case !res.OK:
			st.t.Errorf("%q: %+v", k.cmd.Muts[0].Key, res)
		case k.revision != 0 && k.revision != res.Revision:
			st.t.Errorf("%q got revision %d, and then %d", k.cmd.Muts[0].Key, k.revision, res.Revision)
		default:
			st.happened["acked"]++
			k.revision = res.Revision
		}
	})
}

func (st *splitTorture) split() {
	parent := 1 + banyan.ShardID(st.rng.IntN(int(st.shards)))
	p := st.leader(parent)
	if p == nil || st.shards >= 8 {
		return
	}
	w := wanted{parent, Split{At: banyan.SlotKey(1 + st.rng.IntN(slotsUsed-1)), Child: st.shards + 1}}
	if n := len(st.splits); n > 0 && !st.exists(st.splits[n-1].Child) && st.rng.IntN(2) == 0 {
		w = st.splits[n-1] // once more, as who decided it would
		if p = st.leader(w.parent); p == nil {
			return
		}
	} else {
		st.shards++
		st.splits = append(st.splits, w)
	}
	slow := st.any() // hears of the child before it applies the parent's entry, and of that while it writes
	slow.holdDisk, slow.holdApply = true, true
	p.core.Split(w.parent, w.Split, func(err error) {
		if err == nil {
			st.happened["split"]++
		}
	})
}

// reconfigure moves replicas of some shard, or its leader.
func (st *splitTorture) reconfigure() {
	shard := 1 + banyan.ShardID(st.rng.IntN(int(st.shards)))
	p := st.leader(shard)
	if p == nil {
		return
	}
	to := st.any().id
	conf := p.core.groups[shard].conf
	voters, learners := nodeIDs(conf.GetVoters()), nodeIDs(conf.GetLearners())
	switch {
	case st.rng.IntN(2) == 0:
		p.core.TransferLeader(shard, to, func(error) {})
		return
	case len(learners) == 0 && !slices.Contains(voters, to):
		learners = []banyan.NodeID{to}
	case len(learners) > 0:
		for i, v := range voters {
			if v != p.id {
				voters[i] = learners[0]
				break
			}
		}
		learners = nil
	}
	p.core.Reconfigure(shard, voters, learners, func(err error) {
		if err == nil {
			st.happened["changed"]++
		}
	})
}

// settle lets the world come to rest and looks at what it has become.
func (st *splitTorture) settle(seed uint64) {
	clear(st.cut)
	for _, id := range st.ids() {
		p := st.nodes[id]
		p.holdDisk, p.holdApply, p.holdSnaps = false, false, false
		if p.core == nil {
			p.restart()
		}
	}
	var all []banyan.ShardID
	for n := 0; ; n++ {
		st.pass(500 * time.Millisecond)
		if st.t.Failed() {
			return
		}
		all = nil
		rest := true
		for shard := range st.shards {
			if shard++; st.exists(shard) {
				all = append(all, shard)
				l := st.leader(shard)
				rest = rest && l != nil && st.quietShard(l, shard)
			}
		}
		if rest {
			break
		}
		if n > 60 {
			for _, shard := range all {
				st.t.Errorf("seed %d: shard %d does not come to rest:\n%s", seed, shard, st.status(shard))
			}
			return
		}
	}
	st.checkBounds(all)
	for _, k := range st.puts {
		st.checkPut(k)
	}
}

func (st *splitTorture) quietShard(leader *peer, shard banyan.ShardID) bool {
	g := leader.core.groups[shard]
	if joint(g.conf) || g.change != nil {
		return false
	}
	for _, id := range slices.Concat(g.conf.GetVoters(), g.conf.GetLearners()) {
		other := st.nodes[banyan.NodeID(id)].core.groups[shard]
		if other == nil || other.applied != g.applied || other.lead != uint64(leader.id) {
			return false
		}
	}
	return g.applied == g.commit
}

// checkBounds looks whether the shards hold all slots, each once, and each
// shard's replicas the same rows.
func (st *splitTorture) checkBounds(all []banyan.ShardID) {
	holders := map[int][]banyan.ShardID{}
	for _, shard := range all {
		leader := st.leader(shard)
		want := st.rowsOf(leader, shard)
		g := leader.core.groups[shard]
		for _, id := range slices.Concat(g.conf.GetVoters(), g.conf.GetLearners()) {
			if got := st.rowsOf(st.nodes[banyan.NodeID(id)], shard); !maps.Equal(got, want) {
				st.t.Errorf("shard %d: replica %d holds other rows than %v:%s\n%s", shard, id, leader.id, difference(want, got), st.status(shard))
			}
		}
		lo, hi, err := mvcc.BoundsOf(leader.store.Shard(shard).Latest())
		if err != nil {
			st.t.Error(err)
		}
		for slot := range slotsUsed {
			if key := banyan.SlotKey(slot); bytes.Compare(key, lo) >= 0 && (len(hi) == 0 || bytes.Compare(key, hi) < 0) {
				holders[slot] = append(holders[slot], shard)
			}
		}
	}
	for slot := range slotsUsed {
		if want := st.shardOf(slot, len(st.splits)); !slices.Equal(holders[slot], []banyan.ShardID{want}) {
			st.t.Errorf("slot %d is held by shards %v: want %d alone", slot, holders[slot], want)
		}
	}
}

func (st *splitTorture) rowsOf(p *peer, shard banyan.ShardID) map[string]string {
	out := map[string]string{}
	if err := p.store.Shard(shard).Latest().Scan(nil, nil, func(k, v []byte) bool {
		out[string(k)] = string(v)
		return true
	}); err != nil {
		st.t.Error(err)
	}
	return out
}

func (st *splitTorture) checkPut(k *keyPut) {
	shard := st.shardOf(k.slot, len(st.splits))
	leader := st.leader(shard)
	row, err := mvcc.Get(leader.store.Shard(shard).Latest(), k.cmd.Muts[0].Key, 0)
	switch {
	case err != nil:
		st.t.Error(err)
	case row == nil && k.revision != 0:
		st.t.Errorf("acknowledged key %q (slot %d) is not in shard %d\n%s", k.cmd.Muts[0].Key, k.slot, shard, st.status(shard))
	case row != nil && (row.Version != 1 || k.revision != 0 && row.Mod != k.revision):
		st.t.Errorf("key %q has version %d of revision %d, acknowledged at %d: its one put was done more than once", row.Key, row.Version, row.Mod, k.revision)
	}
}

// TestSplit splits a shard of three and writes on both sides; watchers of what
// moved are turned away and go on at the child, without a gap.
func TestSplit(t *testing.T) {
	w := newWorld(t)
	w.add(1, 1)
	w.add(2)
	w.add(3)
	w.grow(1)
	p := w.leader(1)
	key := func(slot int, name string) []byte {
		return append(banyan.AppendRowKey(nil, slot, banyan.LayerKV, banyan.SpaceDefault), name...)
	}
	set := func(shard banyan.ShardID, key []byte) (res mvcc.Result) {
		t.Helper()
		err := errors.New("not answered")
		w.leader(shard).propose(shard, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: []byte("v")}}}, func(r mvcc.Result, e error) { res, err = r, e })
		w.pump()
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	set(1, key(1, "a"))
	set(1, key(7, "b"))
	left, err := p.hub.Watch(1, banyan.SlotKey(1), banyan.SlotKey(2), 0)
	if err != nil {
		t.Fatal(err)
	}
	right, err := p.hub.Watch(1, banyan.SlotKey(7), banyan.SlotKey(8), 2)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.New("not answered")
	p.core.Split(1, Split{At: banyan.SlotKey(5), Child: 9}, func(e error) { err = e })
	w.pump()
	if err != nil {
		t.Fatal(err)
	}
	w.pass(200 * time.Millisecond)
	if l := w.leader(9); l == nil {
		t.Fatalf("the child has no leader:\n%s", w.status(9))
	}
	if res := set(1, key(7, "c")); !res.Moved {
		t.Errorf("the parent took a row of the child: %+v", res)
	}
	parent := set(1, key(1, "c"))
	child := set(9, key(7, "d"))
	if !parent.OK || !child.OK || child.Revision != 3 {
		t.Errorf("parent %+v, child %+v: want the child's revisions to go on behind 2", parent, child)
	}
	if _, _, _, err := right.TryNext(); err == nil {
		t.Error("the watcher of rows that moved was not turned away")
	}
	l := w.leader(1)
	if holds := l.hub.Holds(1, key(7, "b"), nil); holds || !l.hub.Holds(1, key(1, "a"), nil) || !w.leader(9).hub.Holds(9, key(7, "b"), nil) {
		t.Error("the replicas do not know which rows they hold")
	}
	if _, err := l.hub.Watch(1, key(7, "b"), key(7, "c"), 0); err != nil {
		t.Error(err)
	}
	if events, _, _, err := left.TryNext(); err != nil || len(events) != 2 {
		t.Errorf("the watcher of what stayed: %v, %v", events, err)
	}
	again, err := w.leader(9).hub.Watch(9, banyan.SlotKey(7), banyan.SlotKey(8), 1)
	if err != nil {
		t.Fatal(err)
	}
	if events, upTo, _, err := again.TryNext(); err != nil || len(events) != 2 || upTo != 3 {
		t.Errorf("the child's watcher heard %v up to %d, %v: want what came before the split and after", events, upTo, err)
	}
	for _, bad := range []Split{{At: banyan.SlotKey(5), Child: 10}, {At: banyan.SlotKey(9), Child: 11}} {
		err = nil
		w.leader(1).core.Split(1, bad, func(e error) { err = e })
		w.pump()
		if !banyan.IsKind(err, banyan.Conflict) {
			t.Errorf("split at %x, where the shard does not reach: %v", bad.At, err)
		}
	}
}

// TestHistoryOfACutShardIsNotRead: a watcher that reads the history of rows that
// its shard has just given away is turned away, also where the Hub has not heard
// of that yet: the parent's later revisions are not the child's.
func TestHistoryOfACutShardIsNotRead(t *testing.T) {
	w := newWorld(t)
	w.add(1, 1)
	w.add(2)
	w.add(3)
	w.grow(1)
	p := w.leader(1)
	set := func(slot int) {
		t.Helper()
		key := banyan.AppendRowKey(nil, slot, banyan.LayerKV, banyan.SpaceDefault)
		p.propose(1, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: []byte("v")}}}, func(_ mvcc.Result, err error) {
			if err != nil {
				t.Error(err)
			}
		})
		w.pump()
	}
	set(7)
	late := NewHub(p.store)
	late.Publish(1, nil, 1)
	watch, err := late.Watch(1, banyan.SlotKey(7), banyan.SlotKey(8), 1)
	if err != nil {
		t.Fatal(err)
	}
	p.core.Split(1, Split{At: banyan.SlotKey(5), Child: 2}, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	w.pump()
	set(1)
	if rev, err := mvcc.ForkOf(p.store.Shard(2).Latest()); rev != 1 || err != nil {
		t.Errorf("split at revision %d, %v", rev, err)
	}
	late.Publish(1, nil, 2)
	if _, upTo, ok, err := watch.TryNext(); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("told of all up to revision %d of the parent (%v), %v", upTo, ok, err)
	}
	view, err := p.store.View(1)
	if err != nil {
		t.Fatal(err)
	}
	defer view.Close()
	if until, err := HeldSlots(view, 1, 3, 9); until != 5 || err != nil {
		t.Errorf("slots up to %d, %v", until, err)
	}
	if _, err := HeldSlots(view, 1, 5, 9); !banyan.IsKind(err, banyan.Moved) {
		t.Error(err)
	}
}
