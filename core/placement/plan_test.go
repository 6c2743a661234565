package placement

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"banyan"
)

func nodes(n int) []Node {
	var out []Node
	for i := range n {
		out = append(out, Node{ID: banyan.NodeID(i + 1), Alive: true})
	}
	return out
}

func ids(v ...banyan.NodeID) []banyan.NodeID { return v }

// carryOut does what a step says, as the shard's leader would.
func carryOut(t *testing.T, s *Shard, step Step) {
	t.Helper()
	if step.Transfer != 0 {
		if !slices.Contains(s.Voters, step.Transfer) {
			t.Fatalf("shard %d: leadership given to %v, no voter of %v", s.ID, step.Transfer, s.Voters)
		}
		s.Leader = step.Transfer
		return
	}
	if len(step.Voters) == 2 && !slices.Equal(step.Voters, s.Voters) && (len(s.Voters) != 1 || step.Why != "its only voter's node is leaving") {
		t.Fatalf("shard %d goes through two voters", s.ID)
	}
	if len(step.Voters) > 2 && len(step.Voters)%2 == 0 {
		t.Fatalf("shard %d goes to %d voters", s.ID, len(step.Voters))
	}
	for _, v := range step.Voters {
		if !slices.Contains(s.Voters, v) {
			if b, ok := s.Behind[v]; !slices.Contains(s.Learners, v) || !ok || b > CaughtUp {
				t.Fatalf("shard %d: %v becomes a voter before it caught up", s.ID, v)
			}
		}
	}
	if !slices.Contains(step.Voters, s.Leader) {
		t.Fatalf("shard %d: its leader %v is removed by %+v", s.ID, s.Leader, step)
	}
	s.Voters, s.Learners = step.Voters, step.Learners
	s.Behind = map[banyan.NodeID]uint64{}
	for _, l := range s.Learners {
		s.Behind[l] = 0
	}
}

// settle plans and carries out until nothing is left to do.
func settle(t *testing.T, ns []Node, shards []Shard, policy Policy) {
	t.Helper()
	for range 200 {
		for i := range shards {
			shards[i].LedMs = policy.LeadRestMs
		}
		steps := Plan(ns, shards, policy)
		if len(steps) == 0 {
			return
		}
		for _, step := range steps {
			i := slices.IndexFunc(shards, func(s Shard) bool { return s.ID == step.Shard })
			carryOut(t, &shards[i], step)
		}
	}
	t.Fatalf("no end of steps: %+v", Plan(ns, shards, policy))
}

func newShards(n int) []Shard {
	var out []Shard
	for i := range n {
		out = append(out, Shard{ID: banyan.ShardID(i), Leader: 1, Voters: ids(1)})
	}
	return out
}

func TestOneVoterUntilThreeNodes(t *testing.T) {
	shards := newShards(9)
	for n := 1; n <= 2; n++ {
		settle(t, nodes(n), shards, DefaultPolicy())
		for _, s := range shards {
			if len(s.Voters) != 1 {
				t.Fatalf("%d nodes: shard %d has voters %v", n, s.ID, s.Voters)
			}
		}
	}
	settle(t, nodes(3), shards, DefaultPolicy())
	leads := map[banyan.NodeID]int{}
	for _, s := range shards {
		if !slices.Equal(s.Voters, ids(1, 2, 3)) {
			t.Fatalf("shard %d has voters %v", s.ID, s.Voters)
		}
		leads[s.Leader]++
	}
	for n, c := range leads {
		if c != 3 {
			t.Errorf("%v leads %d of 9 shards, want 3", n, c)
		}
	}
}

