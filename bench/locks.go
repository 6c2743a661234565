package main

import (
	"context"
	"fmt"
	"os/exec"
	"sync"
	"time"

	"go.etcd.io/etcd/client/v3/concurrency"

	"banyan/client"
)

// locker gives out locks.
type locker interface {
	// Lock takes a lock for a client, waiting for it, and gives what releases it.
	Lock(ctx context.Context, client int, name string) (release func(context.Context) error, err error)
	Processes() []*exec.Cmd
}

// benchLocks takes and releases locks of three Banyan nodes and three etcd
// nodes in turn: each client one of its own, then all the same.
func benchLocks(ctx context.Context, args []string) error {
	const rivals = 16
	t, err := startContest(ctx, "locks", "1,16,64,256", args)
	if err != nil {
		return err
	}
	defer t.Close()
	a, b := ownLocks{t.own}, &etcdLocks{etcdCluster: t.etcd, sessions: map[int]*concurrency.Session{}}
	fmt.Printf("a lock of its own taken and released by each client, three nodes on loopback, fsync on, %d connections, medians of %d interleaved rounds of %v\n\n", connections, t.rounds, t.lasting)
	t.print("pairs",
		func(n int, lasting time.Duration) point { return pairs(ctx, a, n, lasting) },
		func(n int, lasting time.Duration) point { return pairs(ctx, b, n, lasting) })
	var ha, hb []time.Duration
	for range t.rounds {
		for _, one := range []struct {
			l    locker
			into *[]time.Duration
		}{{a, &ha}, {b, &hb}} {
			took, err := handOvers(ctx, one.l, rivals, t.lasting)
			if err != nil {
				return err
			}
			*one.into = append(*one.into, took...)
		}
	}
	fmt.Printf("\none lock among %d clients, from the call that releases it until the next one has it\n\n| | median | p90 | p99 |\n|---|--:|--:|--:|\n", rivals)
	fmt.Printf("| banyan | %.1f ms | %.1f ms | %.1f ms |\n", ms(median(ha)), ms(quantile(ha, 0.9)), ms(quantile(ha, 0.99)))
	fmt.Printf("| etcd | %.1f ms | %.1f ms | %.1f ms |\n", ms(median(hb)), ms(quantile(hb, 0.9)), ms(quantile(hb, 0.99)))
	return nil
}

// pairs has each client take and release a lock that nobody else wants.
func pairs(ctx context.Context, l locker, clients int, lasting time.Duration) point {
	return repeat(ctx, l.Processes(), clients, lasting, func(ctx context.Context, c int, _ uint32) error {
		release, err := l.Lock(ctx, c, fmt.Sprintf("bench%d", c))
		if err != nil {
			return err
		}
		return release(ctx)
	})
}

// handOvers has clients fight for one lock and gives how long each change of
// hands took.
func handOvers(ctx context.Context, l locker, clients int, lasting time.Duration) (took []time.Duration, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	var released time.Time // these two belong to the holder
	over := time.Now().Add(lasting)
	errs := make([]error, clients)
	for c := range clients {
		wg.Go(func() {
			for errs[c] == nil && time.Now().Before(over) {
				var release func(context.Context) error
				if release, errs[c] = l.Lock(ctx, c, "contended"); errs[c] != nil {
					cancel()
					return
				}
				if !released.IsZero() {
					took = append(took, time.Since(released))
				}
				released = time.Now()
				errs[c] = release(ctx)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return took, nil
}

// ownLocks spreads the clients' locks over the SDK's clients.
type ownLocks struct{ banyanKeys }

func (o ownLocks) Lock(ctx context.Context, c int, name string) (func(context.Context) error, error) {
	lock, err := o.clients[c%len(o.clients)].Locks().Acquire(ctx, name, client.LockOptions{})
	if err != nil {
		return nil, err
	}
	return lock.Release, nil
}

// etcdLocks has a session, which is a lease, for each client, as etcd's users do.
type etcdLocks struct {
	*etcdCluster
	mu       sync.Mutex
	sessions map[int]*concurrency.Session
}

func (e *etcdLocks) Lock(ctx context.Context, c int, name string) (func(context.Context) error, error) {
	s, err := e.session(c)
	if err != nil {
		return nil, err
	}
	m := concurrency.NewMutex(s, name)
	if err := m.Lock(ctx); err != nil {
		return nil, err
	}
	return m.Unlock, nil
}

func (e *etcdLocks) session(c int) (s *concurrency.Session, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s = e.sessions[c]; s == nil {
		if s, err = concurrency.NewSession(e.clients[c%len(e.clients)]); err == nil {
			e.sessions[c] = s
		}
	}
	return s, err
}
