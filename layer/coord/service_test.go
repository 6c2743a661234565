package coord

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/core/retry"
)

func ask(name string, lease uint64) *banyanv1.AcquireRequest {
	return &banyanv1.AcquireRequest{Name: name, Lease: lease, TtlMs: 5000, Owner: fmt.Sprint("owner ", lease)}
}

func waiting(name string, lease uint64, d time.Duration) *banyanv1.AcquireRequest {
	req := ask(name, lease)
	req.WaitMs = d.Milliseconds()
	return req
}

func acquire(t *testing.T, s *Service, req *banyanv1.AcquireRequest) *banyanv1.Claim {
	t.Helper()
	res, err := s.Acquire(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return res.Claim
}

// later runs an Acquire beside the test and gives its end.
func later(ctx context.Context, s *Service, req *banyanv1.AcquireRequest) chan answer {
	ch := make(chan answer, 1)
	go func() {
		res, err := s.Acquire(ctx, req)
		ch <- answer{res, err}
	}()
	return ch
}

// coreOf gives the core that decides about a lock.
func coreOf(t *testing.T, s *Service, name string) *Core {
	t.Helper()
	l, err := s.leadOf(t.Context(), s.shardOf(name))
	if err != nil {
		t.Fatal(err)
	}
	return l.seat.core
}

type answer struct {
	res *banyanv1.AcquireResponse
	err error
}

func TestHandOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeShards(t, 2).service(t)
		first := acquire(t, s, ask("a", 1))
		if first.Token == 0 {
			t.Fatalf("%v", first)
		}
		second := later(t.Context(), s, waiting("a", 2, time.Hour))
		synctest.Wait()
		if c := acquire(t, s, waiting("a", 2, 100*time.Millisecond)); c.Token != 0 {
			t.Fatalf("two hold the lock: %v", c)
		}
		if n := len(coreOf(t, s, "a").locks["a"].queue[0].waiting); n != 1 {
			t.Errorf("%d calls wait, one has given up", n)
		}
		try := ask("a", 3)
		try.Try = true
		if _, err := s.Acquire(t.Context(), try); !banyan.IsKind(err, banyan.Conflict) || !strings.Contains(err.Error(), "owner 1") {
			t.Errorf("try: %v", err)
		}
		if res, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1, Name: "a"}); err != nil || !res.Released {
			t.Fatalf("%v, %v", res, err)
		}
		if a := <-second; a.err != nil || a.res.Claim.Token <= first.Token {
			t.Errorf("%v, %v", a.res, a.err)
		}
		if res, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1, Name: "a"}); err != nil || res.Released {
			t.Errorf("released again: %v, %v", res, err)
		}
	})
}

// TestWaitersLeave: one gives up waiting, another's caller goes away. The first
// stays in the queue as long as its lease lasts.
func TestWaitersLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newFakeShards(t, 1).service(t)
		acquire(t, s, ask("a", 1))
		ctx, cancel := context.WithCancel(t.Context())
		gone := later(ctx, s, waiting("a", 2, time.Hour))
		synctest.Wait()
		cancel()
		if a := <-gone; !banyan.IsKind(a.err, banyan.Timeout) {
			t.Errorf("%v, %v", a.res, a.err)
		}
		third := later(t.Context(), s, waiting("a", 3, time.Hour))
		synctest.Wait()
		for range 4 { // two and three quarters of the time of a lease
			time.Sleep(4 * time.Second)
			if res, err := s.KeepAlive(t.Context(), leasesOf("a", 1, 3)); err != nil || len(res.Ended) > 0 {
				t.Fatalf("%v, %v", res, err)
			}
		}
		state := list(t, s, "a")
		if len(state) != 1 || state[0].Holding != 1 || state[0].Waiting != 1 || state[0].Waiters[0].Lease != 3 {
			t.Errorf("%v", state)
		}
		if _, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1, Partition: "a"}); err != nil {
			t.Fatal(err)
		}
		if a := <-third; a.err != nil || a.res.Claim.Token == 0 {
			t.Errorf("%v, %v", a.res, a.err)
		}
		time.Sleep(5001 * time.Millisecond)
		synctest.Wait()
		if state := list(t, s, ""); len(state) != 0 {
			t.Errorf("after everybody's time: %v", state)
		}
	})
}

