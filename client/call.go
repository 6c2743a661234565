package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"banyan"
	"banyan/core/retry"
	"banyan/internal/pause"
	"banyan/obs"

	"connectrpc.com/connect"
)

const (
	callMax     = 30 * time.Second // a call whose context has no deadline
	patienceMin = time.Second      // with one node, before another is asked too
	patienceMax = 15 * time.Second
	reachMax    = 5 * time.Second // until a cluster of which no node can be reached counts as gone
	refusedMax  = time.Second     // the same, if every one refuses and there is something else to do
	soonestWait = 100 * time.Millisecond
	backoffMin  = retry.FirstMs * time.Millisecond
	backoffMax  = retry.LastMs * time.Millisecond
	// exhaustedMax is how many nodes are asked when each says Exhausted: it may
	// be full alone, or the call too large for all of them.
	exhaustedMax = 3
)

// unary makes a call that is safe to repeat, at the leader of partition if
// that is not nil and known, and at other nodes until one answers.
func unary[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) (*Res, error) {
	var res *Res
	err := c.try(ctx, partition, c.patience, func(ctx context.Context, n *node) (err error) {
		res, err = request(ctx, n, req, method)
		return err
	})
	return res, err
}

// soonest makes a call that changes nothing, and matters most when nodes are
// silent: it asks one more node after each soonestWait without an answer, and
// takes the first one there is. If no node has one it goes on as unary does.
func soonest[Req, Res any](ctx context.Context, c *Client, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) (*Res, error) {
	asking, cancel := withDeadline(ctx)
	var calls sync.WaitGroup
	defer calls.Wait()
	defer cancel()
	type answer struct {
		res  *Res
		err  error
		from *node
	}
	nodes := slices.Collect(c.everyone(nil))
	answers := make(chan answer, len(nodes))
	next := time.NewTicker(soonestWait)
	defer next.Stop()
	for asked, failed := 0, 0; failed < len(nodes); {
		if asked < len(nodes) {
			n := nodes[asked]
			asked++
			calls.Go(func() {
				res, err := request(asking, n, req, method)
				answers <- answer{res, err, n}
			})
		}
		select {
		case a := <-answers:
			if a.err == nil {
				c.prefer(a.from)
			}
			if a.err == nil || !elsewhere(a.err) && !banyan.IsKind(a.err, banyan.Exhausted) {
				return a.res, a.err
			}
			failed++
		case <-next.C:
		}
	}
	return unary(ctx, c, nil, req, method)
}

