//go:build unix && soak

package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
	"time"
)

// How much of a storm: go test -tags soak ./e2e -run Storm -kills 100 -storm-seed 7 -timeout 1h
var (
	kills     = flag.Int("kills", 50, "faults of TestStorm")
	stormSeed = flag.Uint64("storm-seed", uint64(time.Now().UnixNano()), "what TestStorm does")
)

// TestStorm runs jobs while nodes are killed and paused at random, and checks
// each job and every acknowledged write.
func TestStorm(t *testing.T) {
	t.Logf("-storm-seed %d", *stormSeed)
	r := rand.New(rand.NewPCG(*stormSeed, 0))
	c := newCluster(t, 3, "--slots", "2")
	var acked []string
	var longest time.Duration
	for round := range *kills {
		w := c.submit(30)
		w.waitDone(1 + r.IntN(10))
		victim := c.nodes[r.IntN(3)]
		if r.IntN(2) == 0 {
			victim = w.leader()
		}
		w.expectKept()
		pause := r.IntN(4) == 0
		start := time.Now()
		if pause {
			victim.signal(syscall.SIGSTOP)
		} else {
			victim.kill()
		}
		key := fmt.Sprintf("s%d/k", round)
		c.run("kv", "put", key, key)
		longest = max(longest, time.Since(start))
		acked = append(acked, key)
		w.check()
		if pause {
			victim.signal(syscall.SIGCONT)
		} else {
			victim.restart()
		}
		c.waitAlive(3)
		w.check()
	}
	for _, key := range acked {
		if got := strings.TrimSpace(c.run("kv", "get", key)); got != key {
			t.Errorf("acknowledged %s reads %q", key, got)
		}
	}
	t.Logf("%d faults; the longest write over a fault took %v", *kills, longest)
}

// TestStormOfAll kills every node at once, again and again.
func TestStormOfAll(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	for i := range max(1, *kills/5) {
		w := c.submit(30)
		w.waitDone(1 + i%10)
		w.expectKept()
		for _, n := range c.nodes {
			n.signal(syscall.SIGKILL)
		}
		for _, n := range c.nodes {
			n.kill()
			n.start("up", "--dir", n.dir)
		}
		for _, n := range c.nodes {
			n.waitReady()
		}
		w.check()
	}
}
