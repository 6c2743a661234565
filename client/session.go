package client

import (
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/wire"
	"banyan/obs"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// session carries the calls of this client to one node. Calls that come while a
// message is being sent go together in the next one.
type session struct {
	node     *node
	patience time.Duration
	replies  sync.Pool // those that nobody uses now

	mu      sync.Mutex
	some    sync.Cond // something to send, or broken
	link    link      // nil: not yet connected
	calls   []*banyanv1.Call
	waiting map[uint64]*reply
	next    uint64
	broken  error

	watch    *time.Timer // runs look
	watching bool        // look comes soon
	heard    bool        // something, since the last look
	since    time.Time   // of silence
	ask      bool        // a sign of life is to be asked for
	asked    bool        // and is awaited
	resting  bool        // nothing was awaited at the last look
}

func newSession(n *node, patience time.Duration) *session {
	s := &session{node: n, patience: patience, waiting: map[uint64]*reply{}}
	s.some.L = &s.mu
	s.watch = time.AfterFunc(time.Hour, s.look)
	s.watch.Stop()
	return s
}

// reply is one call under way.
type reply struct {
	answer *banyanv1.Answer
	err    error
	ready  chan struct{} // of one
	looks  int           // it has outlived; less than 0: it is not given up
}

// A message holds so many calls, and the first that goes beyond so many bytes.
// A larger call than callBytesMax is a request of its own.
const (
	sessionCallsMax = 256
	sessionBytesMax = 1 << 20
	callBytesMax    = banyan.CommandBytesMax
)

// call makes a call that is safe to repeat over the session with the leader of
// partition, or with other nodes until one answers, as unary does. The first
// try, nearly always the only one, needs no context and no timer of its own.
func call[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), pack func(*Req) *banyanv1.Call, unpack func(*banyanv1.Answer) *Res) (*Res, error) {
	n := c.first(partition)
	message := pack(req)
	s := c.sessionOf(n)
	if s == nil || weight(message) > callBytesMax {
		return callAgain(ctx, c, partition, req, method, pack, unpack, nil, nil)
	}
	answer, err := s.call(ctx, message, true)
	if answer.GetElsewhere() {
		c.learn()
	}
	if err == nil {
		c.prefer(n)
		return unpack(answer), nil
	}
	if !elsewhere(err) && !banyan.IsKind(err, banyan.TooNew) && !banyan.IsKind(err, banyan.Exhausted) {
		return nil, err
	}
	return callAgain(ctx, c, partition, req, method, pack, unpack, n, err)
}

// callAgain goes on after a first try: tried, if not nil, has failed with err.
func callAgain[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), pack func(*Req) *banyanv1.Call, unpack func(*banyanv1.Answer) *Res, tried *node, failed error) (*Res, error) {
	var res *Res
	err := c.try(ctx, partition, c.patience, func(ctx context.Context, n *node) (err error) {
		s := c.sessionOf(n)
		message := pack(req)
		if weight(message) > callBytesMax {
			s = nil
		}
		switch {
		case n == tried:
			tried, err = nil, failed
		case s != nil:
			var answer *banyanv1.Answer
			answer, err = s.call(ctx, message, false)
			if answer.GetElsewhere() {
				c.learn()
			}
			res = unpack(answer)
		}
		if s == nil || banyan.IsKind(err, banyan.TooNew) {
			res, err = request(ctx, n, req, method)
		}
		return err
	})
	return res, err
}

// weight is about how many bytes a call takes.
func weight(call *banyanv1.Call) int {
	switch c := call.Call.(type) {
	case *banyanv1.Call_Put:
		return len(c.Put.Key) + len(c.Put.Value)
	case *banyanv1.Call_Get:
		return len(c.Get.Key)
	}
	return proto.Size(call)
}

// call waits for the answer of a call, until ctx ends or, if it is limited, for
// as long as patience lasts and a little longer.
func (s *session) call(ctx context.Context, call *banyanv1.Call, limited bool) (*banyanv1.Answer, error) {
	r := s.reply()
	if !limited {
		r.looks = -1
	}
	call.Traceparent = obs.Traceparent(ctx)
	s.mu.Lock()
	if s.broken != nil {
		s.mu.Unlock()
		return nil, s.broken
	}
	s.next++
	call.Id = s.next
	s.waiting[call.Id] = r
	s.calls = append(s.calls, call)
	if !s.watching {
		s.watching = true
		s.watch.Reset(s.patience / looksMax)
	}
	s.mu.Unlock()
	s.some.Signal()
	if ctx.Done() == nil {
		<-r.ready
	} else {
		select {
		case <-r.ready:
		case <-ctx.Done():
			s.mu.Lock()
			delete(s.waiting, call.Id)
			s.mu.Unlock()
			return nil, wire.Decode(ctx.Err())
		}
	}
	answer, err := r.answer, r.err
	r.answer = nil
	s.replies.Put(r)
	return answer, err
}

