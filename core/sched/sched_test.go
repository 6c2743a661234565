package sched

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"banyan"

	"github.com/cockroachdb/datadriven"
)

// TestScripts reads snapshots such as
//
//	plan limit=4
//	job pending=3 running=1 per-node=2 on=1,0 needs=1 memory=0
//	node free=2 holds=0 slots=2 spare=0 memory=0
//
// (needs: slots of a task; spare: free memory of memory)
// and shows the plan as "job→node" pairs, both counted from 0.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			limit := 100
			d.MaybeScanArgs(t, "limit", &limit)
			jobs, nodes := parse(t, d.Input)
			var b strings.Builder
			for i, a := range Plan(nil, jobs, nodes, limit) {
				if i > 0 {
					b.WriteByte(' ')
				}
				fmt.Fprintf(&b, "%d→%d", a.Job, a.Node)
			}
			if b.Len() == 0 {
				return "nothing\n"
			}
			return b.String() + "\n"
		})
	})
}

func parse(t *testing.T, input string) (jobs []Job, nodes []Node) {
	for line := range strings.Lines(input) {
		words := strings.Fields(line)
		j, n := Job{Demand: banyan.Resources{Slots: 1}}, Node{}
		for _, w := range words[1:] {
			k, v, _ := strings.Cut(w, "=")
			if k == "on" {
				for _, s := range strings.Split(v, ",") {
					j.OnNode = append(j.OnNode, number(t, s))
				}
				continue
			}
			if words[0] == "job" && k == "memory" {
				j.Demand.Memory = int64(number(t, v))
				continue
			}
			if m := map[string]*int64{"spare": &n.Free.Memory, "memory": &n.Offer.Memory}[k]; m != nil {
				*m = int64(number(t, v))
				continue
			}
			field := map[string]*int{
				"pending": &j.Pending, "running": &j.Running, "per-node": &j.PerNodeMax, "needs": &j.Demand.Slots,
				"free": &n.Free.Slots, "holds": &n.Holds, "slots": &n.Offer.Slots,
			}[k]
			if field == nil {
				t.Fatalf("unknown word %q", w)
			}
			*field = number(t, v)
		}
		if words[0] == "job" {
			jobs = append(jobs, j)
		} else {
			nodes = append(nodes, n)
		}
	}
	return jobs, nodes
}

func number(t *testing.T, s string) (n int) {
	if _, err := fmt.Sscan(s, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

func randomSnapshot(rng *rand.Rand) (jobs []Job, nodes []Node) {
	for range rng.IntN(6) {
		slots := 1 + rng.IntN(8)
		nodes = append(nodes, Node{
			Free: banyan.Resources{Slots: rng.IntN(10), Memory: rng.Int64N(10)}, Holds: rng.IntN(10),
			Offer: banyan.Resources{Slots: slots, Memory: rng.Int64N(20)},
		})
	}
	for range rng.IntN(6) {
		j := Job{Pending: rng.IntN(12), Running: rng.IntN(8), Demand: banyan.Resources{Slots: 1}}
		if rng.IntN(3) == 0 {
			j.Demand = banyan.Resources{Slots: 1 + rng.IntN(4), Memory: rng.Int64N(8)}
		}
		if rng.IntN(2) == 0 {
			j.PerNodeMax = 1 + rng.IntN(3)
			for range nodes {
				j.OnNode = append(j.OnNode, rng.IntN(3))
			}
		}
		jobs = append(jobs, j)
	}
	return jobs, nodes
}

func TestPlansKeepTheirPromises(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 0))
		jobs, nodes := randomSnapshot(rng)
		limit := rng.IntN(40)
		plan := Plan(nil, jobs, nodes, limit)
		if !slices.Equal(plan, Plan(nil, jobs, nodes, limit)) {
			t.Fatalf("seed %d: two plans for one snapshot", seed)
		}
		if err := check(jobs, nodes, limit, plan); err != "" {
			t.Fatalf("seed %d: %s\njobs %+v\nnodes %+v\nlimit %d plan %v", seed, err, jobs, nodes, limit, plan)
		}
	}
}

func check(jobs []Job, nodes []Node, limit int, plan []Assignment) string {
	if len(plan) > limit {
		return "longer than its limit"
	}
	given, taken := make([]int, len(jobs)), make([]banyan.Resources, len(nodes))
	on := make([][]int, len(jobs))
	for j := range jobs {
		on[j] = make([]int, len(nodes))
		copy(on[j], jobs[j].OnNode)
	}
	fits := func(j, n int) bool {
		return given[j] < jobs[j].Pending && jobs[j].Demand.FitsIn(nodes[n].Free.Minus(taken[n])) && (jobs[j].PerNodeMax == 0 || on[j][n] < jobs[j].PerNodeMax)
	}
	// A large task of a job of which nothing runs may have reserved a node.
	reserves := slices.ContainsFunc(jobs, func(j Job) bool { return j.Running == 0 && j.Demand != banyan.Resources{Slots: 1} })
	load := func(n int) float64 { return float64(nodes[n].Holds+taken[n].Slots) / float64(nodes[n].Offer.Slots) }
	for _, a := range plan {
		if !fits(a.Job, a.Node) {
			return fmt.Sprintf("%v goes beyond a bound", a)
		}
		for j := range jobs {
			for n := range nodes {
				if fits(j, n) && !reserves && jobs[j].Running+given[j] < jobs[a.Job].Running+given[a.Job] {
					return fmt.Sprintf("%v is unfair to job %d", a, j)
				}
				if j == a.Job && fits(j, n) && !reserves && load(n) < load(a.Node)-1e-9 {
					return fmt.Sprintf("%v does not spread: node %d is emptier", a, n)
				}
			}
		}
		given[a.Job]++
		taken[a.Node] = taken[a.Node].Plus(jobs[a.Job].Demand)
		on[a.Job][a.Node]++
	}
	if len(plan) == limit {
		return ""
	}
	for j := range jobs {
		for n := range nodes {
			if fits(j, n) && !reserves {
				return fmt.Sprintf("job %d could still use node %d", j, n)
			}
		}
	}
	return ""
}

func BenchmarkPlanOne(b *testing.B) {
	jobs := make([]Job, 20)
	for i := range jobs {
		jobs[i] = Job{Pending: 1000, Running: i, Demand: banyan.Resources{Slots: 1}}
	}
	nodes := make([]Node, 100)
	nodes[50] = Node{Free: banyan.Resources{Slots: 1}, Holds: 3, Offer: banyan.Resources{Slots: 4}}
	var dst []Assignment
	for b.Loop() {
		dst = Plan(dst[:0], jobs, nodes, 1024)
	}
}
