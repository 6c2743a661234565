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
	bill    *bill
	calls   sync.WaitGroup

	mu        sync.Mutex
	some      sync.Cond // answers, asked or closed
	free      sync.Cond // room for calls, or broken
	under     int       // calls whose answers are not sent
	answers   []answered
	bytes     int // of calls under way and answers not sent
	postponed []postponed
	asked     bool // for a sign of life
	closed    bool
	broken    bool // nothing can be sent any more
}

// answered is a call whose answer is to be sent, and what it holds until then.
type answered struct {
	*banyanv1.Answer
	bytes int
}

// postponed is a get whose answer found no room when it was made. Only its size
// is kept: it is made again when there is room for so much.
type postponed struct {
	bytes int  // of its answer
	held  *int // by the call
	again func()
}

// doneFunc is called when a call is over. again, if not nil, begins it again, if
// there is no room for its answer now.
type doneFunc func(a *banyanv1.Answer, panicked any, err error, again func())

// serveSession answers calls until the caller closes his side or goes away. It
// returns when all are answered.
func serveSession(ctx context.Context, d kvDoor, c carrier) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s := &session{kvDoor: d, carrier: c, bill: billOf(ctx)}
	s.some.L, s.free.L = &s.mu, &s.mu
	var sender sync.WaitGroup
	sender.Go(func() {
		s.send()
		cancel()
		s.breakOff()
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
			bytes := asks(call)
			if !s.enter(bytes) {
				return banyan.Errorf(banyan.Unavailable, "the caller takes no answers")
			}
			if err := s.bill.Take(bytes); err != nil {
				s.put(&banyanv1.Answer{Id: call.GetId(), Answer: &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}}, bytes)
				continue
			}
			s.carryOut(ctx, call, bytes)
		}
		s.bill.turn()
	}
}

// enter waits for room for one more call of so many bytes; false: the session
// is broken. One call fits always.
func (s *session) enter(bytes int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.broken && (s.under >= banyan.SessionCallsMax || s.bytes > 0 && s.bytes+bytes > banyan.SessionBytesMax || len(s.postponed) > 0) {
		s.free.Wait()
	}
	s.under++
	s.bytes += bytes
	return !s.broken
}

