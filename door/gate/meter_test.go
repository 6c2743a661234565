package gate

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/node/pki"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

func TestMetricsNeedACertificate(t *testing.T) {
	n := newNet(t, 1)
	url := n.nodes[1].url
	stranger := httpClient(pki.PinnedTLS(n.ca.Fingerprint()))
	defer stranger.CloseIdleConnections()
	if status, text := ask(t, stranger, url+"/metrics", "", ""); status != http.StatusUnauthorized || strings.Contains(text, "banyan_") {
		t.Errorf("a stranger gets %d %s", status, text)
	}
	status, text := ask(t, n.user(t), url+"/metrics", "", "")
	if status != http.StatusOK || !strings.Contains(text, "banyan_strangers_total{at=\"call\"} 1\n") || !strings.Contains(text, "banyan_calls_open{of=\"user\"} 0\n") {
		t.Errorf("a user gets %d %s", status, text)
	}
	_, err := banyanv1connect.NewDebugClient(stranger, url, decoded).Slow(t.Context(), connect.NewRequest(&banyanv1.SlowRequest{}))
	wantError(t, "a stranger who debugs", err, banyan.Unauthenticated, "banyan join")
}

func TestCallsAreCounted(t *testing.T) {
	n := newNet(t, 1)
	fail := error(nil)
	n.kv.get = func(context.Context) error { return fail }
	kv := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded)
	for _, fail = range []error{nil, banyan.Errorf(banyan.NotFound, "no key"), context.DeadlineExceeded, fmt.Errorf("broken")} {
		_, _ = kv.Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{})) // counted all the same
	}
	_, text := ask(t, n.user(t), n.nodes[1].url+"/metrics", "", "")
	for _, want := range []string{
		"banyan_call_seconds_count{call=\"KV.Get\"} 4\n",
		"banyan_call_errors_total{door=\"KV\",kind=\"not found\"} 1\n",
		"banyan_call_errors_total{door=\"KV\",kind=\"timeout\"} 1\n",
		"banyan_call_errors_total{door=\"KV\",kind=\"internal\"} 1\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

func TestAFullNodeCanBeLookedAt(t *testing.T) {
	g := newGate(Config{Node: 1})
	g.users.places, g.looks.places = make(chan struct{}), make(chan struct{}, 1)
	g.users.bytes.most = 0
	ok := g.limit(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }))
	for _, path := range []string{"/metrics", banyanv1connect.DebugSlowProcedure} {
		req := mustRequest(t)
		req.URL.Path = path
		res := &recorder{header: http.Header{}}
		if ok.ServeHTTP(res, req); res.status != http.StatusOK {
			t.Errorf("%s: a full node answers %d %s", path, res.status, &res.body)
		}
		g.looks.places <- struct{}{}
		res = &recorder{header: http.Header{}}
		if ok.ServeHTTP(res, req); res.status != http.StatusTooManyRequests {
			t.Errorf("%s: beyond LooksMax it answers %d", path, res.status)
		}
		<-g.looks.places
	}
}

func TestWaitingThatWasMeantIsNotSlow(t *testing.T) {
	set := metric.NewSet()
	m := newCallMeter(set, banyanv1connect.CoordAcquireProcedure, false)
	began := time.Now().Add(-metric.SlowAfter - time.Second)
	m.answered(began, meant(&banyanv1.AcquireRequest{WaitMs: 2_000}), nil)
	if ops := set.SlowOps(); len(ops) != 0 {
		t.Errorf("a second of two is in the slow log: %v", ops)
	}
	m.answered(began, meant(&banyanv1.AcquireRequest{WaitMs: 500}), nil)
	m.answered(began, meant(&banyanv1.PutRequest{}), nil)
	if ops := set.SlowOps(); len(ops) != 2 {
		t.Errorf("of two slow calls the slow log has %v", ops)
	}
}

// BenchmarkMeter is what counting adds to a call.
func BenchmarkMeter(b *testing.B) {
	m := newCallMeter(metric.NewSet(), banyanv1connect.KVPutProcedure, false)
	b.ReportAllocs()
	for b.Loop() {
		m.answered(time.Now(), 0, nil)
	}
}