func leasesOf(partition string, ids ...uint64) *banyanv1.KeepAliveRequest {
	req := &banyanv1.KeepAliveRequest{}
	for _, id := range ids {
		req.Leases = append(req.Leases, &banyanv1.LeaseRef{Partition: partition, Lease: id})
	}
	return req
}

func list(t *testing.T, s *Service, prefix string) []*banyanv1.LockState {
	t.Helper()
	res, err := s.List(t.Context(), &banyanv1.ListLocksRequest{Prefix: prefix})
	if err != nil {
		t.Fatal(err)
	}
	return res.Locks
}

// TestLeadershipMoves: those who wait are told, ask the new leader, and have
// kept their places; a lease lasts its whole time from then.
func TestLeadershipMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeShards(t, 1)
		s, next := f.service(t), f.start(t)
		if _, err := next.Acquire(t.Context(), ask("a", 9)); !banyan.IsKind(err, banyan.NotLeader) {
			t.Errorf("not led: %v", err)
		}
		token := acquire(t, s, ask("a", 1)).Token
		second := later(t.Context(), s, waiting("a", 2, time.Hour))
		time.Sleep(4 * time.Second)
		f.lead(t, next, 2)
		s.Unlead(1)
		if a := <-second; !banyan.IsKind(a.err, banyan.NotLeader) {
			t.Errorf("%v, %v", a.res, a.err)
		}
		if c := acquire(t, next, ask("a", 1)); c.Token != token {
			t.Errorf("the holder has token %d, then %d", token, c.Token)
		}
		acquire(t, next, ask("a", 3))
		second = later(t.Context(), next, waiting("a", 2, time.Hour))
		time.Sleep(4999 * time.Millisecond)
		select {
		case a := <-second:
			t.Fatalf("before the lease's time was over: %v", a)
		default:
		}
		time.Sleep(time.Second)
		if a := <-second; a.err == nil {
			t.Errorf("its own lease lasted on: %v", a.res)
		}
	})
}

// TestDeposedLeader goes on until it hears of it: what it says must not count.
func TestDeposedLeader(t *testing.T) {
	f := newFakeShards(t, 1)
	s, next := f.service(t), f.start(t)
	acquire(t, s, ask("a", 1))
	f.prove = func() error { return banyan.Errorf(banyan.NotLeader, "deposed") }
	if _, err := s.KeepAlive(t.Context(), leasesOf("a", 1)); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("a lease was kept alive by a leader that is none: %v", err)
	}
	if _, err := s.Acquire(t.Context(), ask("a", 1)); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("a claim was confirmed by a leader that is none: %v", err)
	}
	f.prove = nil
	// It leads again, in a term it has not heard of; between, the lease ended.
	f.lead(t, next, 2)
	if _, err := next.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1, Partition: "a"}); err != nil {
		t.Fatal(err)
	}
	res, err := s.KeepAlive(t.Context(), leasesOf("a", 1))
	if err != nil || len(res.Ended) != 1 {
		t.Errorf("a lease that was ended lasts: %v, %v", res, err)
	}
	if _, err := s.Acquire(t.Context(), ask("b", 2)); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("a lock was given out in a term that is over: %v", err)
	}
}

// TestCommitFails: answers are lost, commands are refused; nobody notices but
// by having to ask again.
func TestCommitFails(t *testing.T) {
	f := newFakeShards(t, 1)
	s := f.service(t)
	n := 0
	f.refuse = func(*mvcc.Command) (bool, error) {
		n++
		switch n {
		case 1:
			return false, banyan.Errorf(banyan.Exhausted, "crowded")
		case 2:
			return true, banyan.Errorf(banyan.Unavailable, "the answer was lost")
		}
		return false, nil
	}
	first := acquire(t, s, ask("a", 1))
	f.mu.Lock()
	revision := f.shards[0].machine.Revision()
	f.mu.Unlock()
	if n != 3 || first.Token == 0 || revision != 1 {
		t.Errorf("%v after %d tries, revision %d", first, n, revision)
	}
	f.refuse = func(*mvcc.Command) (bool, error) {
		if n++; n == 4 {
			return false, banyan.Errorf(banyan.Invalid, "broken")
		}
		return false, nil
	}
	if _, err := s.Acquire(t.Context(), ask("b", 2)); !banyan.IsKind(err, banyan.Unavailable) {
		t.Fatalf("after a refusal: %v", err)
	}
	if c := acquire(t, s, ask("a", 1)); c.Token != first.Token {
		t.Errorf("read anew: %v", c)
	}
	acquire(t, s, ask("b", 2))
}

