package server

import (
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/engine/member"
	"banyan/node/pki"
)

// tokenOf makes a join token at a node.
func tokenOf(t *testing.T, n *Server) string {
	t.Helper()
	token, _, _, err := createToken(t.Context(), n.router, n.keeper.CA().Fingerprint(), time.Hour, 1, time.Now(), "")
	if err != nil {
		t.Fatal(err)
	}
	return token
}

// TestNodesWithNewAddresses: both nodes start somewhere else, and one of them
// is told where the other is.
func TestNodesWithNewAddresses(t *testing.T) {
	dir, somewhere := t.TempDir(), "127.0.0.1:0"
	one := Config{Dir: filepath.Join(dir, "one"), Listen: somewhere, Slots: 1, Shards: 1}
	two := Config{Dir: filepath.Join(dir, "two"), Listen: somewhere, Slots: 1}
	first, stopFirst := run(t, one)
	was := first.Address()
	if err := Join(t.Context(), two, was, tokenOf(t, first)); err != nil {
		t.Fatal(err)
	}
	second, stopSecond := run(t, two)
	awaitAlive(t, first, 2, second.Address())
	stopSecond()
	stopFirst()
	held, err := net.Listen("tcp", was) // so that nobody gets the old address again
	if err == nil {
		defer held.Close()
	}

	second, _ = run(t, two)
	_, port, _ := net.SplitHostPort(second.Address())
	one.Peers = []string{net.JoinHostPort("localhost", port)} // a name, not an address
	first, _ = run(t, one)
	if first.Address() == was {
		t.Skip("the old address came back")
	}
	awaitAlive(t, first, 2, second.Address())
	awaitAlive(t, second, 1, first.Address())
	_, err = editNode(t.Context(), first.router, 2, func(*nodeRow) bool { return false })
	if err != nil {
		t.Fatal(err)
	}
}

// awaitAlive waits until a node hears of another, at an address.
func awaitAlive(t *testing.T, n *Server, other banyan.NodeID, addr string) {
	t.Helper()
	changes, stop := n.members.Watch()
	defer stop()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		if m, ok := n.members.Get(other); ok && m.State == member.Alive && m.Addr == addr {
			return
		}
		select {
		case <-changes:
		case <-ctx.Done():
			m, _ := n.members.Get(other)
			t.Fatalf("node %v does not know where node %v is (%s): %+v", n.Node(), other, addr, m)
		}
	}
}

// TestAnEmptyDirectoryWhereANodeWas: no new cluster is made at an address where
// the operator's contexts know one, unless it is asked for.
func TestAnEmptyDirectoryWhereANodeWas(t *testing.T) {
	ca, err := pki.NewCA("c0ffee", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keeper, err := pki.NewKeeper(ca, pki.Subject{Kind: pki.Node, Name: "n", Node: 1}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.Addr().String()
	free.Close()
	dir := t.TempDir()
	c := Config{Dir: filepath.Join(dir, "node"), ConfigDir: filepath.Join(dir, "config"), Listen: addr, Slots: 1, Shards: 1}
	if err := writeContext(c.ConfigDir, keeper, []string{"127.0.0.1:1", addr}); err != nil {
		t.Fatal(err)
	}
	_, err = New(c)
	if !banyan.IsKind(err, banyan.Conflict) || !strings.Contains(err.Error(), "--new-cluster") || !strings.Contains(err.Error(), "c0ffee") {
		t.Fatalf("%v", err)
	}
	c.Peers = []string{"127.0.0.1:1"}
	if _, err = New(c); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("with --peer: %v", err)
	}
	c.Peers, c.NewCluster = nil, true
	n, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	c.NewCluster = false
	if n, err = New(c); err != nil { // it holds a node now
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}
