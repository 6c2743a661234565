package gate

import (
	"log/slog"
	"net/http"
	"time"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/obs"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

// Opening is one thing that a caller without a certificate may do: a method and
// path, such as "POST /banyan.v1.Cluster/Join", and who answers. Everything
// else is refused.
type Opening struct {
	Pattern string
	Handler http.Handler
}

// strangersDoor answers those of whom nothing is known: the openings, within
// bounds that nobody else shares. It tells them neither node nor cluster.
type strangersDoor struct {
	openings *http.ServeMux
	places   chan struct{} // banyan.StrangersMax
	log      *slog.Logger
	refused  metric.Counter
	answered metric.Counter
	crowded  metric.Counter
	seldom   obs.Seldom
}

// Strangers builds the handler for connections without a certificate. Join is
// always open; doors add what else is.
func Strangers(c Config, more ...Opening) http.Handler {
	d := &strangersDoor{
		openings: http.NewServeMux(),
		places:   make(chan struct{}, banyan.StrangersMax),
		log:      c.Logger,
		refused:  c.Metrics.Counter("banyan_strangers_total", strangersHelp, "at", "call"),
		answered: c.Metrics.Counter("banyan_strangers_total", strangersHelp, "at", "join"),
		crowded:  c.Metrics.Crowded("strangers"),
	}
	join := connect.NewUnaryHandler(banyanv1connect.ClusterJoinProcedure, clusterDoor{c.Clusters}.Join,
		connect.WithReadMaxBytes(banyan.StrangerBytesMax),
		connect.WithCompression("gzip", nil, nil),
		connect.WithInterceptors(&edge{node: c.Node, log: c.Logger, metrics: c.Metrics}),
	)
	for _, o := range append([]Opening{{"POST " + banyanv1connect.ClusterJoinProcedure, join}}, more...) {
		d.openings.Handle(o.Pattern, o.Handler)
	}
	return d
}

const strangersHelp = "Connections and calls of those who have no certificate of the cluster: refused at the connection or the call, or let through to Join."

// ServeHTTP bounds how many there are and how much each may say.
func (d *strangersDoor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	select {
	case d.places <- struct{}{}:
		defer func() { <-d.places }()
	default:
		d.crowded.Inc()
		refuse(w, r, banyan.Errorf(banyan.Unavailable, "too many ask at once: try again, or ask another node"))
		return
	}
	if _, pattern := d.openings.Handler(r); pattern == "" {
		d.refuse(w, r, banyan.Errorf(banyan.Unauthenticated, "this node answers only to holders of its cluster's certificates: use a context ('banyan up' on the first machine wrote one under its configuration directory; copy it here), or 'banyan join' with a token from 'banyan token' to make this machine a node"))
		return
	}
	if compressed(r.Header) {
		d.refuse(w, r, banyan.Errorf(banyan.Invalid, "who has no certificate may not send compressed requests: send it as it is"))
		return
	}
	if r.ContentLength > banyan.StrangerBytesMax {
		d.refuse(w, r, banyan.Errorf(banyan.Exhausted, "who has no certificate may send requests of %d bytes at most (StrangerBytesMax)", banyan.StrangerBytesMax))
		return
	}
	d.answered.Inc()
	r.Body = http.MaxBytesReader(w, r.Body, banyan.StrangerBytesMax)
	d.openings.ServeHTTP(w, r)
}

func (d *strangersDoor) refuse(w http.ResponseWriter, r *http.Request, err error) {
	d.refused.Inc()
	if left, due := d.seldom.Now(time.Now()); due {
		d.log.Info("refused a stranger's call", "from", r.RemoteAddr, "path", r.URL.Path[:min(len(r.URL.Path), 100)], "error", err, "more", left)
	}
	refuse(w, r, err)
}

// NewStrangers gives the HTTP server for that handler: one call at a time on a
// connection, small windows, and an end to everything within seconds.
func NewStrangers(h http.Handler, log *slog.Logger) *Server {
	s := NewServer(h, log)
	const most = banyan.StrangerSecondsMax * time.Second
	s.Handler = h // nothing of theirs is a stream
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout, s.IdleTimeout = most/2, most, most, most/2
	s.MaxHeaderBytes = 8 << 10
	s.HTTP2 = &http.HTTP2Config{
		MaxConcurrentStreams:          1,
		MaxReadFrameSize:              16 << 10,
		MaxReceiveBufferPerConnection: 64 << 10,
		MaxReceiveBufferPerStream:     2 * banyan.StrangerBytesMax,
		SendPingTimeout:               most / 2,
		PingTimeout:                   most / 2,
	}
	return s
}
