package client

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/wire"
)

// connected runs a session whose other side is peer, in a bubble.
func connected(t *testing.T, test func(t *testing.T, s *session, peer *wire.Frames)) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe()
		c := &Client{patience: time.Second}
		n := &node{addr: "there"}
		s := newSession(n, c.patience)
		n.session = s
		c.sessions.Go(func() {
			err := s.converse(framed{wire.NewFrames(here, nil, 0)}, &c.sessions)
			n.forget(s)
			s.fail(err)
		})
		synctest.Wait()
		test(t, s, wire.NewFrames(there, nil, 0))
		_ = here.Close()
		c.sessions.Wait()
	})
}

func ask(s *session, limited bool) error {
	_, err := s.call(context.Background(), &banyanv1.Call{Call: &banyanv1.Call_Get{Get: &banyanv1.GetRequest{}}}, limited)
	return err
}

func open(s *session) bool {
	s.node.mu.Lock()
	defer s.node.mu.Unlock()
	return s.node.session == s
}

// answered has peer answer what comes, calls only if all is set, until it ends.
func answered(peer *wire.Frames, all bool) {
	for {
		m, res := &banyanv1.SessionRequest{}, &banyanv1.SessionResponse{}
		if peer.Read(m) != nil {
			return
		}
		for _, c := range m.Calls {
			if all {
				res.Answers = append(res.Answers, &banyanv1.Answer{Id: c.Id})
			}
		}
		if len(m.Calls) == 0 || all {
			_ = peer.Write(res) // it is closed if this fails
		}
	}
}

// A node that says nothing, though asked to, is left soon; its calls sooner.
func TestASilentNodeIsLeft(t *testing.T) {
	connected(t, func(t *testing.T, s *session, peer *wire.Frames) {
		go func() { // takes all, as a kernel does for a process that was stopped
			for peer.Read(&banyanv1.SessionRequest{}) == nil {
			}
		}()
		began := time.Now()
		if err := ask(s, true); !banyan.IsKind(err, banyan.Timeout) || time.Since(began) > 2*time.Second {
			t.Errorf("a call: %v after %v", err, time.Since(began))
		}
		if err := ask(s, false); !banyan.IsKind(err, banyan.Unavailable) || time.Since(began) > 7*time.Second {
			t.Errorf("a call without limit: %v after %v", err, time.Since(began))
		}
		if open(s) {
			t.Error("the next call goes the same way")
		}
	})
}

// One that takes nothing, so that the sender hangs, is left too.
func TestANodeThatTakesNothingIsLeft(t *testing.T) {
	connected(t, func(t *testing.T, s *session, _ *wire.Frames) {
		began := time.Now()
		if err := ask(s, true); !banyan.IsKind(err, banyan.Timeout) || time.Since(began) > 2*time.Second {
			t.Errorf("a call: %v after %v", err, time.Since(began))
		}
		if err := ask(s, false); !banyan.IsKind(err, banyan.Unavailable) || time.Since(began) > 7*time.Second {
			t.Errorf("a call without limit: %v after %v", err, time.Since(began))
		}
	})
}

// One that answers no call, but gives signs of life, is not.
func TestASlowNodeIsNotLeft(t *testing.T) {
	connected(t, func(t *testing.T, s *session, peer *wire.Frames) {
		go answered(peer, false)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := s.call(ctx, &banyanv1.Call{}, false); !banyan.IsKind(err, banyan.Timeout) {
			t.Errorf("a call that takes an hour: %v", err)
		}
	})
}

// A session without calls is quiet, and closed after a while.
func TestAnIdleSessionIsClosed(t *testing.T) {
	connected(t, func(t *testing.T, s *session, peer *wire.Frames) {
		closed := make(chan struct{})
		go func() {
			answered(peer, true)
			close(closed)
		}()
		for range 10 {
			if err := ask(s, true); err != nil {
				t.Fatal(err)
			}
			time.Sleep(idleMax - time.Second)
		}
		if !open(s) {
			t.Fatal("it was closed between calls")
		}
		time.Sleep(2 * time.Second)
		if open(s) {
			t.Error("it is still open")
		}
		<-closed
		if err := ask(s, true); !banyan.IsKind(err, banyan.Unavailable) {
			t.Errorf("a call that comes too late: %v", err)
		}
	})
}
