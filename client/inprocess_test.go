package client_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"

	"connectrpc.com/connect"
)

func post(t *testing.T, ctx context.Context, l *client.Local, body io.Reader) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://in-process/path?q", body)
	if err != nil {
		t.Fatal(err)
	}
	return l.RoundTrip(req)
}

func TestBothDirectionsAtOnce(t *testing.T) {
	l := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "After")
		w.Header().Set("Before", "1")
		in := bufio.NewScanner(r.Body)
		for in.Scan() {
			io.WriteString(w, strings.ToUpper(in.Text())+"\n")
		}
		w.Header().Set("After", "2")
		w.Header().Set(http.TrailerPrefix+"Also", "3")
	}))
	body, send := io.Pipe()
	go io.WriteString(send, "one\n")
	res, err := post(t, t.Context(), l, body)
	if err != nil || res.Header.Get("Before") != "1" || res.ProtoMajor != 2 {
		t.Fatalf("%v, %v", res, err)
	}
	out := bufio.NewReader(res.Body)
	for _, word := range []string{"one", "two", "three"} {
		if word != "one" {
			io.WriteString(send, word+"\n")
		}
		if line, err := out.ReadString('\n'); err != nil || line != strings.ToUpper(word)+"\n" {
			t.Errorf("%q, %v", line, err)
		}
	}
	send.Close()
	if _, err := out.ReadByte(); err != io.EOF {
		t.Errorf("the end is %v", err)
	}
	if res.Trailer.Get("After") != "2" || res.Trailer.Get("Also") != "3" {
		t.Errorf("trailers %v", res.Trailer)
	}
	res.Body.Close()
	l.Close()
}

// A handler may refuse before it has read: nobody waits for the other.
func TestAnAnswerDoesNotWaitForTheRequest(t *testing.T) {
	l := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "no")
	}))
	body, send := io.Pipe()
	res, err := post(t, t.Context(), l, body)
	if err != nil || res.StatusCode != http.StatusForbidden {
		t.Fatalf("%v, %v", res, err)
	}
	l.Close()
	if _, err := io.WriteString(send, "more"); err == nil {
		t.Error("the sender was not told")
	}
	if b, err := io.ReadAll(res.Body); string(b) != "no" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
}

func TestTheHandlerIsToldWhenTheCallerGoes(t *testing.T) {
	for what, leave := range map[string]func(cancel func(), res *http.Response){
		"canceled": func(cancel func(), _ *http.Response) { cancel() },
		"closed":   func(_ func(), res *http.Response) { res.Body.Close() },
	} {
		t.Run(what, func(t *testing.T) {
			l := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			res, err := post(t, ctx, l, nil)
			if err != nil {
				t.Fatal(err)
			}
			leave(cancel, res)
			if _, err := res.Body.Read(make([]byte, 1)); err == nil {
				t.Error("there is something to read")
			}
			l.Close() // returns: the handler has
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := client.InProcess(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }))
		ctx, cancel := context.WithTimeout(t.Context(), 1)
		defer cancel()
		if _, err := post(t, ctx, l, nil); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("before any answer: %v", err)
		}
		l.Close()
	})
}

func TestABrokenHandlerBreaksTheAnswer(t *testing.T) {
	l := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half")
		panic(http.ErrAbortHandler)
	}))
	res, err := post(t, t.Context(), l, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); string(b) != "half" || err == nil {
		t.Errorf("%q, %v", b, err)
	}
	l.Close()
}

// A writer waits when its reader is slow: memory does not grow.
func TestAnswersArePulled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		written := 0
		l := client.InProcess(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			piece := make([]byte, 1<<10)
			for range 1 << 10 {
				n, err := w.Write(piece)
				written += n
				if err != nil {
					return
				}
			}
		}))
		res, err := post(t, t.Context(), l, nil)
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if written > 64<<10 {
			t.Errorf("%d bytes were written and nobody reads", written)
		}
		if n, err := io.Copy(io.Discard, res.Body); n != 1<<20 || err != nil {
			t.Errorf("%d bytes, %v", n, err)
		}
		l.Close()
	})
}

// echo is the one bidirectional method there is.
type echo struct {
	peerv1connect.UnimplementedPeerHandler
}

func (echo) Work(_ context.Context, s *connect.BidiStream[peerv1.WorkerMessage, peerv1.ControllerMessage]) error {
	for {
		m, err := s.Receive()
		if errors.Is(err, io.EOF) {
			return banyan.Errorf(banyan.Conflict, "done")
		} else if err != nil {
			return err
		}
		if err := s.Send(&peerv1.ControllerMessage{Demand: []*peerv1.Demand{{Attempts: m.Credit.GetSlots()}}}); err != nil {
			return err
		}
	}
}

func TestConnectStreamsBothWays(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle(peerv1connect.NewPeerHandler(echo{}))
	l := client.InProcess(mux)
	for _, opt := range []connect.ClientOption{connect.WithClientOptions(), connect.WithGRPC(), connect.WithGRPCWeb()} {
		s := peerv1connect.NewPeerClient(l, "http://self", opt).Work(t.Context())
		for i := range uint32(100) {
			if err := s.Send(&peerv1.WorkerMessage{Credit: &banyanv1.Resources{Slots: i}}); err != nil {
				t.Fatal(err)
			}
			if m, err := s.Receive(); err != nil || m.Demand[0].Attempts != i {
				t.Fatalf("%v, %v", m, err)
			}
		}
		if err := s.CloseRequest(); err != nil {
			t.Error(err)
		}
		if _, err := s.Receive(); err == nil || !strings.Contains(err.Error(), "done") {
			t.Errorf("the end is %v", err)
		}
		s.CloseResponse()
	}
	l.Close()
}
