//go:build unix

package e2e

import (
	"os"
	"strings"
	"testing"
)

// TestMajorityLost loses two of three nodes with their disks: the third is
// recovered by command, says so ever after, and a lost one that comes back after
// all does no harm.
func TestMajorityLost(t *testing.T) {
	long(t)
	c := newCluster(t, 3)
	c.run("kv", "put", "a/1", "kept")
	left, lost := c.nodes[0], c.nodes[1:]
	for _, n := range c.nodes {
		n.kill()
	}
	plan := []string{"recover", "--dir", left.dir, "--lost", "n2,n3"}
	out := c.run(plan...)
	if !strings.Contains(out, "9 of 9 shards") || !strings.Contains(out, "Nothing was changed") {
		t.Errorf("what is shown first:\n%s", out)
	}
	if _, errOut, code := c.try(append(plan, "--yes", "another")...); code == 0 || !strings.Contains(errOut, "nothing was changed") {
		t.Errorf("--yes for another cluster: exit %d, %s", code, errOut)
	}
	_, id, _ := strings.Cut(out, "of cluster ")
	id, _, _ = strings.Cut(id, ".")
	c.run(append(plan, "--yes", id)...)
	if err := os.RemoveAll(lost[1].dir); err != nil {
		t.Fatal(err)
	}
	left.restart()
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "kept" {
		t.Errorf("kv get: %q", got)
	}
	c.comeBack(lost[0])
	c.grow(5)
	left.kill()
	left.restart()
	c.eventually("status remembers", func() bool {
		out, _, _ := c.try("status")
		return strings.Contains(out, "remember:") && strings.Contains(out, "after n2, n3 were lost")
	})
	if _, errOut, code := c.try("recover", "--dir", left.dir, "--lost", "n4,n5"); code == 0 || !strings.Contains(errOut, "in use") {
		t.Errorf("recover beside a running node: exit %d, %s", code, errOut)
	}
}
