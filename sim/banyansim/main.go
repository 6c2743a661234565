// Command banyansim runs simulated clusters from seeds and says what it found.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"banyan/sim"
)

// options are the flags.
type options struct {
	cfg     sim.Config
	seeds   uint64
	verbose bool
	keep    bool
	shrink  bool
	jobs    int
	child   bool
}

func main() {
	o := options{}
	flag.Uint64Var(&o.cfg.Seed, "seed", 1, "the first seed")
	flag.Uint64Var(&o.seeds, "seeds", 1, "how many seeds to run, from the first on")
	flag.BoolVar(&o.verbose, "v", false, "show everything that happens")
	flag.BoolVar(&o.keep, "k", false, "go on after a failure")
	flag.IntVar(&o.jobs, "j", runtime.NumCPU(), "how many processes run seeds")
	flag.BoolVar(&o.shrink, "shrink", false, "look for the smallest configuration in which the seed fails the same way")
	flag.BoolVar(&o.child, "child", false, "read configurations from standard input, one a line, and write reports (used by -j)")
	flag.Uint64Var(&o.cfg.Twist, "twist", 0, "other timing of the same plan")
	flag.IntVar(&o.cfg.Nodes, "nodes", 0, "machines at the start, 3 to 7 (0: the seed says)")
	flag.IntVar(&o.cfg.Shards, "shards", 0, "shards (0: the seed says)")
	flag.IntVar(&o.cfg.Clients, "clients", 0, "clients (0: the seed says)")
	flag.DurationVar(&o.cfg.Length, "length", 0, "of the trouble (0: 8 s)")
	flag.Func("without", "faults and loads to leave out, with commas between: "+strings.Join(slices.Concat(sim.Kinds, sim.Loads), ", "), func(s string) error {
		o.cfg.Without = strings.Split(s, ",")
		for _, kind := range o.cfg.Without {
			if !slices.Contains(sim.Kinds, kind) && !slices.Contains(sim.Loads, kind) {
				return fmt.Errorf("there is no fault or load %q", kind)
			}
		}
		return nil
	})
	flag.Func("only", "numbers of the seed's faults to inject, with commas between (none: \"-1\")", func(s string) error {
		o.cfg.Only = []int{}
		for number := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(number)
			if err != nil {
				return err
			}
			o.cfg.Only = append(o.cfg.Only, n)
		}
		return nil
	})
	flag.Parse()
	n := o.cfg.Nodes
	if flag.NArg() > 0 || n != 0 && (n < 3 || n > 7) || o.cfg.Shards < 0 || o.cfg.Clients < 0 || o.jobs < 1 || o.seeds < 1 {
		flag.Usage()
		os.Exit(2)
	}
	out := bufio.NewWriter(os.Stdout)
	err := o.do(out)
	out.Flush()
	if err != nil {
		fmt.Fprintln(os.Stderr, "banyansim:", err)
		os.Exit(1)
	}
}

var errFailed = errors.New("the simulation has found a failure")

func (o *options) do(out *bufio.Writer) error {
	switch {
	case o.child:
		return serve(os.Stdin, out)
	case o.shrink:
		return shrink(out, o.cfg)
	case o.verbose:
		o.jobs = 0
		o.cfg.Trace = out
	}
	return o.run(out)
}

// pointsAfter is how many seeds reach every fault and every point.
const pointsAfter = 1000

// run runs the seeds and reports.
func (o *options) run(out *bufio.Writer) error {
	begun := time.Now()
	total, failed, n := sim.NewReport(), 0, uint64(0)
	run, stop, err := o.runner()
	if err != nil {
		return err
	}
	err = run(func(r *sim.Report) bool {
		n++
		total.Add(r)
		if r.Failure != "" {
			failed++
			fmt.Fprintf(out, "seed %d FAILED: %v\nsee it again: %s\nmake it small: go run ./sim/banyansim %s -shrink\n\n", r.Config.Seed, r.Failure, r.Replay(), r.Config)
			out.Flush()
		}
		return failed == 0 || o.keep
	})
	stop()
	if err != nil {
		return err
	}
	took := time.Since(begun)
	fmt.Fprintf(out, "%d seeds, %d failed; %.1f simulated hours in %.1f s: %.0f seeds a minute in %d processes\n",
		n, failed, total.Time.Hours(), took.Seconds(), float64(n)/took.Minutes(), max(o.jobs, 1))
	fmt.Fprintf(out, "%d events, %d operations answered, %d histories too hard to check\n", total.Events, total.Ops, total.Unsure)
	show(out, "faults injected", total.Faults)
	show(out, "reached", total.Reached)
	show(out, "queues at their longest", total.Longest)
	if failed > 0 {
		return errFailed
	}
	if missing := total.Missing(); n >= pointsAfter && len(missing) > 0 && o.cfg.Without == nil && o.cfg.Only == nil {
		return fmt.Errorf("in %d seeds: %s", n, strings.Join(missing, ", "))
	}
	return nil
}

func show(out io.Writer, what string, counts map[string]int) {
	fmt.Fprintf(out, "%s:\n", what)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "  %9d  %s\n", counts[name], name)
	}
}

// shrink makes a failure small and shows what is left of it.
func shrink(out *bufio.Writer, cfg sim.Config) error {
	tried := 0
	small := sim.Shrink(cfg, func(r *sim.Report) {
		if tried++; r.Failure != "" {
			fmt.Fprintf(out, "after %d runs: %d events: %s\n", tried, r.Events, r.Config)
			out.Flush()
		}
	})
	if small.Failure == "" {
		return fmt.Errorf("nothing fails with %s", cfg)
	}
	fmt.Fprintf(out, "\n%s\nsee it: %s\n", small.Failure, small.Replay())
	return errFailed
}
