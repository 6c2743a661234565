package replica

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
	"time"

	"banyan"
	"banyan/core/mvcc"

	"go.etcd.io/raft/v3/raftpb"
)

// saved is all that a node's disk holds.
type saved [][2][]byte

func (p *peer) save() (out saved) {
	p.w.t.Helper()
	p.crash(false)
	kv, err := p.disk.Open()
	mustNot(p.w.t, err)
	mustNot(p.w.t, kv.Scan(nil, nil, func(k, v []byte) bool {
		out = append(out, [2][]byte{bytes.Clone(k), bytes.Clone(v)})
		return true
	}))
	mustNot(p.w.t, kv.Close())
	p.restart()
	return out
}

// goBack makes a node that is down have what it had.
func (p *peer) goBack(to saved) {
	p.w.t.Helper()
	kv, err := p.disk.Open()
	mustNot(p.w.t, err)
	b := kv.NewBatch()
	b.DeleteRange([]byte{0}, []byte{0xff})
	for _, row := range to {
		b.Set(row[0], row[1])
	}
	mustNot(p.w.t, b.Commit(true))
	mustNot(p.w.t, kv.Close())
}

func (w *world) puts(p *peer, n int) {
	w.t.Helper()
	for i := range n {
		err := errors.New("not answered")
		p.propose(0, put(fmt.Sprintf("k%d", i), "v"), func(_ mvcc.Result, e error) { err = e })
		w.pump()
		mustNot(w.t, err)
	}
}

// TestLostWritesAreAnAlarm has the disk of one of three nodes forget
// acknowledged writes while another one, which has them, is away: the third and
// the forgetful one elect a leader without them. (Case N3: the one that came back
// was ahead of its leader, followed nobody for ever, and nobody said so.)
func TestLostWritesAreAnAlarm(t *testing.T) {
	w := newWorld(t)
	one, two, three := w.add(1, 0), w.add(2), w.add(3)
	w.grow(0)
	old := one.save()
	w.pass(3 * time.Second)
	lead := w.leader(0)
	w.cut[[2]banyan.NodeID{1, 3}], w.cut[[2]banyan.NodeID{3, 1}] = true, true
	w.cut[[2]banyan.NodeID{2, 3}], w.cut[[2]banyan.NodeID{3, 2}] = true, true
	if lead == three {
		w.pass(3 * time.Second)
		lead = w.leader(0)
	}
	w.puts(lead, 5)
	one.crash(true)
	two.crash(true)
	one.goBack(old)
	one.restart()
	clear(w.cut)
	w.history = map[[2]uint64]string{} // it is about to be violated
	w.pass(5 * time.Second)
	w.puts(w.leader(0), 20)
	two.restart()
	w.history = map[[2]uint64]string{}
	w.pass(5 * time.Second)
	for _, id := range w.ids() {
		s, err := w.nodes[id].core.groups[0].status()
		mustNot(t, err)
		if want := id == 2; (s.DiffersFrom != 0) != want {
			t.Errorf("%v differs from %v, want an alarm: %v\n%s", id, s.DiffersFrom, want, w.status(0))
		}
	}
}

// TestMoreThanItsLeaderHas is the alarm at the leader.
func TestMoreThanItsLeaderHas(t *testing.T) {
	w := newWorld(t)
	one := w.add(1, 0)
	w.add(2)
	w.add(3)
	w.grow(0)
	g := one.core.groups[0]
	ack := &raftpb.Message{
		Type: raftpb.MsgAppResp.Enum(), From: new(uint64(2)), To: new(uint64(1)), Term: new(g.term), Index: new(g.end() + 3),
	}
	if since := g.tenure.began[2]; since != 0 {
		ack.Vote = new(since)
	}
	one.core.Step(0, ack)
	w.pump()
	s, err := g.status()
	mustNot(t, err)
	if s.DiffersFrom != 2 {
		t.Errorf("differs from %v", s.DiffersFrom)
	}
	if s.Match[2] > s.Last {
		t.Errorf("counts on entries up to %d of %d", s.Match[2], s.Last)
	}
}

// TestForgetfulFollower: a replica whose disk has lost what it acknowledged to
// the present leader ends its node with a reason, not in a panic of raft's.
func TestForgetfulFollower(t *testing.T) {
	w := newWorld(t)
	one, two := w.add(1, 0), w.add(2)
	w.add(3)
	w.grow(0)
	old := two.save()
	w.pass(2 * time.Second)
	if w.leader(0) != one {
		t.Fatalf("node 1 does not lead\n%s", w.status(0))
	}
	w.puts(one, 5)
	two.crash(true)
	two.goBack(old)
	two.restart()
	err := func() (err error) {
		defer caught(&err)
		w.pass(2 * time.Second)
		return nil
	}()
	if !banyan.IsKind(errors.Unwrap(err), banyan.Corrupt) {
		t.Fatalf("ended with %v", err)
	}
}

