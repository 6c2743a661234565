package replica

import (
	crand "crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

var (
	tortureSeeds = flag.Int("seeds", 40, "how many seeds TestTorture runs")
	tortureFirst = flag.Uint64("seed", 1, "the first seed of TestTorture")
)

// TestTorture drives five nodes by chance: messages are lost, doubled and
// reordered, disks and machines hold still, nodes lose power, replicas move.
// It is a small relative of package sim, close to the code it tests.
func TestTorture(t *testing.T) {
	before := crand.Reader
	defer func() { crand.Reader = before }()
	total := map[string]int{}
	for seed := *tortureFirst; seed < *tortureFirst+uint64(*tortureSeeds); seed++ {
		tt := &torture{world: newWorld(t), rng: rand.New(rand.NewPCG(seed, 1)), happened: total}
		crand.Reader = seeded{tt.rng} // raft draws election timeouts from it
		tt.run(seed)
		if t.Failed() {
			t.Fatalf("seed %d: go test ./engine/replica -run TestTorture -seed %d -seeds 1", seed, seed)
		}
	}
	t.Log(total)
	if *tortureSeeds >= 40 {
		for _, what := range []string{"acked", "uncertain", "refused", "read", "crashed", "changed", "transferred", "snapshot", "led"} {
			if total[what] == 0 {
				t.Errorf("never happened: %s", what)
			}
		}
	}
}

type seeded struct{ rng *rand.Rand }

var _ io.Reader = seeded{}

func (s seeded) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = byte(s.rng.Uint32())
	}
	return len(b), nil
}

type torture struct {
	*world
	rng      *rand.Rand
	acked    []string
	next     int
	happened map[string]int
}

func (tt *torture) run(seed uint64) {
	tt.strict = true
	tt.keep = uint64(5 + tt.rng.IntN(40))
	tt.add(1, 0)
	for id := banyan.NodeID(2); id <= 5; id++ {
		tt.add(id)
	}
	tt.grow(0)
	for n := 0; n < 3000 && !tt.t.Failed(); n++ {
		tt.step()
	}
	tt.settle(seed)
}

func (tt *torture) any() *peer { return tt.nodes[banyan.NodeID(1+tt.rng.IntN(len(tt.nodes)))] }

func (tt *torture) step() {
	p := tt.any()
	switch n := tt.rng.IntN(1000); {
	case n < 400:
		p.round()
	case n < 700:
		tt.shuffle()
	case n < 800:
		p.advance(time.Duration(10*tt.rng.IntN(15)) * time.Millisecond)
	case n < 900:
		tt.write(p)
	case n < 940:
		tt.readAll(p)
	case n < 955:
		p.holdDisk, p.holdApply, p.holdSnaps = tt.rng.IntN(3) == 0, tt.rng.IntN(3) == 0, tt.rng.IntN(3) == 0
	case n < 959:
		if p.core != nil {
			tt.happened["crashed"]++
			p.crash(tt.rng.IntN(2) == 0)
		}
	case n < 985:
		if p = tt.down(); p != nil {
			p.restart()
		}
	case n < 988:
		tt.cut[[2]banyan.NodeID{p.id, tt.any().id}] = true
	case n < 991:
		clear(tt.cut)
	case n < 994:
		tt.lose(p.id)
	default:
		tt.move(p)
	}
	for _, line := range tt.lines {
		if strings.Contains(line, "leads") {
			tt.happened["led"]++
		}
		if strings.Contains(line, "got a snapshot") {
			tt.happened["snapshot"]++
		}
	}
	tt.lines = nil
}

// shuffle delivers some of the messages, some twice, some never.
func (tt *torture) shuffle() {
	tt.rng.Shuffle(len(tt.net), func(i, j int) { tt.net[i], tt.net[j] = tt.net[j], tt.net[i] })
	later := tt.net[tt.rng.IntN(len(tt.net)+1):]
	tt.net = slices.Clone(tt.net[:len(tt.net)-len(later)])
	tt.net = slices.DeleteFunc(tt.net, func(Envelope) bool { return tt.rng.IntN(20) == 0 })
	if len(tt.net) > 0 && tt.rng.IntN(10) == 0 {
		later = append(slices.Clone(later), tt.net[0])
	}
	tt.deliver()
	tt.net = append(slices.Clone(later), tt.net...)
}

func (tt *torture) lose(id banyan.NodeID) {
	for _, other := range tt.ids() {
		if p := tt.nodes[other]; other != id && p.core != nil && tt.rng.IntN(3) > 0 {
			p.core.PeerLost(id)
		}
	}
}

func (tt *torture) down() *peer {
	for _, id := range tt.ids() {
		if tt.nodes[id].core == nil {
			return tt.nodes[id]
		}
	}
	return nil
}

func (tt *torture) write(p *peer) {
	if l := tt.leader(0); l != nil && tt.rng.IntN(4) > 0 {
		p = l
	}
	tt.next++
	key := fmt.Sprintf("k%06d", tt.next)
	cmd := put(key, strings.Repeat("v", tt.rng.IntN(50)))
	p.propose(0, cmd, func(res mvcc.Result, err error) {
		switch {
		case err == nil && res.OK:
			tt.happened["acked"]++
			tt.acked = append(tt.acked, key)
		case err == nil:
			tt.t.Errorf("%s: %+v", key, res)
		case IsUncertain(err):
			tt.happened["uncertain"]++
		default:
			tt.happened["refused"]++
		}
	})
}

