package client

import (
	"context"
	"sync/atomic"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
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

// knownOf gives what is known of the shard of a partition, or of its slot alone
// as long as the client has not learned which shard that is.
func (c *Client) knownOf(partition []byte) *known {
	slot := banyan.SlotOf(partition)
	if t := c.topology.Load(); t != nil && slot < len(t.slots) && t.slots[slot] <= banyan.ShardsMax {
		return &c.shards[t.slots[slot]]
	}
	return &c.slots[slot]
}

// hear notes a revision that a shard had at a time, or had passed.
func (c *Client) hear(partition []byte, revision uint64, at time.Time) {
	k := c.knownOf(partition)
	for next := k.next.Load(); next <= revision && !k.next.CompareAndSwap(next, revision+1); next = k.next.Load() {
	}
	nanos := int64(at.Sub(c.began))
	for was := k.atNanos.Load(); was < nanos && !k.atNanos.CompareAndSwap(was, nanos); was = k.atNanos.Load() {
	}
}

// write makes a write to a key under a new request id, after it has asked for
// the revision of the shard if nobody told it lately.
func (k KV) write(ctx context.Context, key []byte, once func(ctx context.Context, id []byte, known *uint64) (revision uint64, err error)) error {
	partition := banyan.Partition(key)
	of := k.c.knownOf(partition)
	at := time.Duration(of.atNanos.Load()) // before next: what is read then is as new at least
	next := of.next.Load()
	if next == 0 || time.Since(k.c.began)-at > knownMax {
		var cancel context.CancelFunc
		ctx, cancel = withDeadline(ctx)
		defer cancel()
		res, err := k.Read(ctx, &banyanv1.GetRequest{Key: beside(key)})
		if err != nil {
			return err
		}
		next = res.Revision + 1
	}
	revision := next - 1
	began := time.Now()
	id := banyan.NewRequestID()
	revision, err := once(ctx, id[:], &revision)
	if err == nil {
		k.c.hear(partition, revision, began)
	}
	return err
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