// TestARemovedReplicaAnswers: what is asked of a replica while its removal
// waits for the disk is refused at once. (Review, B17: it was never answered.)
func TestARemovedReplicaAnswers(t *testing.T) {
	w := newWorld(t)
	p := w.add(1, 0)
	w.pump()
	p.holdDisk = true
	p.propose(0, put("a", "v"), func(mvcc.Result, error) {})
	p.round()
	g := p.core.groups[0]
	p.core.Remove(0, g.heardLast(), func(error) {})
	var answers []error
	note := func(err error) { answers = append(answers, err) }
	p.propose(0, put("b", "v"), func(_ mvcc.Result, err error) { note(err) })
	p.core.Read(0, note)
	p.core.TransferLeader(0, 2, note)
	p.core.Reconfigure(0, []banyan.NodeID{1}, []banyan.NodeID{2}, note)
	w.pump()
	if len(answers) != 4 {
		t.Fatalf("%d answers", len(answers))
	}
	for i, err := range answers {
		if !banyan.IsKind(err, banyan.NotLeader) {
			t.Errorf("answer %d: %v", i, err)
		}
	}
}

// TestWatchersHoldWhatTheyCount: a queued event does not keep the log entry in
// memory that it came in, of which it may be a small part.
func TestWatchersHoldWhatTheyCount(t *testing.T) {
	h := NewHub(memStore(t))
	h.topic(0).revision = 1
	var watchers [2]*Watcher
	for i := range watchers {
		w, err := h.Watch(0, []byte("k"), nil, 1)
		mustNot(t, err)
		_, _, _, err = w.TryNext() // it is live now
		mustNot(t, err)
		watchers[i] = w
	}
	entry := []byte("a.....k1value1k2value2........")
	at := func(lo, hi int) []byte { return entry[lo:hi] }
	h.Publish(0, []mvcc.Event{
		{Row: mvcc.Row{Key: at(0, 1), Mod: 2}}, {Row: mvcc.Row{Key: at(6, 8), Value: at(8, 14), Mod: 2}},
		{Row: mvcc.Row{Key: at(14, 16), Value: at(16, 22), Mod: 2}}, {Deleted: true, Row: mvcc.Row{Key: at(6, 8), Mod: 2}},
	}, 2)
	clear(entry)
	for _, w := range watchers {
		if held := w.bytes - 3*eventBytes; held != 2+6+2+6+2 {
			t.Errorf("it counts %d bytes of keys and values", held)
		}
		events, _, _, err := w.TryNext()
		mustNot(t, err)
		if len(events) != 3 || string(events[0].Row.Key) != "k1" || string(events[0].Row.Value) != "value1" || string(events[1].Row.Value) != "value2" || events[2].Row.Value != nil {
			t.Errorf("told %+v", events)
		}
	}
}

// TestTheLogWaitsForASnapshot writes much while a snapshot is on its way: what
// comes after it is kept, up to as much as the snapshot has brought, and no second
// one is sent. (Review, B8: beyond a fixed size the log was cut, and the
// snapshot sent again, for ever.)
func TestTheLogWaitsForASnapshot(t *testing.T) {
	for _, c := range []struct {
		sent      uint64
		snapshots int
	}{{LogTailBytesMax + 1, 1}, {0, 2}} {
		w := newWorld(t)
		w.keep = 4
		one := w.add(1, 0)
		w.add(2)
		w.pump()
		w.puts(one, 50)
		one.holdSnaps = true
		one.core.Reconfigure(0, []banyan.NodeID{1}, []banyan.NodeID{2}, func(err error) { mustNot(t, err) })
		w.pass(300 * time.Millisecond)
		if len(one.snapshots) != 1 {
			t.Fatalf("%d snapshots under way\n%s", len(one.snapshots), w.status(0))
		}
		e := one.snapshots[0]
		view, err := one.store.View(0) // the rows that are on their way
		mustNot(t, err)
		defer view.Close()
		one.core.SnapshotSent(0, 2, c.sent)
		w.puts(one, 2*LogTailFactor*int(w.keep))
		one.snapshots = nil
		w.lines = nil
		one.carry(e, view)
		one.holdSnaps = false
		w.pass(2 * time.Second)
		got := 0
		for _, line := range w.lines {
			if bytes.Contains([]byte(line), []byte("got a snapshot")) {
				got++
			}
		}
		s, err := w.nodes[2].core.groups[0].status()
		mustNot(t, err)
		lead, err := one.core.groups[0].status()
		mustNot(t, err)
		if got != c.snapshots || s.Applied != lead.Applied {
			t.Errorf("with %d bytes sent: %d snapshots, want %d\n%s", c.sent, got, c.snapshots, w.status(0))
		}
		if n := len(one.core.groups[0].sendings); n != 0 {
			t.Errorf("%d snapshots are not forgotten", n)
		}
		w.puts(one, 50)
		if n := one.core.groups[0]; n.applied-n.truncated > 4*w.keep {
			t.Errorf("the log is not cut any more: %s", w.status(0))
		}
	}
}
