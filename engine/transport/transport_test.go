package transport

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"banyan"
	"banyan/node/pki"

	"go.etcd.io/raft/v3/raftpb"
)

// cluster is a set of transports on loopback that know each other.
type cluster struct {
	t     testing.TB
	ca    *pki.CA
	mu    sync.Mutex
	addrs map[banyan.NodeID]string
	asked map[banyan.NodeID]chan struct{} // told of each lookup, if there
}

func newCluster(t testing.TB, name string) *cluster {
	t.Helper()
	ca, err := pki.NewCA(name, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return &cluster{t: t, ca: ca, addrs: map[banyan.NodeID]string{}}
}

func (c *cluster) keeper(s pki.Subject) *pki.Keeper {
	c.t.Helper()
	k, err := pki.NewKeeper(c.ca, s, time.Now)
	if err != nil {
		c.t.Fatal(err)
	}
	return k
}

func (c *cluster) resolve(id banyan.NodeID) (string, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if asked := c.asked[id]; asked != nil {
		asked <- struct{}{}
	}
	addr, ok := c.addrs[id]
	return addr, ok
}

// node is one transport and what arrived at it.
type node struct {
	*Transport
	raft    chan string
	packets chan string
	lost    chan banyan.NodeID
	found   chan banyan.NodeID
}

func (c *cluster) listen(id banyan.NodeID, addr string) *node {
	c.t.Helper()
	return c.listenAs(id, addr, Life{}, nil)
}

func (c *cluster) listenAs(id banyan.NodeID, addr string, life Life, meet func(banyan.NodeID, Life, func(uint64) bool) error) *node {
	c.t.Helper()
	t, err := Listen(Config{
		Life: life, Meet: meet,
		Node: id, Listen: addr, Resolve: c.resolve,
		Keeper: c.keeper(pki.Subject{Kind: pki.Node, Name: id.String(), Node: id}),
		Logger: slog.New(slog.NewTextHandler(c.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.mu.Lock()
	c.addrs[id] = t.Addr().String()
	c.mu.Unlock()
	c.t.Cleanup(func() { _ = t.Close() })
	return &node{Transport: t, raft: make(chan string, 1000), packets: make(chan string, 1000),
		lost: make(chan banyan.NodeID, 1000), found: make(chan banyan.NodeID, 1000)}
}

func (n *node) start() *node {
	n.Start(Handlers{
		OnRaft: func(from banyan.NodeID, shard banyan.ShardID, m *raftpb.Message) {
			n.raft <- fmt.Sprintf("%s/%d/%d/%d", from, shard, m.GetIndex(), len(m.GetEntries()))
		},
		OnPacket: func(from banyan.NodeID, b []byte) { n.packets <- from.String() + ":" + string(b) },
		OnStream: func(from banyan.NodeID, conn net.Conn) {
			defer conn.Close()
			b, _ := io.ReadAll(conn)
			fmt.Fprintf(conn, "%s said %s", from, b)
		},
		OnLost:  func(id banyan.NodeID) { n.lost <- id },
		OnFound: func(id banyan.NodeID) { n.found <- id },
	})
	return n
}

func (c *cluster) node(id banyan.NodeID) *node { return c.listen(id, "127.0.0.1:0").start() }

func welcome(hello) error { return nil }

func TestMessages(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	const count = 300
	for i := range uint64(count) {
		one.Send(2, banyan.ShardID(i%7), message(raftpb.MsgApp, i, strings.Repeat("x", int(i)*100)))
	}
	for i := range count {
		if got, want := <-two.raft, fmt.Sprintf("n1/%d/%d/%d", i%7, i, min(i, 1)); got != want {
			t.Fatalf("message %d: %s, want %s", i, got, want)
		}
	}
	two.Send(1, 3, message(raftpb.MsgHeartbeatResp, 9, ""))
	if got := <-one.raft; got != "n2/3/9/0" {
		t.Error(got)
	}
	one.SendPacket(2, []byte("gossip"))
	if got := <-two.packets; got != "n1:gossip" {
		t.Error(got)
	}
	one.Send(1, 3, message(raftpb.MsgApp, 1, "")) // to itself: nobody
	if one.LastContact(2).IsZero() || !one.LastContact(9).IsZero() {
		t.Error("LastContact")
	}
	if at := one.LastContact(2).String(); !strings.Contains(at, " m=") {
		t.Errorf("how long ago the last contact was, %s, changes when the wall clock is set", at)
	}
}

func TestStream(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	conn, who, err := one.DialStream(t.Context(), two.Addr().String())
	if err != nil || who != 2 {
		t.Fatal(who, err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	if err := conn.(*conversation).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(conn); err != nil || string(b) != "n1 said hello" {
		t.Fatalf("%q, %v", b, err)
	}
	if _, _, err := one.DialStream(t.Context(), one.Addr().String()); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("a stream to itself: %v", err)
	}
}

func (n *node) serveHTTP(t *testing.T) {
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.VerifiedChains) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		s, _, err := pki.SubjectOf(r.TLS.PeerCertificates[0])
		fmt.Fprintf(w, "%s %s %v", r.Proto, s.Name, err)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		go func() { _ = server.Serve(n.StrangersListener()) }()
		_ = server.Serve(n.HTTPListener())
	}()
	t.Cleanup(func() { _ = server.Close(); <-done })
}

func get(t *testing.T, client *http.Client, url string) (int, string, error) {
	t.Helper()
	r, err := client.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b), nil
}

func TestHTTP(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	two.serveHTTP(t)
	for _, client := range []*http.Client{one.HTTPClient(), one.BulkHTTPClient()} {
		for _, url := range []string{one.URL(2), "https://" + two.Addr().String()} {
			if _, body, err := get(t, client, url); err != nil || body != "HTTP/2.0 n1 <nil>" {
				t.Errorf("%s: %q, %v", url, body, err)
			}
		}
	}
	stranger := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: pki.PinnedTLS(c.ca.Fingerprint())}}
	defer stranger.CloseIdleConnections()
	if status, _, err := get(t, stranger, "https://"+two.Addr().String()); err != nil || status != http.StatusUnauthorized {
		t.Errorf("without a certificate: %d, %v", status, err)
	}
	c.mu.Lock()
	c.addrs[3] = c.addrs[2]
	c.mu.Unlock()
	if _, _, err := get(t, one.HTTPClient(), one.URL(3)); err == nil || !strings.Contains(err.Error(), "is node n2, not node n3") {
		t.Errorf("the wrong node: %v", err)
	}
	if _, _, err := get(t, one.HTTPClient(), one.URL(9)); !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "no address is known for node n9") {
		t.Errorf("an unknown node: %v", err)
	}
}

