// Package server turns a Config into a running node. It is the composition
// root: the only package that knows every other. New builds in order, Run
// runs until its context ends, and everything is stopped in reverse.
package server

import (
	"cmp"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"banyan"
	"banyan/engine/transport"
	"banyan/node/exec"
	"banyan/node/pki"
	"banyan/node/worker"
)

// Defaults of Config.
const (
	DefaultListen      = "127.0.0.1:7117"
	DefaultShards      = 8
	DefaultDeadAfter   = 5 * time.Minute
	DefaultReplication = 3
	shutdownMax        = 10 * time.Second
)

// Config says what node to run. Dir is needed; zero elsewhere means what the
// node in Dir had before, or else the default.
type Config struct {
	Dir       string // everything the node keeps; 0700
	Listen    string // host:port to listen on
	Advertise string // host:port where others reach the node; default: what Listen was bound to
	Name      string // shown to people; default: the host's name
	Zone      string // replicas are spread over zones
	Slots     int    // attempts at once; default: the number of CPUs
	Memory    int64  // bytes that it offers to tasks that say how much they need; default: nine tenths of the machine's
	NoWork    bool   // take no attempts, until it is started without

	Shards      int           // data shards, chosen once when the cluster is created
	Replication int           // voters of a shard and copies of a blob, when there are nodes enough
	DeadAfter   time.Duration // a node silent for longer has its replicas replaced

	// DiskReserveBytes is the first low-water mark of the node's disks: with less
	// free, no users' data comes in; 0: the larger of 1 GiB and 2%; less than 0:
	// none. At most a tenth of the disk. See docs/operations.md.
	DiskReserveBytes int64

	// Isolation is how far tasks are kept from the node and its files; "": as
	// IsolationNone, and nobody is told. Warden is the command of this program
	// that stands between; see exec.Config.
	Isolation exec.Isolation
	Warden    []string

	// Runner stands before what runs attempts, in tests; nil: nothing does.
	Runner func(*exec.Runner) worker.Runner

	TaskMemory int64 // bytes that one task's processes may use; default: nine tenths of the machine's

	// Peers are addresses of other nodes of the cluster, host:port, at which this
	// one looks for them beside those it remembers. A name may stand for many.
	Peers []string

	// NewCluster has an empty Dir become a new cluster although the operator's
	// contexts know another one at this address.
	NewCluster bool

	// Embedded runs the node inside another program: no port, no certificates,
	// one data shard, jobs of earlier runs held until they are resumed.
	Embedded bool
	// TaskEnv is what tasks get of the environment where their job sets nothing,
	// byte for byte, as NAME=VALUE; it is never stored. Nil: PATH, HOME, LANG and
	// the like of this process.
	TaskEnv []string

	ConfigDir string // where the operator's context is written; empty: nowhere
	Logger    *slog.Logger

	disk interface { // of tests; nil: the file systems
		space(dir string) (free, total int64)
	}
}

