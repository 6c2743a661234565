package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"math/rand/v2"
	"os"
	"time"
	"unicode/utf8"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/obs"

	"connectrpc.com/connect"
)

// LockTTL is how long a lock outlives its holder, if not said otherwise.
const LockTTL = 10 * time.Second

// DriftShare is the part of a lease's time that its holder does not use: one
// tenth. It keeps the lock to one holder as long as the clocks of two machines
// run at rates that differ by less than that.
const DriftShare = 10

// Tenure is how long the holder of a lease may count on it, from when it sent
// the last beat that was answered. grace is what it needs to stop.
func Tenure(ttl, grace time.Duration) time.Duration { return ttl - ttl/DriftShare - grace }

// Locks are taken by one of many: locks, shared locks, semaphores, elections.
type Locks struct{ c *Client }

// Locks gives the locks of the cluster.
func (c *Client) Locks() Locks { return Locks{c} }

// LockOptions say how to take a lock. The zero value takes it alone.
type LockOptions struct {
	Shared  bool // with others who do; each gets it in its turn, so nobody waits for ever
	Permits int  // more than one: a semaphore; all who use it give the same number
	Try     bool // Conflict at once if it is taken

	TTL   time.Duration // how long it stays taken when its holder is gone; 0: LockTTL
	Grace time.Duration // Lost is told so long before anybody else can have it

	Owner string // who takes it, for people; empty: this process
	Value []byte // what others should know of who holds it, such as an address

	// Waiting is called when the lock is not free, with who holds it and how
	// many wait in front.
	Waiting func(holder string, ahead int)
}

const (
	silentMax   = 4 * lockWait    // without an answer, until the cluster and not the lock is what is not to be had
	lockWait    = patienceMin / 2 // one call's waiting: less than patience, or a node that hangs is not noticed
	releaseWait = 2 * time.Second // for a release that nobody waits for

	// partWait is for the release of one who was interrupted, when the cluster
	// was silent before: it will hardly hear this.
	partWait = releaseWait / 10
)

// Acquire takes a lock, waiting in its queue until ctx ends. It is kept until
// Release, or until it is Lost.
func (l Locks) Acquire(ctx context.Context, name string, o LockOptions) (*Lock, error) {
	if o.TTL == 0 {
		o.TTL = LockTTL
	}
	if o.Grace < 0 || Tenure(o.TTL, o.Grace) < o.TTL/3 {
		return nil, banyan.Errorf(banyan.Invalid, "lock %q: %v of grace in a lease of %v leave no time to keep it alive: give a longer TTL", name, o.Grace, o.TTL)
	}
	if o.Owner == "" {
		o.Owner = processName()
	}
	if !utf8.ValidString(name) || !utf8.ValidString(o.Owner) { // it could not be sent, nor what goes in one message with it
		return nil, banyan.Errorf(banyan.Invalid, "lock %q, for %q: give names of printable characters", name, o.Owner)
	}
	for {
		lock, again, err := l.claim(ctx, name, o)
		if !again {
			return lock, err
		}
		// The lease ended while this process or the network stood still: its
		// place is gone, so it stands at the end of the queue.
	}
}

// claim claims the lock on a lease of its own and waits until it is taken.
func (l Locks) claim(ctx context.Context, name string, o LockOptions) (lock *Lock, again bool, err error) {
	req := &banyanv1.AcquireRequest{
		Name: name, Lease: 1 + rand.Uint64N(1<<63), TtlMs: o.TTL.Milliseconds(),
		Shared: o.Shared, Permits: uint32(min(max(o.Permits, 0), math.MaxUint32)), Owner: o.Owner, Value: o.Value, Try: o.Try,
	}
	k := &keeper{locks: l, partition: string(banyan.Partition([]byte(name))), lease: req.Lease, ttl: o.TTL, grace: o.Grace, lost: make(chan struct{})}
	sent := time.Now()
	res, err := l.firstAcquire(ctx, req)
	if err != nil {
		if !refused(err) {
			k.release(ctx)
		}
		return nil, false, unanswered(name, err)
	}
	k.begin(sent)
	if res.Claim.GetToken() == 0 && o.Waiting != nil {
		o.Waiting(res.Holder, int(res.Claim.GetAhead()))
	}
	holder, answered := res.Holder, time.Now()
	req.TtlMs, req.WaitMs, req.Try = 0, lockWait.Milliseconds(), false
	for res.GetClaim().GetToken() == 0 && !k.isLost() && ctx.Err() == nil {
		if res, err = l.acquire(ctx, req); err == nil {
			holder, answered = cmp.Or(res.Holder, holder), time.Now()
		} else if !passes(err) {
			break
		}
	}
	if err == nil && !k.isLost() && ctx.Err() == nil {
		return &Lock{claim: res.Claim, keeper: k}, false, nil
	}
	again = (k.isLost() || banyan.IsKind(err, banyan.NotFound)) && ctx.Err() == nil
	k.stop()
	k.release(ctx)
	switch {
	case errors.Is(ctx.Err(), context.DeadlineExceeded) && time.Since(answered) > silentMax:
		err = unanswered(name, cmp.Or(err, error(&banyan.Error{Kind: banyan.Timeout, Msg: "no answer in the time given"})))
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		err = banyan.Errorf(banyan.Timeout, "lock %q was not to be had in time: %s holds it", name, holder)
	case ctx.Err() != nil:
		err = &banyan.Error{Kind: banyan.Canceled, Err: context.Cause(ctx)}
	}
	return nil, again, err
}

