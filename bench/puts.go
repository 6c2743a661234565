package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// connections is how many client connections each system gets.
const connections = 4

// benchPuts writes to three Banyan nodes and three etcd nodes in turn.
func benchPuts(ctx context.Context, args []string) error {
	return benchRates(ctx, "puts", false, args)
}

// benchGets reads from them.
func benchGets(ctx context.Context, args []string) error {
	return benchRates(ctx, "gets", true, args)
}

func benchRates(ctx context.Context, what string, read bool, args []string) error {
	clients, rounds, lasting := "1,16,64,256,1024", 3, 5*time.Second
	if err := parse(what, args, func(fs *flag.FlagSet) {
		fs.StringVar(&clients, "clients", clients, "numbers of clients")
		fs.IntVar(&rounds, "rounds", rounds, "rounds; medians are taken over them")
		fs.DurationVar(&lasting, "for", lasting, "length of one measurement")
	}); err != nil {
		return err
	}
	own, err := startKeys(ctx)
	if err != nil {
		return err
	}
	defer own.Close()
	etcd, err := startEtcd(ctx, own.dir, 3)
	if err != nil {
		return err
	}
	defer etcd.Close()
	fmt.Printf("linearizable %s of 256 bytes, three nodes on loopback, fsync on, %d connections, medians of %d interleaved rounds of %v\n\n", what, connections, rounds, lasting)
	if err := printDisk(own.dir); err != nil {
		return err
	}
	for i := range readKeys {
		if !read {
			break
		}
		key := fmt.Sprintf("k%015d", i)
		if err := errors.Join(own.Put(ctx, key, make([]byte, 256)), etcd.Put(ctx, key, make([]byte, 256))); err != nil {
			return err
		}
	}
	fmt.Printf("| clients | banyan %[1]s/s | etcd %[1]s/s | ratio | banyan p50 / p99 ms | etcd p50 / p99 ms | banyan CPU µs: nodes + client | etcd CPU µs |\n|--:|--:|--:|--:|--:|--:|--:|--:|\n", what)
	for field := range strings.SplitSeq(clients, ",") {
		n, err := strconv.Atoi(field)
		if err != nil || n < 1 {
			return fmt.Errorf("-clients %q: give numbers such as 1,64,256", clients)
		}
		var a, b []point
		load(ctx, own, read, n, lasting/5) // connections, caches
		load(ctx, etcd, read, n, lasting/5)
		for range rounds {
			a = append(a, load(ctx, own, read, n, lasting))
			b = append(b, load(ctx, etcd, read, n, lasting))
		}
		printPoints(n, a, b)
	}
	return nil
}

// printDisk says what the disk under dir can do: the physical limit.
func printDisk(dir string) error {
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		return err
	}
	defer f.Close()
	const size, syncs = 64 << 20, 500
	if _, err := f.Write(make([]byte, size)); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	start := time.Now()
	for i := range syncs {
		if _, err := f.WriteAt(make([]byte, 512), int64(i)*512); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
	}
	small := time.Since(start)
	start = time.Now()
	if _, err := f.WriteAt(make([]byte, size), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	fmt.Printf("the disk alone: %.0f fsyncs a second of 512 bytes one after the other, %.0f MB a second\n\n", syncs/small.Seconds(), size/1e6/time.Since(start).Seconds())
	return nil
}

func printPoints(clients int, a, b []point) {
	rate := func(ps []point) float64 { return median(pick(ps, func(p point) float64 { return p.rate })) }
	of := func(ps []point, f func(point) time.Duration) float64 { return ms(median(pick(ps, f))) }
	lat := func(ps []point) string {
		return fmt.Sprintf("%.1f / %.1f", of(ps, func(p point) time.Duration { return p.p50 }), of(ps, func(p point) time.Duration { return p.p99 }))
	}
	cpu := func(ps []point) string {
		return fmt.Sprintf("%.0f + %.0f", 1e3*of(ps, func(p point) time.Duration { return p.nodes }), 1e3*of(ps, func(p point) time.Duration { return p.self }))
	}
	fmt.Printf("| %d | %.0f | %.0f | %.2f | %s | %s | %s | %s |\n", clients, rate(a), rate(b), rate(a)/rate(b), lat(a), lat(b), cpu(a), cpu(b))
	for i, p := range append(a, b...) {
		if p.errors > 0 {
			fmt.Printf("  (%d errors of %s, the last: %v)\n", p.errors, []string{"banyan", "etcd"}[i/len(a)], p.lastError)
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
