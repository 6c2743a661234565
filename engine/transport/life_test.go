package transport

import (
	"reflect"
	"strings"
	"testing"

	"banyan"
)

func TestLifeFollows(t *testing.T) {
	var l Life
	for i := range uint64(banyan.StartsKeptMax + 10) {
		l = l.Next(1000 + i)
	}
	for _, c := range []struct {
		count, number uint64
		want          bool
	}{
		{l.Count, l.Last(), false},         // itself
		{l.Count, 5, false},                // a copy that began beside it
		{l.Count + 1, 5, false},            // one that has begun more often
		{l.Count - 1, l.Last() - 1, true},  // its last start
		{l.Count - 1, 5, false},            // a copy's
		{11, 1010, true},                   // the oldest that it remembers
		{11, 5, false},                     //
		{10, 5, true},                      // forgotten
		{1, 5, true},                       //
		{l.Count - 1, l.Last() - 2, false}, // its own, at another place
	} {
		if got := l.Follows(c.count, c.number); got != c.want {
			t.Errorf("follows start %d of number %d: %v", c.count, c.number, got)
		}
	}
	for _, l := range []Life{{}, l, Life{}.Next(7)} {
		got, err := decodeLife(append(l.append(nil), "of a later version"...))
		if err != nil || !reflect.DeepEqual(got, l) {
			t.Errorf("%+v, %v, want %+v", got, err, l)
		}
	}
	if len(l.append(nil)) > helloBytesMax/2 {
		t.Errorf("a life of %d bytes leaves no room in a hello", len(l.append(nil)))
	}
}

// TestSecondProcessIsTold has a process of node 2 that answers, and a second
// one that follows it: what the first says while it runs, and once it is gone.
func TestSecondProcessIsTold(t *testing.T) {
	c := newCluster(t, "c")
	first := Life{}.Next(1)
	ran := make(chan bool, 10)
	one := c.listenAs(1, "127.0.0.1:0", Life{}.Next(9), func(_ banyan.NodeID, life Life, answers func(uint64) bool) error {
		if life.Last() == 1 {
			return nil
		}
		runs := answers(1)
		ran <- runs
		if runs {
			return banyan.Errorf(banyan.Removed, "a copy")
		}
		return nil
	}).start()
	two := c.listenAs(2, "127.0.0.1:0", first, nil).start()
	two.Introduce(t.Context(), []banyan.NodeID{1})
	<-one.found // it can be asked
	expelled := make(chan error, 10)
	twin := c.listenAs(2, "127.0.0.1:0", first.Next(2), nil)
	twin.Start(Handlers{OnExpelled: func(err error) { expelled <- err }})
	twin.Introduce(t.Context(), []banyan.NodeID{1})
	if !<-ran || !banyan.IsKind(<-expelled, banyan.Removed) {
		t.Error("a second process was not refused while the first one ran")
	}
	_ = twin.Close()
	_ = two.Close()
	later := c.listenAs(2, "127.0.0.1:0", first.Next(3), nil).start()
	later.Introduce(t.Context(), []banyan.NodeID{1})
	if <-ran {
		t.Error("a process that is gone was taken to run")
	}
	<-later.found
	if two := one.peer(2).life.Load(); two != 3 {
		t.Errorf("it listens to process %d", two)
	}
}

// TestOutdatedNodeIsTold: a node that hears at which protocol the cluster acts,
// and does not speak it, is told; the one that says so is not.
func TestOutdatedNodeIsTold(t *testing.T) {
	c := newCluster(t, "c")
	one, two := c.listen(1, "127.0.0.1:0"), c.listen(2, "127.0.0.1:0")
	one.config.Acts = func() uint32 { return banyan.ProtocolVersion + 1 }
	one.own.Max = banyan.ProtocolVersion + 1
	told, wrong := make(chan error, 100), make(chan error, 100)
	one.Start(Handlers{OnOutdated: func(err error) { wrong <- err }})
	two.Start(Handlers{OnOutdated: func(err error) { told <- err }})
	two.Introduce(t.Context(), []banyan.NodeID{1})
	one.Introduce(t.Context(), []banyan.NodeID{2})
	if err := <-told; !banyan.IsKind(err, banyan.TooNew) || !strings.Contains(err.Error(), "run the release of the other nodes") {
		t.Errorf("an outdated node is told %v", err)
	}
	if len(wrong) > 0 {
		t.Errorf("the newer node is told %v", <-wrong)
	}
}
