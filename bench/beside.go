package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// pair is one figure of two builds, measured in turn.
type pair struct {
	name     string
	old, now []time.Duration // of one operation, or of the whole
	oldCPU   []time.Duration
	nowCPU   []time.Duration
}

// benchBeside measures this tree beside an older one, in pairs that alternate:
// nothing may get slower from one issue to the next. Each is asked by its own client.
func benchBeside(ctx context.Context, args []string) error {
	old, pairs, lasting, only := "", 15, 2*time.Second, ""
	if err := parse("beside", args, func(fs *flag.FlagSet) {
		fs.StringVar(&old, "old", old, "the older tree: a work tree of another commit")
		fs.IntVar(&pairs, "pairs", pairs, "pairs; medians are taken over them")
		fs.DurationVar(&lasting, "for", lasting, "length of one measurement of puts and gets")
		fs.StringVar(&only, "only", only, "keys or runs: that half only")
	}); err != nil {
		return err
	}
	if old == "" {
		return errors.New("-old is missing: make a work tree of the older commit ('git worktree add DIR COMMIT') and give -old DIR")
	}
	dir, bin, err := build(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fmt.Printf("this tree beside an older build, medians of %d alternating pairs; a ratio below 1 is quicker or cheaper than it was\n\n", pairs)
	fmt.Println("| | was | is | ratio | CPU was | CPU is | ratio |\n|---|--:|--:|--:|--:|--:|--:|")
	if only != "runs" {
		if err := besideKeys(ctx, dir, old, pairs, lasting); err != nil {
			return err
		}
	}
	if only == "keys" {
		return nil
	}
	was := filepath.Join(dir, "banyan-was")
	if err := buildOf(ctx, old, was); err != nil {
		return err
	}
	return besideRuns(ctx, dir, was, bin, pairs)
}

// besideKeys measures puts and gets at a cluster of each, and both at rest.
func besideKeys(ctx context.Context, dir, old string, pairs int, lasting time.Duration) error {
	was, err := serveTree(ctx, old, filepath.Join(dir, "bench-was"))
	if err != nil {
		return err
	}
	defer was.Close()
	is, err := serveTree(ctx, "..", filepath.Join(dir, "bench-is"))
	if err != nil {
		return err
	}
	defer is.Close()
	for _, c := range []struct {
		name, what string
		clients    int
	}{
		{"puts, 1 client", "puts", 1}, {"puts, 64 clients", "puts", 64}, {"puts, 256 clients", "puts", 256},
		{"gets, 256 clients", "gets", 256}, {"three nodes at rest", "idle", 0},
	} {
		p := pair{name: c.name}
		for range pairs {
			a, err := was.ask(c.what, c.clients, lasting)
			if err != nil {
				return err
			}
			b, err := is.ask(c.what, c.clients, lasting)
			if err != nil {
				return err
			}
			p.add(time.Duration(a.EachNs), time.Duration(b.EachNs), time.Duration(a.NodesNs+a.SelfNs), time.Duration(b.NodesNs+b.SelfNs))
		}
		p.print()
	}
	return nil
}

// besideRuns measures what people start at a terminal.
func besideRuns(ctx context.Context, dir, old, bin string, pairs int) error {
	var all [2]string
	for i, b := range []string{old, bin} {
		all[i] = filepath.Join(dir, fmt.Sprintf("runs%d", i))
		if err := os.MkdirAll(all[i], 0o700); err != nil {
			return err
		}
		if err := banyanRun(b, all[i])(ctx, 1); err != nil {
			return err
		}
	}
	for _, c := range []struct {
		name  string
		tasks int
		times int
	}{{"cold run of one task", 1, 3}, {"2,000 × true", 2000, 1}} {
		took, cpu, err := interleave(ctx, []contender{{"was", banyanRun(old, all[0])}, {"is", banyanRun(bin, all[1])}, {"bare", bareLoop}}, c.tasks, pairs*c.times)
		if err != nil {
			return err
		}
		p := pair{name: c.name, old: took[0], now: took[1], oldCPU: cpu[0], nowCPU: cpu[1]}
		p.print()
		if c.tasks > 1 {
			p := pair{name: c.name + ": the bare loop beside this tree", old: took[2], now: took[1], oldCPU: cpu[2], nowCPU: cpu[1]}
			p.print()
		}
	}
	return nil
}

func (p *pair) add(old, now, oldCPU, nowCPU time.Duration) {
	p.old, p.now = append(p.old, old), append(p.now, now)
	p.oldCPU, p.nowCPU = append(p.oldCPU, oldCPU), append(p.nowCPU, nowCPU)
}

// print writes medians, and medians of the pairs' ratios, which a machine that
// changes its speed between pairs disturbs less.
func (p *pair) print() {
	fmt.Printf("| %s | %s | %s | %.2f | %s | %s | %.2f |\n", p.name, short(median(p.old)), short(median(p.now)), ratio(p.old, p.now),
		short(median(p.oldCPU)), short(median(p.nowCPU)), ratio(p.oldCPU, p.nowCPU))
}

func ratio(old, now []time.Duration) float64 {
	var all []float64
	for i := range old {
		if old[i] > 0 {
			all = append(all, now[i].Seconds()/old[i].Seconds())
		}
	}
	return median(all)
}

func short(d time.Duration) string {
	if d < time.Millisecond {
		return fmt.Sprintf("%.1f µs", float64(d.Nanoseconds())/1e3)
	}
	return fmt.Sprintf("%.1f ms", ms(d))
}