// TestRenewedCertificateIsShown has a certificate renewed under a client that
// keeps its connections: the next call must come with the new one.
func TestRenewedCertificateIsShown(t *testing.T) {
	c := newCluster(t, "c")
	two := c.node(2)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%x", r.TLS.PeerCertificates[0].SerialNumber)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(two.HTTPListener())
	}()
	defer func() { _ = server.Close(); <-done }()
	var later atomic.Int64 // the keeper's clock against ours
	later.Store(-int64(pki.NodeTTL * 3 / 4))
	keeper, err := pki.NewKeeper(c.ca, pki.Subject{Kind: pki.Node, Name: "one", Node: 1}, func() time.Time { return time.Now().Add(time.Duration(later.Load())) })
	if err != nil {
		t.Fatal(err)
	}
	one, err := Listen(Config{Node: 1, Listen: "127.0.0.1:0", Keeper: keeper, Resolve: c.resolve})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	later.Store(0) // the first certificate was made long ago
	for range 2 {
		want := fmt.Sprintf("%x", keeper.Certificate().SerialNumber)
		for range 2 {
			if _, got, err := get(t, one.HTTPClient(), one.URL(2)); err != nil || got != want {
				t.Errorf("certificate %s, %v, want %s", got, err, want)
			}
		}
		if _, err := keeper.Renew(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestPlainCallersAreTold(t *testing.T) {
	one := newCluster(t, "c").node(1)
	status, body, err := get(t, http.DefaultClient, "http://"+one.Addr().String()+"/x")
	if err != nil || status != http.StatusBadRequest || !strings.Contains(body, "banyan join") {
		t.Errorf("plain HTTP: %d %q %v", status, body, err)
	}
	for _, garbage := range []string{"\x00\x01\x02", "ssh-2.0\r\n", strings.Repeat("z", 30<<10)} {
		conn, err := net.Dial("tcp", one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, garbage); err != nil {
			t.Fatal(err)
		}
		b, err := bufio.NewReader(conn).ReadString('\n')
		if err != nil || !strings.Contains(b, "banyan node") {
			t.Errorf("%.4q: %q, %v", garbage, b, err)
		}
		conn.Close()
	}
}

// callAs speaks the nodes' protocol with a certificate of the test's choice.
func callAs(t *testing.T, addr string, config *tls.Config, h hello) error {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, config)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = greet(conn, h, welcome)
	return pki.Explain(addr, err)
}

func TestRefusals(t *testing.T) {
	c, other := newCluster(t, "ours"), newCluster(t, "theirs")
	one := c.node(1)
	addr := one.Addr().String()
	own := hello{Min: banyan.ProtocolMin, Max: banyan.ProtocolVersion, Node: 2, Version: "x"}
	node := c.keeper(pki.Subject{Kind: pki.Node, Name: "two", Node: 2})
	user := c.keeper(pki.Subject{Kind: pki.User, Name: "ann"})
	foreign := other.keeper(pki.Subject{Kind: pki.Node, Name: "two", Node: 2})
	careless := func(k *pki.Keeper) *tls.Config {
		return &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocolNode}, GetClientCertificate: k.ClientTLS().GetClientCertificate}
	}
	newer, liar, twin := own, own, own
	newer.Min, newer.Max = 7, 9
	liar.Node = 3
	twin.Node = 1
	for _, test := range []struct {
		name   string
		config *tls.Config
		hello  hello
		kind   banyan.Kind
		words  []string
	}{
		{"no certificate", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocolNode}}, own, banyan.Unauthenticated, []string{"banyan join"}},
		{"no certificate for gossip", &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protocolGossip}}, own, banyan.Unauthenticated, []string{"banyan join"}},
		{"a user", user.ClientTLS(protocolNode), own, banyan.PermissionDenied, []string{"ann"}},
		{"another cluster, careful", foreign.ClientTLS(protocolNode), own, banyan.Unauthenticated, []string{"ours", "theirs"}},
		{"another cluster, careless", careless(foreign), own, banyan.Unauthenticated, []string{"context"}},
		{"a newer protocol", node.ClientTLS(protocolNode), newer, banyan.TooNew, []string{fmt.Sprintf("%d to %d", banyan.ProtocolMin, banyan.ProtocolVersion), "7 to 9"}},
		{"another's id", node.ClientTLS(protocolNode), liar, banyan.Unauthenticated, []string{"n2", "n3"}},
		{"our own id", c.keeper(pki.Subject{Kind: pki.Node, Name: "one", Node: 1}).ClientTLS(protocolNode), twin, banyan.Conflict, []string{"n1", "copied"}},
		{"an unknown protocol", node.ClientTLS("banyan-telepathy/1"), own, banyan.Unauthenticated, []string{"version"}},
	} {
		err := callAs(t, addr, test.config, test.hello)
		if err != nil {
			err = pki.Explain(addr, err)
		}
		if !banyan.IsKind(err, test.kind) {
			t.Errorf("%s: %v, want kind %s", test.name, err, test.kind)
			continue
		}
		for _, w := range test.words {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %q does not say %q", test.name, err, w)
			}
		}
	}
	if err := callAs(t, addr, node.ClientTLS(protocolNode), own); err != nil {
		t.Errorf("a good node: %v", err)
	}
}

