package coord

import (
	"container/heap"
	"encoding/binary"
	"slices"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
)

// The bounds of a lease's time to live. The shortest one outlives a change of
// leaders.
const (
	TTLMinMs = 1000
	TTLMaxMs = 24 * 60 * 60 * 1000
)

// LateMs is how far behind a deadline Tick may come. When it comes later, the
// driver stood still, and so did those who would have brought word of leases:
// the core's clock then stands still too.
const LateMs = 500

const (
	batchRowsMax  = 1024    // changed by one command
	batchBytesMax = 1 << 20 // of keys and values in one command
	expireMax     = 256     // leases ended by one Tick
)

// Core decides who holds the locks of one shard during one term in which this
// node leads it. Make a new one for each term, from the rows as they are after
// an entry of that term has been applied. It reads no clock: now is
// milliseconds on any clock that does not go back and whose rate is about that
// of other machines' clocks. It is not safe for concurrent use. The same
// inputs in the same order give the same outputs.
//
// It knows what it has decided before that is committed: Next gives the
// commands, several may be under way, to be proposed in this order, and
// Committed says of the oldest that it is committed. Each carries out what was
// decided on the strength of those before it: it has an effect only if they
// had. Whoever asked is answered (Answers) once everything that the answer says
// is committed. If a command is refused, wait until it is clear what became of
// those behind it, and throw the core away; whoever waits asks again.
type Core struct {
	term  uint64
	life  uint64
	clock int64 // now - lag, held back when the driver was late
	lag   int64

	leases    map[uint64]*lease
	deadlines deadlines
	locks     map[string]*lock

	queue    []unit   // decided, in order, not yet proposed
	inflight [][]unit // by command
	given    uint64   // commands, by Next
	answers  []Answer
}

// Answer is what became of an Acquire or a Release.
type Answer struct {
	Op    uint64 // as the driver named it
	Err   error
	Claim *banyanv1.Claim // of an Acquire; token 0: it waits
	// Holder is the owner of one who holds the lock, if the claim waits.
	Holder   string
	Released bool // of a Release: there was something
	// Confirm: nothing was committed for this answer. Before it is passed on,
	// make sure (ReadIndex) that this node still leads the shard.
	Confirm bool
}

// unit is what must be committed together.
type unit struct {
	muts   []mvcc.Mutation
	rows   int
	grants *claim   // holds from this revision on
	shows  *claim   // ops want to know how it stands
	ops    []uint64 // to answer when committed, with shows or answer
	answer Answer
}

// Open makes the core of a shard for a term from its rows (All), in order.
// Every lease begins its whole time again. life tells cores of one term apart.
func Open(now int64, term, life uint64, rows []mvcc.Row) (*Core, error) {
	c := &Core{term: term, life: life, clock: now, leases: map[uint64]*lease{}, locks: map[string]*lock{}}
	for i := range rows {
		if err := c.load(&rows[i]); err != nil {
			return nil, err
		}
	}
	for i := range rows { // in the order of rows, which is the same everywhere
		if p, err := parseKey(rows[i].Key); err == nil && !p.lease && !p.held {
			c.promote(c.locks[p.name])
		}
	}
	return c, nil
}

func (c *Core) load(row *mvcc.Row) error {
	p, err := parseKey(row.Key)
	if err != nil {
		return err
	}
	if p.lease {
		ttl, err := decodeLease(row.Value)
		if err == nil {
			c.addLease(p.number, p.name, ttl)
		}
		return err
	}
	stored, p, err := decodeClaim(row)
	if err != nil {
		return err
	}
	le := c.leases[stored.Lease]
	if le == nil {
		return banyan.Errorf(banyan.Corrupt, "lock %q: its claim of lease %x outlived the lease", p.name, stored.Lease)
	}
	l := c.lockNamed(p.name)
	cl := &claim{Claim: stored, lock: l, lease: le, held: p.held}
	le.claims = append(le.claims, cl)
	if p.held {
		l.holders = append(l.holders, cl)
	} else {
		cl.place, l.next = p.number, p.number+1
		l.queue = append(l.queue, cl)
	}
	return nil
}

