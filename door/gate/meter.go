package gate

import (
	"bytes"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/obs/metric"
)

// callMeter counts the calls of one procedure, and the errors of its door.
type callMeter struct {
	set    *metric.Set
	name   string // such as KV.Put
	took   metric.Timer
	opened metric.Counter // streams, which last as long as their caller wants
	door   string
	errors [banyan.Kinds]atomic.Pointer[metric.Counter] // those that happened
}

// newCallMeter makes the meter of a procedure, such as /banyan.v1.KV/Put.
func newCallMeter(s *metric.Set, procedure string, stream bool) *callMeter {
	service, call, _ := strings.Cut(strings.TrimPrefix(procedure, "/"), "/")
	door := service[strings.LastIndex(service, ".")+1:]
	m := &callMeter{set: s, name: door + "." + call, door: door}
	if stream {
		m.opened = s.Counter("banyan_streams_total", "Streams opened at the doors.", "call", m.name)
	} else {
		m.took = s.Timer("banyan_call_seconds", "Answering one call, streams apart.", "call", m.name)
	}
	return m
}

const (
	metricsPath = "/metrics"
	debugPrefix = "/" + banyanv1connect.DebugName + "/"
)

// isLook tells the calls of operators who look at the node.
func isLook(path string) bool { return path == metricsPath || strings.HasPrefix(path, debugPrefix) }

func (g *gate) showMetrics(w http.ResponseWriter, _ *http.Request) {
	var b bytes.Buffer
	if err := g.Metrics.WriteText(&b); err != nil {
		g.Logger.Error("the metrics cannot be read", "error", err)
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", metric.ContentType)
	_, _ = w.Write(b.Bytes()) // the caller is gone if this fails
}

func (g *gate) readMeter(r *metric.Reading) {
	for of, b := range map[string]*budget{"user": &g.users, "node": &g.peers} {
		r.Gauge("banyan_calls_open", "Calls being answered, streams included, by who may make them.", float64(len(b.places)), "of", of)
		r.Gauge("banyan_call_bytes", "Bytes of requests and answers of calls under way.", float64(b.bytes.held.Load()), "of", of)
	}
}

// once gives the meter of a handler's one procedure, made by its first call.
func (e *edge) once(at *atomic.Pointer[callMeter], procedure string, stream bool) *callMeter {
	m := at.Load()
	if m == nil {
		m = newCallMeter(e.metrics, procedure, stream)
		at.Store(m)
	}
	return m
}

// meant is how long a call is to wait by its own wish, as one does for a lock.
func meant(req any) time.Duration {
	if w, ok := req.(interface{ GetWaitMs() int64 }); ok {
		return time.Duration(w.GetWaitMs()) * time.Millisecond
	}
	return 0
}

// answered counts a call that is over; its error is as it goes out. Waiting
// that was meant is not slow.
func (m *callMeter) answered(began time.Time, meant time.Duration, err error) {
	took := time.Since(began)
	m.took.Observe(took)
	m.failed(err)
	if took >= meant+metric.SlowAfter {
		op := metric.Slow{What: m.name, Shard: -1, Took: took}
		if err != nil {
			op.Failed = wire.KindOf(err).String()
		}
		m.set.Slow(op)
	}
}

func (m *callMeter) failed(err error) {
	if err == nil {
		return
	}
	k := wire.KindOf(err)
	c := m.errors[k].Load()
	if c == nil {
		c = new(m.set.Counter("banyan_call_errors_total", "Calls that failed, by door and kind of error.", "door", m.door, "kind", k.String()))
		m.errors[k].Store(c)
	}
	c.Inc()
}
