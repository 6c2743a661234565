package gate

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"banyan"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"

	"connectrpc.com/connect"
)

// eager asks for all at once and takes answers when it is let.
type eager struct {
	asks  chan *banyanv1.SessionRequest
	takes chan struct{} // closed: it takes all
	got   map[uint64]*banyanv1.Answer
}

func (e *eager) Receive() (*banyanv1.SessionRequest, error) {
	if req, ok := <-e.asks; ok {
		return req, nil
	}
	return nil, io.EOF
}

func (e *eager) Send(m *banyanv1.SessionResponse) error {
	<-e.takes
	for _, a := range m.Answers {
		if e.got[a.Id] != nil {
			return fmt.Errorf("call %d is answered twice", a.Id)
		}
		e.got[a.Id] = a
	}
	return nil
}

// serveEager serves a session of the calls, within a budget of bytes.
func serveEager(t *testing.T, kv fakeKV, budget *bytesBudget, calls []*banyanv1.Call) (e *eager, ended chan error) {
	e = &eager{make(chan *banyanv1.SessionRequest, len(calls)), make(chan struct{}), map[uint64]*banyanv1.Answer{}}
	for len(calls) > 0 { // messages as large as they may be
		n := min(len(calls), 200)
		e.asks <- &banyanv1.SessionRequest{Calls: calls[:n]}
		calls = calls[n:]
	}
	close(e.asks)
	ended = make(chan error, 1)
	go func() {
		b := &bill{bytes: budget}
		defer b.settle()
		d := kvDoor{KV: kv, edge: &edge{}, leaders: &fakeNet{leaders: map[banyan.ShardID]banyan.NodeID{}}, meters: new([doors]atomic.Pointer[callMeter])}
		ended <- serveSession(context.WithValue(t.Context(), billKey{}, b), d, e)
	}()
	return e, ended
}

func many(n int, call func(id uint64) *banyanv1.Call) (calls []*banyanv1.Call) {
	for id := range uint64(n) {
		calls = append(calls, call(id))
	}
	return calls
}

// TestAnswersBeingMadeAreBounded asks for 1,500 values of 1 MiB and takes none:
// what they hold is bounded, and all come in the end.
func TestAnswersBeingMadeAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, most = 1500, banyan.SessionBytesMax + banyan.ValueBytesMax
		budget := &bytesBudget{most: banyan.CallBytesMax}
		kv := fakeKV{get: func(context.Context) error { return nil }, value: make([]byte, banyan.ValueBytesMax)}
		e, ended := serveEager(t, kv, budget, many(n, func(id uint64) *banyanv1.Call { return get(id, "k") }))
		synctest.Wait()
		if held := budget.held.Load(); held < banyan.SessionBytesMax/2 || held > most {
			t.Errorf("%d MiB are held for who takes nothing", held>>20)
		}
		close(e.takes)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		for id := range uint64(n) {
			if len(e.got[id].GetGet().GetKv().GetValue()) != banyan.ValueBytesMax {
				t.Fatalf("get %d is answered with %v", id, e.got[id].GetError())
			}
		}
		if held := budget.held.Load(); held != 0 {
			t.Errorf("%d bytes are held at the end", held)
		}
	})
}

// TestWhoGoesAwayHoldsNothing: a session breaks while answers wait for room.
func TestWhoGoesAwayHoldsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := &bytesBudget{most: banyan.CallBytesMax}
		kv := fakeKV{get: func(context.Context) error { return nil }, value: make([]byte, banyan.ValueBytesMax)}
		caller := silent{make(chan struct{})}
		ended := make(chan error, 1)
		go func() {
			b := &bill{bytes: budget}
			defer b.settle()
			d := kvDoor{KV: kv, edge: &edge{}, leaders: &fakeNet{leaders: map[banyan.ShardID]banyan.NodeID{}}, meters: new([doors]atomic.Pointer[callMeter])}
			ended <- serveSession(context.WithValue(t.Context(), billKey{}, b), d, caller)
		}()
		synctest.Wait()
		close(caller.gone)
		if err := <-ended; !banyan.IsKind(err, banyan.Unavailable) {
			t.Error(err)
		}
		if held := budget.held.Load(); held != 0 {
			t.Errorf("%d bytes are held at the end", held)
		}
	})
}

// TestCallsThatWaitAreBounded puts 4,096 values of 1 MiB while their shard has
// no leader: few are taken in until it has one.
func TestCallsThatWaitAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var parked atomic.Int64
		leader := make(chan struct{})
		kv := fakeKV{put: func(answer func()) {
			parked.Add(1)
			go func() {
				<-leader
				answer()
			}()
		}}
		value := make([]byte, banyan.ValueBytesMax)
		budget := &bytesBudget{most: banyan.CallBytesMax}
		e, ended := serveEager(t, kv, budget, many(4096, func(id uint64) *banyanv1.Call {
			return &banyanv1.Call{Id: id, Call: &banyanv1.Call_Put{Put: &banyanv1.PutRequest{Key: []byte("k"), Value: value}}}
		}))
		close(e.takes)
		synctest.Wait()
		if n := parked.Load(); n < 16 || n > banyan.SessionBytesMax/banyan.ValueBytesMax {
			t.Errorf("%d puts of 1 MiB wait for a leader", n)
		}
		close(leader)
		if err := <-ended; err != nil || len(e.got) != 4096 || budget.held.Load() != 0 {
			t.Errorf("%d are answered, %d bytes held, %v", len(e.got), budget.held.Load(), err)
		}
	})
}

