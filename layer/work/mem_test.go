package work

import (
	"runtime"
	"testing"

	"banyan"
)

// TestAMillionTasksCostLittle holds the promise that a job in memory is a few
// bits a task.
func TestAMillionTasksCostLittle(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	r := NewRun(header("j", banyan.JobTasksMax, nil), 1)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := int64(after.HeapAlloc) - int64(before.HeapAlloc); n > 1<<20 {
		t.Errorf("a job of a million tasks takes %d bytes", n)
	}
	for range 1000 {
		r.claim(r.next(), &attempt{})
	}
	if r.next() != 1000 || r.pending != banyan.JobTasksMax-1000 {
		t.Errorf("next is %d, %d are pending", r.next(), r.pending)
	}
}
