package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

// benchSubmit hands 20,000 tasks to one node: how fast are they accepted, how
// much memory do they take, how fast do they run.
func benchSubmit(ctx context.Context, args []string) error {
	n, rounds := 20_000, 3
	if err := parse("submit", args, func(fs *flag.FlagSet) {
		fs.IntVar(&n, "n", n, "tasks")
		fs.IntVar(&rounds, "rounds", rounds, "rounds")
	}); err != nil {
		return err
	}
	own, err := startNodes(ctx, 1)
	if err != nil {
		return err
	}
	defer own.Close()
	c, err := own.client()
	if err != nil {
		return err
	}
	var accepted []time.Duration
	var rates []float64
	var memory int64
	for range rounds {
		start := time.Now()
		id, err := submitJob(ctx, c, []string{"/bin/true"}, n)
		if err != nil {
			return err
		}
		accepted = append(accepted, time.Since(start))
		err = c.Jobs().Follow(ctx, id, 0, func(*banyanv1.FollowResponse) error {
			return nil
		})
		if err != nil {
			return err
		}
		rates = append(rates, float64(n)/time.Since(start).Seconds())
		s, err := c.Cluster().Status(ctx)
		if err != nil {
			return err
		}
		for _, node := range s.Nodes {
			memory = max(memory, node.MemoryBytes)
		}
	}
	fmt.Printf("%d tasks of /bin/true on one node, %d rounds\n\n", n, rounds)
	fmt.Printf("| accepted in (median) | resident memory of the node afterwards (most) | tasks/s to the end (median) |\n|--:|--:|--:|\n| %.0f ms | %d MiB | %.0f |\n", ms(median(accepted)), memory>>20, median(rates))
	return nil
}

func submitJob(ctx context.Context, c *client.Client, command []string, n int) (banyan.JobID, error) {
	id := banyan.NewJobID(time.Now().UnixMilli(), rand.Uint32())
	spec := &banyanv1.JobSpec{Name: "bench", Command: banyanv1.NewCommand(command...)}
	_, err := c.Jobs().Submit(ctx, id, spec, func(yield func(*banyanv1.Input) bool) {
		for i := range n {
			if !yield(banyanv1.NewInput(fmt.Sprint(i))) {
				return
			}
		}
	})
	return id, err
}