// TestSessionsShareABudget: what there is no room for in that of users fails,
// call by call.
func TestSessionsShareABudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		budget := &bytesBudget{name: "CallBytesMax", most: 3 * banyan.ValueBytesMax}
		kv := fakeKV{get: func(context.Context) error { return nil }, value: make([]byte, banyan.ValueBytesMax)}
		e, ended := serveEager(t, kv, budget, many(10, func(id uint64) *banyanv1.Call { return get(id, "") }))
		synctest.Wait()
		close(e.takes)
		if err := <-ended; err != nil {
			t.Error(err)
		}
		full := 0
		for _, a := range e.got {
			if a.GetError() != nil {
				full++
				wantError(t, "a get beyond the budget", wire.DecodeCall(a.GetError()), banyan.Exhausted, "CallBytesMax")
			}
		}
		if full != 7 || len(e.got) != 10 || budget.held.Load() != 0 {
			t.Errorf("%d of %d found no room, %d bytes held", full, len(e.got), budget.held.Load())
		}
	})
}

// TestClassesHaveBudgetsApart fills that of users with calls and with bytes:
// nodes go on, and what was held is given back.
func TestClassesHaveBudgetsApart(t *testing.T) {
	g := newGate(Config{Node: 1})
	g.users.bytes.most = 4 << 20
	reads := g.limit(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			w.WriteHeader(http.StatusTooManyRequests)
			fmt.Fprint(w, err)
		}
	}))
	post := func(path string, body io.Reader) *recorder {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://banyan"+path, body)
		if err != nil {
			t.Fatal(err)
		}
		w := &recorder{header: http.Header{}}
		reads.ServeHTTP(w, r)
		return w
	}
	mega := func(n int) io.Reader { return bytes.NewReader(make([]byte, n<<20)) }
	holding, drips := io.Pipe() // a body of 3 MiB that does not end
	ended := make(chan *recorder)
	go func() { ended <- post(banyanv1connect.KVPutProcedure, holding) }()
	if _, err := drips.Write(make([]byte, 3<<20)); err != nil {
		t.Fatal(err)
	}
	if w := post(banyanv1connect.KVPutProcedure, mega(2)); w.status != http.StatusTooManyRequests || !strings.Contains(w.body.String(), "CallBytesMax") {
		t.Errorf("beyond the budget: %d %s", w.status, &w.body)
	}
	if w := post(peerv1connect.PeerCommitProcedure, mega(2)); w.status != 0 {
		t.Errorf("a node, while users' bytes are taken: %d %s", w.status, &w.body)
	}
	if w := post(banyanv1connect.KVPutProcedure, mega(9)); w.status != http.StatusTooManyRequests {
		t.Errorf("a request beyond all bounds: %d", w.status)
	}
	for len(g.users.places) < cap(g.users.places) {
		g.users.places <- struct{}{}
	}
	if w := post(peerv1connect.PeerTailProcedure, nil); w.status != http.StatusTooManyRequests || !strings.Contains(w.body.String(), "CallsMax") {
		t.Errorf("a tail for a user, without a place for users: %d %s", w.status, &w.body)
	}
	if w := post(peerv1connect.PeerCommitProcedure, mega(1)); w.status != 0 {
		t.Errorf("a node, while users' places are taken: %d %s", w.status, &w.body)
	}
	<-g.users.places
	_ = drips.Close()
	if w := <-ended; w.status != 0 {
		t.Errorf("the body that ended: %d %s", w.status, &w.body)
	}
	if u, p := g.users.bytes.held.Load(), g.peers.bytes.held.Load(); u != 0 || p != 0 {
		t.Errorf("%d and %d bytes are held at the end", u, p)
	}
	if err := (&bill{bytes: g.users.bytes}).unpacked(nil); err != nil {
		t.Error(err)
	}
}

// TestUnpackingStopsAtTheLimit, in whatever protocol a request comes compressed.
func TestUnpackingStopsAtTheLimit(t *testing.T) {
	n := newNet(t, 1)
	var bomb bytes.Buffer
	z := gzip.NewWriter(&bomb)
	for range 16 {
		if _, err := z.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, n.nodes[1].url+banyanv1connect.KVPutProcedure, &bomb)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/proto")
	req.Header.Set("Content-Encoding", "gzip")
	res, err := n.user(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusTooManyRequests || !strings.Contains(string(text), "unpacks to more") {
		t.Errorf("a bomb: %s %s, %v", res.Status, text, err)
	}
	for name, opt := range map[string]connect.ClientOption{"connect": connect.WithClientOptions(), "grpc": connect.WithGRPC()} {
		kv := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded, connect.WithSendGzip(), opt)
		for range unpackersMax + 1 { // each gives its place back
			_, err := kv.Put(t.Context(), connect.NewRequest(&banyanv1.PutRequest{Value: make([]byte, 9<<20)}))
			wantError(t, name, err, banyan.Exhausted, "unpacks to more")
		}
		if res, err := kv.Put(t.Context(), connect.NewRequest(&banyanv1.PutRequest{Value: make([]byte, 1<<20)})); err != nil || res.Msg.Revision != 1<<20 {
			t.Errorf("%s: a request that fits: %v", name, err)
		}
	}
}
