//go:build soak

package e2e

import (
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestPartitionStorm spoils the network in one way after the other, around one
// node after the other, for some time, sometimes flapping. Two of three nodes
// can always agree and be reached, so no call may fail.
func TestPartitionStorm(t *testing.T) {
	c, l := newLanCluster(t, 3, "--slots", "2")
	r, h := storm(t, c)
	worst := map[string]period{}
	for i := range *cycles {
		s := shapes[i%len(shapes)]
		nodes := turned(c.hosts, r.IntN(3))
		hold := time.Duration(1+r.IntN(6000)) * time.Millisecond
		flaps := r.IntN(4) == 0
		h.flow()
		h.take()
		w := c.submit(40)
		for end := time.Now().Add(hold); time.Now().Before(end); {
			s.spoil(l, nodes)
			if !flaps {
				time.Sleep(time.Until(end)) // how long the trouble lasts
				break
			}
			time.Sleep(rand.N(500 * time.Millisecond))
			l.heal()
			time.Sleep(rand.N(500 * time.Millisecond))
		}
		s.spoil(l, nodes)
		h.flow()
		saw := h.take()
		l.heal()
		h.flow()
		w.check()
		t.Logf("%d. %s around %v, %v, flapping %v: %v", i, s.name, nodes[0], hold, flaps, saw)
		if len(saw.failed) > 0 {
			t.Fatalf("calls failed")
		}
		p := worst[s.name]
		worst[s.name] = period{longest: max(p.longest, saw.longest), gap: max(p.gap, saw.gap)}
	}
	h.check()
	for name, p := range worst {
		t.Logf("%s: at worst a call took %v, and %v went without a write", name, p.longest, p.gap)
	}
}

// TestDiskStorm fails the disk of one node at random operations, half of the
// time while it leads everything.
func TestDiskStorm(t *testing.T) {
	c := newCluster(t, 2, "--slots", "2")
	d := newDisk(t, filepath.Join(c.dir, "n3"))
	c.grow(3, "--slots", "2")
	r, h := storm(t, c)
	for range *cycles {
		if r.IntN(2) == 0 {
			c.gather(c.nodes[2])
		}
		op := []string{"write", "sync"}[r.IntN(2)]
		err := [][2]string{{"EIO", "input/output error"}, {"ENOSPC", "no space left"}}[r.IntN(2)]
		w := c.submit(40)
		c.failDisk(c.nodes[2], d, h, fmt.Sprintf("fail %s %s %d", op, err[0], r.IntN(100)), err[1])
		w.check()
		if failed := h.take().failed; len(failed) > 0 {
			t.Fatalf("calls failed: %v", failed)
		}
	}
	h.check()
}

// TestSlowDisk makes the disk of the node that leads everything slow, and then
// stand still: others take over, and the node goes on when its disk does.
func TestSlowDisk(t *testing.T) {
	c := newCluster(t, 2)
	d := newDisk(t, filepath.Join(c.dir, "n3"))
	c.grow(3)
	h := c.traffic(4)
	for fault, says := range map[string]string{"slow sync 100ms": "", "slow sync 1h": "waits for its disk", "slow write 1h": "waits for its disk"} {
		h.flow()
		c.gather(c.nodes[2])
		h.take()
		d.now(fault)
		time.Sleep(5 * time.Second) // this is how long it lasts
		h.flow()
		c.expectProblem(says)
		t.Logf("%s: %v", fault, h.take())
		d.now("heal")
		h.flow()
	}
	h.check()
}

// TestHungDisk has a disk that never comes back: the node ends, loudly, and
// the others go on without it.
func TestHungDisk(t *testing.T) {
	c := newCluster(t, 2)
	d := newDisk(t, filepath.Join(c.dir, "n3"))
	c.grow(3)
	h := c.traffic(4)
	h.flow()
	n := c.nodes[2]
	d.now("slow sync 1h")
	c.eventually("the node gives up", func() bool { return strings.Contains(tail(n.output(), 1), "the disk hangs") })
	c.expectProblem("is dead")
	h.flow()
	d.now("heal") // the kernel keeps a process that waits for a disk
	<-n.done
	n.cmd = nil
	n.restart()
	c.waitAlive(3)
	h.check()
}

// turned gives the nodes in another order, so that the trouble is another's.
func turned(n []*host, by int) []*host { return append(slices.Clone(n[by:]), n[:by]...) }
