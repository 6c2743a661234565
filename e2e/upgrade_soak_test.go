//go:build unix && soak

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banyan"
)

// olderCommits are of the last releases that spoke no newer protocol than the
// key and keep their data in format 2. There is none yet: format 2 came with
// protocol 4, and the first release after it that changes what nodes say to one
// another brings the first.
var olderCommits = map[int]string{}

// format1 is the last release before format 2.
const format1 = "3c8b38e"

// olderBinary builds it, if the history is there.
func olderBinary(t *testing.T, commit string) string {
	t.Helper()
	dir := t.TempDir()
	tar := filepath.Join(dir, "older.tar")
	archive := exec.Command("git", "archive", "-o", tar, "--prefix=older/", commit)
	archive.Dir = ".." // the whole tree
	if out, err := archive.CombinedOutput(); err != nil {
		t.Skipf("the history of this repository is not here, so no older release can be built: %s", out)
	}
	if out, err := exec.Command("tar", "-xf", tar, "-C", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	bin := filepath.Join(dir, "banyan-older")
	build := exec.Command("go", "build", "-o", bin, "./cmd/banyan")
	build.Dir = filepath.Join(dir, "older")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the older release: %v\n%s", err, out)
	}
	return bin
}

// TestRollingUpgrade replaces the nodes of an older release one after another
// under load, and finds the older one refused when all are new.
func TestRollingUpgrade(t *testing.T) {
	if len(olderCommits) == 0 {
		t.Skip("no older release has data of format 2")
	}
	for speaks, commit := range olderCommits {
		t.Run(fmt.Sprintf("from protocol %d", speaks), func(t *testing.T) { upgradeFrom(t, speaks, olderBinary(t, commit)) })
	}
}

// TestFormat1IsRefused starts this release on the directory of one from before
// format 2, and a node of that one beside nodes of this.
func TestFormat1IsRefused(t *testing.T) {
	older := olderBinary(t, format1)
	c := emptyCluster(t)
	newer := c.bin
	c.bin = older
	c.grow(1)
	n := c.nodes[0]
	n.signal(syscall.SIGTERM)
	<-n.done
	c.bin = newer
	n.start("up", "--dir", n.dir)
	c.eventually("the older directory is refused, with what to do", func() bool {
		return strings.Contains(n.output(), "format 1") && strings.Contains(n.output(), "new directory")
	})
	<-n.done
}

func upgradeFrom(t *testing.T, speaks int, older string) {
	newest := banyan.ProtocolVersion
	c := emptyCluster(t)
	newer := c.bin
	c.bin = older
	c.grow(3)
	h := c.traffic(4)
	h.flow()
	for i, n := range c.nodes {
		n.signal(syscall.SIGTERM)
		<-n.done
		c.bin = newer
		n.restart()
		c.waitAlive(3)
		h.flow()
		if i < 2 && speaks < 2 {
			_, errOut, code := c.try("cluster", "set", "--voters", "3")
			if code == 0 || !strings.Contains(errOut, "upgrade it") {
				t.Errorf("a setting among mixed releases: exit %d, %s", code, errOut)
			}
		}
	}
	c.eventually("the cluster acts at the newer protocol", func() bool {
		var v struct{ Protocol int }
		c.json(&v, "cluster", "show")
		return v.Protocol == newest
	})
	c.run("cluster", "set", "--voters", "3")
	h.expectNoFailure("the upgrade")
	n := c.nodes[2]
	n.signal(syscall.SIGTERM)
	<-n.done
	c.bin = older
	n.start("up", "--dir", n.dir)
	c.bin = newer
	c.eventually("the older release is told why it is refused", func() bool {
		return strings.Contains(n.output(), fmt.Sprintf("the cluster acts at protocol %d", newest))
	})
	h.flow()
	n.kill()
	n.restart()
	c.waitAlive(3)
	h.check()
}
