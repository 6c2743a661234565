package sim

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/layer/coord"
)

// locker is a client that takes a lock, keeps it alive for a while, writes what
// the lock protects, and releases it or just stops.
type locker struct {
	w     *world
	id    int
	dice  dice
	drift float64
	n     int // rounds begun
	claim *held
}

// held is one claim to a lock, with one lease of its own.
type held struct {
	name    string
	shard   banyan.ShardID
	lease   uint64
	ttl     time.Duration
	shared  bool
	permits uint32
	sent    time.Duration // when the latest word of it that was answered was sent
	token   uint64        // 0: it waits
	permit  uint32
	over    bool // released, ended or forgotten by its holder
}

// lockNames have partitions of their own; the last is a semaphore of two.
var lockNames = [...]string{"la", "lb/x", "lc"}

// careful is the part of a lease's time for which its holder relies on it: the
// rest is for clocks that do not go at the same rate.
const careful = 0.8

func (w *world) addLocker(id int) {
	d := newDice(w.cfg.Seed, 0x10c<<32+uint64(id))
	k := &locker{w: w, id: id, dice: d, drift: 1 + w.plan.drift*(d.Float64()-0.5)}
	w.lockers = append(w.lockers, k)
	w.after(d.between(0, time.Second), k.begin)
}

// done says whether a locker has shown that locks work again, and has none.
func (k *locker) done() bool { return k.claim == nil && k.n >= k.w.locks.rounds[k]+2 }

func (k *locker) begin() {
	w := k.w
	if w.over {
		return
	}
	if w.faultless {
		if _, ok := w.locks.rounds[k]; !ok {
			w.locks.rounds[k] = k.n
		}
		if k.done() {
			return
		}
	}
	if slices.ContainsFunc(w.shards(), w.lulled) {
		w.after(100*time.Millisecond, k.begin)
		return
	}
	k.n++
	c := &held{
		name: pick(k.dice, lockNames[:]), lease: w.cfg.Seed<<24 | uint64(k.id)<<16 | uint64(k.n), permits: 1,
		ttl: k.dice.between(time.Second, 2*time.Second),
	}
	switch c.name {
	case lockNames[1]:
		c.shared = k.dice.chance(0.5)
	case lockNames[2]:
		c.permits = 2
	}
	c.shard = w.shardOf(banyan.Partition([]byte(c.name)))
	k.claim = c
	w.locks.claims[c.lease] = c
	k.acquire(c)
	k.beat(c)
}

// relies says whether the holder believes that it holds the lock.
func (c *held) relies(w *world, drift float64) bool {
	return c.token != 0 && !c.over && float64(w.now-c.sent)*drift < careful*float64(c.ttl)
}

// ask reaches the process that leads a shard, as far as gossip says; what comes
// back is handed to take. Either way may be lost.
func (k *locker) ask(c *held, call func(d *desk, back func(func()))) {
	w := k.w
	n := w.jobs.led[c.shard].node
	if n == 0 || w.node(n).proc == nil || w.clientLost() {
		return
	}
	p := w.node(n).proc
	w.after(w.latency(), func() {
		p.resume(func() {
			call(p.desk, func(take func()) {
				if !w.clientLost() && !p.dead {
					w.after(w.latency(), func() {
						if !c.over && !w.over {
							take()
						}
					})
				}
			})
		})
	})
}

func (k *locker) acquire(c *held) {
	w, sent := k.w, k.w.now
	if c.over || c.token != 0 || w.over {
		return
	}
	req := &banyanv1.AcquireRequest{
		Name: c.name, Lease: c.lease, TtlMs: c.ttl.Milliseconds(), Shared: c.shared, Permits: c.permits, Owner: fmt.Sprint("locker ", k.id),
	}
	if c.sent != 0 {
		req.TtlMs = 0 // it was begun: if it is not there any more, it has ended
	}
	wait := k.dice.between(0, time.Second)
	again := func() { w.after(w.between(5*time.Millisecond, 100*time.Millisecond), func() { k.acquire(c) }) }
	answered := false
	k.ask(c, func(d *desk, back func(func())) {
		d.acquire(c.shard, req, wait, func(a coord.Answer, err error) {
			back(func() {
				if !answered {
					answered = true
					k.acquired(c, sent, a, err, again)
				}
			})
		})
	})
	w.after(wait+w.between(100*time.Millisecond, time.Second), func() {
		if !answered {
			answered = true
			k.acquire(c)
		}
	})
}

