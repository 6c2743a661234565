package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// contender is one way to run n commands, or one command.
type contender struct {
	name string
	run  func(ctx context.Context, n int) error
}

// benchTasks runs n × /bin/true on two slots with each contender in turn.
func benchTasks(ctx context.Context, args []string) error {
	n, rounds := 2000, 5
	if err := parse("tasks", args, func(fs *flag.FlagSet) {
		fs.IntVar(&n, "n", n, "tasks")
		fs.IntVar(&rounds, "rounds", rounds, "rounds; medians are taken over them")
	}); err != nil {
		return err
	}
	dir, bin, err := build(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all := []contender{
		{"bare Go loop (os/exec, output captured)", bareLoop},
		{"banyan run --local -j2", banyanRun(bin, dir)},
		{"xargs -P2 -n1", xargsRun},
	}
	if _, err := exec.LookPath("parallel"); err == nil {
		all = append(all, contender{"GNU parallel -j2", parallelRun})
	}
	took, cpu, err := interleave(ctx, all, n, rounds)
	if err != nil {
		return err
	}
	base, baseCPU := median(took[0]), median(cpu[0])
	fmt.Printf("%d × /bin/true, two slots, medians of %d interleaved rounds\n\n", n, rounds)
	fmt.Println("| | tasks/s | of the bare loop | CPU per task | of the bare loop |\n|---|--:|--:|--:|--:|")
	for i, c := range all {
		d, used := median(took[i]), median(cpu[i])
		fmt.Printf("| %s | %.0f | %.2f | %.2f ms | %.2f |\n", c.name, float64(n)/d.Seconds(), base.Seconds()/d.Seconds(), ms(used)/float64(n), baseCPU.Seconds()/used.Seconds())
	}
	return nil
}

// interleave runs all in turn, rounds times, and gives how long each run took
// and how much CPU time, which a busy machine disturbs less.
func interleave(ctx context.Context, all []contender, n, rounds int) (took, cpu [][]time.Duration, err error) {
	took, cpu = make([][]time.Duration, len(all)), make([][]time.Duration, len(all))
	for range rounds {
		for i, c := range all {
			used, start := cpuTime(), time.Now()
			if err := c.run(ctx, n); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", c.name, err)
			}
			took[i] = append(took[i], time.Since(start))
			cpu[i] = append(cpu[i], cpuTime()-used)
		}
	}
	return took, cpu, nil
}

// cpuTime is what this process and all that it has waited for have used.
func cpuTime() time.Duration {
	var sum int64
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var r syscall.Rusage
		if syscall.Getrusage(who, &r) == nil {
			sum += r.Utime.Nano() + r.Stime.Nano()
		}
	}
	return time.Duration(sum)
}

// bareLoop is the ceiling: two goroutines that spawn and collect output. Each
// command gets its number, as from the others: with an argument /bin/true first
// loads its locale, which costs a third more.
func bareLoop(ctx context.Context, n int) error {
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for w := range 2 {
		wg.Go(func() {
			for i := w; i < n && errs[w] == nil; i += 2 {
				_, errs[w] = exec.CommandContext(ctx, "/bin/true", strconv.Itoa(i)).Output()
			}
		})
	}
	wg.Wait()
	if errs[0] != nil {
		return errs[0]
	}
	return errs[1]
}

func numbers(n int) io.Reader {
	var b strings.Builder
	for i := range n {
		fmt.Fprintln(&b, i)
	}
	return strings.NewReader(b.String())
}

// piped runs a command with the numbers 0 to n-1 on its standard input.
func piped(ctx context.Context, n int, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Stdin = numbers(n)
	cmd.Stdout, cmd.Stderr = io.Discard, os.Stderr
	cmd.Env = append(os.Environ(), env...)
	return cmd.Run()
}

func banyanRun(bin, dir string) func(context.Context, int) error {
	env := []string{"XDG_STATE_HOME=" + filepath.Join(dir, "state"), "BANYAN_CONFIG=" + filepath.Join(dir, "config")}
	return func(ctx context.Context, n int) error {
		return piped(ctx, n, env, bin, "run", "--local", "-j2", "--progress", "none", "--", "/bin/true")
	}
}

func xargsRun(ctx context.Context, n int) error {
	return piped(ctx, n, nil, "xargs", "-P2", "-n1", "/bin/true")
}

func parallelRun(ctx context.Context, n int) error {
	return piped(ctx, n, nil, "parallel", "-j2", "/bin/true")
}

// benchCold times one task from process start to exit.
func benchCold(ctx context.Context, args []string) error {
	rounds := 25
	if err := parse("cold", args, func(fs *flag.FlagSet) { fs.IntVar(&rounds, "rounds", rounds, "rounds") }); err != nil {
		return err
	}
	dir, bin, err := build(ctx)
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	fresh := func(ctx context.Context, n int) error {
		state, err := os.MkdirTemp(dir, "state-")
		if err != nil {
			return err
		}
		return banyanRun(bin, state)(ctx, n)
	}
	all := []contender{
		{"banyan run --local, state kept", banyanRun(bin, dir)},
		{"banyan run --local, very first run", fresh},
		{"xargs", xargsRun},
	}
	if _, err := exec.LookPath("parallel"); err == nil {
		all = append(all, contender{"GNU parallel", parallelRun})
	}
	took, cpu, err := interleave(ctx, all, 1, rounds)
	if err != nil {
		return err
	}
	fmt.Printf("one task, process start to exit, %d interleaved rounds\n\n", rounds)
	fmt.Println("| | median | p90 | CPU |\n|---|--:|--:|--:|")
	for i, c := range all {
		fmt.Printf("| %s | %.1f ms | %.1f ms | %.1f ms |\n", c.name, ms(median(took[i])), ms(quantile(took[i], 0.9)), ms(median(cpu[i])))
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
