package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"

	"connectrpc.com/connect"
)

// failing answers every call with the error it is given.
type failing struct {
	banyanv1connect.UnimplementedKVHandler
	err error
}

func (f *failing) Get(context.Context, *connect.Request[banyanv1.GetRequest]) (*connect.Response[banyanv1.GetResponse], error) {
	return nil, Encode(f.err)
}

func (f *failing) Watch(_ context.Context, _ *connect.Request[banyanv1.WatchRequest], s *connect.ServerStream[banyanv1.WatchResponse]) error {
	if err := s.Send(&banyanv1.WatchResponse{Revision: 1}); err != nil {
		return err
	}
	return Encode(f.err)
}

func TestEveryKindSurvivesEveryProtocol(t *testing.T) {
	h := &failing{}
	mux := http.NewServeMux()
	mux.Handle(banyanv1connect.NewKVHandler(h))
	srv := httptest.NewUnstartedServer(mux)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	protocols := map[string]connect.ClientOption{
		"connect": connect.WithClientOptions(), "json": connect.WithProtoJSON(),
		"grpc": connect.WithGRPC(), "grpc-web": connect.WithGRPCWeb(),
	}
	for name, opt := range protocols {
		c := banyanv1connect.NewKVClient(srv.Client(), srv.URL, opt, connect.WithInterceptors(ClientInterceptor()))
		for k := range banyan.Kinds {
			h.err = &banyan.Error{Kind: banyan.Kind(k), Msg: "ä: what to do", Leader: 7}
			_, err := c.Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
			expectSame(t, name+" unary", err, h.err)
			s, err := c.Watch(t.Context(), connect.NewRequest(&banyanv1.WatchRequest{}))
			if err != nil || !s.Receive() {
				t.Fatalf("%s: no first message: %v", name, err)
			}
			s.Receive()
			expectSame(t, name+" stream", s.Err(), h.err)
			s.Close()
		}
	}
}

func expectSame(t *testing.T, what string, got, want error) {
	t.Helper()
	var g *banyan.Error
	w, _ := errors.AsType[*banyan.Error](want)
	if !errors.As(got, &g) || g.Kind != w.Kind || g.Leader != w.Leader || g.Error() != w.Error() {
		t.Errorf("%s: got %#v, want %#v", what, got, want)
	}
}

func TestCodesCoverKinds(t *testing.T) {
	for k := range banyan.Kinds {
		if Code(banyan.Kind(k)) == 0 {
			t.Errorf("%v has no status", banyan.Kind(k))
		}
	}
	if Code(banyan.Kind(200)) != connect.CodeInternal {
		t.Error("a kind from the future is not internal")
	}
}

func TestErrorsOfThisSide(t *testing.T) {
	older := httptest.NewServer(http.NotFoundHandler()) // knows no such call
	defer older.Close()
	_, err := banyanv1connect.NewKVClient(http.DefaultClient, older.URL, connect.WithInterceptors(ClientInterceptor())).Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
	if !banyan.IsKind(err, banyan.TooNew) {
		t.Errorf("a call that an older node does not know is %v: %v", banyan.KindOf(err), err)
	}
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	c := banyanv1connect.NewKVClient(http.DefaultClient, dead.URL, connect.WithInterceptors(ClientInterceptor()))
	_, err = c.Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
	if !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("a refused connection is %v: %v", banyan.KindOf(err), err)
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("the cause was lost: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err = c.Get(ctx, connect.NewRequest(&banyanv1.GetRequest{})); !banyan.IsKind(err, banyan.Canceled) {
		t.Errorf("a canceled call is %v: %v", banyan.KindOf(err), err)
	}
	for _, cause := range []error{syscall.ECONNRESET, syscall.EPIPE} {
		if err := Decode(connect.NewError(connect.CodeCanceled, cause)); !banyan.IsKind(err, banyan.Unavailable) {
			t.Errorf("a connection that broke (%v) is %v", cause, banyan.KindOf(err))
		}
	}
	for _, err := range []error{nil, io.EOF, banyan.Errorf(banyan.Conflict, "x")} {
		if Decode(err) != err { //nolint:errorlint // the very same
			t.Errorf("Decode changed %v", err)
		}
	}
	if k := banyan.KindOf(Decode(Encode(fmt.Errorf("x: %w", context.DeadlineExceeded)))); k != banyan.Timeout {
		t.Errorf("an ended context is %v", k)
	}
}
