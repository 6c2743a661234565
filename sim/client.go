package sim

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
)

// kind is what an operation does.
type kind uint8

const (
	get kind = iota
	put
	create // if there is none
	cas    // if it has a value
	del
	appendTo
	putPair // two keys at once
	getPair
	stale // read anywhere
	kinds
)

var kindNames = [kinds]string{"get", "put", "create", "cas", "delete", "append", "put pair", "get pair", "stale get"}

// op is one operation of a client, with what came of it.
type op struct {
	client   int
	kind     kind
	shard    banyan.ShardID
	key      string
	value    string // written
	expect   string // by cas
	request  banyan.RequestID
	earliest banyan.Revision // that it can make: behind what was known at first
	call     time.Duration
	back     time.Duration // answered, if done
	giveUp   time.Duration // 0: never
	attempts int
	done     bool

	answer answer
}

// answer is what a node says.
type answer struct {
	ok       bool // of conditional writes
	value    string
	found    bool
	revision banyan.Revision
	sequence uint64
	deleted  uint64
	effect   bool // the revision is the operation's own
	age      time.Duration
	err      error
}

// client makes one operation after the other, trying again as the SDK does.
type client struct {
	w     *world
	dice  dice // of what it wants
	id    int
	n     int
	op    *op
	guess map[banyan.ShardID]banyan.NodeID
	known map[banyan.ShardID]banyan.Revision // that was told
	seen  map[string]string                  // latest value read or written, by shard and key
}

const (
	keysPerShard = 3
	pairA, pairB = "k/pair/a", "k/pair/b"
	listPrefix   = "k/list/"
)

func (w *world) addClient(id int) {
	c := &client{w: w, id: id, dice: newDice(w.cfg.Seed, 0xc11e<<32+uint64(id)), guess: map[banyan.ShardID]banyan.NodeID{}, known: map[banyan.ShardID]banyan.Revision{}, seen: map[string]string{}}
	w.clients = append(w.clients, c)
	w.after(w.between(0, 100*time.Millisecond), c.next)
}

// weights of the kinds, of 100.
var weights = [kinds]int{get: 24, put: 20, create: 6, cas: 16, del: 6, appendTo: 10, putPair: 5, getPair: 5, stale: 8}

func (c *client) next() {
	w := c.w
	if w.over || w.faultless && w.operator.enough(c) {
		return
	}
	c.n++
	o := &op{client: c.id, shard: pick(c.dice, w.shards()), call: w.now, value: fmt.Sprintf("%d.%d", c.id, c.n)}
	for n := c.dice.IntN(100); n >= weights[o.kind]; o.kind++ {
		n -= weights[o.kind]
	}
	binary.BigEndian.PutUint64(o.request[:], w.cfg.Seed<<8|uint64(c.id)+1)
	binary.BigEndian.PutUint64(o.request[8:], uint64(c.n))
	switch o.kind {
	case appendTo:
		o.key = listPrefix
	case putPair, getPair:
		o.key = pairA
	default:
		o.key = fmt.Sprintf("k/%d", c.dice.IntN(keysPerShard))
	}
	if o.kind == cas {
		if o.expect = c.seen[c.place(o)]; o.expect == "" {
			o.kind = get
		}
	}
	if revision, ok := c.known[o.shard]; !ok {
		o.kind = get
		if o.key == listPrefix {
			o.key = "k/0"
		}
	} else {
		o.earliest = revision + 1
	}
	if w.lulled(o.shard) {
		o.kind, o.key = stale, "k/0"
	}
	if c.dice.chance(w.plan.patience) && o.kind != get {
		o.giveUp = w.now + c.dice.between(0, 500*time.Millisecond)
	}
	c.op = o
	w.history.ops = append(w.history.ops, o)
	c.attempt()
}

func (c *client) place(o *op) string { return fmt.Sprint(o.shard, o.key) }

