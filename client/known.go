package client

import (
	"context"
	"sync/atomic"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/internal/pause"
)

// known is what a client has been told of a shard. A write says the revision
// that was known before it was first sent, so that a copy of it that arrives
// when the cluster remembers no requests of that time is refused.
type known struct {
	next    atomic.Uint64 // the revision plus one; 0: nothing was told
	atNanos atomic.Int64  // since the client began, when it was no older than the shard
}

// knownMax is how old knowledge may be for a write: a shard would have to carry
// out banyan.DedupWindowMax requests meanwhile to refuse one that was sent once.
const knownMax = 2 * time.Second

// shardFor gives the shard of a partition: the one whose node answered last, else
// by the map; 0 if the client has learned of none.
func (c *Client) shardFor(partition []byte) uint32 {
	slot := banyan.SlotOf(partition)
	if told := c.told[slot].Load(); told != 0 {
		return told
	}
	if t := c.topology.Load(); t != nil && slot < len(t.slots) {
		return t.slots[slot]
	}
	return 0
}

// knownOf gives what is known of a shard, nil if the client keeps nothing of it:
// it knows none, or one of a number that is beyond what it keeps.
func (c *Client) knownOf(shard uint32) *known {
	if shard == 0 || int(shard) >= len(c.shards) {
		return nil
	}
	return &c.shards[shard]
}

// hear notes a revision that a shard had at a time, or had passed, as an answer
// about a partition told. Revisions of different shards cannot be compared.
func (c *Client) hear(partition []byte, shard uint32, revision uint64, at time.Time) {
	if told := &c.told[banyan.SlotOf(partition)]; shard != 0 && told.Load() != shard {
		told.Store(shard)
	}
	k := c.knownOf(shard)
	if k == nil {
		return
	}
	for next := k.next.Load(); next <= revision && !k.next.CompareAndSwap(next, revision+1); next = k.next.Load() {
	}
	nanos := int64(at.Sub(c.began))
	for was := k.atNanos.Load(); was < nanos && !k.atNanos.CompareAndSwap(was, nanos); was = k.atNanos.Load() {
	}
}

// line is what a write says was known: a revision, and of which shard.
type line struct {
	revision uint64
	shard    uint32
}

// heard gives what was told lately about the shard of a key; ok is false if
// nothing was.
func (k KV) heard(key []byte) (known line, ok bool) {
	shard := k.c.shardFor(banyan.Partition(key))
	of := k.c.knownOf(shard)
	if of == nil {
		return line{}, false
	}
	at := time.Duration(of.atNanos.Load()) // before next: what is read then is as new at least
	next := of.next.Load()
	return line{next - 1, shard}, next != 0 && time.Since(k.c.began)-at <= knownMax
}

// ask has the shard of a key tell its revision.
func (k KV) ask(ctx context.Context, key []byte) (line, error) {
	res, err := k.Read(ctx, &banyanv1.GetRequest{Key: beside(key)})
	return line{res.GetRevision(), res.GetShard()}, err
}

// write makes a write to a key under a new request id. Where the answer is that
// the shard whose revision it names did not hold the key any more by then, nobody
// has carried the write out, and it is made anew with what is known then. (A copy
// of it whose answer was lost may have come first; it was refused for the same
// reason, or would have been carried out before that revision.)
func (k KV) write(ctx context.Context, key []byte, once func(ctx context.Context, id []byte, known line) (revision uint64, shard uint32, err error)) error {
	partition := banyan.Partition(key)
	known, ok := k.heard(key)
	for wait := time.Duration(0); ; wait = max(backoffMin, min(2*wait, backoffMax)) {
		if !ok {
			var cancel context.CancelFunc
			ctx, cancel = withDeadline(ctx)
			defer cancel() // once, nearly always
			var err error
			if known, err = k.ask(ctx, key); err != nil {
				return err
			}
		}
		began := time.Now()
		id := banyan.NewRequestID()
		revision, shard, err := once(ctx, id[:], known)
		if err == nil {
			k.c.hear(partition, shard, revision, began)
		}
		if !banyan.IsKind(err, banyan.Moved) || wait > 0 && pause.For(ctx, wait) != nil {
			return err
		}
		ok = false
		k.c.told[banyan.SlotOf(partition)].CompareAndSwap(known.shard, 0)
		k.c.learn()
	}
}

// besideMax keeps a key that is asked for within what a node takes.
const besideMax = banyan.KeyBytesMax / 2

// beside is a key of the same partition that hardly anybody uses: its value,
// which nobody wants to know, may be large.
func beside(key []byte) []byte {
	if p := banyan.Partition(key); len(p) < besideMax {
		return append(append(make([]byte, 0, len(p)+1), p...), '/')
	}
	return key
}
