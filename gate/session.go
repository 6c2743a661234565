package gate

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/wire"
	"banyan/obs"

	"connectrpc.com/connect"
)

// session is one stream of calls. Each is carried out beside the others; what
// is answered while a message is being sent goes out together in the next one.
type session struct {
	kv    KV
	edge  *edge
	room  chan struct{} // banyan.SessionCallsMax
	calls sync.WaitGroup

	mu      sync.Mutex
	some    sync.Cond // answers or closed
	answers []*banyanv1.Answer
	closed  bool
}

// serveSession answers calls until the caller closes his side or goes away. It
// returns when all are answered.
func serveSession(ctx context.Context, kv KV, e *edge, stream *connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{kv: kv, edge: e, room: make(chan struct{}, banyan.SessionCallsMax)}
	s.some.L = &s.mu
	var sender sync.WaitGroup
	sender.Go(func() {
		defer cancel()
		s.send(stream)
	})
	err := s.receive(ctx, stream)
	if err != nil {
		cancel()
	}
	s.calls.Wait()
	s.close()
	sender.Wait()
	return err
}

func (s *session) receive(ctx context.Context, stream *connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse]) error {
	for began := time.Now(); ; {
		req, err := stream.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wire.Decode(err)
		}
		if time.Since(began) > sessionMax {
			return banyan.Errorf(banyan.Unavailable, "the session has lasted for %v: open another", sessionMax)
		}
		for _, call := range req.Calls {
			select {
			case s.room <- struct{}{}:
			case <-ctx.Done():
				return ctx.Err()
			}
			s.calls.Go(func() {
				s.put(s.answer(ctx, call))
				<-s.room
			})
		}
	}
}

// answer carries one call out. What it waits for is bounded by the layers.
func (s *session) answer(ctx context.Context, call *banyanv1.Call) (a *banyanv1.Answer) {
	a = &banyanv1.Answer{Id: call.GetId()}
	procedure, err := "banyan.v1.KV/Session", error(nil)
	ctx = obs.WithTraceparent(ctx, call.GetTraceparent())
	var span obs.Span
	defer func() {
		if err = s.edge.explain(ctx, procedure, recover(), err); err != nil {
			a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
		}
		span.End(err)
	}()
	switch c := call.GetCall().(type) {
	case *banyanv1.Call_Put:
		procedure = "banyan.v1.KV/Put"
		ctx, span = obs.StartServer(ctx, procedure)
		var res *banyanv1.PutResponse
		res, err = s.kv.Put(ctx, c.Put)
		a.Answer = &banyanv1.Answer_Put{Put: res}
	case *banyanv1.Call_Get:
		procedure = "banyan.v1.KV/Get"
		ctx, span = obs.StartServer(ctx, procedure)
		var res *banyanv1.GetResponse
		res, err = s.kv.Get(ctx, c.Get)
		a.Answer = &banyanv1.Answer_Get{Get: res}
	case *banyanv1.Call_Txn:
		procedure = "banyan.v1.KV/Txn"
		ctx, span = obs.StartServer(ctx, procedure)
		var res *banyanv1.TxnResponse
		res, err = s.kv.Txn(ctx, c.Txn)
		a.Answer = &banyanv1.Answer_Txn{Txn: res}
	case *banyanv1.Call_Delete:
		procedure = "banyan.v1.KV/Delete"
		ctx, span = obs.StartServer(ctx, procedure)
		var res *banyanv1.DeleteResponse
		res, err = s.kv.Delete(ctx, c.Delete)
		a.Answer = &banyanv1.Answer_Delete{Delete: res}
	default:
		err = banyan.Errorf(banyan.Invalid, "call %d of the session asks nothing this node knows: set get, put, delete or txn", call.GetId())
	}
	return a
}

func (s *session) put(a *banyanv1.Answer) {
	s.mu.Lock()
	s.answers = append(s.answers, a)
	s.mu.Unlock()
	s.some.Signal()
}

func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.some.Signal()
}

// sessionMax is how long a session lasts. Callers open another then, and show
// their certificate again.
const sessionMax = time.Hour

// One message holds so many answers, and the first that goes beyond so many
// bytes of values.
const (
	sessionAnswersMax = 256
	sessionBytesMax   = 1 << 20
)

// take cuts off what the next message holds.
func (s *session) take() []*banyanv1.Answer {
	n, bytes := 0, 0
	for n < min(len(s.answers), sessionAnswersMax) && bytes < sessionBytesMax {
		bytes += len(s.answers[n].GetGet().GetKv().GetValue())
		n++
	}
	out := s.answers[:n:n]
	s.answers = s.answers[n:]
	return out
}

// send sends answers until the session is closed or the caller is gone.
func (s *session) send(stream *connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse]) {
	for {
		s.mu.Lock()
		for len(s.answers) == 0 && !s.closed {
			s.some.Wait()
		}
		out := s.take()
		s.mu.Unlock()
		if len(out) == 0 || stream.Send(&banyanv1.SessionResponse{Answers: out}) != nil {
			return
		}
	}
}
