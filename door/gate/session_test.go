package gate

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/node/pki"
	"banyan/obs"

	"connectrpc.com/connect"
)

// caller is the other side of a session.
type caller interface {
	Send(*banyanv1.SessionRequest) error
	Receive() (*banyanv1.SessionResponse, error)
}

// opens are the ways to open a session with node 1.
var opens = map[string]func(*testing.T, *fakeNet) caller{
	"stream": func(t *testing.T, n *fakeNet) caller {
		s := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded).Session(t.Context())
		t.Cleanup(func() { _ = s.CloseRequest(); _ = s.CloseResponse() })
		return s
	},
	"frames": func(t *testing.T, n *fakeNet) caller {
		c, res := dial(t, n, n.userTLS(t), wire.SessionProtocol)
		if res.StatusCode != http.StatusSwitchingProtocols || res.Header.Get("Upgrade") != wire.SessionProtocol {
			t.Fatalf("an upgrade is answered with %s", res.Status)
		}
		return c
	},
}

// frames is the caller's side of a session on a connection of its own.
type frames struct {
	*wire.Frames
	conn net.Conn
}

func (f frames) Send(m *banyanv1.SessionRequest) error { return f.Write(m) }

func (f frames) Receive() (*banyanv1.SessionResponse, error) {
	m := &banyanv1.SessionResponse{}
	if err := f.Read(m); err != nil {
		return nil, err
	}
	if m.End != nil {
		_ = f.Close()
		return nil, wire.DecodeCall(m.End)
	}
	return m, nil
}

// dial asks node 1 to upgrade a connection.
func dial(t *testing.T, n *fakeNet, config *tls.Config, protocol string) (frames, *http.Response) {
	t.Helper()
	config.NextProtos = []string{"http/1.1"}
	conn, err := tls.Dial("tcp", strings.TrimPrefix(n.nodes[1].url, "https://"), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, n.nodes[1].url+banyanv1connect.KVSessionProcedure, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", protocol)
	if err := req.Write(conn); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, req)
	if err != nil {
		t.Fatal(err)
	}
	return frames{wire.NewFrames(conn, in, 0), conn}, res
}

// talk gives what sends a call and what takes the next answer.
func talk(t *testing.T, s caller) (send func(*banyanv1.Call), next func() *banyanv1.Answer) {
	t.Helper()
	var answers []*banyanv1.Answer
	return func(c *banyanv1.Call) {
			t.Helper()
			if err := s.Send(&banyanv1.SessionRequest{Calls: []*banyanv1.Call{c}}); err != nil {
				t.Fatal(err)
			}
		}, func() *banyanv1.Answer {
			t.Helper()
			for len(answers) == 0 {
				m, err := s.Receive()
				if err != nil {
					t.Fatal(err)
				}
				answers = m.Answers
			}
			a := answers[0]
			answers = answers[1:]
			return a
		}
}

// eachWay runs a test of sessions over streams and over frames.
func eachWay(t *testing.T, test func(t *testing.T, open func(*testing.T, *fakeNet) caller)) {
	for way, open := range opens {
		t.Run(way, func(t *testing.T) { test(t, open) })
	}
}

func get(id uint64, key string) *banyanv1.Call {
	return &banyanv1.Call{Id: id, Call: &banyanv1.Call_Get{Get: &banyanv1.GetRequest{Key: []byte(key)}}}
}

func put(id uint64, value string) *banyanv1.Call {
	return &banyanv1.Call{Id: id, Call: &banyanv1.Call_Put{Put: &banyanv1.PutRequest{Key: []byte("k"), Value: []byte(value)}}}
}

// A call that waits, fails or panics is no other call's trouble.
func TestCallsOfASessionStandAlone(t *testing.T) { eachWay(t, testCallsStandAlone) }

func testCallsStandAlone(t *testing.T, open func(*testing.T, *fakeNet) caller) {
	n := newNet(t, 1)
	release := make(chan struct{})
	fails := []func() error{
		func() error { <-release; return nil },
		func() error { return &banyan.Error{Kind: banyan.NotLeader, Msg: "not here", Leader: 3} },
		func() error { panic("kaboom") },
	}
	at := make(chan func() error, len(fails))
	n.kv.get = func(context.Context) error { return (<-at)() }
	send, next := talk(t, open(t, n))
	ask := func(call *banyanv1.Call, fail func() error) {
		at <- fail
		send(call)
	}
	ask(get(1, "k"), fails[0])
	for len(at) > 0 { // until the first call has its fate
		runtime.Gosched()
	}
	ask(get(2, "k"), fails[1])
	if a := next(); a.Id != 2 || wire.DecodeCall(a.GetError()).Kind != banyan.NotLeader || wire.DecodeCall(a.GetError()).Leader != 3 {
		t.Errorf("a call that fails beside one that waits: %v", a)
	}
	ask(&banyanv1.Call{Id: 3, Call: &banyanv1.Call_Delete{Delete: &banyanv1.DeleteRequest{Key: []byte("k")}}}, fails[2])
	if a := next(); a.Id != 3 || wire.DecodeCall(a.GetError()).Kind != banyan.Internal || !strings.Contains(a.GetError().Message, "ref=") {
		t.Errorf("a call that panics: %v", a)
	}
	send(&banyanv1.Call{Id: 4})
	if a := next(); a.Id != 4 || wire.DecodeCall(a.GetError()).Kind != banyan.TooNew {
		t.Errorf("a call that asks nothing: %v", a)
	}
	send(put(5, "four"))
	if a := next(); a.Id != 5 || a.GetPut().GetRevision() != 4 || a.Elsewhere {
		t.Errorf("a put: %v", a)
	}
	close(release)
	if a := next(); a.Id != 1 || a.GetGet().GetRevision() != 7 {
		t.Errorf("the call that waited: %v", a)
	}
	if !strings.Contains(n.logs.String(), "kaboom") {
		t.Error("the panic was not logged")
	}
}

