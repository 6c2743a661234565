package blob

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
)

func TestPutMakesCopiesWhereRankSays(t *testing.T) {
	c := newCluster(t, 5)
	for i := range 20 {
		h := put(t, c.nodes[1], fmt.Sprint(i))
		want := slices.Sorted(slices.Values(Rank(h, c.alive)[:3]))
		if got := c.holders(t, h); !slices.Equal(got, want) {
			t.Errorf("copies on %v, rank says %v", got, want)
		}
		for id := range c.nodes {
			wantText(t, c.nodes[id], h, fmt.Sprint(i))
		}
	}
}

func TestRankMovesLittleAndSpreadsEvenly(t *testing.T) {
	var nodes []banyan.NodeID
	for i := range 10 {
		nodes = append(nodes, banyan.NodeID(i+1))
	}
	first := map[banyan.NodeID]int{}
	for i := range 10_000 {
		h := Sum(fmt.Append(nil, i))
		r := Rank(h, nodes)
		first[r[0]]++
		if without := Rank(h, nodes[:9]); !slices.Equal(without, slices.DeleteFunc(r, func(n banyan.NodeID) bool { return n == 10 })) {
			t.Fatal("a node that left changed the order of the others")
		}
	}
	for n, count := range first {
		if count < 800 || count > 1200 {
			t.Errorf("%v comes first for %d of 10000 chunks", n, count)
		}
	}
}

func TestPutGoesOnWithoutADeadNode(t *testing.T) {
	c := newCluster(t, 5)
	text := "x"
	h := Sum([]byte(text))
	dead := Rank(h, c.alive)[1]
	c.set(dead, true, false)
	self := Rank(h, c.alive)[4]
	copies, err := c.nodes[self].PutCopies(t.Context(), h, []byte(text))
	if err != nil || copies != 3 {
		t.Errorf("%d copies, %v: the next in rank should have taken the dead one's place", copies, err)
	}
}

// With three nodes and one dead or hung, two copies are a majority; without
// one, the put waits for membership to notice, then counts who is there.
func TestPutWithTooFewNodes(t *testing.T) {
	for _, hang := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			c := newCluster(t, 3)
			c.set(3, !hang, hang)
			copies, err := c.nodes[1].PutCopies(t.Context(), Sum([]byte("x")), []byte("x"))
			if err != nil || copies != 2 || !c.nodes[1].thin.Load() {
				t.Errorf("hang %v: %d copies, %v", hang, copies, err)
			}
			c.set(2, true, false)
			_, err = c.nodes[1].PutCopies(t.Context(), Sum([]byte("y")), []byte("y"))
			if !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "1 of 3") {
				t.Errorf("hang %v: one node of three: %v", hang, err)
			}
			time.AfterFunc(time.Second, func() { c.believe(1) })
			copies, err = c.nodes[1].PutCopies(t.Context(), Sum([]byte("z")), []byte("z"))
			if err != nil || copies != 1 {
				t.Errorf("hang %v: the others known dead: %d copies, %v", hang, copies, err)
			}
		})
	}
}

func TestGetMendsBadAndMissingCopies(t *testing.T) {
	c := newCluster(t, 3)
	h := put(t, c.nodes[1], "precious")
	c.damage(t, 1, h)
	c.damage(t, 2, h)
	if got, err := c.nodes[2].PeerGet(t.Context(), h); err != nil || string(got) != "precious" { // mends itself from 3
		t.Errorf("%q, %v", got, err)
	}
	wantText(t, c.nodes[1], h, "precious")
	if got := c.holders(t, h); len(got) != 3 {
		t.Errorf("good copies on %v only", got)
	}
	if err := c.nodes[2].Local.Delete(h); err != nil {
		t.Fatal(err)
	}
	wantText(t, c.nodes[2], h, "precious")
	if got := c.holders(t, h); len(got) != 3 {
		t.Errorf("the missing copy was not made again: %v", got)
	}
}

func TestGetWhenCopiesAreLost(t *testing.T) {
	c := newCluster(t, 3)
	h := put(t, c.nodes[1], "precious")
	for id := range c.nodes {
		c.damage(t, id, h)
	}
	if _, err := c.nodes[1].Get(t.Context(), h); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("all copies bad: %v", err)
	}
	h = put(t, c.nodes[1], "elsewhere")
	if err := c.nodes[1].Local.Delete(h); err != nil {
		t.Fatal(err)
	}
	c.set(2, true, false)
	c.set(3, true, false)
	if _, err := c.nodes[1].Get(t.Context(), h); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("who may have it is down: %v", err)
	}
	if _, err := c.nodes[1].Get(t.Context(), Sum(nil)); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("not here, the others down: %v", err)
	}
}

func TestGetDoesNotWaitForAHungNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4)
		h := put(t, c.nodes[1], "x")
		holders := Rank(h, c.alive)
		asker := holders[3]
		c.set(holders[0], false, true)
		ctx, cancel := context.WithTimeout(t.Context(), 2*hedgeAfter)
		defer cancel()
		if _, err := c.nodes[asker].Get(ctx, h); err != nil {
			t.Error(err)
		}
	})
}

func TestMissing(t *testing.T) {
	c := newCluster(t, 3)
	safe := put(t, c.nodes[1], "on all")
	lone := put(t, c.nodes[2].Local, "on one")
	none := Sum([]byte("on none"))
	got, err := c.nodes[1].Missing(t.Context(), []banyan.Hash{safe, lone, none})
	if err != nil || !slices.Equal(got, []banyan.Hash{lone, none}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.nodes[1].Missing(t.Context(), make([]banyan.Hash, banyan.BlobHashesMax+1)); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("too many hashes: %v", err)
	}
}

func TestRepairMakesCopiesForNewNodes(t *testing.T) {
	c := newCluster(t, 3)
	c.believe(1)
	var hs []banyan.Hash
	for i := range 30 {
		hs = append(hs, put(t, c.nodes[1], fmt.Sprint(i)))
	}
	c.believe(1, 2, 3)
	done, err := c.nodes[1].Repair(t.Context(), false)
	if err != nil || done.Copied != 60 || done.Failed != 0 {
		t.Errorf("%+v, %v", done, err)
	}
	c.damage(t, 2, hs[0])
	if done, err = c.nodes[2].Repair(t.Context(), true); err != nil || done.Bad != 1 || done.Failed != 0 {
		t.Errorf("scrub: %+v, %v", done, err)
	}
	for _, h := range hs {
		if got := c.holders(t, h); len(got) != 3 {
			t.Errorf("copies on %v", got)
		}
	}
}

func TestRunRepairsWhenNodesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 3)
		c.believe(1)
		h := put(t, c.nodes[1], "x")
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- c.nodes[1].Run(ctx) }()
		time.Sleep(5 * time.Minute)
		if got := c.holders(t, h); len(got) != 1 {
			t.Errorf("copies on %v", got)
		}
		c.believe(1, 2, 3)
		c.set(3, true, false)
		time.Sleep(time.Minute)
		if got := c.holders(t, h); len(got) != 2 {
			t.Errorf("one new node answers: copies on %v", got)
		}
		c.set(3, false, false)
		time.Sleep(time.Minute)
		if got := c.holders(t, h); len(got) != 3 {
			t.Errorf("all answer: copies on %v", got)
		}
		c.damage(t, 1, h)
		time.Sleep(25 * time.Hour)
		if got := c.holders(t, h); len(got) != 3 {
			t.Errorf("after the daily scrub: good copies on %v", got)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