// TestALoneVoterHasACopy on another disk, which is not thrown away because its
// node is away for a while, and gives way to what is better.
func TestALoneVoterHasACopy(t *testing.T) {
	const grace = 5 * 60 * 1000
	n1 := Node{ID: 1, Alive: true}
	away := func(ms int64) Node { return Node{ID: 2, DeadMs: ms} }
	for name, c := range map[string]struct {
		others   []Node
		policy   int
		learners []banyan.NodeID
		want     []banyan.NodeID // voters, then learners
	}{
		"nobody else":                  {nil, 3, nil, ids(1)},
		"one copy":                     {nodes(2)[1:], 3, nil, ids(1, 2)},
		"one for any policy of more":   {nodes(2)[1:], 7, nil, ids(1, 2)},
		"none when one voter is meant": {nodes(2)[1:], 1, ids(2), ids(1)},
		"away":                         {[]Node{away(grace - 1)}, 3, ids(2), ids(1, 2)},
		"draining":                     {[]Node{{ID: 2, Alive: true, Draining: true}}, 3, ids(2), ids(1, 2)},
		"leaving":                      {[]Node{{ID: 2, Alive: true, Leaving: true}}, 3, ids(2), ids(1)},
		"away too long":                {[]Node{away(grace), {ID: 3, Alive: true}}, 3, ids(2), ids(1, 3)},
		"away too long, no other":      {[]Node{away(grace)}, 3, ids(2), ids(1, 2)},
		"away, and another joins":      {[]Node{away(1), {ID: 3, Alive: true}}, 3, ids(2), ids(1, 2, 3)}, // case N6
		"away too long, copied since":  {[]Node{away(grace), {ID: 3, Alive: true}}, 3, ids(2, 3), ids(1, 3)},
		"one too many":                 {[]Node{{ID: 2, Alive: true}, {ID: 3, Alive: true, Draining: true}}, 3, ids(2, 3), ids(1, 2)},
	} {
		shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1), Learners: c.learners}}
		settle(t, append([]Node{n1}, c.others...), shards, Policy{Voters: c.policy, DeadAfterMs: grace})
		if got := replicasOf(shards[0]); len(shards[0].Voters) != 1 || !slices.Equal(got, c.want) {
			t.Errorf("%s: voters %v, learners %v; want %v in all", name, shards[0].Voters, shards[0].Learners, c.want)
		}
	}
}

func TestGrowthDoesNotWaitForACopyThatIsAway(t *testing.T) {
	ns := nodes(4)
	ns[1] = Node{ID: 2, DeadMs: 1}
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1), Learners: ids(2)}}
	settle(t, ns, shards, DefaultPolicy())
	if !slices.Equal(shards[0].Voters, ids(1, 3, 4)) || len(shards[0].Learners) > 0 {
		t.Errorf("voters %v, learners %v", shards[0].Voters, shards[0].Learners)
	}
}

func TestLearnersAreAwaited(t *testing.T) {
	s := Shard{ID: 1, Leader: 1, Voters: ids(1), Learners: ids(2, 3), Behind: map[banyan.NodeID]uint64{2: 0, 3: CaughtUp + 1}}
	if steps := Plan(nodes(3), []Shard{s}, DefaultPolicy()); len(steps) != 0 {
		t.Fatalf("steps %+v before node 3 caught up", steps)
	}
	s.Behind[3] = CaughtUp
	steps := Plan(nodes(3), []Shard{s}, DefaultPolicy())
	if len(steps) != 1 || !slices.Equal(steps[0].Voters, ids(1, 2, 3)) || len(steps[0].Learners) != 0 {
		t.Fatalf("steps %+v, want one change to voters 1 2 3", steps)
	}
}

func TestADeadVoterIsReplacedAfterTheGrace(t *testing.T) {
	ns := nodes(4)
	ns[2].Alive, ns[2].DeadMs = false, DefaultPolicy().DeadAfterMs-1
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}}
	if steps := Plan(ns, shards, DefaultPolicy()); len(steps) != 0 {
		t.Fatalf("steps %+v within the grace period", steps)
	}
	ns[2].DeadMs++
	settle(t, ns, shards, DefaultPolicy())
	if !slices.Equal(shards[0].Voters, ids(1, 2, 4)) {
		t.Fatalf("voters %v, want n3 replaced by n4", shards[0].Voters)
	}
}

func TestADeadVoterStaysWithoutASpare(t *testing.T) {
	ns := nodes(3)
	ns[2].Alive, ns[2].DeadMs = false, 1<<40
	if steps := Plan(ns, []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}}, DefaultPolicy()); len(steps) != 0 {
		t.Fatalf("steps %+v: going to two voters helps nobody", steps)
	}
}

