package client_test

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/door/gate"
)

// fakeCoord has one lock, which the test holds and gives away.
type fakeCoord struct {
	gate.Coord

	mu       sync.Mutex
	token    uint64 // what Acquire answers; 0: wait
	counts   bool   // each Acquire gets the next token
	granted  chan struct{}
	beats    []time.Time                 // when they came
	beat     func(nth int) (bool, error) // has the lease ended, or an error; it may take its time
	hide     func(lease uint64) bool     // nothing is known of it now
	acquired []*banyanv1.AcquireRequest
	released []uint64
	refuse   func(nth int) error // of Acquire
	silent   func() bool         // nothing is answered now
}

// answers waits with the caller as long as nothing is answered.
func (f *fakeCoord) answers(ctx context.Context) error {
	if f.silent == nil || !f.silent() {
		return nil
	}
	<-ctx.Done()
	return ctx.Err()
}

func (f *fakeCoord) Acquire(ctx context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	f.mu.Lock()
	f.acquired = append(f.acquired, req)
	if f.counts {
		f.token++
	}
	n, refuse := len(f.acquired), f.refuse
	f.mu.Unlock()
	if err := f.answers(ctx); err != nil {
		return nil, err
	}
	if refuse != nil {
		if err := refuse(n); err != nil {
			return nil, err
		}
	}
	if req.WaitMs > 0 {
		select {
		case <-f.granted:
		case <-time.After(time.Duration(req.WaitMs) * time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return &banyanv1.AcquireResponse{Claim: &banyanv1.Claim{Name: req.Name, Lease: req.Lease, Token: f.token}, Holder: "bob"}, nil
}

func (f *fakeCoord) KeepAlive(ctx context.Context, req *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error) {
	f.mu.Lock()
	f.beats = append(f.beats, time.Now())
	n, beat := len(f.beats), f.beat
	f.mu.Unlock()
	if err := f.answers(ctx); err != nil {
		return nil, err
	}
	out := &banyanv1.KeepAliveResponse{}
	if beat != nil {
		ended, err := beat(n)
		if err != nil {
			return nil, err
		}
		if ended {
			for _, ref := range req.Leases {
				out.Ended = append(out.Ended, ref.Lease)
			}
			return out, nil
		}
	}
	for _, ref := range req.Leases {
		if f.hide == nil || !f.hide(ref.Lease) {
			out.Kept = append(out.Kept, ref.Lease)
		}
	}
	return out, nil
}

func (f *fakeCoord) Release(ctx context.Context, req *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error) {
	f.mu.Lock()
	if req.Name == "" { // else the lease lasts on, and who keeps it alive does not hear
		f.released = append(f.released, req.Lease)
	}
	f.mu.Unlock()
	if err := f.answers(ctx); err != nil {
		return nil, err
	}
	return &banyanv1.ReleaseResponse{Released: true}, nil
}

// withLocks runs fn in fake time with a client of f.
func withLocks(t *testing.T, f *fakeCoord, fn func(t *testing.T, l client.Locks)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f.granted = make(chan struct{})
		in := newFake()
		c, err := client.Open(client.Config{Transport: client.InProcess(gate.Operator(gate.New(gate.Config{
			Node: 1, Cluster: "c", Logger: slog.New(slog.DiscardHandler), KV: askedKV{(*fakeKV)(in), nil}, Jobs: (*fakeJobs)(in), Blobs: (*fakeBlobs)(in), Clusters: in, Leaders: oneShard{in}, Tail: noTail{}, Coord: f,
		})))})
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		fn(t, c.Locks())
	})
}

const (
	ttl   = 9 * time.Second
	grace = time.Second
)

var options = client.LockOptions{TTL: ttl, Grace: grace}

// TestLockNamesThatCannotBeSent are refused before anything is sent: a session
// breaks over them, with all calls in it.
func TestLockNamesThatCannotBeSent(t *testing.T) {
	withLocks(t, &fakeCoord{}, func(t *testing.T, l client.Locks) {
		if _, err := l.Acquire(t.Context(), "shop/\xff", options); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("a name that is no text: %v", err)
		}
		o := options
		o.Owner = "\xff"
		if _, err := l.Acquire(t.Context(), "shop", o); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("an owner that is no text: %v", err)
		}
	})
}

// TestLockIsKept: four beats in each TTL, until it is released.
func TestLockIsKept(t *testing.T) {
	f := &fakeCoord{token: 7}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		lock, err := l.Acquire(t.Context(), "shop/stock", options)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10*ttl + time.Second)
		if lock.Err() != nil || lock.Token() != 7 || len(f.beats) != 40 {
			t.Errorf("after ten times its TTL: %v, token %v, %d beats", lock.Err(), lock.Token(), len(f.beats))
		}
		if err := lock.Release(t.Context()); err != nil || len(f.released) != 1 {
			t.Errorf("release: %v, %v", err, f.released)
		}
		<-lock.Lost()
		time.Sleep(ttl)
		if len(f.beats) != 40 {
			t.Error("a lock that was released is kept alive")
		}
	})
}

