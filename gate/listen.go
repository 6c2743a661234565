package gate

import (
	"context"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
)

// NewServer gives the HTTP server for a door: HTTP/2 and 1.1 over the TLS
// connections that transport accepts. Streams have no deadline; what a silent
// peer may hold is bounded by pings and by the windows. Shutdown ends streams at
// once, sessions when what they have begun is answered: else each would hold it
// up as long as its caller likes.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	leaving, leave := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler:           endStreams(h, leaving),
		Protocols:         protocols,
		ConnContext:       withConnection,
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
	srv.RegisterOnShutdown(leave)
	return srv
}

// errLeaving is why a stream ended.
var errLeaving = banyan.Errorf(banyan.Unavailable, "this node is stopping: ask another")

type leavingKey struct{}

// leaves says whether the server of a call is shutting down.
func leaves(ctx context.Context) bool {
	l, ok := ctx.Value(leavingKey{}).(context.Context)
	return ok && l.Err() != nil
}

// endStreams ends streams, with errLeaving as the cause, when leaving is done.
// Of a session it ends only the reading.
func endStreams(next http.Handler, leaving context.Context) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/connect+") {
			next.ServeHTTP(w, r)
			return
		}
		ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), leavingKey{}, leaving))
		defer cancel(nil)
		ended := make(chan struct{})
		stop := context.AfterFunc(leaving, func() {
			defer close(ended)
			if r.URL.Path != banyanv1connect.KVSessionProcedure {
				cancel(errLeaving)
			}
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0)) // fails in HTTP/1, which has no sessions
		})
		defer func() {
			if !stop() {
				<-ended // w must not be used when this has returned
			}
		}()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}
