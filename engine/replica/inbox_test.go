package replica

import "testing"

// What is finished wakes the loop if that waits for it, whichever comes first.
func TestFinished(t *testing.T) {
	woken := func(b *inbox) bool {
		select {
		case <-b.wake:
			return true
		default:
			return false
		}
	}
	finish := func(b *inbox) { b.finished(func(in *intake) { in.applied = append(in.applied, nil) }) }

	b := newInbox()
	b.want(false)
	finish(b)
	if woken(b) {
		t.Error("woken for what nobody waits for")
	}
	b.want(true)
	if !woken(b) {
		t.Error("not woken for what was there when it was wanted")
	}
	finish(b)
	if !woken(b) {
		t.Error("not woken for what was wanted when it came")
	}
	b.take(intake{})
	b.want(false)
	for range finishedMax + 1 {
		finish(b)
	}
	if !woken(b) {
		t.Error("finished work heaps up")
	}
}