// TestManyLocks are kept alive by few calls. Of those that an answer does not
// name another call asks at once.
func TestManyLocks(t *testing.T) {
	const many = 1500
	hidden := map[uint64]int{}
	f := &fakeCoord{token: 7}
	f.hide = func(lease uint64) bool {
		if lease%2 == 0 {
			hidden[lease]++
		}
		return lease%2 == 0 && hidden[lease] < 3
	}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		var locks []*client.Lock
		for i := range many {
			lock, err := l.Acquire(t.Context(), fmt.Sprint("lock", i), options)
			if err != nil {
				t.Fatal(err)
			}
			locks = append(locks, lock)
			time.Sleep(time.Millisecond)
		}
		time.Sleep(10 * ttl)
		for _, lock := range locks {
			if lock.Err() != nil {
				t.Fatal(lock.Err())
			}
		}
		if n := len(f.beats); n > 200 {
			t.Errorf("%d calls for %d locks in ten times their TTL", n, many)
		}
		for _, lock := range locks {
			_ = lock.Release(t.Context())
		}
	})
}

// TestLateAnswers: what counts is when a beat was sent, not when its answer
// came; and an answer that comes too late does not bring a lock back.
func TestLateAnswers(t *testing.T) {
	var last time.Time // when the last beat that was answered was sent
	f := &fakeCoord{token: 7}
	f.beat = func(n int) (bool, error) {
		switch n {
		case 1:
			last = time.Now()
			time.Sleep(2 * time.Second) // the answer is late
			return false, nil
		case 2:
			time.Sleep(time.Hour)
		}
		return false, banyan.Errorf(banyan.Unavailable, "no leader")
	}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		lock, err := l.Acquire(t.Context(), "a", options)
		if err != nil {
			t.Fatal(err)
		}
		<-lock.Lost()
		if got, want := time.Since(last), client.Tenure(ttl, grace); got != want {
			t.Errorf("lost %v after the last answered beat was sent, not %v", got, want)
		}
		if left := time.Until(lock.Deadline()); left != grace {
			t.Errorf("%v are left, not %v", left, grace)
		}
		if end := last.Add(ttl); !lock.Deadline().Before(end.Add(-ttl / 20)) {
			t.Errorf("no room for clocks: held until %v, the leader may end it at %v", lock.Deadline(), end)
		}
		if !banyan.IsKind(lock.Err(), banyan.Timeout) {
			t.Errorf("%v", lock.Err())
		}
		time.Sleep(2 * time.Hour)
	})
}

// TestSlowAcquire: the lease counts from when it was asked for. If its time was
// over when the answer came, the lock is not held: another lease is tried.
func TestSlowAcquire(t *testing.T) {
	f := &fakeCoord{token: 7}
	f.refuse = func(n int) error {
		if n == 1 {
			time.Sleep(ttl)
		}
		return nil
	}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		lock, err := l.Acquire(t.Context(), "a", options)
		if err != nil || lock.Err() != nil {
			t.Fatalf("%v", err)
		}
		if n := len(f.acquired); n != 2 || f.acquired[0].Lease == f.acquired[1].Lease || len(f.released) != 1 || f.released[0] != f.acquired[0].Lease {
			t.Errorf("%d tries, released %v: %v", n, f.released, f.acquired)
		}
		_ = lock.Release(t.Context())
	})
}

// TestTakenAway: who holds a lock that is broken hears it at the next beat.
func TestTakenAway(t *testing.T) {
	f := &fakeCoord{token: 7}
	f.beat = func(int) (bool, error) { return len(f.released) > 0, nil }
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		lock, err := l.Acquire(t.Context(), "a", options)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(ttl / 3)
		if _, err := l.Break(t.Context(), &banyanv1.Claim{Name: "a", Lease: f.acquired[0].Lease, Token: 7}); err != nil {
			t.Fatal(err)
		}
		<-lock.Lost()
		if !banyan.IsKind(lock.Err(), banyan.NotFound) || len(f.beats) != 2 {
			t.Errorf("%v after %d beats", lock.Err(), len(f.beats))
		}
	})
}

