//go:build unix && soak

package e2e

import (
	"fmt"
	"slices"
	"testing"
)

// TestGrowthToSeven goes 1 → 3 → 5 → 7 → 5 → 3 → 1 nodes under load, with as
// many voters as there can be, and loses a node for ever on the way.
func TestGrowthToSeven(t *testing.T) {
	c := newCluster(t, 1, "--slots", "2")
	h := c.traffic(6)
	for _, n := range []int{3, 5, 7} {
		for len(c.nodes) < n {
			c.join(c.token(), "--slots", "2")
		}
		c.run("cluster", "set", "--voters", string(rune('0'+n)), "--dead-after", "5s")
		c.waitVoters(n)
		h.flow()
		h.expectNoFailure("growth")
	}
	c.run("cluster", "set", "--voters", "5")
	c.waitVoters(5)
	c.replace(h, c.nodes[4])
	h.expectNoFailure("a replacement")
	nodes := append(c.nodes[:4:4], c.nodes[5:]...)
	for i, voters := range []int{5, 5, 3, 3, 1, 1} {
		c.remove(h, nodes[i])
		c.waitVoters(voters)
		h.flow()
		h.expectNoFailure("shrinking")
	}
	h.check()
}

// lives counts the shards that have a voter on the node.
func (c *cluster) lives(n *node) (shards int) {
	for _, s := range c.shards() {
		if slices.Contains(s.Voters, n.id) {
			shards++
		}
	}
	return shards
}

// replace kills a node for ever; its replicas are rebuilt on a new one.
func (c *cluster) replace(h *history, n *node) *node {
	c.t.Helper()
	n.kill()
	spare := c.join(c.token(), "--slots", "2")
	c.eventually(fmt.Sprintf("the replicas of %s are rebuilt on %s", n.id, spare.id), func() bool {
		return c.lives(n) == 0 && c.lives(spare) > 0
	})
	c.run("node", "remove", n.id)
	c.comeBack(n)
	h.flow()
	return spare
}
