package mvcc

import (
	"slices"

	"banyan"
)

// window remembers where the latest requests left their records, oldest
// first. It holds no results: those are read from the rows on a hit. Its
// memory grows with use, up to its fixed size.
//
// The size is part of what replicas must agree on: to change it, change the
// command's version.
type window struct {
	max  int
	ring []remembered
	head int // the oldest, once the ring is full
	slot requests
}

type remembered struct {
	id banyan.RequestID
	at place
}

// expect makes room for n requests, or as many as it takes.
func (w *window) expect(n uint64) {
	n = min(n, uint64(w.max))
	w.ring = make([]remembered, 0, n)
	w.slot.expect(int(n))
}

func (w *window) find(id banyan.RequestID) (place, bool) {
	_, i, ok := w.slot.find(w.ring, &id)
	if !ok {
		return place{}, false
	}
	return w.ring[i].at, true
}

// push adds the latest request and gives the one that it drove out, if any.
func (w *window) push(r remembered) (out remembered, full bool) {
	if len(w.ring) < w.max {
		w.slot.add(&r.id, len(w.ring))
		if n := len(w.ring); n == cap(w.ring) { // append would copy large ones more often
			w.ring = slices.Grow(w.ring, max(1, min(n, w.max-n)))
		}
		w.ring = append(w.ring, r)
		return out, false
	}
	out = w.ring[w.head]
	if entry, _, ok := w.slot.find(w.ring, &out.id); ok {
		w.slot.remove(entry)
	}
	w.slot.add(&r.id, w.head)
	w.ring[w.head] = r
	w.head = (w.head + 1) % w.max
	return out, true
}

// reaches says whether a request that made no revision before earliest is in
// the window if it was ever carried out: nothing was driven out of it, or all
// that was had been carried out earlier. A request that makes no revision of
// its own leaves its note behind the revision before.
func (w *window) reaches(earliest banyan.Revision) bool {
	return len(w.ring) < w.max || !(place{earliest - 1, 1}).before(w.front())
}

// front is the place of the oldest request, the zero place if there is none.
func (w *window) front() place {
	if len(w.ring) == 0 {
		return place{}
	}
	return w.ring[w.head].at
}

// back is the place of the latest request, the zero place if there is none.
func (w *window) back() place {
	if len(w.ring) == 0 {
		return place{}
	}
	return w.ring[(w.head+len(w.ring)-1)%len(w.ring)].at
}