// TestCommandLost loses one of two commands that are under way: it is proposed
// again, the other has no effect, and whoever waits for that asks again.
func TestCommandLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFakeShards(t, 1)
		s := f.service(t)
		acquire(t, s, ask("x", 9))
		f.hold = true
		first := later(t.Context(), s, ask("a", 1))
		synctest.Wait()
		second := later(t.Context(), s, ask("b", 2))
		synctest.Wait()
		if len(f.held) != 2 {
			t.Fatalf("%d commands are under way", len(f.held))
		}
		f.free(t, banyan.Errorf(banyan.NotLeader, "being handed over"))
		f.free(t, nil)
		time.Sleep(retry.LastMs * time.Millisecond)
		synctest.Wait()
		f.hold = false
		f.free(t, nil)
		a := <-first
		if a.err != nil || a.res.Claim.Token == 0 {
			t.Errorf("the one that was lost and proposed again: %v, %v", a.res, a.err)
		}
		if b := <-second; !banyan.IsKind(b.err, banyan.Unavailable) {
			t.Errorf("the one behind it: %v, %v", b.res, b.err)
		}
		time.Sleep(retry.LastMs * time.Millisecond)
		synctest.Wait()
		if c := acquire(t, s, ask("a", 1)); c.Token != a.res.Claim.Token {
			t.Errorf("read anew: %v", c)
		}
		acquire(t, s, ask("b", 2))
	})
}

// TestManyLeases are kept alive by one call, as far as their shards are led here.
// TestASplitEndsNoLease: what a controller does not know may be the child's. It
// says neither that a lease has ended, nor how a lock stands, once the shard does
// not hold the rows any more.
func TestASplitEndsNoLease(t *testing.T) {
	f := newFakeShards(t, 1)
	s := f.service(t)
	acquire(t, s, ask("a", 1))
	f.mu.Lock()
	f.gave = true
	f.mu.Unlock()
	for _, lease := range []uint64{1, 2} {
		req := &banyanv1.KeepAliveRequest{Leases: []*banyanv1.LeaseRef{{Partition: "a", Lease: lease}}}
		if res, err := s.KeepAlive(t.Context(), req); !banyan.IsKind(err, banyan.Moved) {
			t.Errorf("lease %d: %v, %v", lease, res, err)
		}
	}
	if _, err := s.Acquire(t.Context(), ask("a", 1)); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("acquire: %v", err)
	}
	if _, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1, Name: "a"}); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("release: %v", err)
	}
	l, err := s.leadOf(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.confirmed(t.Context(), l, "a", Answer{Confirm: true}, nil); !banyan.IsKind(err, banyan.Moved) {
		t.Errorf("an answer of before the split: %v", err)
	}
}

func TestManyLeases(t *testing.T) {
	s := newFakeShards(t, 4).service(t)
	req := &banyanv1.KeepAliveRequest{}
	elsewhere := 0
	for i := range uint64(20) {
		name := fmt.Sprint("lock", i)
		acquire(t, s, ask(name, 100+i))
		req.Leases = append(req.Leases, &banyanv1.LeaseRef{Partition: name, Lease: 100 + i}, &banyanv1.LeaseRef{Partition: name, Lease: 500 + i})
		if s.shardOf(name) == 3 {
			elsewhere++
		}
	}
	if res, err := s.KeepAlive(t.Context(), req); err != nil || len(res.Kept) != 20 || len(res.Ended) != 20 {
		t.Errorf("%v, %v", res, err)
	}
	if leases, locks := s.Counts(); leases != 20 || locks != 20 {
		t.Errorf("%d leases, %d locks", leases, locks)
	}
	s.Unlead(3)
	if res, err := s.KeepAlive(t.Context(), req); err != nil || len(res.Kept) != 20-elsewhere || len(res.Ended) != 20-elsewhere || elsewhere == 0 {
		t.Errorf("%d elsewhere: %v, %v", elsewhere, res, err)
	}
	for _, span := range s.cfg.Shards.Spans() {
		shard := span.Shard
		s.Unlead(shard)
	}
	if leases, locks := s.Counts(); leases != 0 || locks != 0 {
		t.Errorf("%d leases and %d locks where nothing is led", leases, locks)
	}
	if _, err := s.KeepAlive(t.Context(), req); !banyan.IsKind(err, banyan.NotLeader) {
		t.Errorf("nothing is led here: %v", err)
	}
}

