package replica

import (
	"testing"

	"banyan"
	"banyan/core/mvcc"
)

// TestWhatIsWrittenFollowsTheProtocol: a node that was not told yet, or is told
// less than it knows, writes what the older protocol has a form for.
func TestWhatIsWrittenFollowsTheProtocol(t *testing.T) {
	w := newWorld(t)
	p := w.add(1, 0)
	w.pump()
	written := func() byte {
		t.Helper()
		cmd := put("k", "v")
		cmd.Request, cmd.Earliest = banyan.RequestID{1}, 1
		prop, err := p.views[0].Prepare(1, cmd, 1)
		if err != nil {
			t.Fatal(err)
		}
		prop.Done = func(_ mvcc.Result, err error) {
			if err != nil {
				t.Error(err)
			}
		}
		p.core.Propose(0, prop)
		w.pump()
		return prop.Data[0]
	}
	for _, step := range []struct {
		told uint32
		want byte // format
	}{{0, 1}, {2, 1}, {3, 2}, {2, 2}, {1, 2}} {
		p.core.Act(step.told)
		w.pump()
		if got := written(); got != step.want {
			t.Errorf("told of protocol %d, acting at %d: a command is written in format %d, want %d", step.told, p.views[0].Acts, got, step.want)
		}
	}
}
