// Command banyansim runs simulated clusters from seeds and says what it found.
package main

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"time"

	"banyan/sim"
)

func main() {
	seeds := flag.Uint64("seeds", 100, "how many seeds to run")
	first := flag.Uint64("seed", 1, "the first of them")
	nodes := flag.Int("nodes", 0, "nodes of each cluster, 3 to 7 (0: the seed says)")
	verbose := flag.Bool("v", false, "show everything that happens")
	keep := flag.Bool("k", false, "go on after a failure")
	flag.Parse()
	if flag.NArg() > 0 || *nodes != 0 && (*nodes < 3 || *nodes > 7) {
		flag.Usage()
		os.Exit(2)
	}
	var trace io.Writer
	out := bufio.NewWriter(os.Stdout)
	if *verbose {
		trace = out
	}
	ok := run(out, *first, *seeds, *nodes, trace, *keep)
	out.Flush()
	if !ok {
		os.Exit(1)
	}
}

// run runs the seeds and reports; false: something is wrong.
func run(out *bufio.Writer, first, seeds uint64, nodes int, trace io.Writer, keep bool) bool {
	begun := time.Now()
	total := sim.Report{Faults: map[string]int{}, Reached: map[string]int{}}
	failed, n := 0, uint64(0)
	for ; n < seeds && (failed == 0 || keep); n++ {
		r := sim.Run(sim.Config{Seed: first + n, Nodes: nodes, Trace: trace})
		total.Add(r)
		if r.Failure != nil {
			failed++
			fmt.Fprintf(out, "seed %d FAILED: %v\nsee it again: %s\n\n", r.Seed, r.Failure, r.Replay())
			out.Flush()
		}
	}
	took := time.Since(begun)
	fmt.Fprintf(out, "%d seeds, %d failed; %.1f simulated hours in %.1f s: %.0f seeds a minute\n", n, failed, total.Time.Hours(), took.Seconds(), float64(n)/took.Minutes())
	fmt.Fprintf(out, "%d events, %d operations answered, %d histories too hard to check\n", total.Events, total.Ops, total.Unsure)
	show(out, "faults injected", total.Faults)
	show(out, "reached", total.Reached)
	return failed == 0
}

func show(out io.Writer, what string, counts map[string]int) {
	fmt.Fprintf(out, "%s:\n", what)
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(out, "  %9d  %s\n", counts[name], name)
	}
}