func TestListAndWatch(t *testing.T) {
	s := newFakeShards(t, 3).service(t)
	for i, name := range []string{"shop/a", "shop/b", "shop", "mill/a", "alone", "shopping"} {
		acquire(t, s, ask(name, uint64(10+i)))
		acquire(t, s, ask(name, uint64(20+i)))
		acquire(t, s, ask(name, uint64(30+i)))
	}
	names := func(req *banyanv1.ListLocksRequest) string {
		t.Helper()
		var all []string
		for {
			res, err := s.List(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range res.Locks {
				all = append(all, l.Name)
				if l.Holding != 1 || l.Waiting != 2 || l.Waiters[1].Ahead != 1 || l.Shard == 0 {
					t.Errorf("%v", l)
				}
			}
			if !res.More {
				return strings.Join(all, " ")
			}
			req.After = res.Locks[len(res.Locks)-1].Name
		}
	}
	for prefix, want := range map[string]string{
		"": "alone mill/a shop shop/a shop/b shopping", "shop": "shop shop/a shop/b shopping", "shop/": "shop/a shop/b", "x": "",
	} {
		for limit := range uint32(4) {
			if got := names(&banyanv1.ListLocksRequest{Prefix: prefix, Limit: limit}); got != want {
				t.Errorf("prefix %q, %d a page: %s", prefix, limit, got)
			}
		}
	}
	var seen []string
	stop := errors.New("enough")
	err := s.Watch(t.Context(), &banyanv1.WatchLockRequest{Name: "shop"}, func(m *banyanv1.WatchLockResponse) error {
		l := m.Lock
		owner := "nobody"
		if len(l.Holders) > 0 {
			owner = l.Holders[0].Owner
		}
		seen = append(seen, owner)
		if owner == "nobody" {
			return stop
		}
		_, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Name: "shop", Lease: l.Holders[0].Lease})
		return err
	})
	if got := strings.Join(seen, ", "); !errors.Is(err, stop) || got != "owner 12, owner 22, owner 32, nobody" {
		t.Errorf("watched %s; %v", got, err)
	}
}

func TestRequestsAreChecked(t *testing.T) {
	s := newFakeShards(t, 1).service(t)
	long := strings.Repeat("x", 5000)
	for what, change := range map[string]func(*banyanv1.AcquireRequest){
		"no name":             func(r *banyanv1.AcquireRequest) { r.Name = "" },
		"no partition":        func(r *banyanv1.AcquireRequest) { r.Name = "/a" },
		"a long name":         func(r *banyanv1.AcquireRequest) { r.Name = long },
		"a zero in the name":  func(r *banyanv1.AcquireRequest) { r.Name = "a\x00b" },
		"a name not in UTF-8": func(r *banyanv1.AcquireRequest) { r.Name = "a\xff" },
		"no lease":            func(r *banyanv1.AcquireRequest) { r.Lease = 0 },
		"a short life":        func(r *banyanv1.AcquireRequest) { r.TtlMs = 1 },
		"a long life":         func(r *banyanv1.AcquireRequest) { r.TtlMs = TTLMaxMs + 1 },
		"shared permits":      func(r *banyanv1.AcquireRequest) { r.Shared, r.Permits = true, 2 },
		"many permits":        func(r *banyanv1.AcquireRequest) { r.Permits = 5000 },
		"a long owner":        func(r *banyanv1.AcquireRequest) { r.Owner = long },
		"a broken owner":      func(r *banyanv1.AcquireRequest) { r.Owner = "\xff" },
		"a long value":        func(r *banyanv1.AcquireRequest) { r.Value = []byte(long) },
	} {
		req := ask("a", 1)
		change(req)
		if _, err := s.Acquire(t.Context(), req); !banyan.IsKind(err, banyan.Invalid) && !banyan.IsKind(err, banyan.Exhausted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := s.KeepAlive(t.Context(), leasesOf("a", make([]uint64, banyan.LeaseBatchMax+1)...)); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("many leases: %v", err)
	}
	if _, err := s.Release(t.Context(), &banyanv1.ReleaseRequest{Lease: 1}); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("release of nothing: %v", err)
	}
}