func (s *session) reply() *reply {
	if r, ok := s.replies.Get().(*reply); ok {
		*r = reply{ready: r.ready}
		return r
	}
	return &reply{ready: make(chan struct{}, 1)}
}

// send sends what calls there are until the session breaks.
func (s *session) send() {
	m := &banyanv1.SessionRequest{}
	for {
		s.mu.Lock()
		for len(s.calls) == 0 && !s.ask && s.broken == nil {
			s.some.Wait()
		}
		s.mu.Unlock()
		runtime.Gosched() // those who were woken together go together
		s.mu.Lock()
		ask := s.ask
		s.ask = false
		m.Calls = s.take(m.Calls[:0])
		s.mu.Unlock()
		if len(m.Calls) == 0 && !ask {
			return // broken
		}
		if s.link.Send(m) != nil {
			s.link.Close() // who receives says why
			return
		}
		clear(m.Calls)
	}
}

// take moves what the next message holds to the end of out.
func (s *session) take(out []*banyanv1.Call) []*banyanv1.Call {
	n, bytes := 0, 0
	for n < min(len(s.calls), sessionCallsMax) && bytes < sessionBytesMax {
		bytes += weight(s.calls[n])
		n++
	}
	out = append(out, s.calls[:n]...)
	s.calls = slices.Delete(s.calls, 0, n)
	return out
}

// receive hands out answers until the session ends.
func (s *session) receive() error {
	var woken []*reply
	for {
		m, err := s.link.Receive()
		switch {
		case errors.Is(err, io.EOF):
			return brokenOff(nil)
		case err != nil:
			return wire.Decode(err)
		case m.End != nil:
			return wire.DecodeCall(m.End)
		}
		woken = s.resolve(m.Answers, woken[:0])
		for i, r := range woken {
			r.ready <- struct{}{}
			woken[i] = nil
		}
	}
}

// resolve gives answers to those who wait for them, and appends those to woken.
func (s *session) resolve(answers []*banyanv1.Answer, woken []*reply) []*reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = true
	for _, a := range answers {
		r := s.waiting[a.Id]
		if r == nil {
			continue // nobody waits any more
		}
		delete(s.waiting, a.Id)
		if e := a.GetError(); e != nil {
			r.err = wire.DecodeCall(e)
		}
		r.answer = a
		woken = append(woken, r)
	}
	return woken
}

// looksMax is how many looks a call outlives that is given up in the end.
const looksMax = 4

const (
	askAfter   = 2 * time.Second // of silence while something is awaited: a sign of life is asked for
	silenceMax = 5 * time.Second // of it: the node counts as gone
	idleMax    = time.Minute     // without calls; then the session is closed
)

// look comes four times in patience while something is awaited. It ends the
// calls that have waited for so long, for the node may hang, and finds out
// whether it does. It closes a session that nobody needs.
func (s *session) look() {
	if err := s.verdict(); err != nil {
		s.node.forget(s)
		s.fail(err)
		s.link.Close()
	}
}

// verdict says why the session is to end, nil if it is not.
func (s *session) verdict() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return nil
	}
	awaited := len(s.waiting) > 0 || s.asked
	rested := s.resting && !s.heard
	switch {
	case s.heard || !awaited:
		s.since, s.asked = time.Time{}, false
	case s.since.IsZero():
		s.since = time.Now()
	}
	s.heard = false
	silent := !s.since.IsZero() && time.Since(s.since) >= askAfter
	if s.giveUp() || silent {
		s.askForLife()
	}
	s.watching = len(s.waiting) > 0 || s.asked
	s.resting = !s.watching
	switch {
	case s.asked && silent && time.Since(s.since) >= silenceMax:
		s.broken = banyan.Errorf(banyan.Unavailable, "%s has said nothing for %v", s.node.addr, silenceMax)
	case s.watching:
		s.watch.Reset(s.patience / looksMax)
	case rested && s.link != nil: // the attempt to connect has an end of its own
		s.broken = banyan.Errorf(banyan.Unavailable, "the session with %s was idle", s.node.addr)
	default:
		s.watch.Reset(idleMax)
	}
	return s.broken
}

// giveUp ends the calls that have outlived enough looks, and says whether there
// were any.
func (s *session) giveUp() (some bool) {
	for id, r := range s.waiting {
		switch {
		case r.looks < 0:
		case r.looks < looksMax:
			r.looks++
		default:
			some = true
			delete(s.waiting, id)
			r.err = wire.Decode(context.DeadlineExceeded)
			r.ready <- struct{}{}
		}
	}
	return some
}

// askForLife has the node say something. HTTP/2 does that by itself.
func (s *session) askForLife() {
	if _, own := s.link.(framed); own && !s.asked {
		s.ask, s.asked = true, true
		s.some.Signal()
	}
}

// fail ends all calls: whether they were carried out is not known.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.broken == nil {
		s.broken = err
	}
	err = s.broken
	waiting := s.waiting
	s.waiting, s.calls = nil, nil
	s.mu.Unlock()
	s.some.Signal()
	for _, r := range waiting {
		r.err = err
		r.ready <- struct{}{}
	}
}
