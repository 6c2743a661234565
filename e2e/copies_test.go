//go:build unix

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// copyDir copies a node's directory, as a clone of its machine would.
func (n *node) copyDir(name string) string {
	n.c.t.Helper()
	dir := filepath.Join(n.c.dir, name)
	if err := os.CopyFS(dir, os.DirFS(n.dir)); err != nil {
		n.c.t.Fatal(err)
	}
	own := func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	}
	if err := filepath.WalkDir(dir, own); err != nil {
		n.c.t.Fatal(err)
	}
	return dir
}

// refused starts a node on a directory and waits until it has ended, for the
// reason that is given.
func (c *cluster) refused(dir string, words ...string) {
	c.t.Helper()
	_, errOut, code := c.try("up", "--dir", dir, "--listen", freeAddr(c.t))
	if code != 1 {
		c.t.Errorf("%s: exit %d", dir, code)
	}
	for _, word := range append(words, "join as a new node") {
		if !strings.Contains(tail(errOut, 1), word) {
			c.t.Errorf("%s: no %q in %s", dir, word, errOut)
		}
	}
}

// TestCopies starts second processes on copies of a node's directory: made
// while it was down, while it ran, and before its last start. Each must be
// refused before it takes part, now and when it is tried again, and the node
// itself must go on.
func TestCopies(t *testing.T) {
	c := newCluster(t, 3)
	h := c.traffic(2)
	n := c.nodes[2]
	n.signal(syscall.SIGTERM)
	<-n.done
	down := n.copyDir("down")
	old := n.copyDir("old")
	n.restart()
	c.waitAlive(3)
	c.refused(down, "another process", "n3")
	c.refused(down, "of no use any more", "another process")

	n.signal(syscall.SIGSTOP)
	live := n.copyDir("live")
	n.signal(syscall.SIGCONT)
	c.waitAlive(3)
	c.refused(live, "it runs already", "n3")

	n.kill()
	c.refused(old, "another process", "n3")
	c.refused(live, "of no use any more", "it runs already")
	n.restart() // the node itself comes back as always
	c.waitAlive(3)
	h.flow()
	h.check()
}