// request asks one node once, by a request of its own.
func request[N, Req, Res any](ctx context.Context, n N, req *Req, method func(N, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) (*Res, error) {
	msg := connect.NewRequest(req)
	obs.ToHeader(ctx, msg.Header())
	reply, err := method(n, ctx, msg)
	if err != nil {
		return nil, err
	}
	return reply.Msg, nil
}

// try calls once with a node at a time, in rounds over all of them, until it
// succeeds, fails for good, or the time is over. patience is how long it waits
// for one node before it asks another too, at first.
func (c *Client) try(ctx context.Context, partition []byte, patience time.Duration, once func(context.Context, *node) error) error {
	ctx, cancel := withDeadline(ctx)
	defer cancel()
	started := time.Now()
	answered, full := false, 0
	why := reasons{}
	leader := c.leaderOf(partition)
	for wait := (pause.Retry{}); ; {
		hopeful := false // some node may do it a moment later
		var hint *node   // where the next round starts
		for n := range c.everyone(leader) {
			err := c.tryAt(ctx, n, patience, once)
			if err == nil {
				c.prefer(n)
				return nil
			}
			why.note(n, err)
			answered = answered || !unreachable(err)
			if banyan.IsKind(err, banyan.Exhausted) {
				if full++; full < exhaustedMax {
					continue // another node may have room
				}
			}
			hopeful = hopeful || passes(err)
			if !elsewhere(err) {
				return err
			}
			if ctx.Err() != nil {
				return c.nobody(ctx, err, why)
			}
			c.learn()
			if hint = c.hinted(err); hint != nil && hint != n {
				break
			}
		}
		if banyan.IsKind(why.last, banyan.Exhausted) {
			return why.last
		}
		if !hopeful || !answered && time.Since(started) > c.reachMax(why) || wait.Pause(ctx) != nil {
			return c.nobody(ctx, why.last, why)
		}
		patience = max(patience, min(2*patience, patienceMax))
		if leader = hint; leader == nil {
			leader = c.leaderOf(partition)
		}
	}
}

// tryAt waits for one node only so long, for it may hang.
func (c *Client) tryAt(ctx context.Context, n *node, patience time.Duration, once func(context.Context, *node) error) error {
	if c.single {
		return once(ctx, n)
	}
	attempt, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return once(attempt, n)
}

// keep holds a stream open: when it breaks off it is opened again, at another
// node, until once succeeds, fails for good, ctx ends, or no stream stood for
// callMax. once calls heard for each message.
func (c *Client) keep(ctx context.Context, partition []byte, once func(ctx context.Context, n *node, heard func()) error) error {
	last := time.Now()
	var wait pause.Retry
	for {
		why, hopeful := reasons{}, false
		for n := range c.everyone(c.leaderOf(partition)) {
			attempt, cancel := context.WithCancel(ctx)
			stood := false
			err := once(attempt, n, func() { stood = true })
			cancel()
			if stood { // it may have been quiet for long
				last = time.Now()
				wait.Reset()
			}
			why.note(n, err)
			hopeful = hopeful || passes(err)
			switch {
			case err == nil || !elsewhere(err):
				return err
			case ctx.Err() != nil || time.Since(last) > c.alone || (c.single && banyan.IsKind(err, banyan.Timeout)):
				return c.nobody(ctx, err, why)
			}
			c.learn()
		}
		if !hopeful || wait.Pause(ctx) != nil {
			return c.nobody(ctx, why.last, why)
		}
	}
}

// passes says whether an error may be gone at another node or a moment later.
func passes(err error) bool {
	switch banyan.KindOf(err) {
	case banyan.NotLeader, banyan.Unavailable, banyan.Timeout, banyan.Stale:
		return true
	}
	return false
}

// elsewhere says whether another node may do what this one did not.
func elsewhere(err error) bool { return passes(err) || wrongNode(err) }

// unreachable says that no node has answered: the error was made on this side.
// The two are told apart by the error's cause. One made here wraps what the
// network said; one that a node sent is made from its kind and text, and wraps
// nothing.
func unreachable(err error) bool {
	var e *banyan.Error
	return errors.As(err, &e) && e.Kind == banyan.Unavailable && e.Err != nil || wrongNode(err)
}

// wrongNode says that this side found something wrong with the node that it
// reached, or that node with this side, before any of them asked a thing: it may
// be of another cluster that has the address now, no node at all, one whose
// certificate or clock is wrong, or of an older release. That says nothing of
// the other nodes.
func wrongNode(err error) bool {
	var e *banyan.Error
	if !errors.As(err, &e) || e.Err == nil {
		return false
	}
	switch e.Kind {
	case banyan.Unauthenticated, banyan.PermissionDenied, banyan.Corrupt, banyan.TooNew, banyan.Internal:
		return true
	}
	return false
}

// reasons is why nodes did not do what they were asked, each the last.
type reasons struct {
	last error
	each []reason
}

type reason struct {
	addr string
	err  error
}

func (r *reasons) note(n *node, err error) {
	r.last = err
	i := slices.IndexFunc(r.each, func(w reason) bool { return w.addr == n.addr })
	if i < 0 {
		r.each, i = append(r.each, reason{addr: n.addr}), len(r.each)
	}
	r.each[i].err = err
}

// reachMax is for how long no node may be reached. Who has something else to do
// waits less where nothing listens, as long as a restart takes.
func (c *Client) reachMax(why reasons) time.Duration {
	notRefused := func(r reason) bool { return !errors.Is(r.err, syscall.ECONNREFUSED) }
	if c.otherwise != "" && !slices.ContainsFunc(why.each, notRefused) {
		return refusedMax
	}
	return reachMax
}

// reasonsShown is of how many nodes an error says what was wrong with them.
const reasonsShown = 8

// Error gives one reason after the other, with the address.
func (r reasons) Error() string {
	var texts []string
	for i, w := range r.each {
		if i == reasonsShown {
			texts = append(texts, fmt.Sprintf("and %d nodes more", len(r.each)-i))
			break
		}
		text := w.err.Error()
		if !strings.Contains(text, w.addr) {
			text = w.addr + ": " + text
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, "; ")
}

// Unwrap gives what was heard last.
func (r reasons) Unwrap() error { return r.last }

// hinted gives the node that a NotLeader points to, if its address is known.
func (c *Client) hinted(err error) *node {
	var e *banyan.Error
	t := c.topology.Load()
	if t == nil || !errors.As(err, &e) || e.Kind != banyan.NotLeader {
		return nil
	}
	return t.nodes[e.Leader]
}

// nobody is the error when the time was over, or no node is right; last is what
// was heard last.
func (c *Client) nobody(ctx context.Context, last error, why reasons) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return &banyan.Error{Kind: banyan.Canceled, Err: context.Cause(ctx)}
	}
	if c.single {
		return &banyan.Error{Kind: banyan.Timeout, Msg: "not done in the time given", Err: last}
	}
	var addrs []string
	for _, n := range c.known() {
		addrs = append(addrs, n.addr)
	}
	asked := strings.Join(addrs, ", ")
	if wrongNode(last) && len(addrs) == 1 {
		return last
	}
	if why.last != nil {
		last = why
	}
	if !unreachable(last) {
		return &banyan.Error{Kind: banyan.Timeout, Msg: "not done in the time given (asked " + asked + "): 'banyan status' says what is wrong, if anything answers there", Err: last}
	}
	return &banyan.Error{Kind: banyan.Unavailable, Msg: "no node of the cluster can be reached (tried " + asked + "): check that banyan runs there" + c.otherwise, Err: last}
}

func withDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, callMax)
}
