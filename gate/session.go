package gate

import (
	"context"
	"errors"
	"io"
	"runtime"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/obs"

	"connectrpc.com/connect"
)

// session is one stream of calls. Each is carried out beside the others; what
// is answered while a message is being sent goes out together in the next one.
type session struct {
	kvDoor
	room  chan struct{} // banyan.SessionCallsMax
	calls sync.WaitGroup

	mu      sync.Mutex
	some    sync.Cond // answers or closed
	answers []*banyanv1.Answer
	closed  bool
}

// serveSession answers calls until the caller closes his side or goes away. It
// returns when all are answered.
func serveSession(ctx context.Context, d kvDoor, stream *connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse]) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{kvDoor: d, room: make(chan struct{}, banyan.SessionCallsMax)}
	s.some.L = &s.mu
	var sender sync.WaitGroup
	sender.Go(func() {
		defer cancel()
		s.send(stream)
	})
	err := s.receive(ctx, stream)
	if leaves(ctx) {
		err = errLeaving
	} else if err != nil {
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
			s.carryOut(ctx, call)
		}
	}
}

// doors of the calls that a session may carry.
const (
	doorGet = iota
	doorPut
	doorDelete
	doorTxn
	doorAcquire
	doorRelease
	doors
)

var procedures = [doors]string{banyanv1connect.KVGetProcedure, banyanv1connect.KVPutProcedure, banyanv1connect.KVDeleteProcedure, banyanv1connect.KVTxnProcedure, banyanv1connect.CoordAcquireProcedure, banyanv1connect.CoordReleaseProcedure}

// carryOut begins a call. What it waits for is bounded by the layers.
func (s *session) carryOut(ctx context.Context, call *banyanv1.Call) {
	a := &banyanv1.Answer{Id: call.GetId()}
	switch c := call.GetCall().(type) {
	case *banyanv1.Call_Put:
		ctx, done := s.begin(ctx, call, doorPut, c.Put.GetKey())
		s.KV.PutThen(ctx, c.Put, func(res *banyanv1.PutResponse, err error) {
			a.Answer = &banyanv1.Answer_Put{Put: res}
			done(a, nil, err)
		})
	case *banyanv1.Call_Get:
		ctx, done := s.begin(ctx, call, doorGet, c.Get.GetKey())
		s.KV.GetThen(ctx, c.Get, func(res *banyanv1.GetResponse, err error) {
			a.Answer = &banyanv1.Answer_Get{Get: res}
			done(a, nil, err)
		})
	case *banyanv1.Call_Txn:
		s.beside(ctx, call, doorTxn, nil, a, func(ctx context.Context) error {
			res, err := s.KV.Txn(ctx, c.Txn)
			a.Answer = &banyanv1.Answer_Txn{Txn: res}
			return err
		})
	case *banyanv1.Call_Delete:
		s.beside(ctx, call, doorDelete, c.Delete.GetKey(), a, func(ctx context.Context) error {
			res, err := s.KV.Delete(ctx, c.Delete)
			a.Answer = &banyanv1.Answer_Delete{Delete: res}
			return err
		})
	case *banyanv1.Call_Acquire:
		s.beside(ctx, call, doorAcquire, banyan.Partition([]byte(c.Acquire.GetName())), a, func(ctx context.Context) error {
			res, err := s.locks.Acquire(ctx, c.Acquire)
			a.Answer = &banyanv1.Answer_Acquire{Acquire: res}
			return err
		})
	case *banyanv1.Call_Release:
		s.beside(ctx, call, doorRelease, releasedAt(c.Release), a, func(ctx context.Context) error {
			res, err := s.locks.Release(ctx, c.Release)
			a.Answer = &banyanv1.Answer_Release{Release: res}
			return err
		})
	default:
		err := banyan.Errorf(banyan.TooNew, "call %d of the session asks nothing this node knows: make it a request of its own, or upgrade this node", call.GetId())
		a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
		s.put(a)
		<-s.room
	}
}

// beside runs a call that waits on a goroutine of its own.
func (s *session) beside(ctx context.Context, call *banyanv1.Call, door int, key []byte, a *banyanv1.Answer, run func(context.Context) error) {
	ctx, done := s.begin(ctx, call, door, key)
	go func() {
		var err error
		defer func() { done(a, recover(), err) }()
		err = run(ctx)
	}()
}

// begin gives the context of a call and what must be called when it is over.
// key, if not nil, is one that it is about.
func (s *session) begin(ctx context.Context, call *banyanv1.Call, door int, key []byte) (context.Context, func(a *banyanv1.Answer, panicked any, err error)) {
	s.calls.Add(1)
	began := time.Now()
	procedure := procedures[door]
	ctx, span := obs.StartServer(obs.WithTraceparent(ctx, call.GetTraceparent()), procedure[1:])
	return ctx, func(a *banyanv1.Answer, panicked any, err error) {
		if err = s.edge.explain(ctx, procedure, panicked, err); err != nil {
			a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
		}
		a.Elsewhere = key != nil && s.elsewhere(key)
		s.edge.once(&s.meters[door], procedure, false).answered(began, meant(call.GetAcquire()), err)
		span.End(err)
		s.put(a)
		<-s.room
		s.calls.Done()
	}
}

// elsewhere says that another node leads the shard of a key.
func (s *session) elsewhere(key []byte) bool {
	leader, ok := s.leaders.Leader(s.leaders.ShardOf(banyan.Partition(key)))
	return ok && leader != s.edge.node
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
		s.mu.Unlock()
		runtime.Gosched() // those who were woken together go together
		s.mu.Lock()
		out := s.take()
		s.mu.Unlock()
		if len(out) == 0 || stream.Send(&banyanv1.SessionResponse{Answers: out}) != nil {
			return
		}
	}
}
