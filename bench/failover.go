package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"slices"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

// benchFailover kills the node that leads everything and runs tasks, again and
// again: how long until a write succeeds and until the next task completes,
// and is every result there exactly once. Before each kill it drains the node
// that led everything until then, under load: how long did a shard take no write.
func benchFailover(ctx context.Context, args []string) error {
	kills := 50
	if err := parse("failover", args, func(fs *flag.FlagSet) { fs.IntVar(&kills, "kills", kills, "kills") }); err != nil {
		return err
	}
	own, err := startNodes(ctx, 3)
	if err != nil {
		return err
	}
	defer own.Close()
	c, err := own.client()
	if err != nil {
		return err
	}
	var writes, tasks, handovers []time.Duration
	var total tally
	for i := range kills {
		gap, err := handOver(ctx, own, c, i%3)
		if err != nil {
			return fmt.Errorf("handover %d: %w", i+1, err)
		}
		handovers = append(handovers, gap)
		w, t, one, err := killOnce(ctx, own, c, i%3)
		if err != nil {
			return fmt.Errorf("kill %d: %w", i+1, err)
		}
		writes, tasks = append(writes, w), append(tasks, t)
		total.lost += one.lost
		total.twice += one.twice
		total.repeated += one.repeated
		total.led += one.led
	}
	fmt.Printf("kill -9 of the node that leads every shard and runs tasks, %d times, three nodes on loopback\n\n", kills)
	fmt.Println("| | median | p90 | p99 | most |\n|---|--:|--:|--:|--:|")
	for _, row := range []struct {
		name string
		took []time.Duration
	}{{"until every shard has taken a write", writes}, {"until a task that ended after is recorded", tasks}, {"planned (banyan drain): the longest a shard took no write", handovers}} {
		fmt.Printf("| %s | %.0f ms | %.0f ms | %.0f ms | %.0f ms |\n", row.name, ms(median(row.took)), ms(quantile(row.took, 0.9)), ms(quantile(row.took, 0.99)), ms(quantile(row.took, 1)))
	}
	fmt.Printf("\nresults lost: %d, results recorded twice: %d, attempts repeated: %d; shards led by the node when it was killed: %.1f of 9 in the mean\n",
		total.lost, total.twice, total.repeated, float64(total.led)/float64(kills))
	return nil
}

type tally struct{ lost, twice, repeated, led int }

// failoverTasks is how many tasks the job of one kill has.
const failoverTasks = 120

func killOnce(ctx context.Context, own *nodes, c *client.Client, victim int) (write, task time.Duration, sum tally, err error) {
	if err := gatherLeaders(ctx, own, victim); err != nil {
		return 0, 0, sum, err
	}
	id, err := submitJob(ctx, c, []string{"sh", "-c", "sleep 0.05"}, failoverTasks) // the input becomes $0
	if err != nil {
		return 0, 0, sum, err
	}
	var (
		wg     sync.WaitGroup
		killed = make(chan time.Time, 1)
		seen   = map[uint32]int{}
		at     time.Time
	)
	var writeErr error
	wg.Go(func() {
		when, ok := <-killed
		if !ok {
			return
		}
		write, writeErr = writeEverywhere(ctx, c, when)
	})
	err = c.Jobs().Follow(ctx, id, 0, func(m *banyanv1.FollowResponse) error {
		for _, r := range m.Results {
			seen[r.Task]++
		}
		if task == 0 && !at.IsZero() && slices.ContainsFunc(m.Results, endedAfter(at)) {
			task = time.Since(at)
		}
		if len(seen) >= failoverTasks/4 && at.IsZero() {
			if sum.led, err = led(ctx, c, own.ids[victim]); err != nil {
				return err
			}
			at = time.Now()
			own.kill(victim)
			killed <- at
		}
		if m.Progress != nil {
			sum.repeated = int(m.Progress.Repeated)
		}
		return nil
	})
	close(killed)
	wg.Wait()
	for _, n := range seen {
		sum.twice += n - 1
	}
	sum.lost = failoverTasks - len(seen)
	if err == nil {
		err = writeErr
	}
	if err == nil {
		err = own.restart(victim)
	}
	return write, task, sum, err
}