// readAll asks for a point that must show all that was acknowledged by now.
func (tt *torture) readAll(p *peer) {
	if l := tt.leader(0); l != nil && tt.rng.IntN(2) > 0 {
		p = l
	}
	if p.core == nil {
		return
	}
	acked := len(tt.acked)
	core := p.core
	core.Read(0, func(err error) {
		if err != nil || p.core != core {
			return
		}
		tt.happened["read"]++
		tt.check(p, tt.acked[:acked])
	})
}

func (tt *torture) check(p *peer, keys []string) {
	for _, key := range keys {
		row, err := mvcc.Get(p.store.Shard(0).Latest(), []byte(key), 0)
		if err != nil || row == nil {
			tt.t.Errorf("%v: acknowledged key %s is not there (%v)\n%s", p.id, key, err, tt.status(0))
			return
		}
	}
}

// move changes the replicas or the leader, as placement would.
func (tt *torture) move(p *peer) {
	if l := tt.leader(0); l != nil {
		p = l
	}
	if p.core == nil || !p.views[0].Leading {
		return
	}
	conf := p.core.groups[0].conf
	voters, learners := nodeIDs(conf.GetVoters()), nodeIDs(conf.GetLearners())
	to := tt.any().id
	switch tt.rng.IntN(3) {
	case 0:
		p.core.TransferLeader(0, to, func(err error) {
			if err == nil {
				tt.happened["transferred"]++
			}
		})
		return
	case 1:
		if !slices.Contains(voters, to) {
			learners = []banyan.NodeID{to}
		}
	case 2:
		for _, id := range learners {
			if len(voters) >= 3 {
				voters = slices.DeleteFunc(voters, func(v banyan.NodeID) bool { return v == to })
			}
			if len(voters)%2 == 0 {
				voters = append(voters, id)
			}
		}
		learners = slices.DeleteFunc(learners, func(l banyan.NodeID) bool { return slices.Contains(voters, l) })
	}
	p.core.Reconfigure(0, voters, learners, func(err error) {
		if err == nil {
			tt.happened["changed"]++
		}
	})
}

// settle lets the world come to rest and looks at what it has become.
func (tt *torture) settle(seed uint64) {
	clear(tt.cut)
	for _, id := range tt.ids() {
		p := tt.nodes[id]
		p.holdDisk, p.holdApply, p.holdSnaps = false, false, false
		if p.core == nil {
			p.restart()
		}
	}
	var leader *peer
	for n := 0; ; n++ {
		tt.pass(500 * time.Millisecond)
		if tt.t.Failed() {
			return
		}
		leader = tt.leader(0)
		if leader != nil && tt.quiet(leader) {
			break
		}
		if n > 40 {
			tt.t.Errorf("seed %d: no leader, or it does not come to rest:\n%s", seed, tt.status(0))
			return
		}
	}
	err := errors.New("not answered")
	leader.core.Read(0, func(e error) { err = e })
	tt.pump()
	if err != nil {
		tt.t.Errorf("the leader cannot read: %v", err)
	}
	tt.check(leader, tt.acked)
	tt.compare(leader)
}

// quiet says whether all replicas have all.
func (tt *torture) quiet(leader *peer) bool {
	g := leader.core.groups[0]
	if joint(g.conf) || g.change != nil {
		return false
	}
	for _, id := range slices.Concat(g.conf.GetVoters(), g.conf.GetLearners()) {
		other := tt.nodes[banyan.NodeID(id)].core.groups[0]
		if other == nil || other.applied != g.applied || other.lead != uint64(leader.id) {
			return false
		}
	}
	return g.applied == g.commit
}

// compare looks whether all replicas hold the same bytes.
func (tt *torture) compare(leader *peer) {
	g := leader.core.groups[0]
	want := tt.rows(leader)
	for _, id := range slices.Concat(g.conf.GetVoters(), g.conf.GetLearners()) {
		if got := tt.rows(tt.nodes[banyan.NodeID(id)]); !maps.Equal(got, want) {
			tt.t.Errorf("replica %d holds other rows than %v:%s\n%s", id, leader.id, difference(want, got), tt.status(0))
		}
	}
}

func (tt *torture) rows(p *peer) map[string]string {
	out := map[string]string{}
	if err := p.store.Shard(0).Latest().Scan(nil, nil, func(k, v []byte) bool {
		out[string(k)] = string(v)
		return true
	}); err != nil {
		tt.t.Error(err)
	}
	return out
}

func difference(want, got map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(want)) {
		if v, ok := got[k]; !ok {
			fmt.Fprintf(&b, "\n  %q is missing", k)
		} else if v != want[k] {
			fmt.Fprintf(&b, "\n  %q is %q, want %q", k, v, want[k])
		}
	}
	for _, k := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[k]; !ok {
			fmt.Fprintf(&b, "\n  %q should not be there", k)
		}
	}
	return b.String()
}
