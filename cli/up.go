package cli

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banyan"
	"banyan/node/exec"
	"banyan/node/server"
	"banyan/obs"
)

// nodeFlags are the flags of the commands that start a node.
type nodeFlags struct {
	dir, listen, advertise, zone, name string
	slots, shards                      int
	memory, taskMemory, isolation      string
	noWork                             bool
	deadAfter                          time.Duration
	diskReserve                        string
	peers                              []string
	newCluster                         bool
	logLevel, logFormat                string
	given                              func(name string) bool   // a flag
	value                              func(name string) string // of a flag
}

func (f *nodeFlags) add(fs *pflag.FlagSet) {
	fs.SortFlags = false
	f.given = fs.Changed
	f.value = func(name string) string { return fs.Lookup(name).Value.String() }
	fs.StringVar(&f.dir, "dir", "", "keep everything of the node in this `DIR` (default banyan/node where programs keep state)")
	fs.StringVar(&f.listen, "listen", "", "listen on `HOST:PORT` (default "+server.DefaultListen+"; port 0: a free one)")
	fs.StringVar(&f.advertise, "advertise", "", "`HOST:PORT` where other machines reach this one, when it differs")
	fs.StringVar(&f.zone, "zone", "", "the `ZONE` the machine is in; replicas are spread over zones")
	fs.StringVar(&f.name, "name", "", "the node's `NAME` (default the host's)")
	fs.IntVar(&f.slots, "slots", 0, "run `N` tasks at once (default as before, at first the number of CPUs)")
	fs.StringVar(&f.memory, "memory", "", "offer `SIZE` of memory to tasks that say how much they need, such as 48G (default as before, at first nine tenths of the machine's)")
	fs.StringVar(&f.taskMemory, "task-memory", "", "kill a task whose processes use more than `SIZE` of memory, such as 8G (default nine tenths of the machine's)")
	fs.StringVar(&f.isolation, "isolation", string(exec.IsolationNode), "keep tasks from the node's files and processes: node, as far as this machine lets it; strict, or take none; none (`HOW`)")
	fs.BoolVar(&f.noWork, "no-work", false, "take no tasks, until the node is started without this; it keeps data and answers as every node")
	fs.DurationVar(&f.deadAfter, "dead-after", server.DefaultDeadAfter, "replace the replicas of a node that is silent for this `TIME`")
	fs.StringVar(&f.diskReserve, "disk-reserve", "", "take no new data when a disk has less than `SIZE` free, such as 5GiB (default the larger of 1GiB and 2%; at most a tenth of the disk; none: fill it)")
	fs.StringVar(&f.logLevel, "log-level", "info", "log events from this `LEVEL` on: debug, info, warn or error")
	fs.StringVar(&f.logFormat, "log-format", "text", "log lines as text or json (`FORMAT`)")
}

// check refuses numbers that server.Config would take for none given.
func (f *nodeFlags) check() error {
	switch {
	case f.given("slots") && f.noWork:
		return usage("--slots and --no-work exclude each other: a node without work has no slots")
	case f.given("slots") && f.slots < 1 || f.slots > banyan.SlotsMax:
		return usage("bad --slots %d: give 1 to %d, or --no-work for none; without it the node runs as many tasks at once as before, at first one for each CPU", f.slots, banyan.SlotsMax)
	case f.given("shards") && f.shards < 1 || f.shards > banyan.ShardsMax:
		return usage("bad --shards %d: give 1 to %d; without it a new cluster has %d", f.shards, banyan.ShardsMax, server.DefaultShards)
	case f.isolation != string(exec.IsolationNone) && f.isolation != string(exec.IsolationNode) && f.isolation != string(exec.IsolationStrict):
		return usage("bad --isolation %q: give node, strict or none", f.isolation)
	case f.deadAfter <= 0:
		return usage("bad --dead-after %v: give a time such as 30s or 10m", f.deadAfter)
	}
	return nil
}

func (a *app) nodeConfig(f *nodeFlags) (server.Config, error) {
	config, err := a.configDir()
	if err != nil {
		return server.Config{}, err
	}
	if err := f.check(); err != nil {
		return server.Config{}, err
	}
	reserve, err := readReserve(f.diskReserve)
	if err != nil {
		return server.Config{}, err
	}
	memory, err := parseSize("--memory", f.memory, memoryMax)
	if err != nil {
		return server.Config{}, err
	}
	taskMemory, err := parseSize("--task-memory", f.taskMemory, memoryMax)
	if err != nil {
		return server.Config{}, err
	}
	if f.dir == "" {
		state, err := a.homes().state()
		if err != nil {
			return server.Config{}, err
		}
		f.dir = filepath.Join(state, "node")
	}
	log, err := a.logger(f)
	return server.Config{
		Dir: f.dir, Listen: f.listen, Advertise: f.advertise, Name: f.name, Zone: f.zone, Slots: f.slots, Memory: memory, NoWork: f.noWork, Shards: f.shards,
		DeadAfter: f.deadAfter, ConfigDir: config, DiskReserveBytes: reserve, TaskMemory: taskMemory, Isolation: exec.Isolation(f.isolation), Warden: warden(), Peers: f.peers, NewCluster: f.newCluster,
		Logger: log,
	}, err
}

