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
	if len(step.Voters) == 2 && len(s.Voters) == 1 {
		t.Fatalf("shard %d grows through two voters", s.ID)
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

func TestDrainMovesLeadersThenReplicas(t *testing.T) {
	ns := nodes(4)
	ns[0].Draining = true
	shards := []Shard{{ID: 1, Leader: 1, Voters: ids(1, 2, 3)}, {ID: 2, Leader: 1, Voters: ids(1, 2, 3)}}
	settle(t, ns, shards, DefaultPolicy())
	for _, s := range shards {
		if s.Leader == 1 || !slices.Equal(s.Voters, ids(2, 3, 4)) {
			t.Errorf("shard %+v still needs n1", s)
		}
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
				case rng.IntN(2) == 0:
					ns[k].Draining = !ns[k].Draining
				case leadsNothing(shards, ns[k].ID):
					ns[k].Alive = !ns[k].Alive
					ns[k].DeadMs = 0
					if !ns[k].Alive {
						ns[k].DeadMs = rng.Int64N(2 * DefaultPolicy().DeadAfterMs)
					}
				}
				settle(t, ns, shards, DefaultPolicy())
			}
		})
	}
}

func leadsNothing(shards []Shard, n banyan.NodeID) bool {
	return !slices.ContainsFunc(shards, func(s Shard) bool { return s.Leader == n })
}
