package retry

import (
	"slices"
	"testing"
)

func TestPausesDoubleUpToTheLast(t *testing.T) {
	var w Wait
	var got []int64
	late := -1
	for i := range 9 {
		if w.Late() && late < 0 {
			late = i
		}
		got = append(got, w.Next())
	}
	if want := []int64{5, 10, 20, 40, 80, 160, 250, 250, 250}; !slices.Equal(got, want) {
		t.Errorf("the pauses are %v, want %v", got, want)
	}
	if late != 6 {
		t.Errorf("late before try %d", late)
	}
	if w.Reset(); w.Next() != FirstMs || w.Late() {
		t.Error("after a reset the pauses do not begin again")
	}
}