// A session reads no further while too many of its calls are under way, and
// goes on when they are answered.
func TestASessionIsBounded(t *testing.T) { eachWay(t, testSessionBound) }

func testSessionBound(t *testing.T, open func(*testing.T, *fakeNet) caller) {
	n := newNet(t, 1)
	release, began := make(chan struct{}), make(chan struct{}, 2*banyan.SessionCallsMax)
	n.kv.get = func(context.Context) error { began <- struct{}{}; <-release; return nil }
	sendElse, nextElse := talk(t, open(t, n))
	send, next := talk(t, open(t, n))
	const more = 10
	for id := range uint64(banyan.SessionCallsMax + more) {
		send(get(id, "k"))
	}
	for range banyan.SessionCallsMax {
		<-began
	}
	for id := range uint64(20) { // time for what must not happen
		sendElse(put(id, ""))
		nextElse()
	}
	if len(began) > 0 {
		t.Errorf("more than %d calls are under way", banyan.SessionCallsMax)
	}
	close(release)
	for range banyan.SessionCallsMax + more {
		next()
	}
}

// The caller learns that another node leads, and each call has its own trace.
func TestASessionTellsOfLeadersAndTraces(t *testing.T) {
	n := newNet(t, 2)
	n.lead(2, n.DataShards()...)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	var got string
	n.kv.get = func(ctx context.Context) error { got = obs.Traceparent(ctx); return nil }
	send, next := talk(t, opens["frames"](t, n))
	call := get(1, "k")
	call.Traceparent = parent
	send(call)
	if a := next(); !a.Elsewhere || got != parent {
		t.Errorf("%v, trace %q", a, got)
	}
}

// Whoever may not call keys may not open a session.
func TestNoSessionWithoutACertificate(t *testing.T) {
	n := newNet(t, 1)
	stranger := httpClient(pki.PinnedTLS(n.ca.Fingerprint()))
	defer stranger.CloseIdleConnections()
	s := banyanv1connect.NewKVClient(stranger, n.nodes[1].url, decoded).Session(t.Context())
	_ = s.Send(&banyanv1.SessionRequest{Calls: []*banyanv1.Call{put(1, "x")}})
	_, err := s.Receive()
	wantError(t, "a session without certificate", err, banyan.Unauthenticated, "banyan join")
	_ = s.CloseRequest()
	_ = s.CloseResponse()
	_, res := dial(t, n, pki.PinnedTLS(n.ca.Fingerprint()), wire.SessionProtocol)
	text, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusUnauthorized || res.Header.Get(wire.KindHeader) != strconv.Itoa(int(banyan.Unauthenticated)) || !strings.Contains(string(text), "banyan join") {
		t.Errorf("an upgrade without certificate: %s %s, %v", res.Status, text, err)
	}
}

// A protocol that this node does not know is not taken for one that it does.
func TestNoUpgradeToAnotherProtocol(t *testing.T) {
	n := newNet(t, 1)
	if _, res := dial(t, n, n.userTLS(t), "banyan-session/2"); res.StatusCode < 400 || res.Header.Get(wire.KindHeader) != "" {
		t.Errorf("answered with %s", res.Status)
	}
}

// Who asks for a sign of life gets one; whoever sends too much, or nonsense, is
// told why that is the end.
func TestASessionOverFrames(t *testing.T) {
	n := newNet(t, 1)
	s := opens["frames"](t, n).(frames)
	if err := s.Send(&banyanv1.SessionRequest{}); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Receive(); err != nil || len(m.Answers) > 0 {
		t.Errorf("a sign of life: %v, %v", m, err)
	}
	if _, err := s.conn.Write(binary.BigEndian.AppendUint32(nil, banyan.SessionFrameBytesMax+1)); err != nil {
		t.Fatal(err)
	}
	_, err := s.Receive()
	wantError(t, "a frame that is too long", err, banyan.Exhausted, "SessionFrameBytesMax")
	s = opens["frames"](t, n).(frames)
	if _, err := s.conn.Write([]byte("\x00\x00\x00\x02\xff\xff")); err != nil {
		t.Fatal(err)
	}
	_, err = s.Receive()
	wantError(t, "nonsense", err, banyan.Invalid, "SessionRequest")
}