// acquired takes the answer.
func (k *locker) acquired(c *held, sent time.Duration, a coord.Answer, err error, again func()) {
	w := k.w
	switch {
	case err != nil:
		if !retried(err) && !w.lossy {
			w.fail("locker %d: lock %q: %v", k.id, c.name, err)
		}
		again()
	case banyan.IsKind(a.Err, banyan.NotFound):
		w.reach("lease ended while it waited")
		k.finish(c)
	case a.Err != nil:
		w.fail("locker %d: lock %q: %v", k.id, c.name, a.Err)
	case a.Claim.Token == 0:
		c.sent = max(c.sent, sent)
		w.reach("lock waited for")
		again()
	case c.token == 0:
		c.sent, c.token, c.permit = max(c.sent, sent), a.Claim.Token, a.Claim.Permit
		w.reach("lock taken")
		w.locks.told(w, k, c)
		k.hold(c)
	}
}

// retried says whether an error only asks to try again.
func retried(err error) bool {
	switch banyan.KindOf(err) {
	case banyan.NotLeader, banyan.Stale, banyan.Unavailable, banyan.Exhausted:
		return true
	}
	return errors.Is(err, errUnreadable)
}

// beat keeps the lease alive.
func (k *locker) beat(c *held) {
	w := k.w
	w.after(c.ttl/4, func() {
		if c.over || w.over {
			return
		}
		sent := w.now
		k.ask(c, func(d *desk, back func(func())) {
			d.keepAlive(c.shard, string(banyan.Partition([]byte(c.name))), c.lease, func(ended bool, err error) {
				back(func() {
					switch {
					case err != nil:
					case !ended:
						c.sent = max(c.sent, sent)
					case c.sent != 0:
						w.reach("told that a lease has ended")
						k.finish(c)
					}
				})
			})
		})
		k.beat(c)
	})
}

// hold works under the lock, then releases it, or does not.
func (k *locker) hold(c *held) {
	w, token := k.w, c.token
	for range k.dice.IntN(3) {
		w.after(k.dice.between(0, c.ttl), func() { k.write(c, token) })
	}
	if k.dice.chance(0.3) { // it dies, and may come back as if nothing had happened
		w.after(k.dice.between(0, c.ttl), func() {
			w.reach("lock abandoned")
			w.after(k.dice.between(0, 3*c.ttl), func() { k.write(c, token) })
			k.finish(c)
		})
		return
	}
	w.after(k.dice.between(0, 2*c.ttl), func() { k.release(c) })
}

// write changes what the lock protects, if the lock is still held with this
// token: the condition is what fences a holder that is late.
func (k *locker) write(c *held, token uint64) {
	w := k.w
	if w.operator.calm {
		return
	}
	n := w.jobs.led[c.shard].node
	if n == 0 || w.node(n).proc == nil {
		return
	}
	cmd := &mvcc.Command{
		Conds: []mvcc.Cond{{Key: banyan.LockRow(c.name, c.permit), Test: mvcc.ModEquals, Number: token}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: []byte(guarded + c.name), Value: fmt.Appendf(nil, "%d", token)}},
	}
	p := w.node(n).proc
	w.after(w.latency(), func() {
		p.resume(func() {
			p.propose(c.shard, cmd, func(res mvcc.Result, err error) {
				if err == nil && !res.Stale && !res.OK {
					w.reach("write refused by its fencing token")
				}
			})
		})
	})
}

func (k *locker) release(c *held) {
	w := k.w
	if c.over || w.over {
		return
	}
	c.token = 0 // it does not rely on it any more
	answered := false
	k.ask(c, func(d *desk, back func(func())) {
		d.release(c.shard, c.lease, "", func(a coord.Answer, err error) {
			back(func() {
				if err == nil && a.Err == nil && !answered {
					answered = true
					w.reach("lock released")
					k.finish(c)
				}
			})
		})
	})
	w.after(w.between(100*time.Millisecond, time.Second), func() {
		if !answered {
			k.release(c)
		}
	})
}

func (k *locker) finish(c *held) {
	if c.over {
		return
	}
	c.over = true
	if k.claim == c {
		k.claim = nil
	}
	k.w.after(k.dice.between(0, 500*time.Millisecond), k.begin)
}