func TestNewerNodeIsRefusedByBoth(t *testing.T) {
	c := newCluster(t, "c")
	one := c.node(1)
	two := c.listen(2, "127.0.0.1:0")
	two.own.Min, two.own.Max = 5, 6
	two.start()
	_, _, err := one.DialStream(t.Context(), two.Addr().String())
	if !banyan.IsKind(err, banyan.TooNew) || !strings.Contains(err.Error(), "5 to 6") {
		t.Errorf("older to newer: %v", err)
	}
	_, _, err = two.DialStream(t.Context(), one.Addr().String())
	if !banyan.IsKind(err, banyan.TooNew) || !strings.Contains(err.Error(), "5 to 6") {
		t.Errorf("newer to older: %v", err)
	}
}

func TestNotANode(t *testing.T) {
	c := newCluster(t, "c")
	one := c.node(1)
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := plain.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			conn.Close()
		}
	}()
	defer func() { plain.Close(); <-done }()
	if _, _, err := one.DialStream(t.Context(), plain.Addr().String()); err == nil || !strings.Contains(err.Error(), "banyan node") {
		t.Errorf("%v", err)
	}
}

func TestSilenceIsBounded(t *testing.T) {
	c := newCluster(t, "c")
	one := c.listen(1, "127.0.0.1:0")
	one.patience = 20 * time.Millisecond
	one.start()
	for _, first := range []string{"", "\x16", "\x16\x03\x01"} { // nothing, or a handshake that never goes on
		conn, err := net.Dial("tcp", one.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil {
			t.Errorf("%q was answered", first)
		}
		conn.Close()
	}
}

// TestCrowdsTakeNobodysPlace has more callers of every kind than there are
// places for: those who show nothing and strangers make room for who comes
// after them, users find none, and a node comes in all the same.
func TestCrowdsTakeNobodysPlace(t *testing.T) {
	c := newCluster(t, "c")
	one := c.listen(1, "127.0.0.1:0")
	one.patience = time.Hour
	one.furnish([classes]int{ofArriving: 3, ofStranger: 2, ofUser: 2, ofNode: 2})
	one.start()
	addr := one.Addr().String()
	gone := func(conn net.Conn) bool {
		_, err := conn.Read(make([]byte, 1))
		return err != nil
	}
	dial := func(config *tls.Config) net.Conn {
		t.Helper()
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if config == nil {
			return conn
		}
		secured := tls.Client(conn, config)
		if err := secured.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		return secured
	}
	crowd := make([]net.Conn, 20)
	for i := range crowd {
		crowd[i] = dial(nil)
	}
	for i, conn := range crowd[:len(crowd)-3] {
		if !gone(conn) {
			t.Errorf("idle connection %d was kept", i)
		}
	}
	strangers := []net.Conn{}
	for range 5 {
		strangers = append(strangers, dial(pki.PinnedTLS(c.ca.Fingerprint())))
		if l, err := one.StrangersListener().Accept(); err != nil || l == nil {
			t.Fatal(err)
		}
	}
	for i, conn := range strangers[:3] {
		if !gone(conn) {
			t.Errorf("stranger %d was kept", i)
		}
	}
	ann := c.keeper(pki.Subject{Kind: pki.User, Name: "ann"})
	for range 2 {
		dial(ann.ClientTLS("h2"))
		if _, err := one.HTTPListener().Accept(); err != nil {
			t.Fatal(err)
		}
	}
	if !gone(dial(ann.ClientTLS("h2"))) || one.Connections().Refused.IsZero() {
		t.Error("the third of two users was kept")
	}
	if n := one.Connections(); n.Open != 2 || n.Most != 2 {
		t.Errorf("%+v", n)
	}
	two := c.node(2)
	two.Send(1, 3, message(raftpb.MsgHeartbeatResp, 9, ""))
	if got := <-one.raft; got != "n2/3/9/0" {
		t.Error(got)
	}
}

// TestConnectionsEndWithTheirCertificate: that of a user, with all that goes on
// over it, and that of a node.
func TestConnectionsEndWithTheirCertificate(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	two.Send(1, 3, message(raftpb.MsgHeartbeatResp, 9, ""))
	<-one.raft
	ann := c.keeper(pki.Subject{Kind: pki.User, Name: "ann"})
	conn, err := tls.Dial("tcp", one.Addr().String(), ann.ClientTLS("h2"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	taken, err := one.HTTPListener().Accept()
	if err != nil {
		t.Fatal(err)
	}
	until := map[class]time.Time{}
	one.mu.Lock()
	for _, of := range []class{ofUser, ofNode} {
		until[of] = one.rooms[of].conns.Front().Value.(*accepted).until
	}
	end := one.rooms[ofUser].conns.Front().Value.(*accepted).end
	one.mu.Unlock()
	if want := ann.Certificate().NotAfter; !until[ofUser].Equal(want) || !until[ofNode].Equal(two.config.Keeper.Certificate().NotAfter) {
		t.Errorf("they end at %v, want %v", until, want)
	}
	end.Reset(0) // now
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("it goes on")
	}
	if _, err := taken.Write([]byte{1}); err == nil {
		t.Error("it is written to")
	}
}

// TestPlacesFollowTheLimitOfFiles of the process.
func TestPlacesFollowTheLimitOfFiles(t *testing.T) {
	for files, want := range map[int][classes]int{
		200:     {12, 6, 50, 25},
		1024:    {64, 16, 256, 128},
		1 << 20: {banyan.ArrivalsMax, banyan.StrangersMax, banyan.ConnectionsMax, banyan.NodeConnectionsMax},
	} {
		if got := roomsFor(files); got != want {
			t.Errorf("%d files: %v, want %v", files, got, want)
		}
	}
}

func TestPortInUse(t *testing.T) {
	c := newCluster(t, "c")
	one := c.node(1)
	_, err := Listen(Config{Node: 2, Listen: one.Addr().String()})
	if !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "--listen") {
		t.Error(err)
	}
}

// TestLost has node 2 only receive: it must notice all the same.
func TestLost(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	one.Send(2, 0, message(raftpb.MsgApp, 1, ""))
	<-two.raft
	<-two.found
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-two.lost; got != 1 {
		t.Fatal(got)
	}
	one = c.node(1)
	two.Send(1, 0, message(raftpb.MsgApp, 2, ""))
	<-two.found
	if got := <-one.raft; got != "n2/0/2/0" {
		t.Error(got)
	}
	if len(two.lost) != 0 {
		t.Error("lost again")
	}
}

// TestReplaced has the next process of a node there before the old one ends,
// so that no dial is ever refused.
func TestReplaced(t *testing.T) {
	c := newCluster(t, "c")
	old, two := c.node(1), c.node(2)
	two.Send(1, 0, message(raftpb.MsgApp, 1, ""))
	<-old.raft
	<-two.found
	next := c.node(1)
	if len(two.lost) != 0 {
		t.Fatal("lost too early")
	}
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	if got := <-two.lost; got != 1 {
		t.Fatal(got)
	}
	two.Send(1, 0, message(raftpb.MsgApp, 2, ""))
	if got := <-next.raft; got != "n2/0/2/0" {
		t.Error(got)
	}
}

// TestBroken cuts every connection under nodes that both go on: nobody is lost.
func TestBroken(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	one.Send(2, 0, message(raftpb.MsgApp, 1, ""))
	<-two.raft
	for range 5 {
		<-one.found
		<-two.found
		for _, n := range []*node{one, two} {
			n.mu.Lock()
			for i := range n.rooms {
				for e := n.rooms[i].conns.Front(); e != nil; e = e.Next() {
					e.Value.(*accepted).Conn.Close()
				}
			}
			n.mu.Unlock()
		}
	}
	<-one.found
	<-two.found
	one.Send(2, 0, message(raftpb.MsgApp, 2, ""))
	if got := <-two.raft; got != "n1/0/2/0" {
		t.Error(got)
	}
	if len(one.lost)+len(two.lost) != 0 {
		t.Error("a node that runs was called lost")
	}
}

// move makes a node's address another one, from the next lookup on.
func (c *cluster) move(id banyan.NodeID, addr string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.addrs[id] = addr
}

// TestUnreachableIsNotLost has something answer in a node's place that is no
// node: that says nothing of the node. Only when nothing is there is it gone.
func TestUnreachableIsNotLost(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	two.Send(1, 0, message(raftpb.MsgApp, 1, ""))
	<-one.raft
	stranger, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c.move(1, stranger.Addr().String())
	if err := one.Close(); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn, err := stranger.Accept()
		if err != nil {
			t.Fatal(err)
		}
		conn.Close()
	}
	if len(two.lost) != 0 {
		t.Error("called lost while something answered")
	}
	stranger.Close()
	if got := <-two.lost; got != 1 {
		t.Error(got)
	}
}