// warden is the command by which this program is started as a node's warden.
func warden() []string {
	if runtime.GOOS == "linux" {
		return []string{"/proc/self/exe", exec.WardenArg} // also when its file was replaced
	}
	return nil
}

// readReserve reads --disk-reserve as server.Config has it.
func readReserve(text string) (int64, error) {
	switch text {
	case "":
		return 0, nil
	case "none":
		return -1, nil
	}
	digits := strings.TrimRight(text, "KMGTiB")
	n, err := strconv.ParseInt(digits, 10, 44)
	shift, ok := map[string]int{"": 0, "B": 0, "KiB": 10, "MiB": 20, "GiB": 30, "TiB": 40, "K": 10, "M": 20, "G": 30, "T": 40}[text[len(digits):]]
	if err != nil || !ok || n <= 0 || n > math.MaxInt64>>shift {
		return 0, usage("bad --disk-reserve %q: give a size such as 5GiB or 500MiB, or none", text)
	}
	return n << shift, nil
}

func (a *app) logger(f *nodeFlags) (*slog.Logger, error) {
	var level slog.Level
	switch f.logLevel {
	case "debug", "info", "warn", "error":
		_ = level.UnmarshalText([]byte(f.logLevel)) // it knows these
	default:
		return nil, usage("bad --log-level %q: give debug, info, warn or error", f.logLevel)
	}
	if f.logFormat != "text" && f.logFormat != "json" {
		return nil, usage("bad --log-format %q: give text or json", f.logFormat)
	}
	return obs.NewLogger(a.Err, level, f.logFormat == "json"), nil
}

func (a *app) upCommand() *cobra.Command {
	f := &nodeFlags{}
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start a node; on an empty directory, a new cluster of one",
		Long: `Start a node. On an empty directory it creates a cluster: its certificate
authority, the node's certificate, and yours, which later commands on this
machine find by themselves. It refuses where your contexts know another cluster
at this address, whose disk may not be mounted; --new-cluster says that a new
one is meant. On a directory that holds a node, also one that
joined, it starts that node again, as it was started before where no flag says
otherwise. A signal stops it.

When all nodes have new addresses they cannot find each other: start each with
--listen or --advertise, and one of them with --peer for each of the others.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.nodeConfig(f)
			if err != nil {
				return err
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			return a.serve(ctx, c)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringArrayVar(&f.peers, "peer", nil, "look for another node of the cluster at `HOST:PORT`, which may be a name for many (repeatable)")
	cmd.Flags().BoolVar(&f.newCluster, "new-cluster", false, "an empty directory becomes a new cluster, whatever contexts know")
	cmd.Flags().IntVar(&f.shards, "shards", 0, fmt.Sprintf("a new cluster has `N` data shards (default %d); 'banyan debug split' makes more", server.DefaultShards))
	return cmd
}

// gcPercent spares a node a third of the work of Go's collector for memory that
// it has: what lives in its heap is small beside what the system caches for it.
const gcPercent = 200

// serve runs a node until ctx ends.
func (a *app) serve(ctx context.Context, c server.Config) error {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	if err := exec.Harden(); err != nil {
		return banyan.Errorf(banyan.Internal, "other programs of this user cannot be kept from this node's memory: %w", err)
	}
	srv, err := server.New(c)
	if err != nil {
		return err
	}
	surviveClosedPipes()
	run, cancel := context.WithCancel(ctx)
	defer cancel()
	context.AfterFunc(run, func() { notifySystemd("STOPPING=1") })
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(run) }()
	select {
	case <-srv.Ready():
		notifySystemd(fmt.Sprintf("READY=1\nSTATUS=node %v of cluster %s at %s", srv.Node(), srv.Cluster(), srv.Address()))
		fmt.Fprintf(a.Out, "node %v of cluster %s is up at %s\n", srv.Node(), srv.Cluster(), srv.Address())
	case err := <-ended:
		return stopped(err)
	}
	return stopped(<-ended)
}

// stopped takes the end that was asked for as success.
func stopped(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
