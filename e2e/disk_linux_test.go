package e2e

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// disk is a file system that fails when it is told to (faultfs).
type disk struct {
	t   *testing.T
	in  io.WriteCloser
	out *bufio.Scanner
}

// newDisk mounts one at dir. It skips the test where that is not possible.
func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount a file system")
	}
	if _, err := os.Stat("/dev/fuse"); err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	mkdir(t, dir)
	cmd := exec.Command(faultfs(t), mkdir(t, dir+".below"), dir)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d := &disk{t: t, in: in, out: bufio.NewScanner(out)}
	mounted := false
	t.Cleanup(func() {
		err := errors.Join(in.Close(), cmd.Wait()) // it unmounts, and ends
		if mounted && err != nil {
			t.Errorf("faultfs: %v", err)
		}
	})
	if !d.out.Scan() {
		t.Skip("cannot mount a FUSE file system here")
	}
	mounted = true
	return d
}

// now tells the disk what is wrong with it from now on.
func (d *disk) now(fault string) {
	d.t.Helper()
	if _, err := fmt.Fprintln(d.in, fault); err != nil || !d.out.Scan() || d.out.Text() != "ok" {
		d.t.Fatalf("faultfs did not take %q: %v", fault, err)
	}
}

// faultfs builds the program, which is a module of its own.
func faultfs(t *testing.T) string {
	t.Helper()
	buildFaultfs.Do(func() {
		bin := filepath.Join(filepath.Dir(binary(t)), "faultfs")
		cmd := exec.Command("go", "build", "-o", bin, ".")
		cmd.Dir = "faultfs"
		if out, err := cmd.CombinedOutput(); err != nil {
			buildFaultfs.err = fmt.Errorf("%w\n%s", err, out)
		}
		buildFaultfs.bin = bin
	})
	if buildFaultfs.err != nil {
		t.Skipf("cannot build faultfs: %v", buildFaultfs.err)
	}
	return buildFaultfs.bin
}

var buildFaultfs struct {
	sync.Once
	bin string
	err error
}

// TestDiskError lets one node's disk fail: the node stops and says why, the
// others go on, and the node comes back when its disk does.
func TestDiskError(t *testing.T) {
	c := newCluster(t, 2, "--slots", "2")
	d := newDisk(t, filepath.Join(c.dir, "n3"))
	c.grow(3, "--slots", "2")
	h := c.traffic(4)
	h.flow()
	c.submit(20).check() // tasks run on such a file system too
	c.failDisk(c.nodes[2], d, h, "fail sync EIO", "input/output error")
	h.check()
}

// failDisk gives the disk of a node a fault that must end it.
func (c *cluster) failDisk(n *node, d *disk, h *history, fault, says string) {
	c.t.Helper()
	h.take()
	d.now(fault)
	<-n.done
	n.cmd = nil
	h.flow()
	c.t.Logf("%s: %v", fault, h.take())
	if last := tail(n.output(), 1); !strings.Contains(last, n.dir) || !strings.Contains(last, says) {
		c.t.Errorf("%s: the node does not say what to do with its disk: %s", fault, last)
	}
	c.expectProblem(n.id)
	d.now("heal")
	n.restart()
	c.waitAlive(3)
}