// attempt sends the operation to some node and waits for a while.
func (c *client) attempt() {
	w, o := c.w, c.op
	if o.giveUp != 0 && w.now >= o.giveUp {
		w.reach("client gave up")
		c.rest()
		return
	}
	o.attempts++
	n := o.attempts
	to, known := c.guess[o.shard]
	if !known || o.kind == stale || w.chance(0.05) {
		to = w.someNode().id
	}
	if !w.clientLost() {
		w.after(w.latency(), func() {
			if p := w.node(to).proc; p != nil {
				p.resume(func() { p.serve(o, func(a answer) { c.reply(o, n, a) }) })
			}
		})
	}
	patience := w.between(200*time.Millisecond, 2*time.Second)
	if !w.faultless && w.chance(0.05) {
		patience = w.between(time.Millisecond, 20*time.Millisecond) // tries again while the first is under way
	}
	w.after(patience, func() { c.again(o, n, "client timed out", 0) })
}

// someNode is any machine that a client may know to be there.
func (w *world) someNode() *node {
	return pick(w.rng, slices.DeleteFunc(slices.Clone(w.nodes), func(n *node) bool { return n.gone }))
}

func (w *world) clientLost() bool { return !w.faultless && w.chance(w.plan.loss) }

// again makes the next attempt if the n-th is still the latest.
func (c *client) again(o *op, n int, why string, leader banyan.NodeID) {
	if c.op != o || o.done || o.attempts != n {
		return
	}
	c.w.reach(why)
	switch {
	case leader != 0:
		c.guess[o.shard] = leader
	case c.w.chance(0.7):
		delete(c.guess, o.shard)
	}
	c.attempt()
}

// reply brings an answer back, unless it is lost.
func (c *client) reply(o *op, n int, a answer) {
	if !c.w.clientLost() {
		c.w.after(c.w.latency(), func() { c.receive(o, n, a) })
	}
}

func (c *client) receive(o *op, n int, a answer) {
	w := c.w
	if o.done || c.op != o {
		return
	}
	if a.err != nil {
		switch kind := banyan.KindOf(a.err); {
		case kind == banyan.NotLeader, kind == banyan.Stale, kind == banyan.Unavailable, kind == banyan.Exhausted:
		case kind == banyan.Forgotten: // carried out or not: nobody knows
			w.reach("late copy refused")
			delete(c.known, o.shard)
			c.rest()
			return
		case errors.Is(a.err, errUnreadable), kind == banyan.Corrupt && w.lossy:
			w.reach("read refused by the disk")
			delete(c.guess, o.shard)
		default:
			w.fail("client %d: %s %q: %v", o.client, kindNames[o.kind], o.key, a.err)
			return
		}
		w.after(w.between(time.Millisecond, 50*time.Millisecond), func() { c.again(o, n, "client tried again", leaderOf(a.err)) })
		return
	}
	o.done, o.back, o.answer = true, w.now, a
	c.known[o.shard] = max(c.known[o.shard], a.revision)
	w.note("answer", uint64(o.client), uint64(o.kind), uint64(o.shard), uint64(a.revision), bit(a.ok), bit(a.found), a.sequence, uint64(len(a.value)))
	w.history.took(w, o)
	c.learn(o)
	c.rest()
}

// learn remembers what the key held, for cas.
func (c *client) learn(o *op) {
	switch {
	case o.kind == get && o.answer.found:
		c.seen[c.place(o)] = o.answer.value
	case o.answer.ok && (o.kind == put || o.kind == create || o.kind == cas):
		c.seen[c.place(o)] = o.value
	}
}

func (c *client) rest() {
	c.op = nil
	c.w.after(c.w.between(0, 2*c.w.plan.think), c.next)
}

// serve is what a node does for a request that came in.
func (p *process) serve(o *op, reply func(answer)) {
	switch o.kind {
	case stale:
		p.serveStale(o, reply)
	case get, getPair:
		if v := p.views[o.shard]; v.Leader != p.n.id {
			reply(answer{err: &banyan.Error{Kind: banyan.NotLeader, Leader: v.Leader}})
			return
		}
		p.read(o.shard, func(err error) {
			if err != nil {
				reply(answer{err: err})
				return
			}
			p.after(p.work(20*time.Microsecond), func() { p.look(o, answer{}, reply) })
		})
	default:
		if err := p.room(o.shard); err != nil && o.kind != del {
			reply(answer{err: err})
			return
		}
		p.propose(o.shard, o.command(), func(res mvcc.Result, err error) {
			if err == nil && res.Stale {
				err = banyan.Errorf(banyan.Stale, "refused in apply")
			}
			if err == nil && res.Forgotten {
				err = banyan.Errorf(banyan.Forgotten, "refused in apply")
			}
			if err != nil {
				if replica.IsUncertain(err) {
					p.w.reach("outcome unknown")
				}
				reply(answer{err: err})
				return
			}
			if res.Duplicate {
				p.w.reach("retry deduplicated")
			}
			a := answer{ok: res.OK, revision: res.Revision, deleted: res.Deleted, effect: res.OK && (o.kind != del || res.Deleted > 0)}
			if len(res.Sequences) > 0 {
				a.sequence = res.Sequences[0]
			}
			p.w.truth[o.shard].acknowledge(res.Revision)
			reply(a)
		})
	}
}

