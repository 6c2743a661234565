package sim

import (
	"fmt"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

// watcher is a client that watches a shard, on one node after the other.
type watcher struct {
	listener
	on    *process
	until time.Duration // it is away
}

func (w *world) addWatcher(i int) {
	c := &watcher{listener: listener{w: w, who: fmt.Sprintf("watcher %d", i), shard: pick(w.rng, w.shards())}}
	if w.chance(0.5) {
		c.lo, c.hi = []byte("k/0"), []byte("k/2")
	}
	w.watchers = append(w.watchers, c)
	w.every(50*time.Millisecond, c.poll)
}

func (c *watcher) poll() {
	w := c.w
	switch {
	case w.over, w.now < c.until:
		return
	case c.on == nil:
		c.attach()
		return
	case c.on.dead:
		c.on = nil
		return
	case c.on.n.pausedTill > w.now:
		return
	}
	err := c.drain()
	switch {
	case err == nil && !w.chance(0.01):
		return
	case err == nil || banyan.IsKind(err, banyan.Unavailable):
		w.reach("watch moved")
	case banyan.IsKind(err, banyan.Compacted):
		c.skip()
	case c.on.unread(err), banyan.IsKind(err, banyan.NotFound): // the replica goes
	default:
		w.fail("%s, shard %d: %v", c.who, c.shard, err)
	}
	c.watch.Close()
	c.on = nil
	if !w.faultless && w.chance(0.2) {
		c.until = w.now + w.between(0, 4*time.Second)
	}
}

// skip begins behind what is compacted away, as a client does that reads the
// keys anew.
func (c *watcher) skip() {
	c.w.reach("watch compacted away")
	revision, err := mvcc.RevisionOf(c.on.store.Shard(c.shard).Latest())
	switch {
	case err == nil:
		c.upTo = max(c.upTo, revision)
	case !c.on.unread(err):
		c.w.fail("%s, shard %d: %v", c.who, c.shard, err)
	}
}

func (c *watcher) attach() {
	p := c.w.someNode().proc
	if p == nil {
		return
	}
	if _, ok := p.views[c.shard]; !ok {
		return
	}
	watch, err := p.hub.Watch(c.shard, c.lo, c.hi, c.upTo)
	if err != nil {
		c.w.fail("%s, shard %d: %v", c.who, c.shard, err)
		return
	}
	c.watch, c.on = watch, p
}

// caughtUp says whether there is nothing that the watcher has not heard.
func (c *watcher) caughtUp() bool {
	for _, events := range c.w.truth[c.shard].revisions[c.upTo:] {
		if len(c.filter(events)) > 0 {
			return false
		}
	}
	return true
}
