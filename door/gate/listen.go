package gate

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/node/pki"
)

// Server is an HTTP server that knows the sessions, too, whose connections it
// has given away.
type Server struct {
	*http.Server
	leaving context.Context

	mu       sync.Mutex
	sessions map[*wire.Frames]struct{}
	closed   bool          // no more sessions
	none     chan struct{} // closed when there are none and will be none
}

// NewServer gives the HTTP server for a door: HTTP/2 and 1.1 over the TLS
// connections that transport accepts. Streams have no deadline; what a silent
// peer may hold is bounded by pings and by the windows. Shutdown ends streams at
// once, sessions when what they have begun is answered: else each would hold it
// up as long as its caller likes.
func NewServer(h http.Handler, log *slog.Logger) *Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	leaving, leave := context.WithCancel(context.Background())
	s := &Server{leaving: leaving, sessions: map[*wire.Frames]struct{}{}, none: make(chan struct{})}
	s.Server = &http.Server{
		Handler:           endStreams(h),
		Protocols:         protocols,
		ConnContext:       s.know,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       5 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams:          1024,
			MaxReadFrameSize:              256 << 10,
			MaxReceiveBufferPerConnection: 4<<20 - 1,
			MaxReceiveBufferPerStream:     1 << 20,
			SendPingTimeout:               10 * time.Second,
			PingTimeout:                   5 * time.Second,
		},
	}
	s.RegisterOnShutdown(leave)
	return s
}

// Shutdown is that of http.Server, and waits for sessions too.
func (s *Server) Shutdown(ctx context.Context) error {
	s.refuseSessions()
	if err := s.Server.Shutdown(ctx); err != nil {
		return err
	}
	select {
	case <-s.none:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close is that of http.Server, and breaks sessions off too.
func (s *Server) Close() error {
	s.refuseSessions()
	err := s.Server.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for f := range s.sessions {
		_ = f.Close() // it says nothing of a connection that is given up
	}
	return err
}

func (s *Server) refuseSessions() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed && len(s.sessions) == 0 {
		close(s.none)
	}
	s.closed = true
}

// begin counts a session; false: there are to be no more.
func (s *Server) begin(f *wire.Frames) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.sessions[f] = struct{}{}
	}
	return !s.closed
}

func (s *Server) end(f *wire.Frames) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sessions, f)
	if s.closed && len(s.sessions) == 0 {
		close(s.none)
	}
}

// connection is what is known of a connection: who is at its other end, read
// from the certificate by the first request.
type connection struct {
	server  *Server
	once    sync.Once
	who     pki.Subject
	cluster string
	err     error
}

type connectionKey struct{}

func (s *Server) know(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connectionKey{}, &connection{server: s})
}

// connectionOf gives the connection of a call that came over one, else one
// that nothing is known of.
func connectionOf(ctx context.Context) *connection {
	if c, ok := ctx.Value(connectionKey{}).(*connection); ok {
		return c
	}
	return &connection{}
}

// errLeaving is why a stream ended.
var errLeaving = banyan.Errorf(banyan.Unavailable, "this node is stopping: ask another")

// leaves says whether the server of a call is shutting down.
func leaves(ctx context.Context) bool {
	s := connectionOf(ctx).server
	return s != nil && s.leaving.Err() != nil
}

// endStreams ends streams, with errLeaving as the cause, when their server
// leaves. Of a session it ends only the reading.
func endStreams(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancelCause(r.Context())
		defer cancel(nil)
		ended := make(chan struct{})
		stop := context.AfterFunc(connectionOf(ctx).server.leaving, func() {
			defer close(ended)
			if r.URL.Path != banyanv1connect.KVSessionProcedure {
				cancel(errLeaving)
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // fails in HTTP/1, which has no such sessions
		})
		defer func() {
			if !stop() {
				<-ended // w must not be used when this has returned
			}
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
