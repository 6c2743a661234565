package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// keyed is a replicated store of keys: puts are durable, both are linearizable.
type keyed interface {
	Put(ctx context.Context, key string, value []byte) error
	Get(ctx context.Context, key string) error
	// Processes are those that serve, whose CPU counts.
	Processes() []*exec.Cmd
}

// point is what one load run measured.
type point struct {
	rate        float64 // acknowledged operations per second
	p50, p99    time.Duration
	errors      int64
	lastError   error
	nodes, self time.Duration // CPU of one operation: of all serving processes, of this one
}

// readKeys is how many keys the reads go over; written before.
const readKeys = 4096

// load keeps clients busy with a store of keys for a while: 16-byte keys,
// 256-byte values, closed loop.
func load(ctx context.Context, k keyed, read bool, clients int, lasting time.Duration) point {
	value := make([]byte, 256)
	return repeat(ctx, k.Processes(), clients, lasting, func(ctx context.Context, _ int, n uint32) error {
		if read {
			return k.Get(ctx, fmt.Sprintf("k%015d", n%readKeys))
		}
		return k.Put(ctx, fmt.Sprintf("k%015d", n), value)
	})
}

// repeat has each of some clients do the same again and again for a while, with
// a number at random. procs are those that serve.
func repeat(ctx context.Context, procs []*exec.Cmd, clients int, lasting time.Duration, do func(ctx context.Context, client int, n uint32) error) point {
	ctx, cancel := context.WithTimeout(ctx, lasting)
	defer cancel()
	var (
		wg     sync.WaitGroup
		failed atomic.Int64
		last   atomic.Pointer[error]
		took   = make([][]time.Duration, clients)
	)
	start, nodes, self := time.Now(), cpuOf(procs), cpuOfSelf()
	for c := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(rand.Uint64(), uint64(c)))
			for ctx.Err() == nil {
				at := time.Now()
				err := do(ctx, c, rng.Uint32())
				switch {
				case err == nil:
					took[c] = append(took[c], time.Since(at))
				case ctx.Err() == nil:
					failed.Add(1)
					last.Store(&err)
				}
			}
		})
	}
	wg.Wait()
	var all []time.Duration
	for _, t := range took {
		all = append(all, t...)
	}
	p := point{
		rate: float64(len(all)) / time.Since(start).Seconds(),
		p50:  quantile(all, 0.5), p99: quantile(all, 0.99), errors: failed.Load(),
	}
	if n := time.Duration(len(all)); n > 0 {
		p.nodes, p.self = (cpuOf(procs)-nodes)/n, (cpuOfSelf()-self)/n
	}
	if err := last.Load(); err != nil {
		p.lastError = *err
	}
	return p
}

// cpuOf is the CPU time processes have used so far.
func cpuOf(procs []*exec.Cmd) (sum time.Duration) {
	for _, p := range procs {
		sum += threadsOf(p.Process.Pid)
	}
	return sum
}

// threadsOf sums over the threads of a process; those that ended are missing,
// which Go's are not in a run of seconds.
func threadsOf(pid int) (sum time.Duration) {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return 0
	}
	for _, t := range tasks {
		var on int64
		if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, t.Name())); err == nil {
			_, _ = fmt.Sscan(string(b), &on)
			sum += time.Duration(on)
		}
	}
	return sum
}

func cpuOfSelf() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
