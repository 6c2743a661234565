//go:build unix

package e2e

import (
	"strings"
	"sync"
	"testing"
)

// TestGrowAndShrink goes from one node to three and back to another one, under
// load: no call fails, and every history is linearizable.
func TestGrowAndShrink(t *testing.T) {
	long(t)
	c := newCluster(t, 1, "--slots", "2", "--shards", "3")
	h := c.traffic(4)
	h.flow()
	c.grow(3, "--slots", "2")
	h.flow()
	c.remove(h, c.nodes[2], c.nodes[0]) // one of them the only one that clients were told of
	c.waitVoters(1)
	h.expectNoFailure("growth and shrinking")
	h.check()
	c.comeBack(c.nodes[2])
}

// remove takes nodes out of the cluster, whose processes then end by themselves.
func (c *cluster) remove(h *history, nodes ...*node) {
	c.t.Helper()
	var wg sync.WaitGroup
	for _, n := range nodes {
		wg.Go(func() {
			if out, errOut, code := c.try("node", "remove", n.id); code != 0 {
				c.t.Errorf("node remove %s: exit %d\n%s%s", n.id, code, out, errOut)
			}
		})
	}
	wg.Wait()
	for _, n := range nodes {
		<-n.done
		n.cmd = nil
		if text := tail(n.output(), 1); !strings.Contains(text, n.id+" was removed from the cluster") {
			c.t.Errorf("the last word of %s, which was removed: %s", n.id, text)
		}
		if out := c.run("nodes"); strings.Contains(out, n.addr) {
			c.t.Errorf("%s was removed and is still listed:\n%s", n.id, out)
		}
	}
	h.flow()
}

// comeBack starts a node that was removed: it is told so, and ends.
func (c *cluster) comeBack(n *node) {
	c.t.Helper()
	n.start("up", "--dir", n.dir)
	<-n.done
	n.cmd = nil
	if text := tail(n.output(), 1); !strings.Contains(text, "join as a new node") {
		c.t.Errorf("%s was removed, came back, and was told: %s", n.id, text)
	}
}

func (h *history) expectNoFailure(during string) {
	h.t.Helper()
	if saw := h.take(); len(saw.failed) > 0 {
		h.t.Errorf("during %s: %v", during, saw)
	} else {
		h.t.Logf("during %s: %v", during, saw)
	}
}