// asks is about how many bytes a call holds until it is answered.
func asks(call *banyanv1.Call) int {
	switch c := call.GetCall().(type) {
	case *banyanv1.Call_Get:
		return len(c.Get.GetKey())
	case *banyanv1.Call_Put:
		return len(c.Put.GetKey()) + len(c.Put.GetValue())
	}
	return proto.Size(call)
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

// carryOut begins a call of so many bytes. What it waits for is bounded by the
// layers.
func (s *session) carryOut(ctx context.Context, call *banyanv1.Call, bytes int) {
	a := &banyanv1.Answer{Id: call.GetId()}
	switch c := call.GetCall().(type) {
	case *banyanv1.Call_Put:
		ctx, done := s.begin(ctx, call, bytes, doorPut, c.Put.GetKey())
		s.KV.PutThen(ctx, c.Put, func(res *banyanv1.PutResponse, err error) {
			a.Answer = &banyanv1.Answer_Put{Put: res}
			done(a, nil, err, nil)
		})
	case *banyanv1.Call_Get:
		ctx, done := s.begin(ctx, call, bytes, doorGet, c.Get.GetKey())
		s.get(ctx, c.Get, a, done)
	case *banyanv1.Call_Txn:
		s.beside(ctx, call, bytes, doorTxn, nil, a, func(ctx context.Context) error {
			res, err := s.KV.Txn(ctx, c.Txn)
			a.Answer = &banyanv1.Answer_Txn{Txn: res}
			return err
		})
	case *banyanv1.Call_Delete:
		s.beside(ctx, call, bytes, doorDelete, c.Delete.GetKey(), a, func(ctx context.Context) error {
			res, err := s.KV.Delete(ctx, c.Delete)
			a.Answer = &banyanv1.Answer_Delete{Delete: res}
			return err
		})
	case *banyanv1.Call_Acquire:
		s.beside(ctx, call, bytes, doorAcquire, banyan.Partition([]byte(c.Acquire.GetName())), a, func(ctx context.Context) error {
			res, err := s.locks.Acquire(ctx, c.Acquire)
			a.Answer = &banyanv1.Answer_Acquire{Acquire: res}
			return err
		})
	case *banyanv1.Call_Release:
		s.beside(ctx, call, bytes, doorRelease, releasedAt(c.Release), a, func(ctx context.Context) error {
			res, err := s.locks.Release(ctx, c.Release)
			a.Answer = &banyanv1.Answer_Release{Release: res}
			return err
		})
	default:
		err := banyan.Errorf(banyan.TooNew, "call %d of the session asks nothing this node knows: make it a request of its own, or upgrade this node", call.GetId())
		a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
		s.put(a, bytes)
	}
}

// get begins a get, and begins it again if its answer finds no room. How large
// an answer is shows only when it is there, and thousands may be made at once.
func (s *session) get(ctx context.Context, req *banyanv1.GetRequest, a *banyanv1.Answer, done doneFunc) {
	s.KV.GetThen(ctx, req, func(res *banyanv1.GetResponse, err error) {
		a.Answer = &banyanv1.Answer_Get{Get: res}
		done(a, nil, err, func() { s.get(ctx, req, a, done) })
	})
}

// beside runs a call that waits on a goroutine of its own.
func (s *session) beside(ctx context.Context, call *banyanv1.Call, bytes, door int, key []byte, a *banyanv1.Answer, run func(context.Context) error) {
	ctx, done := s.begin(ctx, call, bytes, door, key)
	go func() {
		var err error
		defer func() { done(a, recover(), err, nil) }()
		err = run(ctx)
	}()
}

// begin gives the context of a call that holds so many bytes, and what must be
// called when it is over. key, if not nil, is one that it is about.
func (s *session) begin(ctx context.Context, call *banyanv1.Call, bytes, door int, key []byte) (context.Context, doneFunc) {
	s.calls.Add(1)
	began := time.Now()
	procedure := procedures[door]
	ctx, span := obs.StartServer(obs.WithTraceparent(ctx, call.GetTraceparent()), procedure[1:])
	return ctx, func(a *banyanv1.Answer, panicked any, err error, again func()) {
		if err == nil && again != nil {
			postponed := false
			if postponed, err = s.fit(a, &bytes, again); postponed {
				return
			}
		}
		if err = s.edge.explain(ctx, procedure, panicked, err); err != nil {
			a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
		}
		a.Elsewhere = key != nil && s.elsewhere(key)
		s.edge.once(&s.meters[door], procedure, false).answered(began, meant(call.GetAcquire()), err)
		span.End(err)
		s.put(a, bytes)
		s.calls.Done()
	}
}

// fit finds room for an answer, or has it made again when there is some. Without
// others that hold bytes there is room always.
func (s *session) fit(a *banyanv1.Answer, held *int, again func()) (later bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	needs, others := weight(a), s.bytes-*held
	if s.broken || others <= 0 || others+needs <= banyan.SessionBytesMax {
		return false, s.hold(needs, held)
	}
	s.bill.Give(*held)
	s.bytes, *held = others, 0
	a.Answer = nil
	s.postponed = append(s.postponed, postponed{needs, held, again})
	return true, nil
}

// hold has a call hold so many bytes from now on, under s.mu.
func (s *session) hold(needs int, held *int) error {
	if err := s.bill.Take(needs - *held); err != nil {
		return err
	}
	s.bill.Give(*held - needs)
	s.bytes += needs - *held
	*held = needs
	return nil
}

// resume takes out the postponed calls for which there is room now, under s.mu.
func (s *session) resume() (now []postponed) {
	for len(s.postponed) > 0 && (s.bytes == 0 || s.bytes+s.postponed[0].bytes <= banyan.SessionBytesMax) {
		p := s.postponed[0]
		s.postponed = s.postponed[1:]
		_ = s.hold(p.bytes, p.held) // else its answer tries once more
		now = append(now, p)
		if *p.held == 0 {
			break
		}
	}
	return now
}

// elsewhere says that another node leads the shard of a key.
func (s *session) elsewhere(key []byte) bool {
	leader, ok := s.leaders.Leader(s.leaders.ShardOf(banyan.Partition(key)))
	return ok && leader != s.edge.node
}

// put has an answer sent. The call has held so many bytes.
func (s *session) put(a *banyanv1.Answer, held int) {
	s.mu.Lock()
	if err := s.hold(weight(a), &held); err != nil {
		a.Answer = &banyanv1.Answer_Error{Error: wire.EncodeCall(err)}
	}
	if s.broken {
		_ = s.hold(0, &held) // giving back does not fail
	} else {
		s.answers = append(s.answers, answered{a, held})
	}
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
	left := s.postponed
	s.postponed = nil
	s.mu.Unlock()
	s.free.Broadcast()
	begin(left)
}

// begin begins calls again, beside whoever asks for it.
func begin(calls []postponed) {
	if len(calls) > 0 {
		go func() {
			for _, c := range calls {
				c.again()
			}
		}()
	}
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

// take moves what the next message holds to the end of out, and says how many
// bytes that is.
func (s *session) take(out []*banyanv1.Answer) ([]*banyanv1.Answer, int) {
	n, bytes := 0, 0
	for n < min(len(s.answers), sessionAnswersMax) && bytes < sessionBytesMax {
		out = append(out, s.answers[n].Answer)
		bytes += s.answers[n].bytes
		n++
	}
	s.answers = slices.Delete(s.answers, 0, n)
	s.asked = false
	return out, bytes
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
		asked, bytes := s.asked, 0
		m.Answers, bytes = s.take(m.Answers[:0])
		s.mu.Unlock()
		if len(m.Answers) == 0 && !asked || s.carrier.Send(m) != nil {
			return
		}
		s.mu.Lock()
		s.under -= len(m.Answers)
		_ = s.hold(0, &bytes) // giving back does not fail
		now := s.resume()
		s.mu.Unlock()
		s.free.Signal()
		begin(now)
		clear(m.Answers)
	}
}
