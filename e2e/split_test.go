//go:build unix

package e2e

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

type splitStatus struct {
	ID    int   `json:"id"`
	From  int   `json:"from_slot"`
	Until int   `json:"until_slot"`
	Rows  int64 `json:"rows"`
}

func (c *cluster) spans() []splitStatus {
	c.t.Helper()
	var v struct{ Shards []splitStatus }
	c.json(&v, "status")
	return v.Shards
}

// splitBefore splits the shard of a partition so that the child takes it, or, if
// it is in the shard's first slot, keeps it.
func (c *cluster) splitBefore(partition string) {
	c.t.Helper()
	slot := banyan.SlotOf([]byte(partition))
	for _, s := range c.spans() {
		if s.From <= slot && slot < s.Until && s.Until-s.From > 1 {
			c.run("debug", "split", strconv.Itoa(s.ID), "--at", strconv.Itoa(max(slot, s.From+1)))
			return
		}
	}
	c.t.Fatalf("no shard holds slot %d", slot)
}

// follower watches numbers that are put one after the other.
type follower struct {
	t       *testing.T
	sdk     *client.Client
	stop    context.CancelFunc
	running sync.WaitGroup
	put     int // the highest, and known when all has ended
	heard   []string
	seen    atomic.Int64
}

// follow puts 0, 1, 2 … under keys of a partition, and watches them.
func (c *cluster) follow(partition string) *follower {
	c.t.Helper()
	f := &follower{t: c.t, sdk: c.sdk()}
	ctx, stop := context.WithCancel(context.Background())
	f.stop = stop
	watching, end := context.WithCancel(context.Background())
	stands := make(chan struct{})
	f.running.Go(func() {
		err := f.sdk.KV().Watch(watching, &banyanv1.WatchRequest{Key: []byte(partition + "/"), Prefix: true}, func(m *banyanv1.WatchResponse) error {
			if stands != nil {
				close(stands)
				stands = nil
			}
			for _, e := range m.Events {
				f.heard = append(f.heard, string(e.Kv.Value))
				f.seen.Add(1)
			}
			return nil
		})
		if watching.Err() == nil {
			f.t.Errorf("the watch ended: %v", err)
		}
	})
	wait := stands
	f.running.Go(func() {
		defer end()
		<-wait
		for ctx.Err() == nil {
			if _, err := f.sdk.KV().Put(context.Background(), fmt.Appendf(nil, "%s/%d", partition, f.put%7), strconv.AppendInt(nil, int64(f.put), 10)); err != nil {
				f.t.Errorf("put %d: %v", f.put, err)
				return
			}
			f.put++
		}
		c.eventually("all changes are heard of", func() bool { return int(f.seen.Load()) >= f.put })
	})
	return f
}

func (f *follower) check() {
	f.t.Helper()
	f.stop()
	f.running.Wait()
	_ = f.sdk.Close() // it has ended
	for i, v := range f.heard {
		if v != strconv.Itoa(i) {
			f.t.Fatalf("change %d of %d is %s: one was left out, or told twice", i, len(f.heard), v)
		}
	}
}

// lister lists keys of all shards over and over.
func (c *cluster) lister(prefix string, n int) (check func()) {
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	lists := 0
	running.Go(func() {
		sdk := c.sdk()
		defer sdk.Close()
		for ctx.Err() == nil {
			seen := map[string]bool{}
			for kv, err := range sdk.KV().List(context.Background(), []byte(prefix), client.KeysOnly()) {
				if err != nil {
					c.t.Errorf("list: %v", err)
					return
				}
				if seen[string(kv.Key)] {
					c.t.Errorf("%s is listed twice", kv.Key)
				}
				seen[string(kv.Key)] = true
			}
			if len(seen) != n {
				c.t.Errorf("%d keys of %d are listed", len(seen), n)
			}
			lists++
		}
	})
	return func() {
		stop()
		running.Wait()
		c.t.Logf("listed %d times", lists)
	}
}

// TestShardsSplit splits empty and full shards under load, with retries, a lock
// that is held, a job that runs, watches and lists across it: nothing is lost,
// doubled or goes back.
func TestShardsSplit(t *testing.T) {
	const keys = 60
	c := emptyCluster(t)
	c.up(filepath.Join(c.dir, "n1"), "--shards", "2")
	c.grow(3)
	c.run("debug", "split", "1") // empty
	c.fill("full", 0, keys)
	load, watched, listed := c.traffic(4), c.follow("watched"), c.lister("full", keys)
	job := c.submitHeld(24, 8)
	lock := c.lock("shop/stock", holdScript, "--ttl", "4s")
	token := lock.token()
	job.waitDone(8)
	job.expectKept()
	for _, partition := range []string{job.id, "shop", "watched"} {
		c.splitBefore(partition)
		load.flow()
	}
	for range 3 { // the fullest, in its middle
		at := c.spans()[0]
		for _, s := range c.spans() {
			if s.Rows > at.Rows && s.Until > s.From {
				at = s
			}
		}
		c.run("debug", "split", strconv.Itoa(at.ID))
		load.flow()
	}
	if n := len(c.jobs()); n != 1 {
		t.Errorf("%d jobs are listed", n)
	}
	if _, errOut, code := c.try("lock", "shop/stock", "--timeout", "0s", "--", "true"); code != 124 {
		t.Errorf("the lock can be had: exit %d, %s", code, errOut)
	}
	if !c.write(token, "1") {
		t.Error("the holder's write was refused")
	}
	if code := lock.stop(); code != 7 {
		t.Errorf("the holder exits with %d: %s", code, lock.file(".err"))
	}
	next := c.lock("shop/stock", holdScript)
	if again := next.token(); again <= token {
		t.Errorf("token %d after %d", again, token)
	}
	next.stop()
	job.check()
	if j := job.show(); j.Repeated != 0 {
		t.Errorf("%d tasks ran again", j.Repeated)
	}
	watched.check()
	listed()
	t.Log(load.take())
	load.check()
	c.full("full", 0, keys)
	c.checkSpans(2 + 1 + 3 + 3)
}

// checkSpans makes sure that the shards hold every slot once, and there are so many.
func (c *cluster) checkSpans(n int) {
	c.t.Helper()
	held := make([]int, banyan.Slots)
	data := 0
	for _, s := range c.spans() {
		for slot := s.From; slot < s.Until; slot++ {
			held[slot]++
		}
		if s.From < s.Until {
			data++
		}
	}
	for slot, by := range held {
		if by != 1 {
			c.t.Errorf("slot %d is held by %d shards", slot, by)
		}
	}
	if data != n {
		c.t.Errorf("%d data shards, want %d", data, n)
	}
	for _, wrong := range [][]string{{"0"}, {"99"}, {"1", "--at", "1023"}, {"1", "--at", "5000"}} {
		if _, errOut, code := c.try(append([]string{"debug", "split"}, wrong...)...); code == 0 || errOut == "" {
			c.t.Errorf("debug split %v: exit %d, %s", wrong, code, errOut)
		}
	}
}
