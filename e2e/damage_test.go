//go:build unix

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// damageable are the kinds of file that a node cannot do without.
var damageable = []string{"store/*.log", "store/*.sst", "store/MANIFEST-*", "store/marker.*", "store/OPTIONS-*", "node.json", "pki/*"}

// flip spoils one byte of a file and gives back a function that mends it.
func (c *cluster) flip(path string, at int) (mend func()) {
	c.t.Helper()
	good, err := os.ReadFile(path)
	if err != nil {
		c.t.Fatal(err)
	}
	bad := slices.Clone(good)
	bad[at] ^= 0x10
	write := func(b []byte) {
		if err := os.WriteFile(path, b, 0o600); err != nil {
			c.t.Fatal(err)
		}
	}
	write(bad)
	return func() { write(good) }
}

// comesUp starts a node that was killed and says whether it runs, or refused.
func (n *node) comesUp() bool {
	n.c.t.Helper()
	n.start("up", "--dir", n.dir)
	up := false
	n.c.eventually("node "+n.id+" runs or refuses", func() bool {
		select {
		case <-n.done:
			n.cmd = nil
			return true
		default:
		}
		up = strings.Contains(n.output()[n.logged:], " is up at ")
		return up
	})
	return up
}

// fill writes values that make files of every kind, as one client.
func (c *cluster) fill(prefix string, from, to int) {
	c.t.Helper()
	sdk := c.sdk()
	defer sdk.Close()
	for i := from; i < to; i++ {
		key := fmt.Sprintf("%s%d", prefix, i)
		if _, err := sdk.KV().Put(context.Background(), []byte(key), []byte(strings.Repeat(key+" ", 1000))); err != nil {
			c.t.Fatalf("put %s: %v", key, err)
		}
	}
}

// full reads what fill wrote.
func (c *cluster) full(prefix string, from, to int) {
	c.t.Helper()
	sdk := c.sdk()
	defer sdk.Close()
	for i := from; i < to; i++ {
		key := fmt.Sprintf("%s%d", prefix, i)
		kv, err := sdk.KV().Get(context.Background(), []byte(key))
		if err != nil || string(kv.GetValue()) != strings.Repeat(key+" ", 1000) {
			c.t.Fatalf("acknowledged %s reads %d bytes, %v", key, len(kv.GetValue()), err)
		}
	}
}

// TestDamage spoils one byte of one file after the other of a killed node. The
// node refuses to start and says which file and what to do, or it does not
// matter: what was acknowledged is there with the help of this node alone.
func TestDamage(t *testing.T) {
	c := newCluster(t, 3)
	c.fill("f", 0, 100)
	c.nodes[2].kill()
	for _, kind := range damageable {
		files, err := filepath.Glob(filepath.Join(c.nodes[2].dir, kind))
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s: %v", kind, err)
		}
		if n := c.nodes[2]; c.damage(n, files[rand.N(len(files))], func(size int) int { return size / 2 }) {
			n.kill()
		}
	}
	c.nodes[2].restart()
	c.nodes[0].kill()
	c.full("f", 0, 100)
}

// damage spoils a file of a node that is down and tries to start it. If it
// refuses, it must say where, and the file is mended.
func (c *cluster) damage(n *node, path string, where func(size int) int) (runs bool) {
	c.t.Helper()
	info, err := os.Stat(path)
	if err != nil || info.Size() == 0 {
		return n.comesUp()
	}
	at := where(int(info.Size()))
	mend := c.flip(path, at)
	what := fmt.Sprintf("%s, byte %d of %d", path[len(n.dir):], at, info.Size())
	if n.comesUp() {
		c.t.Logf("%s: the node runs", what)
		return true
	}
	said := tail(n.output(), 1)
	c.t.Logf("%s: refused: %s", what, said)
	if !strings.Contains(said, n.dir) && !strings.Contains(said, filepath.Base(path)) {
		c.t.Errorf("%s: the refusal does not say where: %s", what, said)
	}
	mend()
	return false
}
