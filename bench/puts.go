package main

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// connections is how many client connections each system gets.
const connections = 4

// benchPuts writes to three Banyan nodes and three etcd nodes in turn.
func benchPuts(ctx context.Context, args []string) error {
	clients, rounds, lasting := "1,64,256", 3, 5*time.Second
	if err := parse("puts", args, func(fs *flag.FlagSet) {
		fs.StringVar(&clients, "clients", clients, "numbers of clients")
		fs.IntVar(&rounds, "rounds", rounds, "rounds; medians are taken over them")
		fs.DurationVar(&lasting, "for", lasting, "length of one measurement")
	}); err != nil {
		return err
	}
	dir, clean, err := scratch()
	if err != nil {
		return err
	}
	defer clean()
	bin, err := buildBanyan(ctx, dir)
	if err != nil {
		return err
	}
	own, err := startNodes(ctx, bin, dir, 3)
	if own != nil {
		defer own.Close()
	}
	if err != nil {
		return err
	}
	var puts banyanPuts
	for range connections {
		c, err := own.client()
		if err != nil {
			return err
		}
		defer c.Close()
		puts = append(puts, c)
	}
	etcd, err := startEtcd(ctx, filepath.Join(dir), connections)
	if etcd != nil {
		defer etcd.Close()
	}
	if err != nil {
		return err
	}
	fmt.Printf("linearizable puts of 256 bytes, three nodes on loopback, fsync on, %d connections, medians of %d interleaved rounds of %v\n\n", connections, rounds, lasting)
	fmt.Println("| clients | banyan puts/s | etcd puts/s | ratio | banyan p50 / p99 ms | etcd p50 / p99 ms |\n|--:|--:|--:|--:|--:|--:|")
	for field := range strings.SplitSeq(clients, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("-clients %q: give numbers such as 1,64,256", clients)
		}
		var a, b []point
		load(ctx, puts, n, lasting/5) // connections, caches
		load(ctx, etcd, n, lasting/5)
		for range rounds {
			a = append(a, load(ctx, puts, n, lasting))
			b = append(b, load(ctx, etcd, n, lasting))
		}
		printPoints(n, a, b)
	}
	return nil
}

func printPoints(clients int, a, b []point) {
	rate := func(ps []point) float64 { return median(pick(ps, func(p point) float64 { return p.rate })) }
	lat := func(ps []point) string {
		return fmt.Sprintf("%.1f / %.1f", ms(median(pick(ps, func(p point) time.Duration { return p.p50 }))), ms(median(pick(ps, func(p point) time.Duration { return p.p99 }))))
	}
	fmt.Printf("| %d | %.0f | %.0f | %.2f | %s | %s |\n", clients, rate(a), rate(b), rate(a)/rate(b), lat(a), lat(b))
	for _, p := range append(a, b...) {
		if p.errors > 0 {
			fmt.Printf("  (%d errors)\n", p.errors)
		}
	}
}

func pick[T any](ps []point, f func(point) T) []T {
	var out []T
	for _, p := range ps {
		out = append(out, f(p))
	}
	return out
}
