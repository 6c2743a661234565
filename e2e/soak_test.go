//go:build unix && soak

package e2e

import (
	"flag"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// How much of a storm: go test -tags soak ./e2e -run Storm -cycles 100 -storm-seed 7 -timeout 1h
var (
	cycles    = flag.Int("cycles", 50, "faults of each storm")
	stormSeed = flag.Uint64("storm-seed", uint64(time.Now().UnixNano()), "what the storms do")
)

// storm is a cluster under traffic and a source of chance.
func storm(t *testing.T, c *cluster) (*rand.Rand, *history) {
	t.Logf("-storm-seed %d", *stormSeed)
	return rand.New(rand.NewPCG(*stormSeed, 0)), c.traffic(6)
}

// TestStorm kills and pauses nodes at random while clients and jobs go on: no
// call may fail, every history is linearizable, every task has one result.
func TestStorm(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	r, h := storm(t, c)
	var worst period
	for i := range *cycles {
		victim := c.nodes[r.IntN(3)]
		if r.IntN(3) == 0 {
			c.gather(victim)
		}
		w := c.submit(80)
		w.waitDone(1 + r.IntN(10))
		if r.IntN(3) == 0 {
			victim = w.leader()
		}
		w.kept = w.show().done()
		h.take()
		pause := r.IntN(4) == 0
		if pause {
			victim.signal(syscall.SIGSTOP)
		} else {
			victim.kill()
		}
		h.flow()
		if r.IntN(2) == 0 {
			w.check()
		}
		if pause {
			victim.signal(syscall.SIGCONT)
		} else {
			victim.restart()
		}
		c.waitAlive(3)
		w.check()
		saw := h.take()
		if len(saw.failed) > 0 || testing.Verbose() {
			t.Logf("cycle %d, %s paused=%v: %v", i, victim.id, pause, saw)
		}
		if len(saw.failed) > 0 {
			t.Fatalf("cycle %d: calls failed, though two of three nodes were up all the time", i)
		}
		worst.longest, worst.gap = max(worst.longest, saw.longest), max(worst.gap, saw.gap)
	}
	h.check()
	t.Logf("%d faults; the longest call took %v, the longest time without any write was %v", *cycles, worst.longest, worst.gap)
}

// TestStormOfAll kills every node at once, again and again.
func TestStormOfAll(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	r, h := storm(t, c)
	for range max(1, *cycles/5) {
		w := c.submit(30)
		w.waitDone(1 + r.IntN(10))
		w.kept = w.show().done()
		c.killAll()
		for _, n := range c.nodes {
			n.waitReady()
		}
		h.flow()
		w.check()
	}
	h.check()
}

// TestDamageStorm spoils random bytes of the files of a killed node. If the
// node starts all the same, nothing may be missing when it is one of only two.
func TestDamageStorm(t *testing.T) {
	c := newCluster(t, 3)
	r := rand.New(rand.NewPCG(*stormSeed, 0))
	t.Logf("-storm-seed %d", *stormSeed)
	n := c.nodes[2]
	keys := 0
	for range *cycles {
		c.fill("f", keys, keys+20)
		keys += 20
		// What is acknowledged from here on is on n1 and n3 only.
		c.nodes[1].kill()
		c.fill("f", keys, keys+3)
		keys += 3
		n.kill()
		c.nodes[0].kill()
		kind := damageable[r.IntN(len(damageable))]
		files, err := filepath.Glob(filepath.Join(n.dir, kind))
		if err != nil || len(files) == 0 {
			t.Fatalf("there is no %s: %v", kind, err)
		}
		runs := c.damage(n, files[r.IntN(len(files))], func(size int) int {
			if r.IntN(2) == 0 {
				return size - 1 - r.IntN(min(size, 200)) // near the end
			}
			return r.IntN(size)
		})
		if !runs {
			n.comesUp()
		}
		c.nodes[1].restart()
		c.full("f", 0, keys)
		c.nodes[0].restart()
		c.waitAlive(3)
	}
}

// gather makes one node lead every shard: the others are drained for a moment.
func (c *cluster) gather(leader *node) {
	c.t.Helper()
	each := func(args ...string) {
		for _, n := range c.nodes {
			if n != leader {
				c.run(append(args, n.id)...)
			}
		}
	}
	each("drain")
	c.eventually("every shard is led by "+leader.id, func() bool {
		shards := c.shards()
		return len(shards) > 0 && !slices.ContainsFunc(shards, func(s shardStatus) bool { return s.Leader != leader.id })
	})
	each("drain", "--undo")
}
