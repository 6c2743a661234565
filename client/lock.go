package client

import (
	"context"
	"errors"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// Lock is a lock that was taken.
type Lock struct {
	claim  *banyanv1.Claim
	keeper *keeper
}

// Token is the fencing token: whoever takes the lock later gets a greater one.
// Whatever the lock protects should refuse a token smaller than the greatest it
// has seen, for a holder that was paused does not know that it lost the lock.
func (l *Lock) Token() banyan.Revision { return banyan.Revision(l.claim.Token) }

// Permit is which of the permits of a semaphore this is, from 0.
func (l *Lock) Permit() int { return int(l.claim.Permit) }

// Lost is closed when the holder must stop: the lock was released or taken
// away, or could not be kept alive. From then on it takes at least the grace
// of the options until somebody else has it.
func (l *Lock) Lost() <-chan struct{} { return l.keeper.lost }

// Deadline is until when nobody else has the lock, if it was not taken away.
// It moves on as long as the lock is kept; behind Lost it stands.
func (l *Lock) Deadline() time.Time {
	l.keeper.mu.Lock()
	defer l.keeper.mu.Unlock()
	return l.keeper.until.Add(l.keeper.grace)
}

// Err says why the lock was lost; nil while it is held.
func (l *Lock) Err() error { return l.keeper.err() }

// Held is the condition of a transaction that the lock is still held. The
// transaction's keys must be of the lock's partition.
func (l *Lock) Held() *banyanv1.Condition {
	return &banyanv1.Condition{
		Key:  []byte(l.claim.Name),
		Test: &banyanv1.Condition_Held_{Held: &banyanv1.Condition_Held{Token: l.claim.Token, Permit: l.claim.Permit}},
	}
}

// Release gives the lock up. It is no error if it was lost before.
func (l *Lock) Release(ctx context.Context) error {
	l.keeper.stop()
	_, err := l.keeper.end(ctx)
	return err
}

// keeper knows until when a lease surely lasts.
type keeper struct {
	locks      Locks
	partition  string
	lease      uint64
	ttl, grace time.Duration

	mu     sync.Mutex
	until  time.Time
	expiry *time.Timer
	why    error
	lost   chan struct{}

	// The beater's, under its mutex:
	next    time.Time     // when to beat
	backoff time.Duration // after a beat that had no answer
	beating bool
}

// begin counts from when the request was sent that began the lease.
func (k *keeper) begin(sent time.Time) {
	k.mu.Lock()
	k.until = sent.Add(Tenure(k.ttl, k.grace))
	k.expiry = time.AfterFunc(time.Until(k.until), k.expire)
	k.mu.Unlock()
	k.locks.c.beats.add(k, sent)
}

// expire is called when time is over, or seems to be.
func (k *keeper) expire() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if left := time.Until(k.until); left > 0 {
		k.expiry.Reset(left)
		return
	}
	k.lose(banyan.Errorf(banyan.Timeout, "the lock was lost: for %v no sign of life of it reached the cluster and was answered", Tenure(k.ttl, k.grace)))
}

// lose tells that the lock is lost. The mutex is held.
func (k *keeper) lose(why error) {
	if k.why == nil {
		k.why = why
		k.expiry.Stop()
		close(k.lost)
	}
}

// extend counts from when a beat was sent that was answered. What is lost
// stays lost.
func (k *keeper) extend(sent time.Time) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.why == nil && time.Now().Before(k.until) {
		k.until = sent.Add(Tenure(k.ttl, k.grace))
		k.expiry.Reset(time.Until(k.until))
	}
}

// ended is told when the lease is no more.
func (k *keeper) ended() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.lose(banyan.Errorf(banyan.NotFound, "the lock was lost: it was taken away, or not kept alive in time"))
}

// stop ends the beats. The lock counts as lost.
func (k *keeper) stop() {
	k.mu.Lock()
	k.lose(banyan.Errorf(banyan.Canceled, "the lock was released"))
	k.mu.Unlock()
	k.locks.c.beats.remove(k)
}

// release ends the lease in short time, also when ctx has ended. If that fails
// it ends by itself.
func (k *keeper) release(ctx context.Context) {
	wait := releaseWait
	if errors.Is(ctx.Err(), context.Canceled) && k.unheard() {
		wait = partWait
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
	defer cancel()
	_, _ = k.end(ctx)
}

func (k *keeper) end(ctx context.Context) (bool, error) {
	req := &banyanv1.ReleaseRequest{Partition: k.partition, Lease: k.lease}
	res, err := k.locks.release(ctx, req)
	return res.GetReleased(), err
}

// unheard says that the cluster has never answered anything about the lease, or
// that an answer to a beat is overdue.
func (k *keeper) unheard() bool {
	b := k.locks.c.beats
	b.mu.Lock()
	defer b.mu.Unlock()
	return k.backoff != backoffMin || time.Since(k.next) > beatPatienceMax
}

// isLost looks at the clock, too: the timer may be a little late.
func (k *keeper) isLost() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.why != nil || !time.Now().Before(k.until)
}

func (k *keeper) err() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.why
}
