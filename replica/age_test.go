package replica

import (
	"testing"
	"time"

	"banyan/mvcc"
)

// TestASoleVoterIsFreshOnceItHasApplied restarts a sole voter that lost what it
// had applied, but not its log: it leads at once, and is behind. (Found by
// package sim: stale reads that said they were not.)
func TestASoleVoterIsFreshOnceItHasApplied(t *testing.T) {
	w := newWorld(t)
	p := w.add(1, 0)
	w.pump()
	p.propose(0, put("a", "b"), func(_ mvcc.Result, err error) { mustNot(t, err) })
	w.pump()
	p.crash(true)
	p.restart()
	p.holdApply = true
	w.pass(time.Second)
	if v := p.views[0]; v.Leader != 1 || v.Always {
		t.Errorf("leads (%v) and calls its state new (%v) before it has applied its log", v.Leader == 1, v.Always)
	}
	p.holdApply = false
	w.pass(time.Second)
	if !p.views[0].Always {
		t.Error("does not call its state new when it is")
	}
}
