package member

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	"banyan/engine/transport"
	"banyan/engine/transport/memnet"
	"banyan/node/pki"
)

// host is a node of a test cluster, in fake time on a network in memory.
type host struct {
	*List
	quiet bool // transport does not say who was found
	net   *memnet.Node
	stop  context.CancelFunc
	done  chan struct{}
}

func start(t *testing.T, n *memnet.Network, id banyan.NodeID, known ...banyan.NodeID) *host {
	t.Helper()
	h := &host{done: make(chan struct{})}
	ready := make(chan struct{})
	h.net = n.Start(id, transport.Handlers{
		OnPacket: func(from banyan.NodeID, b []byte) { <-ready; h.HandlePacket(from, b) },
		OnStream: func(from banyan.NodeID, c net.Conn) { <-ready; h.HandleStream(from, c) },
		OnLost:   func(id banyan.NodeID) { h.Lost(id) },
		OnFound: func(id banyan.NodeID) {
			if !h.quiet {
				h.Found(id)
			}
		},
	})
	c := Config{Node: id, Name: "name-" + id.String(), Addr: id.String(), Zone: "z", Slots: int(id), Network: h.net, Known: map[banyan.NodeID]string{}}
	for _, k := range known {
		c.Known[k] = k.String()
	}
	var err error
	if h.List, err = New(c); err != nil {
		t.Fatal(err)
	}
	close(ready)
	ctx, stop := context.WithCancel(t.Context())
	h.stop = stop
	go func() {
		defer close(h.done)
		h.Run(ctx)
	}()
	return h
}

// kill ends a host without a word.
func (h *host) kill() {
	h.stop()
	<-h.done
	_ = h.net.Close()
	_ = h.Close()
}

// states is how a host sees everyone, such as "n1:alive n2:dead".
func (h *host) states() string {
	var s []string
	for _, m := range h.Members() {
		s = append(s, fmt.Sprintf("%s:%s", m.ID, m.State))
	}
	return strings.Join(s, " ")
}

func expect(t *testing.T, want string, hosts ...*host) {
	t.Helper()
	synctest.Wait()
	for _, h := range hosts {
		if got := h.states(); got != want {
			t.Errorf("%s sees %q, want %q", h.config.Node, got, want)
		}
	}
}

// three starts a cluster of three: one seed, one that knows it, one that joins.
func three(t *testing.T, n *memnet.Network) (a, b, c *host) {
	t.Helper()
	a = start(t, n, 1)
	b = start(t, n, 2, 1)
	c = start(t, n, 3)
	if err := c.Join(t.Context(), []string{"n9", "n2"}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2 * time.Second)
	expect(t, "n1:alive n2:alive n3:alive", a, b, c)
	return a, b, c
}

func killAll(hosts ...*host) {
	for _, h := range hosts {
		h.kill()
	}
	time.Sleep(time.Minute) // memberlist's timers run out
}

func TestJoinAndTell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b, c := three(t, memnet.New(1))
		defer killAll(a, b, c)
		if err := a.Join(t.Context(), []string{"n9"}); !banyan.IsKind(err, banyan.Unavailable) || !strings.Contains(err.Error(), "n9") {
			t.Errorf("joining nobody: %v", err)
		}
		changes, stop := a.Watch()
		defer stop()
		b.SetLeads([]Lead{{7, 3}})
		b.SetDraining(true)
		time.Sleep(time.Second)
		synctest.Wait()
		m, ok := a.Get(2)
		if !ok || !m.Draining || len(m.Leads) != 1 || m.Leads[0] != (Lead{7, 3}) || m.Name != "name-n2" || m.Zone != "z" || m.Slots != 2 || m.Version != banyan.Version || m.Addr != "n2" {
			t.Errorf("%+v", m)
		}
		if m.LastContact.IsZero() {
			t.Error("no contact")
		}
		select {
		case <-changes:
		default:
			t.Error("the watcher was not told")
		}
		if addr, ok := a.Addr(3); !ok || addr != "n3" {
			t.Errorf("Addr = %q, %v", addr, ok)
		}
		if _, ok := a.Addr(9); ok {
			t.Error("an address for nobody")
		}
	})
}

func TestKilledAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b, c := three(t, n)
		c.kill()
		expect(t, "n1:alive n2:alive n3:dead", a, b) // at once: the process is gone
		time.Sleep(time.Minute)
		expect(t, "n1:alive n2:alive n3:dead", a, b) // gossip agrees
		c = start(t, n, 3, 1)                        // a new incarnation starts from nothing
		time.Sleep(3 * time.Second)
		expect(t, "n1:alive n2:alive n3:alive", a, b, c)
		killAll(a, b, c)
	})
}

