package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// putter writes one key, durable and linearizable.
type putter interface {
	Put(ctx context.Context, key string, value []byte) error
}

// point is what one load run measured.
type point struct {
	rate     float64 // acknowledged writes per second
	p50, p99 time.Duration
	errors   int64
}

// load keeps clients busy for a while: 16-byte keys, 256-byte values, closed loop.
func load(ctx context.Context, p putter, clients int, lasting time.Duration) point {
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var (
		wg     sync.WaitGroup
		failed atomic.Int64
		took   = make([][]time.Duration, clients)
		value  = make([]byte, 256)
	)
	start := time.Now()
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(c), 7))
			for ctx.Err() == nil {
				key := fmt.Sprintf("k%015d", rng.Uint32())
				at := time.Now()
				switch err := p.Put(ctx, key, value); {
				case err == nil:
					took[c] = append(took[c], time.Since(at))
				case ctx.Err() == nil:
					failed.Add(1)
				}
			}
		})
	}
	wg.Wait()
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	return point{
		rate: float64(len(all)) / time.Since(start).Seconds(),
		p50:  quantile(all, 0.5), p99: quantile(all, 0.99), errors: failed.Load(),
	}
}
