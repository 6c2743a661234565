package client

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/wire"
	"banyan/obs"

	"connectrpc.com/connect"
)

// session carries the calls of this client to one node over one stream. Calls
// that come while a message is being sent go together in the next one.
type session struct {
	patience time.Duration
	mu       sync.Mutex
	some     sync.Cond // calls to send, or broken
	calls    []*banyanv1.Call
	waiting  map[uint64]*reply
	next     uint64
	broken   error
	watch    *time.Timer // over calls that may lose patience; runs while watching
	watching bool
}

func newSession(patience time.Duration) *session {
	s := &session{waiting: map[uint64]*reply{}, patience: patience}
	s.some.L = &s.mu
	s.watch = time.AfterFunc(time.Hour, s.giveUp)
	s.watch.Stop()
	return s
}

// reply is one call under way.
type reply struct {
	answer *banyanv1.Answer
	err    error
	ready  chan struct{} // of one
	looks  int           // of giveUp; less than 0: it does not look at this one
}

// replies are those that nobody uses now.
var replies = sync.Pool{New: func() any { return &reply{ready: make(chan struct{}, 1)} }}

// A message holds so many calls, and the first that goes beyond so many bytes.
const (
	sessionCallsMax = 256
	sessionBytesMax = 1 << 20
)

// call makes a call that is safe to repeat over the session with the leader of
// partition, or with other nodes until one answers, as unary does. The first
// try, nearly always the only one, needs no context and no timer of its own.
func call[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), pack func(*Req) *banyanv1.Call, unpack func(*banyanv1.Answer) *Res) (*Res, error) {
	n := c.first(partition)
	s := c.sessionOf(n)
	if s == nil {
		return callAgain(ctx, c, partition, req, method, pack, unpack, nil, nil)
	}
	answer, err := s.call(ctx, pack(req), true)
	if answer.GetElsewhere() {
		c.learn()
	}
	if err == nil {
		c.prefer(n)
		return unpack(answer), nil
	}
	if !passes(err) && !banyan.IsKind(err, banyan.TooNew) {
		return nil, err
	}
	return callAgain(ctx, c, partition, req, method, pack, unpack, n, err)
}

// callAgain goes on after a first try: tried, if not nil, has failed with err.
func callAgain[Req, Res any](ctx context.Context, c *Client, partition []byte, req *Req, method func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error), pack func(*Req) *banyanv1.Call, unpack func(*banyanv1.Answer) *Res, tried *node, failed error) (*Res, error) {
	var res *Res
	err := c.try(ctx, partition, c.patience, func(ctx context.Context, n *node) (err error) {
		s := c.sessionOf(n)
		switch {
		case n == tried:
			tried, err = nil, failed
		case s != nil:
			var answer *banyanv1.Answer
			answer, err = s.call(ctx, pack(req), false)
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

// sessionOf gives the session with a node, opening one if there is none. nil:
// the node knows no sessions.
func (c *Client) sessionOf(n *node) *session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.session == nil && !n.sessionless {
		s := newSession(c.patience)
		n.session = s
		c.sessions.Go(func() { c.hold(n, s) })
	}
	return n.session
}

// hold runs a session until it breaks or the client is closed.
func (c *Client) hold(n *node, s *session) {
	ctx, cancel := context.WithCancel(c.life)
	defer cancel()
	stream := n.kv.Session(ctx)
	// The transport looks at ctx only when nothing is left to send.
	defer context.AfterFunc(ctx, func() { s.fail(wire.Decode(ctx.Err())) })()
	var sender sync.WaitGroup
	sender.Go(func() { s.send(stream) })
	err := s.receive(stream)
	n.mu.Lock()
	n.session = nil
	n.sessionless = banyan.IsKind(err, banyan.TooNew) // what Connect calls unimplemented
	n.mu.Unlock()
	s.fail(err)
	cancel()
	sender.Wait()
	_ = stream.CloseResponse()
}

// call waits for the answer of a call, until ctx ends or, if it is limited, for
// as long as patience lasts and a little longer.
func (s *session) call(ctx context.Context, call *banyanv1.Call, limited bool) (*banyanv1.Answer, error) {
	r := replies.Get().(*reply)
	*r = reply{ready: r.ready}
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
	if limited && !s.watching {
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
	replies.Put(r)
	return answer, err
}

// looksMax is how many looks of giveUp a call outlives.
const looksMax = 4

// giveUp ends the calls that have waited for as long as patience lasts: the
// node may hang.
func (s *session) giveUp() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watching = false
	for id, r := range s.waiting {
		switch {
		case r.looks < 0:
			continue
		case r.looks < looksMax:
			r.looks++
			s.watching = true
		default:
			delete(s.waiting, id)
			r.err = wire.Decode(context.DeadlineExceeded)
			r.ready <- struct{}{}
		}
	}
	if s.watching {
		s.watch.Reset(s.patience / looksMax)
	}
}

// send sends what calls there are until the session breaks.
func (s *session) send(stream *connect.BidiStreamForClient[banyanv1.SessionRequest, banyanv1.SessionResponse]) {
	defer func() { _ = stream.CloseRequest() }()
	for {
		s.mu.Lock()
		for len(s.calls) == 0 && s.broken == nil {
			s.some.Wait()
		}
		s.mu.Unlock()
		runtime.Gosched() // those who were woken together go together
		s.mu.Lock()
		calls := s.take()
		s.mu.Unlock()
		if len(calls) == 0 || stream.Send(&banyanv1.SessionRequest{Calls: calls}) != nil {
			return
		}
	}
}

// take cuts off what the next message holds.
func (s *session) take() []*banyanv1.Call {
	if s.broken != nil {
		return nil
	}
	n, bytes := 0, 0
	for n < min(len(s.calls), sessionCallsMax) && bytes < sessionBytesMax {
		bytes += len(s.calls[n].GetPut().GetValue())
		if txn := s.calls[n].GetTxn(); txn != nil {
			bytes += sessionBytesMax // rare, and may be large
		}
		n++
	}
	out := s.calls[:n:n]
	s.calls = s.calls[n:]
	return out
}

// receive hands out answers until the stream ends.
func (s *session) receive(stream *connect.BidiStreamForClient[banyanv1.SessionRequest, banyanv1.SessionResponse]) error {
	for {
		res, err := stream.Receive()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			}
			return brokenOff(err)
		}
		for _, a := range res.Answers {
			s.resolve(a)
		}
	}
}

func (s *session) resolve(a *banyanv1.Answer) {
	s.mu.Lock()
	r := s.waiting[a.Id]
	delete(s.waiting, a.Id)
	s.mu.Unlock()
	if r == nil {
		return // nobody waits any more
	}
	if e := a.GetError(); e != nil {
		r.err = wire.DecodeCall(e)
	}
	r.answer = a
	r.ready <- struct{}{}
}

// fail ends all calls: whether they were carried out is not known.
func (s *session) fail(err error) {
	s.mu.Lock()
	if s.broken == nil {
		s.broken = err
	}
	waiting := s.waiting
	s.waiting, s.calls = nil, nil
	s.mu.Unlock()
	s.some.Signal()
	for _, r := range waiting {
		r.err = err
		r.ready <- struct{}{}
	}
}
