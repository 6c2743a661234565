package worker

import (
	"errors"
	"fmt"
)

// errDiskFull ends attempts because this node's disk is nearly full.
type errDiskFull struct{ why string }

func (e errDiskFull) Error() string { return "disk full: " + e.why }

// StopLargest stops the attempt whose output takes most of the disk; it fails as
// "disk full", and its output is not kept. It gives a name of the attempt, "" if
// none runs.
func (w *Worker) StopLargest(why string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var best *running
	var name string
	var most int64 = -1
	for k, r := range w.running {
		size := r.written()
		if r.full || size < most || size == most && fmt.Sprint(k) > name {
			continue
		}
		best, most, name = r, size, fmt.Sprint(k)
	}
	if best == nil {
		return ""
	}
	best.full = true
	best.cancel(errDiskFull{why})
	return name
}

// written is about how much its output has.
func (r *running) written() (n int64) {
	place := r.place.Load()
	if place == nil {
		return 0
	}
	for _, out := range []interface{ Size() (int64, error) }{place.Stdout(), place.Stderr()} {
		if size, err := out.Size(); err == nil {
			n += size
		}
	}
	return n
}

// diskFull is why an attempt was stopped, if it was for that.
func diskFull(cause error) (error, bool) {
	full, ok := errors.AsType[errDiskFull](cause)
	return full, ok
}
