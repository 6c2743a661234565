package client_test

import (
	"context"
	"crypto/tls"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/client"
	"banyan/node/pki"
)

// listen answers connections on loopback with accept until the test ends.
func listen(t *testing.T, accept func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accept(c)
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return l.Addr().String()
}

// wrongPlaces are addresses where something else than a good node of the
// cluster listens.
func wrongPlaces(t *testing.T, c *cluster) map[string]string {
	foreign := httptest.NewTLSServer(nil)
	t.Cleanup(foreign.Close)
	keeper, err := pki.NewKeeper(c.ca, pki.Subject{Kind: pki.Node, Name: "early", Node: 9}, func() time.Time { return time.Now().Add(48 * time.Hour) })
	if err != nil {
		t.Fatal(err)
	}
	tlsOf := keeper.ServerTLS("h2", "http/1.1")
	return map[string]string{
		"another cluster": newCluster(t, 1).addrs[0],
		"foreign TLS":     foreign.Listener.Addr().String(),
		"not valid yet": listen(t, func(c net.Conn) {
			go func() { defer c.Close(); _ = tls.Server(c, tlsOf).HandshakeContext(t.Context()) }()
		}),
		"closes":           listen(t, func(c net.Conn) { c.Close() }),
		"does not speak":   listen(t, func(c net.Conn) { t.Cleanup(func() { c.Close() }) }),
		"speaks otherwise": listen(t, func(c net.Conn) { _, _ = c.Write([]byte("220 mail ready\r\n")); c.Close() }),
	}
}

// TestAWrongNodeIsPassedOver: whatever listens at the first address, a new
// client's first calls of each kind go to the next one.
func TestAWrongNodeIsPassedOver(t *testing.T) {
	c := newCluster(t, 1)
	for what, addr := range wrongPlaces(t, c) {
		t.Run(what, func(t *testing.T) {
			c.cfg.Addresses = append([]string{addr}, c.addrs...)
			for kind, call := range map[string]func(cl *client.Client) error{
				"session": func(cl *client.Client) error { _, err := cl.KV().Put(t.Context(), []byte("a/b"), nil); return err },
				"request": func(cl *client.Client) error {
					for _, err := range cl.KV().List(t.Context(), []byte("a/")) {
						return err
					}
					return nil
				},
				"status": func(cl *client.Client) error { _, err := cl.Cluster().Status(t.Context()); return err },
			} {
				if err := call(c.open(t)); err != nil {
					t.Errorf("%s: %v", kind, err)
				}
			}
		})
	}
}

// TestWhatWasWrongIsSaid: when no address is right, the error says of each why.
func TestWhatWasWrongIsSaid(t *testing.T) {
	c := newCluster(t, 1)
	places := wrongPlaces(t, c)
	c.cfg.Addresses = []string{places["another cluster"], places["foreign TLS"], places["not valid yet"]}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	began := time.Now()
	_, err := c.open(t).KV().Put(ctx, []byte("a/b"), nil)
	if !banyan.IsKind(err, banyan.Unavailable) {
		t.Fatal(err)
	}
	for _, addr := range c.cfg.Addresses {
		if !strings.Contains(err.Error(), addr+": ") {
			t.Errorf("nothing is said of %s: %v", addr, err)
		}
	}
	if ctx.Err() != nil || time.Since(began) > 15*time.Second {
		t.Error("it waited, though nothing would change")
	}
}
