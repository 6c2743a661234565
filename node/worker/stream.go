package worker

import (
	"context"
	"math/rand/v2"
	"time"

	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
)

// stream is the conversation with one controller node, opened anew whenever it
// breaks, until it is closed.
type stream struct {
	w        *Worker
	node     banyan.NodeID
	wake     chan struct{}
	farewell chan struct{} // closed: say what is due, and no more
	cancel   context.CancelFunc
	done     chan struct{}
}

func (w *Worker) newStream(ctx context.Context, node banyan.NodeID) *stream {
	ctx, cancel := context.WithCancel(ctx)
	s := &stream{
		w: w, node: node, wake: make(chan struct{}, 1), farewell: make(chan struct{}),
		cancel: cancel, done: make(chan struct{}),
	}
	go s.run(ctx)
	return s
}

func (s *stream) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// close ends the conversation and returns when it has ended.
func (s *stream) close() {
	s.cancel()
	<-s.done
}

func (s *stream) run(ctx context.Context) {
	defer close(s.done)
	for backoff := backoffMin; ; backoff = min(2*backoff, backoffMax) {
		opened := time.Now()
		err := s.talk(ctx)
		if ctx.Err() != nil || closed(s.farewell) {
			return
		}
		if time.Since(opened) > 10*backoffMax {
			backoff = backoffMin
		}
		s.w.cfg.Logger.Debug("work stream ended", "controller", s.node, "error", err)
		select {
		case <-time.After(backoff/2 + rand.N(backoff)):
		case <-s.farewell:
			return
		case <-ctx.Done():
			return
		}
	}
}

// talk opens one stream and uses it until it breaks.
func (s *stream) talk(ctx context.Context) error {
	client, err := s.w.cfg.Dial(s.node)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	bidi := client.Work(ctx)
	s.w.do(func() { s.w.core.Connect(s.node) })
	defer s.w.do(func() { s.w.core.Disconnect(s.node) })
	received := make(chan error, 1)
	go func() {
		defer cancel()
		received <- s.receive(bidi.Receive)
	}()
	s.send(ctx, bidi.Send)
	_ = bidi.CloseRequest() // a stream that broke ends receive
	if !closed(s.farewell) {
		cancel()
	}
	err = <-received // after a farewell: when the far end has read it, or at its deadline
	_ = bidi.CloseResponse()
	return err
}

func (s *stream) receive(next func() (*peerv1.ControllerMessage, error)) error {
	for {
		m, err := next()
		if err != nil {
			return err
		}
		s.w.do(func() {
			err = s.w.core.Receive(s.w.now(), s.node, m)
		})
		if err != nil {
			return err
		}
	}
}

// send tells the controller what is due, as soon as the message before is out,
// until the stream breaks or everything is said and the worker leaves.
func (s *stream) send(ctx context.Context, put func(*peerv1.WorkerMessage) error) {
	for ctx.Err() == nil {
		due, urgent := s.due()
		if !due {
			select {
			case <-s.wake:
			case <-s.farewell:
				if due, _ := s.due(); !due {
					return
				}
			case <-ctx.Done():
			}
			continue
		}
		if !urgent {
			s.gather(ctx)
		}
		s.w.mu.Lock()
		m := s.w.core.Message(s.w.now(), s.node)
		s.w.mu.Unlock()
		if m != nil && put(m) != nil {
			_, unmade := proto.Marshal(m)
			if unmade == nil {
				return // Receive says why
			}
			s.w.cfg.Logger.Error("a message to a controller cannot be made", "controller", s.node, "error", unmade)
			s.w.do(func() { s.w.core.Unmade(s.node, m, unmade) })
		}
	}
}

func (s *stream) due() (due, urgent bool) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	return s.w.core.Due(s.node)
}

// gather lets more results come together, until something is urgent.
func (s *stream) gather(ctx context.Context) {
	enough := time.NewTimer(gatherFor)
	defer enough.Stop()
	for {
		select {
		case <-s.wake:
			if _, urgent := s.due(); urgent {
				return
			}
		case <-enough.C:
			return
		case <-s.farewell:
			return
		case <-ctx.Done():
			return
		}
	}
}