// Acquire claims a lock. op names the answer: if wait is set it comes when the
// lock is taken or the claim ended, else as soon as the claim is committed.
// wallMs is the time of day, for people to see. The request was checked.
func (c *Core) Acquire(now int64, op uint64, req *banyanv1.AcquireRequest, wallMs int64, wait bool) {
	c.pass(now)
	le := c.leases[req.Lease]
	if le != nil {
		le.deadline = c.clock + le.ttl
		if cl := le.claim(req.Name); cl != nil {
			c.again(op, cl, req, wait)
			return
		}
	}
	l := c.locks[req.Name]
	if err := c.refuse(le, l, req); err != nil {
		c.reply(Answer{Op: op, Err: err})
		return
	}
	if le == nil {
		le = c.addLease(req.Lease, partitionOf(req.Name), req.TtlMs)
		c.push(unit{rows: 1, muts: []mvcc.Mutation{{Op: mvcc.Put, Key: leaseKey(le.partition, le.id), Value: encodeLease(le.ttl), Lease: le.id}}})
	}
	cl := &claim{lease: le, lock: c.lockNamed(req.Name), Claim: &banyanv1.Claim{
		Name: req.Name, Lease: req.Lease, Shared: req.Shared, Permits: max(req.Permits, 1),
		Owner: req.Owner, Value: req.Value, SinceMs: wallMs, TtlMs: le.ttl,
	}}
	le.claims = append(le.claims, cl)
	if l = cl.lock; len(l.queue) == 0 && l.admits(cl) {
		cl.waiting = append(cl.waiting, op)
		c.grant(cl, unit{})
		return
	}
	cl.place = l.next
	l.next++
	l.queue = append(l.queue, cl)
	u := unit{rows: 1, muts: []mvcc.Mutation{{Op: mvcc.Put, Key: waiterKey(l.name, cl.place), Value: encodeClaim(cl.Claim), Lease: le.id}}}
	if wait {
		cl.waiting = append(cl.waiting, op)
	} else {
		u.shows, u.ops = cl, []uint64{op}
	}
	c.push(u)
}

// again answers a repeated Acquire.
func (c *Core) again(op uint64, cl *claim, req *banyanv1.AcquireRequest, wait bool) {
	switch {
	case cl.Shared != req.Shared || cl.Permits != max(req.Permits, 1):
		c.reply(Answer{Op: op, Err: banyan.Errorf(banyan.Invalid, "lease %x has claimed lock %q in another way: release that claim first, or use another lease", cl.Lease, cl.Name)})
	case cl.held && cl.Token == 0, !cl.held && wait:
		cl.waiting = append(cl.waiting, op)
	default:
		c.reply(c.standing(op, cl))
	}
}

// refuse says why a new claim cannot be made.
func (c *Core) refuse(le *lease, l *lock, req *banyanv1.AcquireRequest) error {
	switch {
	case le == nil && req.TtlMs == 0:
		return ended(req.Lease)
	case le == nil && len(c.leases) >= banyan.LeasesMax:
		return banyan.Errorf(banyan.Exhausted, "there are %d leases in this shard already (LeasesMax)", len(c.leases))
	case le != nil && le.partition != partitionOf(req.Name):
		return banyan.Errorf(banyan.Invalid, "lease %x is of partition %q, lock %q is not: use one lease for each partition (the part of a name before its first '/')", le.id, le.partition, req.Name)
	case le != nil && len(le.claims) >= banyan.LeaseClaimsMax:
		return banyan.Errorf(banyan.Exhausted, "lease %x has claimed %d locks already (LeaseClaimsMax): use another lease", le.id, len(le.claims))
	case len(c.queue) >= banyan.LockQueueMax:
		return banyan.Errorf(banyan.Exhausted, "%d changes of locks wait to be committed in this shard (LockQueueMax): try again later", len(c.queue))
	case l == nil:
		return nil
	case l.permits() != max(req.Permits, 1):
		return banyan.Errorf(banyan.Invalid, "lock %q is in use with %d permits, not %d: all who share it must give the same number", l.name, l.permits(), max(req.Permits, 1))
	case len(l.queue) >= banyan.LockWaitersMax:
		return banyan.Errorf(banyan.Exhausted, "%d claims wait for lock %q already (LockWaitersMax)", len(l.queue), l.name)
	case req.Try && (len(l.queue) > 0 || !l.admits(&claim{Claim: &banyanv1.Claim{Shared: req.Shared, Permits: max(req.Permits, 1)}})):
		return banyan.Errorf(banyan.Conflict, "lock %q is taken: %s holds it, %d wait", l.name, l.holder(), len(l.queue))
	}
	return nil
}

func ended(lease uint64) error {
	return banyan.Errorf(banyan.NotFound, "lease %x has ended: it was released, or not kept alive in time", lease)
}

// Release gives up a lease's claim to a lock, or with no name the lease and
// all that is attached to it. op names the answer.
func (c *Core) Release(now int64, op uint64, leaseID uint64, name string) {
	c.pass(now)
	le := c.leases[leaseID]
	var cl *claim
	if le != nil && name != "" {
		cl = le.claim(name)
	}
	switch {
	case len(c.queue) >= banyan.LockQueueMax:
		c.reply(Answer{Op: op, Err: banyan.Errorf(banyan.Exhausted, "%d changes of locks wait to be committed in this shard (LockQueueMax): try again later", len(c.queue))})
	case le == nil, name != "" && cl == nil:
		c.reply(Answer{Op: op})
	case name == "":
		c.end(le, unit{ops: []uint64{op}, answer: Answer{Released: true}})
	default:
		le.claims = slices.DeleteFunc(le.claims, func(x *claim) bool { return x == cl })
		key := waiterKey(name, cl.place)
		if cl.held {
			key = holderKey(name, cl.Permit)
		}
		c.push(unit{rows: 1, muts: []mvcc.Mutation{{Op: mvcc.Delete, Key: key}}, ops: []uint64{op}, answer: Answer{Released: true}})
		c.drop(cl)
		c.promote(cl.lock)
	}
}