func (p *process) serveStale(o *op, reply func(answer)) {
	v, ok := p.views[o.shard]
	if !ok {
		reply(answer{err: banyan.Errorf(banyan.NotLeader, "no replica here")})
		return
	}
	v.Shard = o.shard
	age, err := v.Age(p.clock())
	if err != nil {
		reply(answer{err: err})
		return
	}
	p.look(o, answer{age: age}, func(a answer) {
		p.w.checkAge(p, o.shard, a)
		reply(a)
	})
}

// look reads applied state.
func (p *process) look(o *op, a answer, reply func(answer)) {
	view, err := p.store.View(o.shard)
	if p.unread(err) {
		reply(answer{err: err})
		return
	}
	if err != nil {
		reply(answer{err: banyan.Errorf(banyan.NotLeader, "%w", err)})
		return
	}
	defer view.Close()
	row, err := mvcc.Get(view, []byte(o.key), 0)
	if err == nil && o.kind == getPair {
		var other *mvcc.Row
		if other, err = mvcc.Get(view, []byte(pairB), 0); err == nil && (other == nil) != (row == nil) || other != nil && string(other.Value) != string(row.Value) {
			p.w.fail("%v: shard %d: half of a command is visible: %q and %q differ", p.n.id, o.shard, pairA, pairB)
		}
	}
	if err == nil {
		a.revision, err = mvcc.RevisionOf(view)
	}
	if p.unread(err) {
		reply(answer{err: err})
		return
	}
	if err != nil {
		p.w.fail("%v: shard %d: read %q: %v", p.n.id, o.shard, o.key, err)
		return
	}
	if row != nil {
		a.found, a.value = true, string(row.Value)
	}
	if t := p.w.truth[o.shard]; a.revision > t.revision() {
		p.w.fail("%v: shard %d: %q was read at revision %d, and nobody has applied more than %d", p.n.id, o.shard, o.key, a.revision, t.revision())
	} else if want := t.value(o.key, a.revision); a.value != want {
		p.w.fail("%v: shard %d: %q was read as %q at revision %d, but it was %q", p.n.id, o.shard, o.key, a.value, a.revision, want)
	}
	a.ok = true
	reply(a)
}

// command is what an operation that writes commits.
func (o *op) command() *mvcc.Command {
	key, value := []byte(o.key), []byte(o.value)
	cmd := &mvcc.Command{Request: o.request, Earliest: o.earliest}
	switch o.kind {
	case create:
		cmd.Conds = []mvcc.Cond{{Key: key, Test: mvcc.Missing}}
	case cas:
		cmd.Conds = []mvcc.Cond{{Key: key, Test: mvcc.ValueEquals, Value: []byte(o.expect)}}
	}
	switch o.kind {
	case del:
		cmd.Muts = []mvcc.Mutation{{Op: mvcc.Delete, Key: key}}
	case appendTo:
		cmd.Muts = []mvcc.Mutation{{Op: mvcc.Append, Key: key, Value: value}}
	case putPair:
		cmd.Muts = []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: value}, {Op: mvcc.Put, Key: []byte(pairB), Value: value}}
	default:
		cmd.Muts = []mvcc.Mutation{{Op: mvcc.Put, Key: key, Value: value}}
	}
	return cmd
}

func leaderOf(err error) banyan.NodeID {
	if e, ok := errors.AsType[*banyan.Error](err); ok {
		return e.Leader
	}
	return 0
}