// firstAcquire asks for the lock. Who does not want to wait for the lock does
// not want to wait long for a cluster without a majority either.
func (l Locks) firstAcquire(ctx context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	if req.Try {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, reachMax)
		defer cancel()
	}
	return l.acquire(ctx, req)
}

// unanswered tells a cluster that does not answer from a lock that another has:
// Timeout is for that one alone.
func unanswered(name string, err error) error {
	if banyan.IsKind(err, banyan.Timeout) || errors.Is(err, context.DeadlineExceeded) {
		return banyan.Errorf(banyan.Unavailable, "lock %q: the cluster did not say who has it, nor give it: %w", name, err)
	}
	return err
}

func (l Locks) acquire(ctx context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	method := coordMethod(banyanv1connect.CoordClient.Acquire)
	if req.WaitMs > 0 { // it would take up room in a session
		return unary(ctx, l.c, banyan.Partition([]byte(req.Name)), req, method)
	}
	return inSession(ctx, l.c, banyan.Partition([]byte(req.Name)), req, method, func(r *banyanv1.AcquireRequest) *banyanv1.Call {
		return &banyanv1.Call{Call: &banyanv1.Call_Acquire{Acquire: r}}
	}, (*banyanv1.Answer).GetAcquire)
}

func (l Locks) release(ctx context.Context, req *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error) {
	return inSession(ctx, l.c, []byte(req.Partition), req, coordMethod(banyanv1connect.CoordClient.Release), func(r *banyanv1.ReleaseRequest) *banyanv1.Call {
		return &banyanv1.Call{Call: &banyanv1.Call_Release{Release: r}}
	}, (*banyanv1.Answer).GetRelease)
}

// inSession is call for nodes some of which may be of a build whose sessions
// know no locks, and call that Invalid.
func inSession[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), pack func(*Req) *banyanv1.Call, unpack func(*banyanv1.Answer) *Res) (*Res, error) {
	res, err := call(ctx, c, partition, req, method, pack, unpack)
	if banyan.IsKind(err, banyan.Invalid) {
		return unary(ctx, c, partition, req, method)
	}
	return res, err
}

// refused says that an Acquire did nothing.
func refused(err error) bool {
	switch banyan.KindOf(err) {
	case banyan.Conflict, banyan.Invalid, banyan.Exhausted, banyan.NotFound:
		return true
	}
	return false
}

// List gives the locks that are taken or waited for and whose names start with
// prefix, by name, asking for page after page. The error, if any, comes last.
func (l Locks) List(ctx context.Context, prefix string) iter.Seq2[*banyanv1.LockState, error] {
	return func(yield func(*banyanv1.LockState, error) bool) {
		req := &banyanv1.ListLocksRequest{Prefix: prefix}
		for {
			page, err := unary(ctx, l.c, nil, req, coordMethod(banyanv1connect.CoordClient.List))
			if err != nil {
				yield(nil, err)
				return
			}
			for _, lock := range page.Locks {
				if !yield(lock, nil) {
					return
				}
			}
			if !page.More || len(page.Locks) == 0 {
				return
			}
			req = &banyanv1.ListLocksRequest{Prefix: prefix, After: page.Locks[len(page.Locks)-1].Name}
		}
	}
}

// Watch calls fn with how a lock stands, at once and after each change, until
// fn gives an error or ctx ends. Of changes that follow closely it may tell
// only the last. With it the others learn whom an election made leader.
func (l Locks) Watch(ctx context.Context, name string, fn func(*banyanv1.LockState) error) error {
	var own error
	err := l.c.keep(ctx, banyan.Partition([]byte(name)), func(ctx context.Context, n *node, heard func()) error {
		msg := connect.NewRequest(&banyanv1.WatchLockRequest{Name: name})
		obs.ToHeader(ctx, msg.Header())
		stream, err := n.coord.Watch(ctx, msg)
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			heard()
			if own = fn(stream.Msg().Lock); own != nil {
				return nil
			}
		}
		return brokenOff(stream.Err())
	})
	if own != nil {
		return own
	}
	return err
}

// Break takes a lock away from a claim that List told of, by ending its lease.
// Who holds it hears within a quarter of its TTL; a token stops it at once where
// tokens are checked.
func (l Locks) Break(ctx context.Context, claim *banyanv1.Claim) (bool, error) {
	partition := banyan.Partition([]byte(claim.Name))
	req := &banyanv1.ReleaseRequest{Lease: claim.Lease, Partition: string(partition)}
	res, err := l.release(ctx, req)
	return res.GetReleased(), err
}

// processName says who this is: "host pid 123".
func processName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown host"
	}
	return fmt.Sprintf("%s pid %d", host, os.Getpid())
}

func coordMethod[Req, Res any](m func(banyanv1connect.CoordClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(n *node, ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		return m(n.coord, ctx, req)
	}
}
