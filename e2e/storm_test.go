//go:build unix

package e2e

import "testing"

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