// KeepAlive lets leases last their whole time again and gives those that have
// ended. Before that is passed on: make sure (ReadIndex) that this node still
// leads the shard, then look whether each lease's row (LeaseRow) is there
// still; it has ended if not. Only then does a leader that took over, or was
// replaced, before the call not know better.
func (c *Core) KeepAlive(now int64, ids []uint64) (gone []uint64) {
	c.pass(now)
	for _, id := range ids {
		if le := c.leases[id]; le != nil {
			le.deadline = c.clock + le.ttl
		} else {
			gone = append(gone, id)
		}
	}
	return gone
}

// LeaseRow is the row that is there while a lease lasts.
func LeaseRow(partition string, lease uint64) []byte { return leaseKey(partition, lease) }

// Tick lets time pass and ends the leases whose time is over.
func (c *Core) Tick(now int64) {
	c.pass(now)
	for n := 0; n < expireMax && len(c.deadlines) > 0 && len(c.queue) < banyan.LockQueueMax; {
		le := c.deadlines[0]
		switch {
		case le.at > c.clock:
			return
		case le.deadline > c.clock: // it was kept alive
			le.at = le.deadline
			heap.Fix(&c.deadlines, 0)
		default:
			c.end(le, unit{})
			n++
		}
	}
}

// Deadline is when to call Tick, on the clock of now. It is not ok if nothing
// waits for time to pass.
func (c *Core) Deadline() (at int64, ok bool) {
	if len(c.deadlines) == 0 {
		return 0, false
	}
	return c.deadlines[0].at + c.lag, true
}

func (c *Core) pass(now int64) {
	to := now - c.lag
	if len(c.deadlines) > 0 && to > c.deadlines[0].at+LateMs {
		to = max(c.clock, c.deadlines[0].at-LateMs)
	}
	c.clock = max(c.clock, to)
	c.lag = now - c.clock
}

// commandsMax is how many commands may be under way.
const commandsMax = 4

// Next gives the next command to commit, nil if there is none or enough are
// under way.
func (c *Core) Next() *mvcc.Command {
	if len(c.queue) == 0 || len(c.inflight) == commandsMax {
		return nil
	}
	cmd := &mvcc.Command{Term: c.term, Muts: make([]mvcc.Mutation, 1)}
	n, rows, size := 0, 1, 0
	for n < len(c.queue) {
		u := &c.queue[n]
		rows += u.rows
		for _, m := range u.muts {
			size += len(m.Key) + len(m.Value)
		}
		if n > 0 && (rows > batchRowsMax || size > batchBytesMax) {
			break
		}
		cmd.Muts = append(cmd.Muts, u.muts...)
		n++
	}
	units := c.queue[:n:n]
	c.queue = c.queue[n:]
	if last := len(c.inflight) - 1; len(cmd.Muts) == 1 { // only answers, which wait for what is under way
		c.inflight[last] = append(c.inflight[last], units...)
		return nil
	}
	if len(c.inflight) > 0 {
		cmd.Conds = []mvcc.Cond{{Key: chainKey(), Test: mvcc.ValueEquals, Value: c.link()}}
	}
	c.given++
	cmd.Muts[0] = mvcc.Mutation{Op: mvcc.Put, Key: chainKey(), Value: c.link()}
	c.inflight = append(c.inflight, units)
	return cmd
}

// link names the latest command given, as the row at chainKey does once it is
// committed.
func (c *Core) link() []byte {
	b := binary.AppendUvarint([]byte{rowVersion}, c.term)
	return binary.AppendUvarint(binary.AppendUvarint(b, c.life), c.given)
}

// Committed says that the oldest command under way was committed at a revision.
func (c *Core) Committed(at banyan.Revision) {
	done := c.inflight[0]
	c.inflight = c.inflight[1:]
	for i := range done {
		if cl := done[i].grants; cl != nil {
			cl.Token = uint64(at)
		}
	}
	for i := range done {
		c.finish(&done[i])
	}
	for len(c.inflight) == 0 && len(c.queue) > 0 && len(c.queue[0].muts) == 0 {
		c.finish(&c.queue[0])
		c.queue = c.queue[1:]
	}
}

