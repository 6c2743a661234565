package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	t, err := startContest(ctx, what, "1,16,64,256,1024", args)
	if err != nil {
		return err
	}
	defer t.Close()
	fmt.Printf("linearizable %s of 256 bytes, three nodes on loopback, fsync on, %d connections, medians of %d interleaved rounds of %v\n\n", what, connections, t.rounds, t.lasting)
	if err := printDisk(t.own.dir); err != nil {
		return err
	}
	for i := range readKeys {
		if !read {
			break
		}
		key := fmt.Sprintf("k%015d", i)
		if err := errors.Join(t.own.Put(ctx, key, make([]byte, 256)), t.etcd.Put(ctx, key, make([]byte, 256))); err != nil {
			return err
		}
	}
	t.print(what,
		func(n int, lasting time.Duration) point { return load(ctx, t.own, read, n, lasting) },
		func(n int, lasting time.Duration) point { return load(ctx, t.etcd, read, n, lasting) })
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