// TestWrongNode has node 3's address lead to node 2 for a while.
func TestWrongNode(t *testing.T) {
	c := newCluster(t, "c")
	asked := make(chan struct{}, 1000)
	c.asked = map[banyan.NodeID]chan struct{}{3: asked}
	one, two := c.node(1), c.node(2)
	three := c.node(3)
	c.move(3, two.Addr().String())
	for range 2 { // the second lookup comes after the first try
		one.Send(3, 0, message(raftpb.MsgApp, 1, ""))
		<-asked
	}
	c.move(3, three.Addr().String())
	for arrived := false; !arrived; {
		one.Send(3, 0, message(raftpb.MsgApp, 2, ""))
		select {
		case <-three.raft:
			arrived = true
		case <-asked:
		}
	}
	if len(two.raft) != 0 {
		t.Error("node 2 got node 3's messages")
	}
}

// TestFrozen has a node that greets and then, as one that is stopped, neither
// reads nor writes: the connection is given up and another one tried.
func TestFrozen(t *testing.T) {
	c := newCluster(t, "c")
	one := c.listen(1, "127.0.0.1:0")
	one.silence = 50 * time.Millisecond
	one.start()
	config := c.keeper(pki.Subject{Kind: pki.Node, Name: "two", Node: 2}).ServerTLS(protocolNode)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	c.move(2, listener.Addr().String())
	one.Send(2, 0, message(raftpb.MsgApp, 1, strings.Repeat("x", 10<<20))) // more than sockets hold
	for range 3 {
		conn, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := answer(conn.(*tls.Conn), hello{Min: banyan.ProtocolMin, Max: banyan.ProtocolVersion, Node: 2, Boot: 1}, welcome); err != nil {
			t.Fatal(err)
		}
	}
	if len(one.lost) != 0 {
		t.Error("a silent node was called gone")
	}
}

