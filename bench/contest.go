package main

import (
	"context"
	"flag"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// contest is three Banyan nodes and three etcd nodes that do the same in turn,
// in interleaved rounds, with different numbers of clients.
type contest struct {
	own     banyanKeys
	etcd    *etcdCluster
	clients []int
	rounds  int
	lasting time.Duration // of one measurement
}

// startContest reads the flags and starts both. Close it.
func startContest(ctx context.Context, what, clients string, args []string) (_ *contest, err error) {
	t := &contest{rounds: 3, lasting: 5 * time.Second}
	if err := parse(what, args, func(fs *flag.FlagSet) {
		fs.StringVar(&clients, "clients", clients, "numbers of clients")
		fs.IntVar(&t.rounds, "rounds", t.rounds, "rounds; medians are taken over them")
		fs.DurationVar(&t.lasting, "for", t.lasting, "length of one measurement")
	}); err != nil {
		return nil, err
	}
	for field := range strings.SplitSeq(clients, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return nil, fmt.Errorf("-clients %q: give numbers such as 1,64,256", clients)
		}
		t.clients = append(t.clients, n)
	}
	if t.own, err = startKeys(ctx); err != nil {
		return nil, err
	}
	if t.etcd, err = startEtcd(ctx, t.own.dir, 3); err != nil {
		t.own.Close()
		return nil, err
	}
	return t, nil
}

// Close ends both.
func (t *contest) Close() {
	t.etcd.Close()
	t.own.Close()
}

// print measures and prints a table of what (such as puts); a and b do it at
// Banyan and at etcd.
func (t *contest) print(what string, a, b func(clients int, lasting time.Duration) point) {
	fmt.Printf("| clients | banyan %[1]s/s | etcd %[1]s/s | ratio | banyan p50 / p99 ms | etcd p50 / p99 ms | banyan CPU µs: nodes + client | etcd CPU µs |\n|--:|--:|--:|--:|--:|--:|--:|--:|\n", what)
	for _, n := range t.clients {
		var pa, pb []point
		a(n, t.lasting/5) // connections, caches
		b(n, t.lasting/5)
		for range t.rounds {
			pa = append(pa, a(n, t.lasting))
			pb = append(pb, b(n, t.lasting))
		}
		printPoints(n, pa, pb)
	}
}