// endedAfter tells results of tasks that ended after a moment from those that
// were only still on their way.
func endedAfter(at time.Time) func(*banyanv1.TaskResult) bool {
	return func(r *banyanv1.TaskResult) bool { return r.StartMs+r.DurationUs/1000 > at.UnixMilli() }
}

// led counts the shards that a node leads.
func led(ctx context.Context, c *client.Client, node banyan.NodeID) (n int, err error) {
	m, err := c.Cluster().Map(ctx)
	for _, s := range m.GetShards() {
		if banyan.NodeID(s.Leader) == node {
			n++
		}
	}
	return n, err
}

// writeEverywhere puts a key into every data shard and tells how long after
// the kill the last of them succeeded.
func writeEverywhere(ctx context.Context, c *client.Client, killed time.Time) (time.Duration, error) {
	for _, key := range shardKeys() {
		if _, err := c.KV().Put(ctx, key, []byte("x")); err != nil {
			return 0, err
		}
	}
	return time.Since(killed), nil
}

// handOver drains the node that leads everything while each shard is written
// to, and tells the longest time that one of them took no write.
func handOver(ctx context.Context, own *nodes, c *client.Client, i int) (time.Duration, error) {
	if err := gatherLeaders(ctx, own, i); err != nil {
		return 0, err
	}
	stop := make(chan struct{})
	gaps, errs := make([]time.Duration, dataShards), make([]error, dataShards)
	var wg, warm sync.WaitGroup
	for shard, key := range shardKeys() {
		warm.Add(1)
		wg.Go(func() { gaps[shard], errs[shard] = longestGap(ctx, c, key, warm.Done, stop) })
	}
	warm.Wait()
	_, err := own.output(ctx, "drain", own.ids[i].String())
	if err == nil {
		err = own.wait(ctx, startMax, func(s *banyanv1.StatusResponse) bool {
			return every(s, func(sh *banyanv1.Shard) bool { return sh.Leader != 0 && sh.Leader != uint64(own.ids[i]) })
		})
	}
	close(stop)
	wg.Wait()
	if err = errors.Join(append(errs, err)...); err == nil {
		_, err = own.output(ctx, "drain", "--undo", own.ids[i].String())
	}
	return slices.Max(gaps), err
}

// longestGap writes a key again and again until stop, and tells the longest
// time between two writes that succeeded. It calls warm after the first few.
func longestGap(ctx context.Context, c *client.Client, key []byte, warm func(), stop <-chan struct{}) (longest time.Duration, err error) {
	const warmWrites = 10
	last := time.Now()
	for n := 0; err == nil; n++ {
		select {
		case <-stop:
			return longest, nil
		default:
		}
		_, err = c.KV().Put(ctx, key, []byte("x"))
		now := time.Now()
		if n == warmWrites {
			warm()
		} else if n > warmWrites {
			longest = max(longest, now.Sub(last))
		}
		last = now
	}
	return longest, err
}

// dataShards is how many there are when nothing else is asked for.
const dataShards = 8

// shardKeys gives a key of each data shard.
func shardKeys() [][]byte {
	keys := make([][]byte, dataShards)
	for i, left := 0, dataShards; left > 0; i++ {
		key := []byte(fmt.Sprintf("probe%d", i))
		if shard := banyan.SlotOf(key) * dataShards / banyan.Slots; keys[shard] == nil {
			keys[shard] = key
			left--
		}
	}
	return keys
}

// gatherLeaders makes one node lead every shard: the others are drained for a moment.
func gatherLeaders(ctx context.Context, own *nodes, i int) error {
	if err := own.wait(ctx, startMax, func(s *banyanv1.StatusResponse) bool {
		for _, n := range s.Nodes {
			if n.State != "alive" && n.State != "draining" {
				return false
			}
		}
		return len(s.Nodes) == 3
	}); err != nil {
		return err
	}
	for k := range own.ids {
		if k != i {
			if _, err := own.output(ctx, "drain", own.ids[k].String()); err != nil {
				return err
			}
		}
	}
	err := own.wait(ctx, startMax, func(s *banyanv1.StatusResponse) bool {
		return every(s, func(sh *banyanv1.Shard) bool { return sh.Leader == uint64(own.ids[i]) })
	})
	if err != nil {
		return err
	}
	for k := range own.ids {
		if k != i {
			if _, err := own.output(ctx, "drain", "--undo", own.ids[k].String()); err != nil {
				return err
			}
		}
	}
	return nil
}
