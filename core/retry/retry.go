// Package retry is the one policy for asking again: the first pause is short,
// each one after it is twice as long, up to a bound. It reads no clock, so that
// cores use it too.
package retry

// The pauses between tries, in milliseconds.
const (
	FirstMs = 5
	LastMs  = 250
)

// Wait is how long to wait before the next try. Its zero value is before the
// first one.
type Wait struct{ ms int64 }

// Next gives the pause before the next try, in milliseconds.
func (w *Wait) Next() int64 {
	ms := max(w.ms, FirstMs)
	w.ms = min(2*ms, LastMs)
	return ms
}

// Late says whether the pauses have become as long as they get: then trying
// again has not helped for a while.
func (w *Wait) Late() bool { return w.ms >= LastMs }

// Reset begins again with the first pause.
func (w *Wait) Reset() { w.ms = 0 }