// withDefaults gives a whole Config.
func (c Config) withDefaults() Config {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	num := func(n *int, v int) {
		if *n == 0 {
			*n = v
		}
	}
	if f, err := readNodeFile(c); err == nil && f != nil && !c.Embedded { // an error comes up again
		def(&c.Name, f.Name)
		def(&c.Zone, f.Zone)
		num(&c.Slots, f.Slots)
		c.Memory = cmp.Or(c.Memory, f.Memory)
	}
	if host, err := os.Hostname(); err == nil {
		def(&c.Name, host)
	}
	def(&c.Name, "node")
	num(&c.Slots, runtime.NumCPU())
	num(&c.Shards, DefaultShards)
	num(&c.Replication, DefaultReplication)
	if c.Embedded {
		c.Shards, c.Replication = 1, 1
	}
	if c.TaskMemory == 0 && !c.Embedded {
		c.TaskMemory = exec.MemorySpare()
	}
	if c.DeadAfter == 0 {
		c.DeadAfter = DefaultDeadAfter
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

// Validate says what is wrong with the config, before anything is changed.
func (c Config) Validate() error {
	switch {
	case c.Dir == "":
		return banyan.Errorf(banyan.Invalid, "no directory given: say where the node keeps its data with --dir")
	case c.Slots < 0 || c.Slots > banyan.SlotsMax:
		return banyan.Errorf(banyan.Invalid, "slots %d: give a number from 1 to %d", c.Slots, banyan.SlotsMax)
	case c.Memory < 0:
		return banyan.Errorf(banyan.Invalid, "memory %d: give a number of bytes above 0", c.Memory)
	case c.Shards < 0 || c.Shards > banyan.ShardsMax:
		return banyan.Errorf(banyan.Invalid, "shards %d: give a number from 1 to %d", c.Shards, banyan.ShardsMax)
	case c.Replication < 0 || c.Replication > 0 && c.Replication%2 == 0 || c.Replication > 7:
		return banyan.Errorf(banyan.Invalid, "replication %d: give 1, 3, 5 or 7", c.Replication)
	case len(c.Name) > nameBytesMax || len(c.Zone) > nameBytesMax:
		return banyan.Errorf(banyan.Invalid, "name and zone have at most %d bytes", nameBytesMax)
	case !printable(c.Name + c.Zone):
		return banyan.Errorf(banyan.Invalid, "name %q or zone %q has characters that cannot be printed: leave them out", c.Name, c.Zone)
	case !slices.Contains([]exec.Isolation{"", exec.IsolationNone, exec.IsolationNode, exec.IsolationStrict}, c.Isolation):
		return banyan.Errorf(banyan.Invalid, "isolation %q: give none, node or strict", c.Isolation)
	case c.DeadAfter < 0:
		return banyan.Errorf(banyan.Invalid, "dead-after %v is negative", c.DeadAfter)
	}
	if c.Embedded {
		return nil
	}
	if err := checkAddress("--listen", c.Listen); err != nil {
		return err
	}
	for _, peer := range c.Peers {
		if peer == "" {
			return banyan.Errorf(banyan.Invalid, "--peer is empty: give HOST:PORT of another node, such as 192.0.2.7:7117")
		}
		if err := checkAddress("--peer", peer); err != nil {
			return err
		}
	}
	return checkAdvertise(c.Advertise)
}

const (
	nameBytesMax    = banyan.NameBytesMax / 4 // of a node's name and of its zone
	addressBytesMax = 300                     // of HOST:PORT; host names have up to 253
)

// printable says that every terminal shows a text as it is: no control
// characters (C0, C1), no marks that turn the direction of writing or break
// lines.
func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// checkNew refuses to make a new cluster where the operator's contexts know
// another one: most likely the disk with its node is not mounted, or the
// directory is another one today.
func (c Config) checkNew() error {
	if c.Embedded || c.NewCluster || c.ConfigDir == "" {
		return nil
	}
	if len(c.Peers) > 0 {
		return banyan.Errorf(banyan.Invalid, "%s holds no node, and --peer names nodes of a cluster that there is: to start a node of it again, give its directory with --dir; to let this machine in, 'banyan join' with a token from there", c.Dir)
	}
	here := cmp.Or(c.Advertise, reachable(cmp.Or(c.Listen, DefaultListen)))
	names, err := pki.ListContexts(c.ConfigDir)
	if err != nil {
		return err
	}
	for _, name := range names {
		known, err := pki.LoadContext(c.ConfigDir, name)
		if err == nil && slices.Contains(known.Addresses, here) {
			return banyan.Errorf(banyan.Conflict, "%s holds no node, but context %s knows cluster %s at %s: if its disk is not mounted, mount it; if its node is elsewhere, give that with --dir; to start a new cluster here, say --new-cluster", c.Dir, name, known.Cluster, here)
		}
	}
	return nil
}

func checkAddress(flag, addr string) error {
	if addr == "" {
		return nil
	}
	if _, _, err := net.SplitHostPort(addr); err != nil {
		return banyan.Errorf(banyan.Invalid, "%s %q: give HOST:PORT, such as 192.0.2.7:7117", flag, addr)
	}
	return nil
}

// checkAdvertise refuses an address that nobody can dial.
func checkAdvertise(addr string) error {
	if err := checkAddress("--advertise", addr); addr == "" || err != nil {
		return err
	}
	host, port, _ := net.SplitHostPort(addr)
	if n, err := net.LookupPort("tcp", port); host == "" || net.ParseIP(host).IsUnspecified() || err != nil || n == 0 {
		return banyan.Errorf(banyan.Invalid, "--advertise %q: nobody can dial that: give HOST:PORT as other machines reach this one, such as 192.0.2.7:7117", addr)
	}
	return nil
}

// checkFirstListen finds out whether a node that is not yet there could listen,
// before anything is made of it.
func (c Config) checkFirstListen() error {
	if _, err := os.Stat(c.nodeFile()); c.Embedded || err == nil {
		return nil
	}
	return transport.CheckListen(cmp.Or(c.Listen, DefaultListen))
}

func (c Config) pkiDir() string   { return filepath.Join(c.Dir, "pki") }
func (c Config) storeDir() string { return filepath.Join(c.Dir, "store") }
func (c Config) blobDir() string  { return filepath.Join(c.Dir, "blobs") }
func (c Config) workDir() string  { return filepath.Join(c.Dir, "work") }
func (c Config) ledger() string   { return filepath.Join(c.Dir, "running") }

// offered is how many attempts the node takes at once.
func (c Config) offered() int {
	if c.NoWork {
		return 0
	}
	return c.Slots
}

// memory is what the node offers to tasks that say how much they need, in bytes.
func (c Config) memory() int64 { return cmp.Or(c.Memory, exec.MemorySpare()) }

func (c Config) nodeFile() string { return filepath.Join(c.Dir, "node.json") }
