package main

import (
	"context"
	"encoding/binary"
	"flag"
	"fmt"
	"sync/atomic"
	"time"

	banyanv1 "banyan/api/banyan/v1"
)

// benchCatchUp fills one shard with gigabytes, writes on at a steady rate and
// has a second node take its copy meanwhile: how long until that has caught up.
func benchCatchUp(ctx context.Context, args []string) error {
	megabytes, rate := 2000, 5
	err := parse("catchup", args, func(fs *flag.FlagSet) {
		fs.IntVar(&megabytes, "mb", megabytes, "MB in the shard before")
		fs.IntVar(&rate, "rate", rate, "MB a second that are written meanwhile")
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
	value := make([]byte, 100_000)
	var next atomic.Int64
	put := func(ctx context.Context) error {
		n := next.Add(1)
		for i := range len(value) / 8 { // what does not compress
			x := uint64(n)*0x9e3779b97f4a7c15 + uint64(i)*0xbf58476d1ce4e5b9
			x ^= x >> 29
			binary.LittleEndian.PutUint64(value[8*i:], x)
		}
		_, err := c.KV().Put(ctx, fmt.Appendf(nil, "big/%d", n), value)
		return err
	}
	start := time.Now()
	for range megabytes * 10 {
		if err := put(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("%d MB in one shard after %.0f s\n", megabytes, time.Since(start).Seconds())

	writing, stop := context.WithCancel(ctx)
	defer stop()
	failed := make(chan error, 1)
	go func() {
		tick := time.NewTicker(time.Second / time.Duration(10*rate))
		defer tick.Stop()
		for writing.Err() == nil {
			<-tick.C
			if err := put(writing); err != nil && writing.Err() == nil {
				failed <- err
				return
			}
		}
	}()
	began := next.Load()
	start = time.Now()
	if err := own.join(ctx); err != nil {
		return err
	}
	here := func(s *banyanv1.StatusResponse) bool {
		for _, sh := range s.Shards {
			behind, known := sh.Behind[2]
			if len(sh.Learners) == 0 || !known || behind > 50 {
				return false
			}
		}
		return true
	}
	if err := own.wait(ctx, 10*time.Minute, here); err != nil {
		return err
	}
	lasted := time.Since(start)
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Printf("caught up %.0f s after it was started, under %.1f MB/s of writes\n", lasted.Seconds(), float64(next.Load()-began)/10/lasted.Seconds())
	return nil
}
