package main

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

// benchGrowth grows a cluster from one node to three to five and replaces a
// node, under a steady load that leaves the machine room: what clients see
// before, during and after, and how fast replicas catch up.
func benchGrowth(ctx context.Context, args []string) error {
	rate, keys := 100, 200_000
	err := parse("growth", args, func(fs *flag.FlagSet) {
		fs.IntVar(&rate, "rate", rate, "puts a second")
		fs.IntVar(&keys, "keys", keys, "keys of 256 bytes that are there before")
	})
	if err != nil {
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
	if err := fill(ctx, c, keys); err != nil {
		return err
	}
	fmt.Printf("%d puts/s of 256 bytes, %d keys there before (%d MB), all nodes on one machine\n\n", rate, keys, keys*rowBytes/1e6)
	fmt.Println("| | p50 / p99 before | p50 / p99 during | p99 during : before | longest | took | failed |\n|---|--:|--:|--:|--:|--:|--:|")
	g := growth{own: own, c: c, load: startPaced(c, rate)}
	defer g.load.stop()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"1 → 3 nodes, 1 → 3 voters", func(ctx context.Context) error { return g.grow(ctx, 3, 3) }},
		{"3 → 5 nodes, 3 → 5 voters", func(ctx context.Context) error { return g.grow(ctx, 5, 5) }},
		{"a node killed, another rebuilt in its place", g.replace},
	} {
		if err := g.measure(ctx, step.name, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// rowBytes is about what one key of fill takes in a snapshot.
const rowBytes = 256 + 16

// fill writes keys in the background of nothing else.
func fill(ctx context.Context, c *client.Client, keys int) error {
	value := make([]byte, 256)
	var wg sync.WaitGroup
	const writers = 64
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			for i := w; i < keys; i += writers {
				if _, err := c.KV().Put(ctx, fmt.Appendf(nil, "f%015d", i), value); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// paced is a load of so many puts a second, whatever each takes.
type paced struct {
	mu     sync.Mutex
	took   []time.Duration
	failed int
	stop   context.CancelFunc
}

const pacedMax = 1024 // puts under way; then the clock waits

func startPaced(c *client.Client, rate int) *paced {
	ctx, stop := context.WithCancel(context.Background())
	p := &paced{stop: stop}
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(rate))
		defer tick.Stop()
		places := make(chan struct{}, pacedMax)
		value := make([]byte, 256)
		for ctx.Err() == nil {
			<-tick.C
			places <- struct{}{}
			go func() {
				defer func() { <-places }()
				at := time.Now()
				_, err := c.KV().Put(ctx, fmt.Appendf(nil, "k%015d", rand.Uint32()), value)
				p.mu.Lock()
				defer p.mu.Unlock()
				switch {
				case err == nil:
					p.took = append(p.took, time.Since(at))
				case ctx.Err() == nil:
					p.failed++
				}
			}()
		}
	}()
	return p
}

// take gives what was measured since the last take.
func (p *paced) take() (took []time.Duration, failed int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	took, failed = p.took, p.failed
	p.took, p.failed = nil, 0
	return took, failed
}

type growth struct {
	own  *nodes
	c    *client.Client
	load *paced
}

// calm is how long is measured before each step.
const calm = 10 * time.Second

// settleMax is how long replicas of this little may take to be built.
const settleMax = 2 * time.Minute

func (g *growth) measure(ctx context.Context, name string, do func(context.Context) error) error {
	time.Sleep(calm / 2) // what came before is over
	g.load.take()
	time.Sleep(calm)
	before, _ := g.load.take()
	start := time.Now()
	if err := do(ctx); err != nil {
		return err
	}
	lasted := time.Since(start)
	during, failed := g.load.take()
	b, d := quantile(before, 0.99), quantile(during, 0.99)
	fmt.Printf("| %s | %.1f / %.1f ms | %.1f / %.1f ms | %.1f | %.0f ms | %.1f s | %d |\n", name,
		ms(quantile(before, 0.5)), ms(b), ms(quantile(during, 0.5)), ms(d), float64(d)/float64(b), ms(quantile(during, 1)), lasted.Seconds(), failed)
	return nil
}

// grow adds nodes until there are n, and waits for the voters.
func (g *growth) grow(ctx context.Context, n, voters int) error {
	if _, err := g.c.Cluster().ChangeSettings(ctx, &banyanv1.Settings{Voters: uint32(voters), DeadAfterMs: 5000}); err != nil {
		return err
	}
	for len(g.own.procs) < n { // one after the other, as they share the cores that are measured
		if err := g.own.join(ctx); err != nil {
			return err
		}
		here := func(s *banyanv1.StatusResponse) bool { return len(s.Nodes) == len(g.own.procs) }
		if err := g.own.wait(ctx, settleMax, here); err != nil {
			return err
		}
	}
	return g.own.settle(ctx, voters, 0, settleMax)
}

// replace kills a node for ever and waits until a new one has its replicas.
func (g *growth) replace(ctx context.Context) error {
	victim := len(g.own.procs) - 1
	gone := g.own.ids[victim]
	g.own.kill(victim)
	if err := g.own.join(ctx); err != nil {
		return err
	}
	return g.own.settle(ctx, 5, gone, settleMax)
}
