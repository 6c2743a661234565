package memnet

import (
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"banyan"
	"banyan/engine/transport"

	"go.etcd.io/raft/v3/raftpb"
)

// end is what both the real transport and the one in memory have.
type end interface {
	Send(to banyan.NodeID, shard banyan.ShardID, m *raftpb.Message)
	SendPacket(to banyan.NodeID, b []byte)
	LastContact(banyan.NodeID) time.Time
}

var (
	_ end = (*Node)(nil)
	_ end = (*transport.Transport)(nil)
)

func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New(1)
		var mu sync.Mutex
		var got []string
		note := func(format string, args ...any) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf(format, args...))
		}
		expect := func(want ...string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprint(got) != fmt.Sprint(want) {
				t.Errorf("got %q, want %q", got, want)
			}
			got = nil
		}
		two := n.Start(2, transport.Handlers{
			OnRaft: func(from banyan.NodeID, s banyan.ShardID, m *raftpb.Message) {
				note("raft %s %d %d", from, s, m.GetTerm())
			},
			OnPacket: func(from banyan.NodeID, b []byte) { note("packet %s %s", from, b) },
			OnStream: func(from banyan.NodeID, c net.Conn) { fmt.Fprintf(c, "hi %s", from); c.Close() },
			OnLost:   func(id banyan.NodeID) { note("lost %s", id) },
			OnFound:  func(id banyan.NodeID) { note("found %s", id) },
		})
		one := n.Start(1, transport.Handlers{})
		expect("found n1")
		term := uint64(7)
		one.Send(2, 3, &raftpb.Message{Term: &term})
		one.SendPacket(2, []byte("x"))
		expect("raft n1 3 7", "packet n1 x")
		if two.LastContact(1) != time.Now() || !one.LastContact(2).IsZero() {
			t.Error("LastContact")
		}
		conn, who, err := one.DialStream(t.Context(), "n2")
		if err != nil || who != 2 {
			t.Fatal(who, err)
		}
		if b, _ := io.ReadAll(conn); string(b) != "hi n1" {
			t.Errorf("%q", b)
		}
		n.SetDelay(time.Second)
		one.SendPacket(2, []byte("slow"))
		expect()
		time.Sleep(time.Second)
		expect("packet n1 slow")
		n.SetDelay(0)
		n.Partition([]banyan.NodeID{2})
		one.SendPacket(2, []byte("cut"))
		if _, _, err := one.DialStream(t.Context(), "n2"); err == nil {
			t.Error("a stream through a partition")
		}
		n.Heal()
		expect("found n1")
		n.SetDrop(1)
		one.SendPacket(2, []byte("dropped"))
		expect()
		n.SetDrop(0)
		one.Close()
		one.SendPacket(2, []byte("from the grave"))
		expect("lost n1")
		two.Close()
	})
}
