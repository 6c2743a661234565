package gate

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
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/obs"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// carrier brings the messages of one session.
type carrier interface {
	Receive() (*banyanv1.SessionRequest, error) // io.EOF: the caller has said all
	Send(*banyanv1.SessionResponse) error
}

var (
	_ carrier = (*connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse])(nil)
	_ carrier = framed{}
)

// session is one stream of calls. Each is carried out beside the others; what
// is answered while a message is being sent goes out together in the next one.
type session struct {
	kvDoor
	carrier carrier
	calls   sync.WaitGroup

	mu      sync.Mutex
	some    sync.Cond // answers, asked or closed
	free    sync.Cond // room for calls, or broken
	under   int       // calls whose answers are not sent
	answers []*banyanv1.Answer
	bytes   int  // of answers
	asked   bool // for a sign of life
	closed  bool
	broken  bool // nothing can be sent any more
}

// serveSession answers calls until the caller closes his side or goes away. It
// returns when all are answered.
func serveSession(ctx context.Context, d kvDoor, c carrier) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{kvDoor: d, carrier: c}
	s.some.L, s.free.L = &s.mu, &s.mu
	var sender sync.WaitGroup
	sender.Go(func() {
		s.send()
		s.breakOff()
		cancel()
	})
	err := s.receive(ctx)
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

func (s *session) receive(ctx context.Context) error {
	for began := time.Now(); ; {
		req, err := s.carrier.Receive()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return wire.Decode(err)
		}
		if time.Since(began) > sessionMax {
			return banyan.Errorf(banyan.Unavailable, "the session has lasted for %v: open another", sessionMax)
		}
		if len(req.Calls) == 0 {
			s.mu.Lock()
			s.asked = true
			s.mu.Unlock()
			s.some.Signal()
		}
		for _, call := range req.Calls {
			if !s.enter() {
				return banyan.Errorf(banyan.Unavailable, "the caller takes no answers")
			}
			s.carryOut(ctx, call)
		}
	}
}

// enter waits for room for one more call; false: the session is broken.
func (s *session) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.broken && (s.under >= banyan.SessionCallsMax || s.bytes >= banyan.SessionFrameBytesMax) {
		s.free.Wait()
	}
	s.under++
	return !s.broken
}

// doors of the calls that a session may carry.
const (
	doorGet = iota
	doorPut
	doorDelete
	doorTxn
	doorAcquire
	doorRelease
	doorSession // the session itself
	doors
)

var procedures = [doors]string{banyanv1connect.KVGetProcedure, banyanv1connect.KVPutProcedure, banyanv1connect.KVDeleteProcedure, banyanv1connect.KVTxnProcedure, banyanv1connect.CoordAcquireProcedure, banyanv1connect.CoordReleaseProcedure, banyanv1connect.KVSessionProcedure}

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
	s.bytes += weight(a)
	s.mu.Unlock()
	s.some.Signal()
}

// weight is about how many bytes an answer takes if it may take many.
func weight(a *banyanv1.Answer) int {
	switch x := a.Answer.(type) {
	case *banyanv1.Answer_Put:
		return 0
	case *banyanv1.Answer_Get:
		return len(x.Get.GetKv().GetKey()) + len(x.Get.GetKv().GetValue())
	}
	return proto.Size(a)
}

func (s *session) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.some.Signal()
}

func (s *session) breakOff() {
	s.mu.Lock()
	s.broken = true
	s.mu.Unlock()
	s.free.Broadcast()
}

// sessionMax is how long a session lasts. Callers open another then, and show
// their certificate again.
const sessionMax = time.Hour

// One message holds so many answers, and the first that goes beyond so many
// bytes.
const (
	sessionAnswersMax = 256
	sessionBytesMax   = 1 << 20
)

// take moves what the next message holds to the end of out.
func (s *session) take(out []*banyanv1.Answer) []*banyanv1.Answer {
	n, bytes := 0, 0
	for n < min(len(s.answers), sessionAnswersMax) && bytes < sessionBytesMax {
		bytes += weight(s.answers[n])
		n++
	}
	out = append(out, s.answers[:n]...)
	s.answers = slices.Delete(s.answers, 0, n)
	s.bytes -= bytes
	s.asked = false
	return out
}

// send sends answers until the session is closed or the caller is gone.
func (s *session) send() {
	m := &banyanv1.SessionResponse{}
	for {
		s.mu.Lock()
		for len(s.answers) == 0 && !s.asked && !s.closed {
			s.some.Wait()
		}
		s.mu.Unlock()
		runtime.Gosched() // those who were woken together go together
		s.mu.Lock()
		asked := s.asked
		m.Answers = s.take(m.Answers[:0])
		s.mu.Unlock()
		if len(m.Answers) == 0 && !asked || s.carrier.Send(m) != nil {
			return
		}
		s.mu.Lock()
		s.under -= len(m.Answers)
		s.mu.Unlock()
		s.free.Signal()
		clear(m.Answers)
	}
}