// finish answers those who waited for a unit.
func (c *Core) finish(u *unit) {
	if cl := u.grants; cl != nil && !cl.ended {
		for _, op := range cl.waiting {
			c.answers = append(c.answers, c.standing(op, cl))
		}
		cl.waiting = nil
	}
	for _, op := range u.ops {
		a := u.answer
		if u.shows != nil {
			a = c.standing(op, u.shows)
		}
		a.Op = op
		c.answers = append(c.answers, a)
	}
}

// Answers gives what is to be answered and forgets it.
func (c *Core) Answers() []Answer {
	out := c.answers
	c.answers = nil
	return out
}

// Forget says that nobody waits for the answer to an Acquire any more. The
// claim stays.
func (c *Core) Forget(op uint64, lease uint64, name string) {
	if le := c.leases[lease]; le != nil {
		if cl := le.claim(name); cl != nil {
			cl.waiting = slices.DeleteFunc(cl.waiting, func(x uint64) bool { return x == op })
		}
	}
}

// Counts says how much there is.
func (c *Core) Counts() (leases, locks int) { return len(c.leases), len(c.locks) }

// standing says how a claim stands.
func (c *Core) standing(op uint64, cl *claim) Answer {
	if cl.ended {
		return Answer{Op: op, Err: ended(cl.Lease)}
	}
	a := Answer{Op: op, Claim: proto.CloneOf(cl.Claim)}
	if cl.Token == 0 {
		a.Holder = cl.lock.holder()
		a.Claim.Permit = 0
		a.Claim.Ahead = uint32(max(0, slices.Index(cl.lock.queue, cl)))
	}
	return a
}

// reply answers what changes nothing: behind what is decided, or at once.
func (c *Core) reply(a Answer) {
	if len(c.queue)+len(c.inflight) == 0 {
		a.Confirm = true
		c.answers = append(c.answers, a)
		return
	}
	c.push(unit{ops: []uint64{a.Op}, answer: a})
}

func (c *Core) push(u unit) { c.queue = append(c.queue, u) }

// grant lets a claim hold its lock. before is what goes with it.
func (c *Core) grant(cl *claim, before unit) {
	l := cl.lock
	at := 0
	for at < len(l.holders) && l.holders[at].Permit == uint32(at) {
		at++
	}
	cl.Permit = uint32(at)
	l.holders = slices.Insert(l.holders, at, cl)
	cl.held = true
	before.grants = cl
	before.rows++
	before.muts = append(before.muts, mvcc.Mutation{Op: mvcc.Put, Key: holderKey(l.name, cl.Permit), Value: encodeClaim(cl.Claim), Lease: cl.Lease})
	c.push(before)
}

// promote gives the lock to those who are first in its queue.
func (c *Core) promote(l *lock) {
	for len(l.queue) > 0 && l.admits(l.queue[0]) {
		cl := l.queue[0]
		l.queue = slices.Delete(l.queue, 0, 1)
		c.grant(cl, unit{rows: 1, muts: []mvcc.Mutation{{Op: mvcc.Delete, Key: waiterKey(l.name, cl.place)}}})
	}
	if len(l.queue)+len(l.holders) == 0 {
		delete(c.locks, l.name)
	}
}

// end ends a lease and all its claims.
func (c *Core) end(le *lease, u unit) {
	delete(c.leases, le.id)
	heap.Remove(&c.deadlines, le.index)
	u.rows = 1 + len(le.claims)
	u.muts = []mvcc.Mutation{{Op: mvcc.Revoke, Key: banyan.SlotKey(slotOf(le.partition)), Lease: le.id}}
	c.push(u)
	for _, cl := range le.claims {
		c.drop(cl)
	}
	for _, cl := range le.claims {
		c.promote(cl.lock)
	}
}

// drop takes a claim out of its lock.
func (c *Core) drop(cl *claim) {
	cl.ended = true
	isIt := func(x *claim) bool { return x == cl }
	cl.lock.holders = slices.DeleteFunc(cl.lock.holders, isIt)
	cl.lock.queue = slices.DeleteFunc(cl.lock.queue, isIt)
	for _, op := range cl.waiting {
		c.reply(Answer{Op: op, Err: ended(cl.Lease)})
	}
	cl.waiting = nil
}

func (c *Core) addLease(id uint64, partition string, ttl int64) *lease {
	le := &lease{id: id, partition: partition, ttl: ttl, deadline: c.clock + ttl}
	le.at = le.deadline
	c.leases[id] = le
	heap.Push(&c.deadlines, le)
	return le
}

func (c *Core) lockNamed(name string) *lock {
	l := c.locks[name]
	if l == nil {
		l = &lock{name: name}
		c.locks[name] = l
	}
	return l
}

func partitionOf(name string) string { return string(banyan.Partition([]byte(name))) }
