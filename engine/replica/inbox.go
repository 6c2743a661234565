package replica

import (
	"sync"

	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// inbox collects what other goroutines have for the one that owns the Core,
// which takes all of it at once.
type inbox struct {
	mu    sync.Mutex
	in    intake
	bytes int // of messages
	wake  chan struct{}
	wants bool // the loop waits for what is finished
	over  bool // the loop has ended
}

// intake is one round of input. Bounds: messages by banyan.PeerQueueBytesMax,
// proposals and reads by what callers may have waiting, the rest by what was
// handed out.
type intake struct {
	calls    []func(*Core)
	appended [][]*Append
	applied  [][]*Apply
	messages []message
	reads    []read
	proposed []proposed
}

type message struct {
	shard banyan.ShardID
	m     *raftpb.Message
}

type read struct {
	shard banyan.ShardID
	done  func(error)
}

type proposed struct {
	shard banyan.ShardID
	p     *Proposal
}

func newInbox() *inbox { return &inbox{wake: make(chan struct{}, 1)} }

func (b *inbox) put(add func(*intake)) {
	b.mu.Lock()
	add(&b.in)
	b.mu.Unlock()
	b.signal()
}

// finishedMax is how much finished work may lie here before it wakes the loop,
// wanted or not.
const finishedMax = 64

// finished takes in what the disk or the applier has done. It wakes the loop
// only if that waits for it: to wake somebody costs more than most of what
// there is to do.
func (b *inbox) finished(add func(*intake)) {
	b.mu.Lock()
	add(&b.in)
	wake := b.wants || len(b.in.appended)+len(b.in.applied) > finishedMax
	b.mu.Unlock()
	if wake {
		b.signal()
	}
}

// want says whether the loop waits for what is finished.
func (b *inbox) want(wants bool) {
	b.mu.Lock()
	b.wants = wants
	wake := wants && len(b.in.appended)+len(b.in.applied) > 0
	b.mu.Unlock()
	if wake {
		b.signal()
	}
}

// propose queues a proposal; not ok: the loop has ended.
func (b *inbox) propose(shard banyan.ShardID, p *Proposal) (ok bool) {
	return b.offer(func(in *intake) { in.proposed = append(in.proposed, proposed{shard, p}) })
}

// read queues a read; not ok: the loop has ended.
func (b *inbox) read(shard banyan.ShardID, done func(error)) (ok bool) {
	return b.offer(func(in *intake) { in.reads = append(in.reads, read{shard, done}) })
}

// offer is put for what must be answered, which the loop does until it ends.
func (b *inbox) offer(add func(*intake)) (ok bool) {
	b.mu.Lock()
	if ok = !b.over; ok {
		add(&b.in)
	}
	b.mu.Unlock()
	b.signal()
	return ok
}

// close gives what the loop will not take any more.
func (b *inbox) close() ([]proposed, []read) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	proposals, reads := b.in.proposed, b.in.reads
	b.in.proposed, b.in.reads = nil, nil
	return proposals, reads
}

func (b *inbox) signal() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// message queues m, or drops it if the loop is too far behind: raft sends again.
func (b *inbox) message(shard banyan.ShardID, m *raftpb.Message) (ok bool) {
	size := messageBytes(m)
	b.mu.Lock()
	if ok = b.bytes+size <= banyan.PeerQueueBytesMax; ok {
		b.bytes += size
		b.in.messages = append(b.in.messages, message{shard, m})
	}
	b.mu.Unlock()
	b.signal()
	return ok
}

func messageBytes(m *raftpb.Message) int {
	n := 64
	for _, e := range m.GetEntries() {
		n += len(e.GetData()) + entryOverhead
	}
	return n
}

// take swaps the input for spare, whose memory is used again.
func (b *inbox) take(spare intake) intake {
	spare.reset()
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.in
	b.in, b.bytes = spare, 0
	return out
}

func (in *intake) reset() {
	in.calls = empty(in.calls)
	in.appended = empty(in.appended)
	in.applied = empty(in.applied)
	in.messages = empty(in.messages)
	in.reads = empty(in.reads)
	in.proposed = empty(in.proposed)
}

func empty[T any](s []T) []T {
	clear(s)
	return s[:0]
}

// feed tells the Core all of it. Acknowledgements come first: they free what
// messages and proposals would otherwise wait for.
func (in *intake) feed(c *Core) {
	for _, call := range in.calls {
		call(c)
	}
	for _, batch := range in.appended {
		for _, a := range batch {
			c.Appended(a)
		}
	}
	for _, batch := range in.applied {
		for _, a := range batch {
			c.Applied(a)
		}
	}
	for _, m := range in.messages {
		c.Step(m.shard, m.m)
	}
	for _, r := range in.reads {
		c.Read(r.shard, r.done)
	}
	for _, p := range in.proposed {
		c.Propose(p.shard, p.p)
	}
}

// queue hands work from the loop to workers, each of which takes all there is
// at once, up to a bound of its own. What raft lets be under way bounds it, and
// what callers may have waiting.
type queue[T any] struct {
	mu     sync.Mutex
	some   sync.Cond
	items  []T
	closed bool
}

func newQueue[T any]() *queue[T] {
	q := &queue[T]{}
	q.some.L = &q.mu
	return q
}

func (q *queue[T]) put(items []T) {
	if len(items) == 0 {
		return
	}
	q.mu.Lock()
	q.items = append(q.items, items...)
	q.mu.Unlock()
	q.some.Signal()
}

// take waits for items and takes at most max of them; none when closed.
func (q *queue[T]) take(max int) []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.items) == 0 && !q.closed {
		q.some.Wait()
	}
	if q.closed {
		return nil
	}
	n := min(max, len(q.items))
	out := q.items[:n:n]
	q.items = q.items[n:]
	if len(q.items) == 0 {
		q.items = nil // what was taken must not be kept alive
	} else {
		q.some.Signal() // another worker may have the rest
	}
	return out
}

func (q *queue[T]) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// left gives what nobody has taken, once the queue is closed.
func (q *queue[T]) left() []T {
	q.mu.Lock()
	defer q.mu.Unlock()
	out := q.items
	q.items = nil
	return out
}

func (q *queue[T]) close() {
	q.mu.Lock()
	q.closed = true
	q.mu.Unlock()
	q.some.Broadcast()
}