// TestCloseLeavesNothing counts connections and goroutines after Close.
func TestCloseLeavesNothing(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.node(1), c.node(2)
	one.Send(2, 0, message(raftpb.MsgApp, 1, ""))
	one.Send(9, 0, message(raftpb.MsgApp, 1, "")) // nobody knows node 9
	<-two.raft
	if _, _, err := one.DialStream(t.Context(), two.Addr().String()); err != nil {
		t.Fatal(err)
	}
	for _, n := range []*node{one, two} {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
		n.Send(3, 0, message(raftpb.MsgApp, 1, ""))
		for i := range n.rooms {
			if left := n.rooms[i].conns.Len(); left != 0 {
				t.Errorf("%d connections left", left)
			}
		}
	}
	buf := make([]byte, 1<<20)
	for range 1000 { // what context.AfterFunc started may be about to end
		stacks := string(buf[:runtime.Stack(buf, true)])
		if !strings.Contains(stacks, "transport.(*") {
			return
		}
		runtime.Gosched()
	}
	t.Errorf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
}

func BenchmarkSend(b *testing.B) {
	q := &queue{}
	m := message(raftpb.MsgApp, 1, strings.Repeat("x", 256))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		q.addRaft(1, m)
		if i%64 == 63 {
			q.reuse(q.take())
		}
	}
}

func BenchmarkRoundTrip(b *testing.B) {
	c := newCluster(b, "c")
	one, two := c.node(1), c.node(2)
	m := message(raftpb.MsgApp, 1, strings.Repeat("x", 256))
	for b.Loop() {
		one.Send(2, 1, m)
		<-two.raft
		two.Send(1, 1, m)
		<-one.raft
	}
}
