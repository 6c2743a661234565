// Command bench measures Banyan beside its peers: every figure comes from one
// interleaved run on one machine, as medians and ratios, because machines are
// shared and noisy. It is a module of its own so that peers' clients stay out
// of the product's dependencies.
//
//	cd bench && go run . tasks      # 2,000 × /bin/true, two slots
//	cd bench && go run . cold       # one task, process start to exit
//	cd bench && go run . submit     # 20,000 tasks: acceptance and memory
//	cd bench && go run . puts       # three nodes beside a three-node etcd
//	cd bench && go run . gets       # the same, linearizable reads
//	cd bench && go run . locks      # the same, locks taken and released, and handed over
//	cd bench && go run . failover   # kill -9 of the node that leads everything
//	cd bench && go run . keys       # memory, start and catching up with 10 million keys
//	cd bench && go run . catchup    # a copy of a shard of gigabytes, under writes
//	cd bench && go run . growth     # 1 → 3 → 5 nodes and a replacement under load
//	cd bench && go run . beside -old WORKTREE   # an older commit: is anything slower?
//
// With BANYAN_BENCH_PROFILE=DIR in the environment every banyan process that is
// not killed leaves a CPU profile in DIR, and so does bench itself, the client:
// go tool pprof -top DIR/banyan-*.pprof. Figures taken so are not for quoting.
package main

import (
	"context"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"time"
)

var commands = map[string]func(context.Context, []string) error{
	"tasks":    benchTasks,
	"cold":     benchCold,
	"submit":   benchSubmit,
	"puts":     benchPuts,
	"gets":     benchGets,
	"failover": benchFailover,
	"growth":   benchGrowth,
	"beside":   benchBeside,
	"serve":    benchServe,
	"catchup":  benchCatchUp,
	"keys":     benchMany,
	"locks":    benchLocks,
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: bench tasks|cold|submit|puts|gets|failover|growth|catchup|keys|locks|beside [flags]; see the package comment")
		os.Exit(2)
	}
	if err := profiled(func() error { return commands[os.Args[1]](ctx, os.Args[2:]) }); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// profiled runs fn, under the profiler if profiles says so.
func profiled(fn func() error) error {
	dir := os.Getenv(profiles)
	if dir == "" {
		return fn()
	}
	f, err := os.Create(filepath.Join(dir, "client.pprof"))
	if err != nil {
		return err
	}
	defer f.Close()
	if err := pprof.StartCPUProfile(f); err != nil {
		return err
	}
	defer pprof.StopCPUProfile()
	return fn()
}

func parse(name string, args []string, define func(*flag.FlagSet)) error {
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	define(fs)
	return fs.Parse(args)
}

//go:embed profiled.go.txt
var profiledMain []byte

// profiles is where profiled nodes leave their profiles, as an environment
// variable for them; bench -profile sets it.
const profiles = "BANYAN_BENCH_PROFILE"

// build makes a directory for one benchmark, which the caller removes, and in
// it the product as it is shipped, built in its own module (and so with its own
// dependencies' versions). With profiles set its processes leave CPU profiles
// there when they end.
func build(ctx context.Context) (dir, bin string, err error) {
	if dir, err = os.MkdirTemp("", "banyan-bench-"); err != nil {
		return "", "", err
	}
	bin = filepath.Join(dir, "banyan")
	if err := buildBanyan(ctx, dir, bin); err != nil {
		_ = os.RemoveAll(dir)
		return "", "", err
	}
	return dir, bin, nil
}

// buildOf builds another tree's product, as it is shipped.
func buildOf(ctx context.Context, tree, bin string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "./cmd/banyan")
	cmd.Dir, cmd.Stderr = tree, os.Stderr
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	return cmd.Run()
}

func buildBanyan(ctx context.Context, dir, bin string) error {
	root, err := filepath.Abs("..") // bench is run from its own directory, as the package comment shows
	if err != nil {
		return err
	}
	args := []string{"build", "-trimpath"}
	if os.Getenv(profiles) == "" {
		args = append(args, "-ldflags=-s -w")
	} else {
		overlay, err := profiledOverlay(root, dir)
		if err != nil {
			return err
		}
		args = append(args, "-overlay", overlay)
	}
	cmd := exec.CommandContext(ctx, "go", append(args, "-o", bin, "./cmd/banyan")...)
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	return cmd.Run()
}

func profiledOverlay(root, dir string) (string, error) {
	source, overlay := filepath.Join(dir, "profiled.go"), filepath.Join(dir, "overlay.json")
	replace := map[string]any{"Replace": map[string]string{filepath.Join(root, "cmd", "banyan", "main.go"): source}}
	b, err := json.Marshal(replace)
	if err != nil {
		return "", err
	}
	return overlay, errors.Join(os.WriteFile(source, profiledMain, 0o600), os.WriteFile(overlay, b, 0o600))
}

func median[T int | int64 | float64 | time.Duration](v []T) T { return quantile(v, 0.5) }

// quantile gives the smallest value that at least q of all do not exceed.
func quantile[T int | int64 | float64 | time.Duration](v []T, q float64) T {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	i := int(q*float64(len(s))+0.999999) - 1
	return s[min(max(i, 0), len(s)-1)]
}