// TestCutOffAndBack is also a node that was paused: neither side hears the
// other, both call the other dead, and then it is over. Whether transport
// notices first or gossip has to, all are seen alive again.
func TestCutOffAndBack(t *testing.T) {
	for _, cut := range []time.Duration{5100 * time.Millisecond, 600100 * time.Millisecond} {
		for _, quiet := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				n := memnet.New(1)
				a, b, c := three(t, n)
				defer killAll(a, b, c)
				a.quiet, b.quiet, c.quiet = quiet, quiet, quiet
				n.Partition([]banyan.NodeID{3})
				time.Sleep(cut)
				expect(t, "n1:alive n2:alive n3:dead", a, b)
				expect(t, "n1:dead n2:dead n3:alive", c)
				n.Heal()
				if quiet {
					time.Sleep(3 * rejoinEvery)
				} else {
					time.Sleep(rejoinEvery / 2)
				}
				expect(t, "n1:alive n2:alive n3:alive", a, b, c)
			})
		}
	}
}

// TestBackUnnoticed has a lost node speak up again by gossip alone.
func TestBackUnnoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b, c := three(t, n)
		a.quiet, b.quiet = true, true
		c.kill()
		time.Sleep(5 * time.Second)
		c = start(t, n, 3, 1)
		time.Sleep(3 * rejoinEvery)
		expect(t, "n1:alive n2:alive n3:alive", a, b, c)
		killAll(a, b, c)
	})
}

func TestDetection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b, c := three(t, n)
		defer killAll(a, b, c)
		n.SetDrop(0.1) // a busy network is no reason
		time.Sleep(20 * time.Second)
		expect(t, "n1:alive n2:alive n3:alive", a, b, c)
		n.SetDrop(0)
		n.Partition([]banyan.NodeID{3})
		time.Sleep(3 * time.Second) // fake time: a bound, not a measurement
		expect(t, "n1:alive n2:alive n3:dead", a, b)
	})
}

func TestLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b, c := three(t, n)
		ctx, cancel := context.WithTimeout(t.Context(), 4*time.Second)
		defer cancel()
		if err := c.Leave(ctx); err != nil {
			t.Fatal(err)
		}
		c.kill()
		time.Sleep(time.Second)
		expect(t, "n1:alive n2:alive n3:left", a, b)
		c = start(t, n, 3, 1, 2)
		time.Sleep(12 * time.Second)
		expect(t, "n1:alive n2:alive n3:alive", a, b, c)
		c.kill()
		a.Forget(3)
		if _, ok := a.Get(3); ok {
			t.Error("a forgotten node is still listed")
		}
		a.Forget(2)
		if _, ok := a.Get(2); !ok {
			t.Error("a node that is alive was forgotten")
		}
		killAll(a, b)
	})
}

// TestRestartElsewhere has a node come back at another address.
func TestRestartElsewhere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := memnet.New(1)
		a, b, c := three(t, n)
		c.kill()
		c = start(t, n, 3, 1)
		c.List.mu.Lock()
		c.List.own.Addr = "n3:elsewhere"
		c.List.mu.Unlock()
		c.SetDraining(true)
		time.Sleep(5 * time.Second)
		synctest.Wait()
		if addr, _ := a.Addr(3); addr != "n3:elsewhere" {
			t.Errorf("%q", addr)
		}
		killAll(a, b, c)
	})
}

// TestOverSockets runs gossip over the real transport.
func TestOverSockets(t *testing.T) {
	ca, err := pki.NewCA("c", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	var lists []*List
	var running sync.WaitGroup
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	for id := banyan.NodeID(1); id <= 3; id++ {
		keeper, err := pki.NewKeeper(ca, pki.Subject{Kind: pki.Node, Name: id.String(), Node: id}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		var l *List
		tr, err := transport.Listen(transport.Config{Node: id, Listen: "127.0.0.1:0", Keeper: keeper, Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
			Resolve: func(id banyan.NodeID) (string, bool) { return l.Addr(id) }})
		if err != nil {
			t.Fatal(err)
		}
		l, err = New(Config{Node: id, Name: id.String(), Addr: tr.Addr().String(), Network: tr})
		if err != nil {
			t.Fatal(err)
		}
		tr.Start(transport.Handlers{OnPacket: l.HandlePacket, OnStream: l.HandleStream, OnLost: l.Lost, OnFound: l.Found})
		running.Go(func() { l.Run(ctx) })
		defer func() {
			stop()
			running.Wait()
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := tr.Close(); err != nil {
				t.Error(err)
			}
		}()
		lists = append(lists, l)
	}
	for _, l := range lists[1:] {
		if err := l.Join(ctx, []string{lists[0].own.Addr}); err != nil {
			t.Fatal(err)
		}
	}
	if err := lists[0].Join(ctx, []string{lists[0].own.Addr}); err == nil {
		t.Error("joined itself")
	}
	for _, l := range lists {
		changes, stop := l.Watch()
		for alive := 0; alive < 3; {
			alive = 0
			for _, m := range l.Members() {
				if m.State == Alive {
					alive++
				}
			}
			if alive < 3 {
				<-changes
			}
		}
		stop()
	}
}
