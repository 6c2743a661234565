package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/client"
)

// newLanCluster starts n nodes on machines of their own. It skips the test
// where that is not permitted.
func newLanCluster(t *testing.T, n int, flags ...string) (*cluster, *lan) {
	t.Helper()
	l := newLan(t)
	c := emptyCluster(t)
	for range n {
		c.hosts = append(c.hosts, l.host(t))
	}
	c.grow(n, flags...)
	return c, l
}

// shape is a way to spoil a network of three nodes.
type shape struct {
	name  string
	spoil func(l *lan, n []*host)
	says  string // in what 'banyan status' complains about
}

// shapes lists them; the first few are those of a short run.
var shapes = []shape{
	{"one node cut off", func(l *lan, n []*host) { l.set(n[:1], n[1:], link{cut: true}) }, "n1"},
	{"bridge: two that reach each other only through the third", func(l *lan, n []*host) { l.set(n[:1], n[1:2], link{cut: true}) }, "n1 and n2"},
	{"one node hears nobody", func(l *lan, n []*host) { l.oneWay(n[1:], n[:1], link{cut: true}) }, "n1"},
	{"one node is heard by nobody", func(l *lan, n []*host) { l.oneWay(n[:1], n[1:], link{cut: true}) }, "n1"},
	{"one direction between two nodes", func(l *lan, n []*host) { l.oneWay(n[:1], n[1:2], link{cut: true}) }, "n1 and n2"},
	{"a machine gone for everybody", func(l *lan, n []*host) { l.set(n[:1], append(n[1:3:3], l.outside()), link{cut: true}) }, "n1"},
	{"no client reaches one node", func(l *lan, n []*host) { l.set(n[:1], []*host{l.outside()}, link{cut: true}) }, ""},
	{"5% loss, 5 to 15 ms delay", func(l *lan, n []*host) {
		l.set(n, n, link{loss: 0.05, delay: 5 * time.Millisecond, jitter: 10 * time.Millisecond})
	}, ""},
	{"20% loss", func(l *lan, n []*host) { l.set(n, n, link{loss: 0.2}) }, ""},
	{"100 to 200 ms delay", func(l *lan, n []*host) {
		l.set(n, n, link{delay: 100 * time.Millisecond, jitter: 100 * time.Millisecond})
	}, ""},
}

// TestPartitions spoils the network under traffic and jobs: the majority goes
// on, no call fails, and 'banyan status' says what is wrong.
func TestPartitions(t *testing.T) {
	c, l := newLanCluster(t, 3, "--slots", "2")
	h := c.traffic(4)
	for _, s := range shapes[:2] {
		h.flow()
		h.take()
		w := c.submit(20)
		s.spoil(l, c.hosts)
		c.expectProblem(s.says)
		h.flow()
		saw := h.take()
		t.Logf("%s: %v", s.name, saw)
		if len(saw.failed) > 0 {
			t.Errorf("%s: %d calls failed, the first %s", s.name, len(saw.failed), saw.failed[0])
		}
		l.heal()
		w.check()
	}
	h.check()
}

// TestMinority asks the one node that is cut off, as a client that is cut off
// with it: it says so and answers nothing but what may be old.
func TestMinority(t *testing.T) {
	c, l := newLanCluster(t, 3)
	c.run("kv", "put", "color", "green")
	l.set(append(c.hosts[:1:1], l.outside()), c.hosts[1:], link{cut: true})
	sdk := c.sdk(c.nodes[0].addr)
	defer sdk.Close()
	c.eventually("the node complains", func() bool {
		m, err := sdk.Cluster().Status(t.Context())
		return err == nil && strings.Contains(fmt.Sprint(m.Problems), "no leader")
	})
	color := []byte("color")
	for name, call := range map[string]func(context.Context) error{
		"put": func(ctx context.Context) error { _, err := sdk.KV().Put(ctx, color, []byte("red")); return err },
		"get": func(ctx context.Context) error { _, err := sdk.KV().Get(ctx, color); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := call(ctx)
		cancel()
		if !banyan.IsKind(err, banyan.Timeout) && !banyan.IsKind(err, banyan.Unavailable) {
			t.Errorf("%s without a majority: %v", name, err)
		}
		t.Logf("%s: %v", name, err)
	}
	if kv, err := sdk.KV().Get(t.Context(), color, client.Stale()); err != nil || string(kv.Value) != "green" {
		t.Errorf("a stale read without a majority: %v, %v", kv, err)
	}
	l.heal()
	c.run("kv", "put", "color", "blue")
	if kv, err := sdk.KV().Get(t.Context(), color); err != nil || string(kv.Value) != "blue" {
		t.Errorf("after the network healed: %v, %v", kv, err)
	}
}
