package gate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/engine/blob"
	"banyan/node/pki"
	"banyan/obs"

	"connectrpc.com/connect"
)

var decoded = connect.WithInterceptors(ClientInterceptor())

func wantError(t *testing.T, what string, err error, kind banyan.Kind, says string) {
	t.Helper()
	if !banyan.IsKind(err, kind) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v (%v), want %v saying %q", what, err, banyan.KindOf(err), kind, says)
	}
}

func ask(t *testing.T, c *http.Client, url, contentType, body string) (status int, text string) {
	t.Helper()
	method := http.MethodPost
	if contentType == "" {
		method = http.MethodGet
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestNobodyUnknownGetsIn(t *testing.T) {
	n := newNet(t, 1)
	for _, url := range []string{n.nodes[1].url, n.nodes[1].strangerURL} {
		nobodyUnknownGetsIn(t, n, url)
	}
}

func nobodyUnknownGetsIn(t *testing.T, n *fakeNet, url string) {
	stranger := httpClient(pki.PinnedTLS(n.ca.Fingerprint()))
	defer stranger.CloseIdleConnections()

	for _, opt := range []connect.ClientOption{connect.WithClientOptions(), connect.WithGRPC(), connect.WithGRPCWeb(), connect.WithProtoJSON()} {
		_, err := banyanv1connect.NewKVClient(stranger, url, decoded, opt).Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
		wantError(t, "get without certificate", err, banyan.Unauthenticated, "banyan join")
	}
	s, err := banyanv1connect.NewJobsClient(stranger, url, decoded).Follow(t.Context(), connect.NewRequest(&banyanv1.FollowRequest{}))
	if err == nil {
		s.Receive()
		err = s.Err()
		s.Close()
	}
	wantError(t, "stream without certificate", err, banyan.Unauthenticated, "banyan join")
	for _, path := range []string{"/", "/ready", "/nothing", "/banyan.v1.Cluster/Joined"} {
		if status, text := ask(t, stranger, url+path, "", ""); status != http.StatusUnauthorized || !strings.Contains(text, "context") {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	_, err = banyanv1connect.NewClusterClient(stranger, url, decoded).Status(t.Context(), connect.NewRequest(&banyanv1.StatusRequest{}))
	wantError(t, "status without certificate", err, banyan.Unauthenticated, "banyan join")
	if err == nil || strings.Contains(err.Error(), "n1") || strings.Contains(err.Error(), "c-test") {
		t.Errorf("a stranger is told node or cluster: %v", err)
	}
}

// TestStrangers do what is open to them, within bounds.
func TestStrangers(t *testing.T) {
	n := newNet(t, 1)
	url := n.nodes[1].strangerURL
	stranger := httpClient(pki.PinnedTLS(n.ca.Fingerprint()))
	defer stranger.CloseIdleConnections()
	cluster := banyanv1connect.NewClusterClient(stranger, url, decoded)
	join := func(c banyanv1connect.ClusterClient, req *banyanv1.JoinRequest) error {
		_, err := c.Join(t.Context(), connect.NewRequest(req))
		return err
	}
	if res, err := cluster.Join(t.Context(), connect.NewRequest(&banyanv1.JoinRequest{})); err != nil || res.Msg.Node != 9 {
		t.Errorf("join: %v, %v", res, err)
	}
	if status, text := ask(t, stranger, url+"/sign-in", "", ""); status != 200 || text != "who are you?" {
		t.Errorf("what a door has opened: %d %s", status, text)
	}
	big := &banyanv1.JoinRequest{Name: strings.Repeat("x", 7_900_000)}
	wantError(t, "a large body", join(cluster, big), banyan.Exhausted, "StrangerBytesMax")
	squeezed := banyanv1connect.NewClusterClient(stranger, url, decoded, connect.WithSendGzip())
	wantError(t, "a compressed body", join(squeezed, big), banyan.Invalid, "compressed")
	wantError(t, "a compressed body over gRPC", join(banyanv1connect.NewClusterClient(stranger, url, decoded, connect.WithGRPC(), connect.WithSendGzip()), &banyanv1.JoinRequest{}), banyan.Invalid, "compressed")
}

// TestStrangersWhoNeverEnd their bodies hold what they are given and no more,
// and take nothing from others.
func TestStrangersWhoNeverEnd(t *testing.T) {
	n := newNet(t, 1)
	url := n.nodes[1].strangerURL
	ctx, cancel := context.WithCancel(t.Context())
	var dripping sync.WaitGroup
	defer dripping.Wait()
	defer cancel()
	begun := make(chan struct{}, 10*banyan.StrangersMax)
	for range 3 * banyan.StrangersMax {
		dripping.Go(func() {
			c := httpClient(pki.PinnedTLS(n.ca.Fingerprint()))
			defer c.CloseIdleConnections()
			body, drip := io.Pipe()
			defer drip.Close()
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, url+banyanv1connect.ClusterJoinProcedure, body)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header.Set("Content-Type", "application/proto")
			go func() {
				_, _ = drip.Write([]byte{0x0a})
				begun <- struct{}{}
			}()
			if res, err := c.Do(req); err == nil {
				res.Body.Close()
			}
			begun <- struct{}{} // refused, or ended
		})
	}
	for range 3 * banyan.StrangersMax {
		<-begun
	}
	_, err := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded).Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
	if err != nil {
		t.Errorf("a user, while strangers drip: %v", err)
	}
}

func TestPeerServiceIsForNodes(t *testing.T) {
	n := newNet(t, 1)
	url := n.nodes[1].url
	h := blob.Sum([]byte("x"))
	put := func(c *http.Client) error {
		_, err := peerv1connect.NewPeerClient(c, url, decoded).PutBlob(t.Context(), connect.NewRequest(&peerv1.PutChunkRequest{Hash: h[:], Data: []byte("x")}))
		return err
	}
	wantError(t, "a user", put(n.user(t)), banyan.PermissionDenied, `"ann"`)
	if err := put(n.nodes[1].client); err != nil {
		t.Errorf("a node: %v", err)
	}
	dial := func(banyan.NodeID) (peerv1connect.PeerClient, error) {
		return peerv1connect.NewPeerClient(n.nodes[1].client, url, decoded), nil
	}
	peers := BlobPeers(dial)
	if data, err := peers.GetBlob(t.Context(), 1, h); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	if has, err := peers.HasBlobs(t.Context(), 1, blob.Touch{}, []banyan.Hash{h, {}}); err != nil || fmt.Sprint(has) != "[true false]" {
		t.Errorf("%v, %v", has, err)
	}
	_, err := peers.GetBlob(t.Context(), 1, banyan.Hash{})
	wantError(t, "a chunk that is not there", err, banyan.NotFound, "no blob")
	err = peers.PutBlob(t.Context(), 1, 0, h, []byte("y"))
	wantError(t, "other bytes", err, banyan.Invalid, "hash")
}

func TestCallerIsKnownInside(t *testing.T) {
	n := newNet(t, 1)
	ok := banyanv1connect.NewClusterClient(n.user(t), n.nodes[1].url, decoded)
	res, err := ok.Status(t.Context(), connect.NewRequest(&banyanv1.StatusRequest{}))
	if err != nil || res.Msg.ClusterId != "ann" {
		t.Errorf("%v, %v", res, err)
	}
	_, err = ok.Join(t.Context(), connect.NewRequest(&banyanv1.JoinRequest{}))
	wantError(t, "join with a certificate", err, banyan.Invalid, "known already")
}

func TestCertificatesThatAreNoGood(t *testing.T) {
	g := &gate{Config: Config{Node: 1, Cluster: "c-mine"}}
	ca, err := pki.NewCA("c-other", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := pki.NewKeeper(ca, pki.Subject{Kind: pki.User, Name: "bob"}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	state := verified(keeper.Certificate())
	_, err = g.subject(t.Context(), state)
	wantError(t, "another cluster's", err, banyan.Unauthenticated, "--context")
	g.Cluster = "c-other"
	if who, err := g.subject(t.Context(), state); err != nil || who.Name != "bob" {
		t.Errorf("%v, %v", who, err)
	}
	expired := *keeper.Certificate()
	expired.NotAfter = time.Now().Add(-time.Second)
	_, err = g.subject(t.Context(), verified(&expired))
	wantError(t, "expired on an old connection", err, banyan.Unauthenticated, "expired")
	state.VerifiedChains = nil
	_, err = g.subject(t.Context(), state)
	wantError(t, "never verified", err, banyan.Unauthenticated, "banyan join")
}

func TestErrorsKeepTheirKindAndFaultsAreShownBare(t *testing.T) {
	n := newNet(t, 1)
	kv := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded)
	get := func(with error) error {
		n.kv.get = func(context.Context) error { return with }
		_, err := kv.Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
		return err
	}
	err := get(&banyan.Error{Kind: banyan.NotLeader, Msg: "ask n3", Leader: 3})
	wantError(t, "not leader", err, banyan.NotLeader, "ask n3")
	if e, ok := errors.AsType[*banyan.Error](err); !ok || e.Leader != 3 {
		t.Errorf("the leader was lost: %#v", e)
	}
	err = get(fmt.Errorf("secret thing broke"))
	wantError(t, "a fault", err, banyan.Internal, "ref=")
	if strings.Contains(err.Error(), "secret") || !strings.Contains(n.logs.String(), "secret thing broke") {
		t.Errorf("shown %q, logged %q", err, n.logs)
	}
	n.kv.get = func(context.Context) error { panic("kaboom") }
	_, err = kv.Get(t.Context(), connect.NewRequest(&banyanv1.GetRequest{}))
	wantError(t, "a panic", err, banyan.Internal, "ref=")
	if !strings.Contains(n.logs.String(), "kaboom") {
		t.Error("the panic was not logged")
	}
	if err = get(nil); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestLimits(t *testing.T) {
	n := newNet(t, 1)
	kv := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url, decoded)
	_, err := kv.Put(t.Context(), connect.NewRequest(&banyanv1.PutRequest{Value: make([]byte, banyan.RequestBytesMax)}))
	wantError(t, "a request that is too long", err, banyan.Exhausted, "")
	blobs := banyanv1connect.NewBlobsClient(n.user(t), n.nodes[1].url, decoded)
	_, err = blobs.Missing(t.Context(), connect.NewRequest(&banyanv1.MissingRequest{Hashes: make([][]byte, banyan.BlobHashesMax+1)}))
	wantError(t, "too many hashes", err, banyan.Exhausted, "BlobHashesMax")
	_, err = blobs.Get(t.Context(), connect.NewRequest(&banyanv1.GetBlobRequest{Hash: []byte("short")}))
	wantError(t, "a short hash", err, banyan.Invalid, "32 bytes")

	g := newGate(Config{Node: 1})
	g.users.places = make(chan struct{}, 1)
	g.users.places <- struct{}{}
	full := &recorder{header: http.Header{}}
	g.limit(http.NotFoundHandler()).ServeHTTP(full, mustRequest(t))
	if full.status != http.StatusTooManyRequests || !strings.Contains(full.body.String(), "CallsMax") {
		t.Errorf("a full node answers %d %s", full.status, &full.body)
	}
}

func TestBlobsDoor(t *testing.T) {
	n := newNet(t, 1)
	blobs := banyanv1connect.NewBlobsClient(n.user(t), n.nodes[1].url, decoded)
	data := bytes.Repeat([]byte("b"), banyan.BlobChunkBytes)
	h := blob.Sum(data)
	missing := func() int {
		res, err := blobs.Missing(t.Context(), connect.NewRequest(&banyanv1.MissingRequest{Hashes: [][]byte{h[:]}}))
		if err != nil {
			t.Fatal(err)
		}
		return len(res.Msg.Hashes)
	}
	if missing() != 1 {
		t.Error("it is there before it was put")
	}
	put, err := blobs.Put(t.Context(), connect.NewRequest(&banyanv1.PutBlobRequest{Hash: h[:], Data: data}))
	if err != nil || put.Msg.Copies != 1 || missing() != 0 {
		t.Errorf("%v, %v", put, err)
	}
	got, err := blobs.Get(t.Context(), connect.NewRequest(&banyanv1.GetBlobRequest{Hash: h[:]}))
	if err != nil || !bytes.Equal(got.Msg.Data, data) {
		t.Errorf("%v", err)
	}
}

func TestPlainDoors(t *testing.T) {
	n := newNet(t, 1)
	c, url := n.user(t), n.nodes[1].url
	if status, text := ask(t, c, url+"/", "", ""); status != 200 || !strings.Contains(text, "node n1 of cluster c-test") {
		t.Errorf("GET /: %d %s", status, text)
	}
	if status, text := ask(t, c, url+"/ready", "", ""); status != 200 || text != "ready\n" {
		t.Errorf("GET /ready: %d %s", status, text)
	}
	n.nodes[1].ready = fmt.Errorf("still waking")
	if status, text := ask(t, c, url+"/ready", "", ""); status != http.StatusServiceUnavailable || !strings.Contains(text, "still waking") {
		t.Errorf("GET /ready: %d %s", status, text)
	}
	if status, _ := ask(t, c, url+"/nothing", "", ""); status != 404 {
		t.Errorf("GET /nothing: %d", status)
	}
	status, text := ask(t, c, url+banyanv1connect.KVGetProcedure, "application/json", `{"key":"YQ=="}`)
	if status != 200 || !strings.Contains(text, `"revision":"7"`) {
		t.Errorf("JSON: %d %s", status, text)
	}
}

func TestTraceReachesTheLayers(t *testing.T) {
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	n := newNet(t, 1)
	var got string
	n.kv.get = func(ctx context.Context) error { got = obs.Traceparent(ctx); return nil }
	req := connect.NewRequest(&banyanv1.GetRequest{})
	req.Header().Set("Traceparent", parent)
	if _, err := banyanv1connect.NewKVClient(n.user(t), n.nodes[1].url).Get(t.Context(), req); err != nil || got != parent {
		t.Errorf("the layer saw %q, %v", got, err)
	}
}

func TestOperatorNeedsNoCertificate(t *testing.T) {
	n := newNet(t, 1)
	w := &recorder{header: http.Header{}}
	Operator(n.nodes[1].handler).ServeHTTP(w, mustRequest(t))
	if w.status != 0 && w.status != 200 || !strings.Contains(w.body.String(), "This is banyan") {
		t.Errorf("%d %s", w.status, &w.body)
	}
}
