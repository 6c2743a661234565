package exec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestCgroupDir(t *testing.T) {
	const v2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
	for _, c := range []struct{ mounts, own, want string }{
		{v2, "0::/system.slice/banyan.service\n", "/sys/fs/cgroup/system.slice/banyan.service"},
		{v2, "0::/\n", "/sys/fs/cgroup"},
		{"30 29 0:27 / /sys/fs/cgroup/unified rw - cgroup2 cgroup rw\n", "8:pids:/x\n0::/a\n", "/sys/fs/cgroup/unified/a"},
		{"30 29 0:27 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/docker/1/in\n", "/sys/fs/cgroup/in"},
		{"30 29 0:27 /docker/1 /sys/fs/cgroup rw - cgroup2 cgroup rw\n", "0::/other\n", ""},
		{"31 29 0:28 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n", "8:pids:/x\n", ""},
		{v2, "8:pids:/x\n", ""},
	} {
		if got := cgroupDir(c.mounts, c.own); got != c.want {
			t.Errorf("%q %q: %q, want %q", c.mounts, c.own, got, c.want)
		}
	}
}

// fakeTree is a directory with what the kernel would put into a control group.
func fakeTree(t *testing.T) (own string, mkdir func(string) error) {
	mkdir = func(dir string) error {
		err := os.Mkdir(dir, 0o755)
		for _, name := range []string{"cgroup.procs", "cgroup.kill", "cgroup.subtree_control", "memory.max", "memory.oom.group", "memory.events", "pids.max"} {
			err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
		}
		return err
	}
	own = filepath.Join(t.TempDir(), "own")
	if err := mkdir(own); err != nil {
		t.Fatal(err)
	}
	return own, mkdir
}

func TestCgroupsInAFakeTree(t *testing.T) {
	own, mkdir := fakeTree(t)
	r := newRunner(t)
	cfg := r.cfg
	cfg.MemoryMax, cfg.ProcessesMax = 1<<30, 100
	dead := filepath.Join(own, "banyan-999999999-x")
	beside := filepath.Join(own, fmt.Sprintf("banyan-%d-y", os.Getpid()))
	if err := errors.Join(os.MkdirAll(filepath.Join(dead, "1"), 0o700), os.MkdirAll(filepath.Join(beside, "1"), 0o700)); err != nil {
		t.Fatal(err)
	}
	g, err := cgroupsIn(own, cfg, "new", "old", mkdir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the groups of a node that is gone are still there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(beside, "1")); err != nil {
		t.Errorf("the groups of a node beside this one: %v", err)
	}
	c := g.take()
	if c == nil {
		t.Fatal("no group")
	}
	read := func(dir, name string) string {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		}
		return string(b)
	}
	for _, w := range [][3]string{
		{own, "cgroup.subtree_control", "+memory +pids"}, {g.dir, "cgroup.subtree_control", "+memory +pids"},
		{c.path, "memory.max", "1073741824"}, {c.path, "pids.max", "100"}, {c.path, "memory.oom.group", "1"},
	} {
		if got := read(w[0], w[1]); got != w[2] {
			t.Errorf("%s of %s is %q, want %q", w[1], w[0], got, w[2])
		}
	}
	os.WriteFile(filepath.Join(c.path, "cgroup.procs"), []byte("12\n345\n"), 0o600)
	if m := c.members(); len(m) != 2 || m[1] != 345 {
		t.Errorf("members %v", m)
	}
	c.kill()
	if read(c.path, "cgroup.kill") != "1" {
		t.Error("not killed")
	}
	os.WriteFile(filepath.Join(c.path, "cgroup.procs"), nil, 0o600)
	os.WriteFile(filepath.Join(c.path, "memory.events"), []byte("oom 1\noom_kill 3\n"), 0o600)
	if n := c.oomKills(); n != 3 {
		t.Errorf("%d killed by the system", n)
	}
	g.give(c)
	if again := g.take(); again != c || again.kills != 3 {
		t.Error("an empty group does not serve again")
	}
	// The kernel puts nobody into a directory that is no group: the attempt runs without.
	r.launcher.(*local).cgroups = g
	g.give(c)
	if res, out, _ := sh(t, r, "echo ran", 0); !res.OK() || out != "ran\n" || !g.off {
		t.Errorf("%+v, %q, off %v", res, out, g.off)
	}
}

// With the kernel's own groups nothing has to be guessed: two attempts at once,
// and a process of one that has thrown away all that names it.
func TestCgroupKills(t *testing.T) {
	own, err := ownCgroup()
	if err != nil || !delegated(own) {
		t.Skip("this process has no control group to divide")
	}
	if _, err := os.Stat(filepath.Join(own, "cgroup.procs")); err != nil {
		t.Skip(err)
	}
	r, err := New(Config{Dir: filepath.Join(t.TempDir(), "tasks"), Node: "n7", Linger: time.Hour, Cgroup: true})
	if err != nil {
		t.Fatal(err)
	}
	g := r.launcher.(*local).cgroups
	if g == nil {
		t.Skip("no control groups here")
	}
	defer func() {
		r.Close()
		if _, err := os.Stat(g.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the groups are left: %v", err)
		}
	}()
	other := open(t, r, "")
	defer other.Release()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan Result)
	go func() {
		ended <- r.Run(ctx, other, Command{Args: []string{"sleep", "1000"}, Env: testEnv})
	}()
	defer func() { cancel(); <-ended }()
	res, out, _ := sh(t, r, "env -i setsid /bin/sh -c 'echo $$; exec >/dev/null 2>&1; /bin/sleep 1000 & exit 0' & wait; cat /proc/self/cgroup", 0)
	if !res.OK() || res.KilledCount != 1 || !strings.Contains(out, "/banyan-") {
		t.Errorf("%+v, %q", res, out)
	}
	if g.off {
		t.Error("the kernel did not take the groups")
	}
}
