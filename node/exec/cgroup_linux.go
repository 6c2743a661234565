package exec

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// cgroups keeps one control group for each attempt that runs, all of them in
// one below this process's own. They serve again when nobody is left in them.
type cgroups struct {
	cfg  Config
	dir  string
	make func(dir string) error
	lead bool // dir is to be removed in the end

	mu   sync.Mutex
	next int
	idle []*cgroup
	off  bool // the kernel puts nobody in
}

// cgroup is the control group of one attempt.
type cgroup struct {
	path  string
	dir   *os.File // to begin in
	procs *os.File // who is in it
	kills int64    // by the system for want of memory, before the present attempt
}

// newCgroups makes the place for groups, or gives nil where this process has no
// control group of version 2 that is its own to divide. old is the prefix of a
// node that ended without removing its own, "": none.
func newCgroups(cfg Config, prefix, old string) *cgroups {
	own, err := ownCgroup()
	if err == nil && !delegated(own) {
		err = errors.New("it is not this node's to divide: with systemd, set Delegate=yes")
	}
	var g *cgroups
	if err == nil {
		g, err = cgroupsIn(own, cfg, prefix, old, func(dir string) error { return os.Mkdir(dir, 0o755) })
	}
	if err != nil {
		cfg.Logger.Info("tasks have no control groups of their own: their processes are known by descent", "cgroup", own, "why", err)
		return nil
	}
	return g
}

func cgroupsIn(own string, cfg Config, prefix, old string, mkdir func(string) error) (*cgroups, error) {
	for _, dir := range subdirs(own) {
		pid, of, ok := strings.Cut(strings.TrimPrefix(filepath.Base(dir), "banyan-"), "-")
		n, err := strconv.Atoi(pid)
		if !ok || err != nil || readable(n) {
			continue // no node's, or one of a node that runs beside this one
		}
		if of == old {
			_ = writeIn(dir, "cgroup.kill", "1")
		}
		removeGroups(dir)
	}
	g := &cgroups{cfg: cfg, lead: true, dir: filepath.Join(own, "banyan-"+strconv.Itoa(os.Getpid())+"-"+prefix), make: mkdir}
	if err := mkdir(g.dir); err != nil {
		return nil, err
	}
	// Without the controllers the kernel keeps no limits, but who is in a group
	// is known and killed all the same.
	const want = "+memory +pids"
	if err := writeIn(own, "cgroup.subtree_control", want); errors.Is(err, unix.EBUSY) {
		// A group that has controllers below holds no process itself.
		leaf := filepath.Join(own, "node")
		if err := mkdir(leaf); err == nil || errors.Is(err, fs.ErrExist) {
			_ = writeIn(leaf, "cgroup.procs", "0")
			_ = writeIn(own, "cgroup.subtree_control", want)
		}
	}
	_ = writeIn(g.dir, "cgroup.subtree_control", want)
	return g, nil
}

// cgroupsBelow takes over a place for groups that another process has made.
func cgroupsBelow(dir string, cfg Config) *cgroups {
	return &cgroups{cfg: cfg, dir: dir, make: func(dir string) error { return os.Mkdir(dir, 0o755) }}
}

// take gives an empty group, nil if there is none to be had.
func (g *cgroups) take() *cgroup {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.off {
		return nil
	}
	if n := len(g.idle); n > 0 {
		c := g.idle[n-1]
		g.idle = g.idle[:n-1]
		c.kills = c.oomKills()
		return c
	}
	g.next++
	c := &cgroup{path: filepath.Join(g.dir, strconv.Itoa(g.next))}
	err := g.make(c.path)
	if err == nil {
		c.dir, err = os.Open(c.path)
	}
	if err == nil {
		c.procs, err = os.Open(filepath.Join(c.path, "cgroup.procs"))
	}
	if err != nil {
		g.fail(c, err)
		return nil
	}
	// Where the kernel has no such controller there is no such file.
	if g.cfg.MemoryMax > 0 {
		_ = writeIn(c.path, "memory.max", strconv.FormatInt(g.cfg.MemoryMax, 10))
		_ = writeIn(c.path, "memory.oom.group", "1")
	}
	if g.cfg.ProcessesMax > 0 {
		_ = writeIn(c.path, "pids.max", strconv.Itoa(g.cfg.ProcessesMax))
	}
	return c
}

// fail gives up on groups: what comes is known by descent; g.mu is held.
func (g *cgroups) fail(c *cgroup, why error) {
	g.off = true
	g.cfg.Logger.Warn("tasks get no control groups any more: their processes are known by descent", "why", why)
	c.remove()
}

