package sweep

import (
	"testing"

	"banyan"
)

func TestAChunkGoesTwoEpochsAfterItWasCondemned(t *testing.T) {
	var c banyan.Hash
	h := NewHolder(nil)
	step := func(epoch uint64, marked bool, want Verdict) {
		t.Helper()
		h.Learn(epoch)
		got := h.Judge(epoch, c, marked)
		if got != want {
			t.Fatalf("epoch %d: verdict %d, want %d", epoch, got, want)
		}
		switch got {
		case Condemn:
			h.Condemn(c)
		case Spare, Go:
			h.Free(c)
		}
	}
	step(1, true, Keep)
	step(2, false, Condemn)
	step(2, false, Keep)
	step(3, false, Keep)
	step(4, true, Spare)
	step(5, false, Condemn)
	h.Free(c) // a touch
	step(7, false, Condemn)
	step(8, false, Keep)
	h.Learn(20)
	h = NewHolder(h.All()) // a restart
	if h.Epoch() != 0 {
		t.Error("a holder believes an epoch of before its restart")
	}
	step(9, false, Go)
}

// A sweep that takes long condemns at the epoch of the latest touch, not at its own.
func TestASlowSweepCondemnsAsOfNow(t *testing.T) {
	var c banyan.Hash
	h := NewHolder(nil)
	h.Learn(5)
	if h.Judge(5, c, false) != Condemn {
		t.Fatal("kept")
	}
	h.Learn(6) // with a touch of c
	h.Condemn(c)
	if h.Condemned(c) != 6 || h.Judge(7, c, false) != Keep || h.Judge(8, c, false) != Go {
		t.Errorf("condemned since %d", h.Condemned(c))
	}
}

func TestFresh(t *testing.T) {
	for _, k := range []struct {
		fence, touched uint64
		want           bool
	}{{0, 0, true}, {1, 0, true}, {2, 0, false}, {7, 6, true}, {7, 5, false}, {7, 9, true}} {
		if Fresh(k.fence, k.touched) != k.want {
			t.Errorf("fence %d, touched %d: %v", k.fence, k.touched, !k.want)
		}
	}
}
