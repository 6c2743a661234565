package client

import (
	"context"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
)

// beater keeps the leases of one Client alive: beatsPerTTL in the time of each,
// in one call to each leader for those that are due together. A beat that has
// no answer is followed by another, for each counts from when it was sent.
type beater struct {
	c     *Client
	wake  chan struct{}
	calls sync.WaitGroup

	mu      sync.Mutex
	keepers map[*keeper]struct{}
	running bool
}

const (
	beatsPerTTL     = 4
	beatPatienceMax = time.Second // with a node that does not answer, before another is asked
)

func newBeater(c *Client) *beater {
	return &beater{c: c, wake: make(chan struct{}, 1), keepers: map[*keeper]struct{}{}}
}

// add keeps a lease alive that was last heard of by what was sent then.
func (b *beater) add(k *keeper, sent time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	k.next, k.backoff = sent.Add(k.ttl/beatsPerTTL), backoffMin
	b.keepers[k] = struct{}{}
	if !b.running {
		b.running = true
		b.calls.Go(b.run)
	}
	b.poke()
}

func (b *beater) remove(k *keeper) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.keepers, k)
	b.poke()
}

func (b *beater) poke() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// run sends what is due until nothing is left to keep alive, or the Client
// is closed.
func (b *beater) run() {
	for {
		batches, wait, ok := b.due(time.Now())
		if !ok {
			return
		}
		for _, batch := range batches {
			b.calls.Go(func() { b.send(batch) })
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-b.wake:
		case <-b.c.life.Done():
		}
		t.Stop()
	}
}

// due gives the leases that are due, or nearly so, by the node to ask first,
// and how long it is to the next. It is not ok when there are none any more.
func (b *beater) due(now time.Time) (batches [][]*keeper, wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.keepers) == 0 || b.c.life.Err() != nil {
		b.running = false
		return nil, 0, false
	}
	wait = time.Hour
	at := map[*node][]*keeper{}
	for k := range b.keepers {
		switch early := k.next.Sub(now); {
		case k.beating:
		case early > k.ttl/12:
			wait = min(wait, early)
		default:
			k.beating = true
			n := b.c.leaderOf([]byte(k.partition))
			at[n] = append(at[n], k)
			if len(at[n]) == banyan.LeaseBatchMax {
				batches = append(batches, at[n])
				delete(at, n)
			}
		}
	}
	for _, batch := range at {
		batches = append(batches, batch)
	}
	return batches, wait, true
}

// send sends one beat for some leases.
func (b *beater) send(batch []*keeper) {
	req := &banyanv1.KeepAliveRequest{}
	wait := batch[0].ttl
	for _, k := range batch {
		req.Leases = append(req.Leases, &banyanv1.LeaseRef{Partition: k.partition, Lease: k.lease})
		wait = min(wait, k.ttl)
	}
	wait /= beatsPerTTL
	ctx, cancel := context.WithTimeout(b.c.life, wait)
	defer cancel()
	sent := time.Now()
	var res *banyanv1.KeepAliveResponse
	_ = b.c.try(ctx, []byte(batch[0].partition), min(wait/3, beatPatienceMax), func(ctx context.Context, n *node) (err error) {
		res, err = request(ctx, n.coord, req, banyanv1connect.CoordClient.KeepAlive)
		return err
	}) // without an answer there is another beat
	b.heard(batch, res, sent)
}

// heard takes the answer to a beat in; of leases that it does not name, and
// without one, nothing is known.
func (b *beater) heard(batch []*keeper, res *banyanv1.KeepAliveResponse, sent time.Time) {
	told := map[uint64]bool{} // whether it lasts
	for _, id := range res.GetKept() {
		told[id] = true
	}
	for _, id := range res.GetEnded() {
		told[id] = false
	}
	for _, k := range batch {
		lasts, known := told[k.lease]
		switch {
		case known && lasts:
			k.extend(sent)
		case known:
			k.ended()
		}
		b.mu.Lock()
		k.beating = false
		if known {
			k.next, k.backoff = sent.Add(k.ttl/beatsPerTTL), backoffMin
		} else {
			k.next, k.backoff = time.Now().Add(k.backoff), min(2*k.backoff, backoffMax)
		}
		if k.err() != nil {
			delete(b.keepers, k)
		}
		b.mu.Unlock()
	}
	b.poke()
}
