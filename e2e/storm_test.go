//go:build unix

package e2e

import (
	"strings"
	"syscall"
	"testing"
)

// TestKillStorm kills one node after the other under traffic.
func TestKillStorm(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	h := c.traffic(4)
	for i := range 6 {
		h.flow()
		h.take()
		n := c.nodes[i%3]
		n.kill()
		h.flow()
		t.Logf("kill -9 of %s: %v", n.id, h.take())
		n.restart()
		c.waitAlive(3)
	}
	h.check()
}

// TestAllKilledAtOnce kills every node in the same moment, as a power cut does
// that loses no page cache.
func TestAllKilledAtOnce(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	h := c.traffic(4)
	h.flow()
	h.take()
	w := c.submit(100)
	w.waitDone(5)
	w.kept = w.show().done()
	c.killAll()
	for _, n := range c.nodes {
		n.waitReady()
	}
	h.flow()
	t.Logf("all killed, all started again: %v", h.take())
	w.check()
	h.check()
}

// killAll kills every node in the same moment and starts all again.
func (c *cluster) killAll() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start("up", "--dir", n.dir)
	}
}

// TestOneDirectoryTwice starts a node on the directory of one that runs: it is
// refused, and the first goes on.
func TestOneDirectoryTwice(t *testing.T) {
	c := newCluster(t, 1)
	c.run("kv", "put", "color", "green")
	for range 3 {
		_, errOut, code := c.try("up", "--dir", c.nodes[0].dir, "--listen", freeAddr(t))
		if code == 0 || !strings.Contains(errOut, "in use by another banyan process") || !strings.Contains(errOut, "--dir") {
			t.Fatalf("a second node on one directory: exit %d, %q", code, errOut)
		}
		c.run("kv", "put", "color", "blue")
	}
	c.nodes[0].kill()
	c.nodes[0].restart()
	if got := strings.TrimSpace(c.run("kv", "get", "color")); got != "blue" {
		t.Errorf("kv get: %q", got)
	}
}