// TestSessionWithoutLocks: a node of an older build calls a lock in a session
// invalid, and is asked again by a request.
func TestSessionWithoutLocks(t *testing.T) {
	f := &fakeCoord{token: 7}
	f.refuse = func(n int) error {
		if n == 1 {
			return banyan.Errorf(banyan.Invalid, "asks nothing this node knows")
		}
		return nil
	}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		lock, err := l.Acquire(t.Context(), "a", options)
		if err != nil || lock.Token() != 7 || len(f.acquired) != 2 || f.acquired[0].Lease != f.acquired[1].Lease {
			t.Fatalf("%v after %v", err, f.acquired)
		}
		if err := lock.Release(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// TestWaiting keeps its lease alive, asks again and again under it, and gives
// it up when its caller does.
func TestWaiting(t *testing.T) {
	f := &fakeCoord{}
	f.refuse = func(n int) error {
		if n%3 == 0 {
			return banyan.Errorf(banyan.NotLeader, "moved")
		}
		return nil
	}
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		var told string
		o := options
		o.Waiting = func(holder string, ahead int) { told = fmt.Sprint(holder, ahead) }
		ctx, cancel := context.WithTimeout(t.Context(), 29*time.Second)
		defer cancel()
		if _, err := l.Acquire(ctx, "a", o); !banyan.IsKind(err, banyan.Timeout) || told != "bob0" {
			t.Errorf("%v, %q", err, told)
		}
		if len(f.beats) != 12 || len(f.released) != 1 {
			t.Errorf("%d beats, released %v", len(f.beats), f.released)
		}
		time.AfterFunc(3*time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.token = 8
			close(f.granted)
		})
		started := time.Now()
		lock, err := l.Acquire(t.Context(), "a", o)
		if err != nil || lock.Token() != 8 || time.Since(started) > 3*time.Second+100*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(started))
		}
		_ = lock.Release(t.Context())
	})
}

// TestInterrupted: who gives up waiting for a cluster that is silent is not kept
// waiting for it again, but the place in the queue is given up if it hears that.
func TestInterrupted(t *testing.T) {
	for name, c := range map[string]struct {
		silent time.Duration // from then on
		longer time.Duration // from the interruption to the end
	}{
		"never heard of":  {0, 200 * time.Millisecond},
		"not any more":    {time.Second, 200 * time.Millisecond},
		"fell silent now": {19999 * time.Millisecond, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			f := &fakeCoord{}
			withLocks(t, f, func(t *testing.T, l client.Locks) {
				started := time.Now()
				f.silent = func() bool { return time.Since(started) >= c.silent }
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(20*time.Second, cancel)
				o := options
				o.TTL = time.Minute
				if _, err := l.Acquire(ctx, "a", o); !banyan.IsKind(err, banyan.Canceled) {
					t.Error(err)
				}
				if longer := time.Since(started) - 20*time.Second; longer != c.longer || len(f.released) == 0 {
					t.Errorf("ended %v after the interruption, want %v; released %v", longer, c.longer, f.released)
				}
			})
		})
	}
}

// TestWaiterLosesItsPlace: its lease ended while the network was away.
func TestWaiterLosesItsPlace(t *testing.T) {
	f := &fakeCoord{}
	f.beat = func(n int) (bool, error) { return n == 2, nil }
	withLocks(t, f, func(t *testing.T, l client.Locks) {
		time.AfterFunc(20*time.Second, func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.token = 8
			close(f.granted)
		})
		lock, err := l.Acquire(t.Context(), "a", options)
		if err != nil || lock.Err() != nil {
			t.Fatal(err)
		}
		leases := map[uint64]bool{}
		for _, req := range f.acquired {
			leases[req.Lease] = true
		}
		if len(leases) != 2 {
			t.Errorf("claimed under %d leases", len(leases))
		}
		_ = lock.Release(t.Context())
	})
}

func TestNoTimeToKeepALock(t *testing.T) {
	withLocks(t, &fakeCoord{}, func(t *testing.T, l client.Locks) {
		if _, err := l.Acquire(t.Context(), "a", client.LockOptions{TTL: ttl, Grace: ttl * 2 / 3}); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("%v", err)
		}
	})
}

// TestNoMajorityIsNotAHolder: a cluster that does not answer is another error
// than a lock that somebody has, and comes in time.
func TestNoMajorityIsNotAHolder(t *testing.T) {
	for name, try := range map[string]bool{"try": true, "wait": false} {
		t.Run(name, func(t *testing.T) {
			f := &fakeCoord{token: 7}
			f.refuse = func(int) error { return banyan.Errorf(banyan.Unavailable, "no leader") }
			withLocks(t, f, func(t *testing.T, l client.Locks) {
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if !try {
					ctx, cancel = context.WithTimeout(ctx, 4*time.Second)
				}
				defer cancel()
				began := time.Now()
				o := options
				o.Try = try
				_, err := l.Acquire(ctx, "a", o)
				if !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "no leader") {
					t.Errorf("%v", err)
				}
				if took := time.Since(began); took > 8*time.Second {
					t.Errorf("took %v", took)
				}
			})
		})
	}
}