// refuse takes back a group that the kernel lets nobody begin in.
func (g *cgroups) refuse(c *cgroup, why error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fail(c, why)
}

// give takes back a group that nobody is in any more, to be used again.
func (g *cgroups) give(c *cgroup) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.off || len(g.idle) >= placesIdleMax || len(c.members()) > 0 || len(subdirs(c.path)) > 0 {
		c.kill()
		c.remove()
		return
	}
	g.idle = append(g.idle, c)
}

func (g *cgroups) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.idle {
		c.remove()
	}
	g.idle, g.off = nil, true
	if g.lead {
		removeGroups(g.dir)
	}
}

// members lists the processes in the group; those in groups below it, which a
// task may make where it has the right to, are killed with it.
func (c *cgroup) members() []int {
	var all []byte
	buf := make([]byte, 4096)
	for {
		n, err := c.procs.ReadAt(buf, int64(len(all)))
		all = append(all, buf[:n]...)
		if err != nil {
			return numbers(all)
		}
	}
}

func (c *cgroup) kill() { _ = writeIn(c.path, "cgroup.kill", "1") } // before Linux 5.14 by each one's number

// oomKills counts whom the system killed in the group because it used more
// memory than it may.
func (c *cgroup) oomKills() int64 {
	text, _ := os.ReadFile(filepath.Join(c.path, "memory.events"))
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(line, "oom_kill "); ok {
			v, _ := strconv.ParseInt(strings.TrimSpace(n), 10, 64)
			return v
		}
	}
	return 0
}

func (c *cgroup) remove() {
	if c.dir != nil {
		c.dir.Close()
	}
	if c.procs != nil {
		c.procs.Close()
	}
	removeGroups(c.path)
}

// removeGroups removes a group and those below; one that is not empty stays.
func removeGroups(dir string) {
	for _, d := range subdirs(dir) {
		removeGroups(d)
	}
	_ = unix.Rmdir(dir)
}

func subdirs(dir string) []string {
	entries, _ := os.ReadDir(dir)
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, filepath.Join(dir, e.Name()))
		}
	}
	return dirs
}

// writeIn writes to one of the files that the kernel puts into a group.
func writeIn(dir, name, text string) error {
	f, err := os.OpenFile(filepath.Join(dir, name), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(text)
	return errors.Join(err, f.Close())
}

// ownCgroup is the directory of this process's group of version 2.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	dir := cgroupDir(string(mounts), string(own))
	if dir == "" {
		return "", errors.New("there are no control groups of version 2")
	}
	return dir, nil
}

// cgroupDir finds it in what the kernel says of mounts and of this process, ""
// if there is none.
func cgroupDir(mounts, own string) string {
	path := ""
	for line := range strings.Lines(own) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::"); ok {
			path = p
		}
	}
	if path == "" {
		return ""
	}
	for lines := bufio.NewScanner(strings.NewReader(mounts)); lines.Scan(); {
		before, after, _ := strings.Cut(lines.Text(), " - ")
		f := strings.Fields(before)
		if !strings.HasPrefix(after, "cgroup2 ") || len(f) < 5 {
			continue
		}
		// Field 4 is the part of the hierarchy that is seen at field 5.
		if rel, err := filepath.Rel(f[3], path); err == nil && filepath.IsLocal(rel) {
			return filepath.Join(f[4], rel)
		}
	}
	return ""
}

// delegated says whether a group is this process's to divide: the top of what
// it sees, one that its manager marked so, or its user's own.
func delegated(dir string) bool {
	if unix.Access(dir, unix.W_OK) != nil {
		return false
	}
	if _, err := os.Stat(filepath.Join(dir, "cgroup.type")); errors.Is(err, fs.ErrNotExist) {
		return true // the root has none
	}
	for _, attr := range []string{"user.delegate", "trusted.delegate"} {
		var b [1]byte
		if n, err := unix.Getxattr(dir, attr, b[:]); err == nil && n == 1 && b[0] == '1' {
			return true
		}
	}
	var st unix.Stat_t
	if unix.Stat(dir, &st) == nil && st.Uid != 0 && int(st.Uid) == os.Geteuid() {
		return true
	}
	own, err := os.ReadFile("/proc/self/cgroup")
	return err == nil && strings.Contains("\n"+string(own), "\n0::/\n") // a container's own
}

// readNumber reads a file of one number.
func readNumber(name string) (int64, bool) {
	text, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	return n, err == nil
}
