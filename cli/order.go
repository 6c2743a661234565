package cli

import (
	"context"
	"math/bits"

	banyanv1 "banyan/api/banyan/v1"
)

// What -k holds back at most while an earlier task runs. Beyond it results are
// dropped and read again from the job when their turn comes.
const (
	heldBytesMax   = 16 << 20
	heldResultsMax = 10_000
)

// order puts results into the order of their inputs.
type order struct {
	next  uint32
	done  bitmap // has a result
	quiet bitmap // is passed over in silence
	held  map[uint32]*banyanv1.TaskResult
	bytes int

	emit   func(context.Context, *banyanv1.TaskResult) error
	reread func(ctx context.Context, from uint32) ([]*banyanv1.TaskResult, error)
}

// add takes a result, which may be one it has seen, and advances.
func (o *order) add(ctx context.Context, r *banyanv1.TaskResult) error {
	if r.Task < o.next {
		return nil
	}
	o.done.set(r.Task)
	o.hold(r)
	return o.advance(ctx)
}

// advance emits what has its turn now.
func (o *order) advance(ctx context.Context) error {
	for o.done.has(o.next) || o.quiet.has(o.next) {
		if o.quiet.has(o.next) {
			o.drop(o.next)
			o.next++
			continue
		}
		if o.held[o.next] == nil {
			if err := o.refill(ctx); err != nil {
				return err
			}
			if o.held[o.next] == nil {
				return nil // not visible yet: its turn comes with the next result
			}
		}
		r := o.held[o.next]
		o.drop(o.next)
		o.next++
		if err := o.emit(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

func (o *order) hold(r *banyanv1.TaskResult) {
	if o.held == nil {
		o.held = map[uint32]*banyanv1.TaskResult{}
	}
	size := resultBytes(r)
	if r.Task != o.next && (o.bytes+size > heldBytesMax || len(o.held) >= heldResultsMax) {
		return
	}
	if o.held[r.Task] == nil {
		o.held[r.Task] = r
		o.bytes += size
	}
}

func (o *order) drop(task uint32) {
	if r := o.held[task]; r != nil {
		o.bytes -= resultBytes(r)
		delete(o.held, task)
	}
}

// refill replaces what is held by the results that come next.
func (o *order) refill(ctx context.Context) error {
	rs, err := o.reread(ctx, o.next)
	if err != nil {
		return err
	}
	o.held, o.bytes = nil, 0
	for _, r := range rs {
		o.hold(r)
	}
	return nil
}

func resultBytes(r *banyanv1.TaskResult) int {
	return 256 + len(r.Stdout.GetInline()) + len(r.Stderr.GetInline())
}

// bitmap is a set of tasks. What it has from the first one on without a gap costs
// nothing, so that a job without end does not either.
type bitmap struct {
	whole uint32 // words of 64 tasks that are full, before words
	words []uint64
}

func (b *bitmap) set(i uint32) {
	if i/64 < b.whole {
		return
	}
	at := int(i/64 - b.whole)
	for at >= len(b.words) {
		b.words = append(b.words, 0)
	}
	b.words[at] |= 1 << (i % 64)
	for len(b.words) > 0 && b.words[0] == ^uint64(0) {
		b.words = b.words[1:]
		b.whole++
	}
}

func (b *bitmap) has(i uint32) bool {
	if i/64 < b.whole {
		return true
	}
	at := int(i/64 - b.whole)
	return at < len(b.words) && b.words[at]>>(i%64)&1 == 1
}

func (b *bitmap) len() uint32 {
	n := int(b.whole) * 64
	for _, w := range b.words {
		n += bits.OnesCount64(w)
	}
	return uint32(n)
}

// prefix is the first task that is not in the set.
func (b *bitmap) prefix() uint32 {
	if len(b.words) == 0 {
		return b.whole * 64
	}
	return b.whole*64 + uint32(bits.TrailingZeros64(^b.words[0]))
}

// fill sets all before n.
func (b *bitmap) fill(n uint32) {
	if full := n / 64; full > b.whole {
		b.words = b.words[min(int(full-b.whole), len(b.words)):]
		b.whole = full
	}
	for i := n - n%64; i < n; i++ {
		b.set(i)
	}
}