// A caller that is gone in the middle of a word is no error of the node's; one
// that nothing can be sent to is not read from.
func TestACallerThatIsGone(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		_, _ = there.Write([]byte{0, 0}) // all of it is read
		_ = there.Close()
	}()
	f := framed{wire.NewFrames(here, nil, 0)}
	_, err := f.Receive()
	wantError(t, "half a frame", err, banyan.Canceled, "gone")
	if f.Send(&banyanv1.SessionResponse{}) == nil {
		t.Error("something was sent")
	}
	if _, err := here.Read(nil); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the connection is open: %v", err)
	}
}

// silent is a caller that sends without end and takes nothing.
type silent struct{ gone chan struct{} }

func (silent) Receive() (*banyanv1.SessionRequest, error) {
	time.Sleep(time.Nanosecond) // others go first
	return &banyanv1.SessionRequest{Calls: []*banyanv1.Call{get(1, "k")}}, nil
}

func (s silent) Send(*banyanv1.SessionResponse) error {
	<-s.gone
	return io.ErrClosedPipe
}

// A caller that takes no answers is not read from without end.
func TestWhoTakesNothingIsNotReadFrom(t *testing.T) {
	for size, most := range map[int]int64{0: banyan.SessionCallsMax, banyan.ValueBytesMax: 32} {
		synctest.Test(t, func(t *testing.T) {
			var begun atomic.Int64
			kv := fakeKV{get: func(context.Context) error { begun.Add(1); return nil }, value: make([]byte, size)}
			caller := silent{make(chan struct{})}
			ended := make(chan error, 1)
			go func() {
				d := kvDoor{KV: kv, edge: &edge{}, leaders: &fakeNet{leaders: map[banyan.ShardID]banyan.NodeID{}}, meters: new([doors]atomic.Pointer[callMeter])}
				ended <- serveSession(t.Context(), d, caller)
			}()
			time.Sleep(time.Second)
			if n := begun.Load(); n > most {
				t.Errorf("%d calls were read, values of %d bytes", n, size)
			}
			close(caller.gone)
			if err := <-ended; !banyan.IsKind(err, banyan.Unavailable) {
				t.Errorf("it ends with %v", err)
			}
		})
	}
}

// A server that is closed breaks off sessions, too, and has no more.
func TestCloseBreaksSessionsOff(t *testing.T) {
	n := newNet(t, 1)
	s := opens["frames"](t, n)
	if err := n.nodes[1].server.Close(); err != nil {
		t.Fatal(err)
	}
	if m, err := s.Receive(); err == nil {
		t.Errorf("it goes on with %v", m)
	}
	<-n.nodes[1].server.none
}

// Locks in a session go to their leader, too.
func TestASessionTakesLocks(t *testing.T) {
	n := newNet(t, 2)
	n.lead(2, n.DataShards()...)
	send, next := talk(t, opens["frames"](t, n))
	send(&banyanv1.Call{Id: 1, Call: &banyanv1.Call_Acquire{Acquire: &banyanv1.AcquireRequest{Name: "a/x", Lease: 3}}})
	if a := next(); a.Id != 1 || a.GetAcquire().GetClaim().GetOwner() != "n2" || !a.Elsewhere {
		t.Errorf("acquire: %v", a)
	}
	send(&banyanv1.Call{Id: 2, Call: &banyanv1.Call_Release{Release: &banyanv1.ReleaseRequest{Partition: "a", Lease: 3}}})
	if a := next(); a.Id != 2 || !a.GetRelease().GetReleased() || !a.Elsewhere {
		t.Errorf("release: %v", a)
	}
}

// A server that stops ends a session, however much its caller would like to go
// on, but answers what it has begun; other streams it ends at once.
func TestAStopEndsStreams(t *testing.T) { eachWay(t, testStop) }

func testStop(t *testing.T, open func(*testing.T, *fakeNet) caller) {
	n := newNet(t, 1)
	release, began := make(chan struct{}), make(chan struct{})
	n.kv.get = func(ctx context.Context) error {
		close(began)
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	n.kv.watch = func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	keys := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded)
	watch, err := keys.Watch(t.Context(), connect.NewRequest(&banyanv1.WatchRequest{Key: []byte("k")}))
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Close()
	if !watch.Receive() {
		t.Fatal(watch.Err())
	}
	session := open(t, n)
	if err := session.Send(&banyanv1.SessionRequest{Calls: []*banyanv1.Call{get(1, "k")}}); err != nil {
		t.Fatal(err)
	}
	<-began
	stopped := make(chan error, 1)
	go func() { stopped <- n.nodes[1].server.Shutdown(t.Context()) }()
	for watch.Receive() {
		t.Error("a watch goes on")
	}
	if !banyan.IsKind(watch.Err(), banyan.Unavailable) {
		t.Errorf("a watch ended with %v", watch.Err())
	}
	close(release)
	m, err := session.Receive()
	if err != nil || len(m.Answers) != 1 || m.Answers[0].GetGet().GetRevision() != 7 {
		t.Errorf("the call under way: %v, %v", m, err)
	}
	if _, err := session.Receive(); !banyan.IsKind(err, banyan.Unavailable) {
		t.Errorf("the session ended with %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}