func TestDrainMovesLeadersAndLeavingReplicasToo(t *testing.T) {
	ns := nodes(3)
	ns[0].Draining = true
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}, {ID: 2, Leader: 1, Voters: ids(1, 2, 3)}}
	settle(t, ns, shards, DefaultPolicy())
	for _, s := range shards {
		if s.Leader == 1 || !slices.Contains(s.Voters, 1) {
			t.Errorf("shard %+v: n1 is drained, to be stopped for a while", s)
		}
	}
	ns = nodes(4)
	ns[0].Leaving = true
	settle(t, ns, shards, DefaultPolicy())
	for _, s := range shards {
		if s.Leader == 1 || !slices.Equal(s.Voters, ids(2, 3, 4)) {
			t.Errorf("shard %+v still needs n1", s)
		}
	}
}

// TestAllVotersLeave found its case by simulation: no voter is left to which
// leadership could move first.
func TestAllVotersLeave(t *testing.T) {
	for _, voters := range [][]banyan.NodeID{ids(1), ids(1, 2), ids(1, 2, 3)} {
		ns := nodes(6)
		for i := range voters {
			ns[i].Leaving = true
		}
		shards := []Shard{{Leader: 1, Voters: voters}}
		settle(t, ns, shards, DefaultPolicy())
		if got := shards[0].Voters; !slices.Equal(got, ids(4, 5, 6)) && len(voters) == 3 || len(got) != 3 || slices.ContainsFunc(voters, func(v banyan.NodeID) bool { return slices.Contains(got, v) }) {
			t.Errorf("%v leave: %v vote", voters, got)
		}
	}
}

// TestGrowAndShrink goes 1 → 3 → 5 → 7 nodes and back, node by node; carryOut
// checks that no shard goes through two voters but at the very end.
func TestGrowAndShrink(t *testing.T) {
	policy := Policy{Voters: 5, DeadAfterMs: DefaultPolicy().DeadAfterMs}
	ns, shards := nodes(1), newShards(9)
	check := func(want int) {
		t.Helper()
		settle(t, ns, shards, policy)
		held, led := map[banyan.NodeID]int{}, map[banyan.NodeID]int{}
		for _, s := range shards {
			copies := 0
			if len(ns) == 2 {
				copies = 1
			}
			if len(s.Voters) != want || len(s.Learners) != copies {
				t.Fatalf("%d nodes: shard %d has voters %v, learners %v; want %d and %d", len(ns), s.ID, s.Voters, s.Learners, want, copies)
			}
			led[s.Leader]++
			for _, v := range s.Voters {
				held[v]++
			}
		}
		if want > 1 && (spread(ns, held) > 1 || spread(ns, led) > 1) {
			t.Errorf("%d nodes: replicas %v, leaders %v", len(ns), held, led)
		}
	}
	voters := []int{0, 1, 1, 3, 3, 5, 5, 5}
	for n := 1; n <= 7; n++ {
		ns = nodes(n)
		check(voters[n])
	}
	for n := 6; n >= 1; n-- {
		ns[n].Leaving = true
		settle(t, ns, shards, policy)
		for _, s := range shards {
			if slices.Contains(replicasOf(s), ns[n].ID) {
				t.Fatalf("shard %+v still needs %v", s, ns[n].ID)
			}
		}
		ns = ns[:n]
		check(voters[n])
	}
}

// spread is the difference between the node that has most and the one that has
// least.
func spread(ns []Node, count map[banyan.NodeID]int) int {
	least, most := count[ns[0].ID], 0
	for _, n := range ns {
		if n.Alive && !n.Draining && !n.Leaving {
			least, most = min(least, count[n.ID]), max(most, count[n.ID])
		}
	}
	return most - least
}

func TestFiveVotersBecomeThreeByPolicy(t *testing.T) {
	shards := []Shard{{ID: 1, Leader: 4, Voters: ids(1, 2, 3, 4, 5)}}
	ns := nodes(5)
	ns[1].Alive, ns[1].DeadMs = false, 1
	settle(t, ns, shards, DefaultPolicy())
	if v := shards[0].Voters; len(v) != 3 || slices.Contains(v, 2) || !slices.Contains(v, 4) {
		t.Errorf("voters %v: want three, the leader among them and not the silent one", v)
	}
}

func TestDeadVotersWithoutSparesLeaveThree(t *testing.T) {
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3, 4, 5)}}
	ns := nodes(5)
	for i := 3; i < 5; i++ {
		ns[i].Alive, ns[i].DeadMs = false, 1<<40
	}
	settle(t, ns, shards, Policy{Voters: 5, DeadAfterMs: 1000})
	if v := shards[0].Voters; !slices.Equal(v, ids(1, 2, 3)) {
		t.Errorf("voters %v: of five with two dead, the next death would stop the shard", v)
	}
}

func TestReplicasMoveToANewZone(t *testing.T) {
	ns := nodes(4)
	for i, z := range []string{"a", "a", "b", "c"} {
		ns[i].Zone = z
	}
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}}
	settle(t, ns, shards, DefaultPolicy())
	if !slices.Equal(shards[0].Voters, ids(1, 3, 4)) {
		t.Errorf("voters %v, want one in each zone", shards[0].Voters)
	}
}

func TestLeadersAreBalancedByLoad(t *testing.T) {
	var shards []Shard
	for i, load := range []uint64{900, 10, 10, 10, 10, 10, 300, 300, 300} {
		shards = append(shards, Shard{ID: banyan.ShardID(i), Leader: banyan.NodeID(i/3 + 1), Voters: ids(1, 2, 3), Load: load})
	}
	settle(t, nodes(3), shards, DefaultPolicy())
	sum := map[banyan.NodeID]uint64{}
	for _, s := range shards {
		sum[s.Leader] += s.Load
	}
	for n, load := range sum {
		if load > 950 {
			t.Errorf("%v leads shards with %d changes a second, of %v", n, load, sum)
		}
	}
	for i := range shards { // a tenth more or less is no reason to move
		shards[i].Load += shards[i].Load / 10 * uint64(i%2)
	}
	if steps := Plan(nodes(3), shards, DefaultPolicy()); len(steps) != 0 {
		t.Errorf("steps %+v for loads that waver", steps)
	}
}

func TestReplicasSpreadOverZones(t *testing.T) {
	ns := nodes(5)
	for i, z := range []string{"a", "a", "a", "b", "c"} {
		ns[i].Zone = z
	}
	shards := newShards(1)
	settle(t, ns, shards, DefaultPolicy())
	if !slices.Equal(shards[0].Voters, ids(1, 4, 5)) {
		t.Errorf("voters %v, want one in each zone", shards[0].Voters)
	}
}

// TestAnyStateSettles walks random clusters through joins, deaths and drains:
// planning always ends, and carryOut checks each step on the way.
func TestAnyStateSettles(t *testing.T) {
	for seed := range uint64(300) {
		t.Run(fmt.Sprint("seed", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 1))
			shards := newShards(1 + rng.IntN(8))
			ns := nodes(1)
			for range 12 {
				switch k := rng.IntN(len(ns)); {
				case rng.IntN(2) == 0 && len(ns) < 8:
					ns = append(ns, Node{ID: banyan.NodeID(len(ns) + 1), Alive: true, Zone: string(rune('a' + rng.IntN(3)))})
				case rng.IntN(3) == 0:
					ns[k].Draining = !ns[k].Draining
				case rng.IntN(3) == 0:
					ns[k].Leaving = !ns[k].Leaving
				case leadsNothing(shards, ns[k].ID):
					ns[k].Alive = !ns[k].Alive
					ns[k].DeadMs = 0
					if !ns[k].Alive {
						ns[k].DeadMs = rng.Int64N(2 * DefaultPolicy().DeadAfterMs)
					}
				}
				settle(t, ns, shards, Policy{Voters: 1 + 2*rng.IntN(3), DeadAfterMs: DefaultPolicy().DeadAfterMs})
			}
		})
	}
}

func leadsNothing(shards []Shard, n banyan.NodeID) bool {
	return !slices.ContainsFunc(shards, func(s Shard) bool { return s.Leader == n })
}
