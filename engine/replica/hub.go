package replica

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"sync"
	"unsafe"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// Hub brings the events of applied commands to watchers. A watcher that keeps
// up gets them from memory; one that is new, or whose queue overflowed, reads
// the shard's history until it has caught up. Its methods may be called
// concurrently.
type Hub struct {
	store *store.Store

	mu       sync.Mutex
	topics   map[banyan.ShardID]*topic
	watchers int
	stopped  bool
}

// topic is one shard's watchers. revision is the last one published; all that
// is behind it can be read from the store.
type topic struct {
	mu       sync.Mutex
	revision banyan.Revision
	lo, hi   []byte // the row keys that the shard holds; an empty bound is the end
	watchers map[*Watcher]struct{}
	end      error
}

// NewHub makes a Hub that reads history from st.
func NewHub(st *store.Store) *Hub {
	return &Hub{store: st, topics: map[banyan.ShardID]*topic{}}
}

func (h *Hub) topic(shard banyan.ShardID) *topic {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.topics[shard]
	if t == nil {
		t = &topic{watchers: map[*Watcher]struct{}{}}
		h.topics[shard] = t
	}
	return t
}

// Watching is the number of watchers.
func (h *Hub) Watching() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.watchers
}

// Revision is the last revision that was published.
func (h *Hub) Revision(shard banyan.ShardID) banyan.Revision {
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.revision
}

// Publish says that the shard is now at revision, through events, of which it
// keeps nothing: an event's key and value are parts of a log entry that may hold
// hundreds of others. What a watcher wants is copied, once for all watchers.
func (h *Hub) Publish(shard banyan.ShardID, events []mvcc.Event, revision banyan.Revision) {
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	if revision == t.revision {
		return
	}
	t.revision = revision
	var copied []mvcc.Event // parallel to events, made when the first is wanted
	for w := range t.watchers {
		if w.live {
			copied = w.take(events, copied, revision)
		}
	}
}

// Reset says that the shard is now as r has it, by a way that has no events:
// watchers read them from its history, and who watches what it does not hold is
// turned away.
func (h *Hub) Reset(shard banyan.ShardID, r mvcc.Reader) error {
	revision, err := mvcc.RevisionOf(r)
	if err != nil {
		return err
	}
	lo, hi, err := mvcc.BoundsOf(r)
	if err != nil {
		return err
	}
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.revision, t.lo, t.hi = revision, bytes.Clone(lo), bytes.Clone(hi)
	for w := range t.watchers {
		w.fallBehind()
		t.turnAway(shard, w)
		w.signal()
	}
	return nil
}

// Holds says whether the shard holds the rows [lo, hi), or lo alone if hi is
// nil. What was read of it before was the shard's, if it still holds it after.
func (h *Hub) Holds(shard banyan.ShardID, lo, hi []byte) bool {
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.holds(lo, hi)
}

// Held gives Moved unless the shard that view reads holds the rows [lo, hi), or lo
// alone if hi is nil. It asks the view itself: a snapshot can be installed, with
// narrower bounds than before, a moment before the Hub is told.
func Held(view mvcc.Reader, shard banyan.ShardID, lo, hi []byte) error {
	var t topic
	var err error
	if t.lo, t.hi, err = mvcc.BoundsOf(view); err == nil && !t.holds(lo, hi) {
		err = errMoved(shard)
	}
	return err
}

// HeldSlots gives the slot behind the last that a view holds of [from, until), or
// Moved if the first is not held.
func HeldSlots(view mvcc.Reader, shard banyan.ShardID, from, until int) (int, error) {
	lo, hi, err := mvcc.BoundsOf(view)
	if err != nil {
		return 0, err
	}
	if !(&topic{lo: lo, hi: hi}).holds(banyan.SlotKey(from), nil) {
		return 0, errMoved(shard)
	}
	if len(hi) > 0 {
		until = min(until, int(binary.BigEndian.Uint16(hi)))
	}
	return until, nil
}

func (t *topic) holds(lo, hi []byte) bool {
	if bytes.HasPrefix(lo, banyan.SlotKey(banyan.SlotOwn)) {
		return true
	}
	if bytes.Compare(lo, t.lo) < 0 {
		return false
	}
	switch {
	case len(t.hi) == 0:
		return true
	case hi == nil:
		return bytes.Compare(lo, t.hi) < 0
	}
	return len(hi) > 0 && bytes.Compare(hi, t.hi) <= 0
}

// turnAway ends a watch of rows that the shard does not hold; mu is held.
func (t *topic) turnAway(shard banyan.ShardID, w *Watcher) {
	if !t.holds(w.lo, append([]byte{}, w.hi...)) {
		w.end = errMoved(shard)
	}
}

// Drop ends the shard's watchers: it is no longer here.
func (h *Hub) Drop(shard banyan.ShardID) {
	t := h.topic(shard)
	t.finish(banyan.Errorf(banyan.Unavailable, "the replica of shard %d on this node was removed: watch it on another", shard))
	h.mu.Lock()
	delete(h.topics, shard)
	h.mu.Unlock()
}

// TurnAway ends the shard's present watchers: they would be told nothing here.
func (h *Hub) TurnAway(shard banyan.ShardID) {
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.watchers {
		w.end = banyan.Errorf(banyan.Unavailable, "the replica of shard %d on this node has not heard from a leader for %v: watch it on another", shard, outdatedAfter)
		w.signal()
	}
}

// Cut ends the shard's watchers that reach beyond at: those rows are another
// shard's now.
func (h *Hub) Cut(shard banyan.ShardID, at []byte) {
	t := h.topic(shard)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.hi = bytes.Clone(at)
	for w := range t.watchers {
		t.turnAway(shard, w)
		w.signal()
	}
}

// Stop ends all watchers, and those to come.
func (h *Hub) Stop() {
	h.mu.Lock()
	h.stopped = true
	var topics []*topic
	for _, t := range h.topics {
		topics = append(topics, t)
	}
	h.mu.Unlock()
	for _, t := range topics {
		t.finish(errStopping)
	}
}

func (t *topic) finish(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.end = err
	for w := range t.watchers {
		w.signal()
	}
}

// Watch begins a watch of the keys [lo, hi), an empty hi being the end, with
// the first revision behind after.
func (h *Hub) Watch(shard banyan.ShardID, lo, hi []byte, after banyan.Revision) (*Watcher, error) {
	t := h.topic(shard)
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.stopped {
		return nil, errStopping
	}
	if h.watchers >= banyan.WatchersMax {
		return nil, banyan.Errorf(banyan.Exhausted, "this node has %d watchers and takes no more (docs/limits.md: WatchersMax): end some, or watch on another node", h.watchers)
	}
	h.watchers++
	w := &Watcher{
		hub: h, topic: t, shard: shard, wake: make(chan struct{}, 1),
		lo: bytes.Clone(lo), hi: bytes.Clone(hi), sent: after,
	}
	t.mu.Lock()
	t.watchers[w] = struct{}{}
	t.turnAway(shard, w)
	t.mu.Unlock()
	return w, nil
}

// Watcher is one watch. One goroutine uses it; Close may come from another.
type Watcher struct {
	hub    *Hub
	topic  *topic
	shard  banyan.ShardID
	lo, hi []byte
	wake   chan struct{}

	// Under topic.mu.
	live   bool            // gets events from Publish
	queue  []mvcc.Event    // if live: those of (sent, seen]
	bytes  int             // in queue
	seen   banyan.Revision // if live
	sent   banyan.Revision // Next has given all up to here
	end    error
	closed bool
}

const (
	historyEventsMax = 512  // read from history at a time
	progressEvery    = 1024 // revisions after which an idle watcher is told
)

// Next waits for changes and returns them in order, whole revisions only; upTo
// is the revision up to which the watcher has now been told everything. From
// time to time it returns no events, for the sake of upTo. An error ends the
// watch: of kind Compacted if history does not reach back so far, Unavailable
// if the replica or the node goes away, Canceled or Timeout if ctx ends.
func (w *Watcher) Next(ctx context.Context) (events []mvcc.Event, upTo banyan.Revision, err error) {
	for {
		events, upTo, ok, err := w.TryNext()
		if ok || err != nil {
			return events, upTo, err
		}
		select {
		case <-w.wake:
		case <-ctx.Done():
			return nil, 0, contextError(ctx, "watching shard %d", w.shard)
		}
	}
}

// TryNext is Next without waiting; ok is false if there is nothing yet.
func (w *Watcher) TryNext() (events []mvcc.Event, upTo banyan.Revision, ok bool, err error) {
	for {
		events, upTo, live, err := w.poll()
		if err != nil {
			return nil, 0, false, err
		}
		if live || len(events) > 0 {
			return events, upTo, upTo > 0, nil
		}
	}
}

// poll takes what is queued, or makes one step through history. upTo is 0 if
// there is nothing to tell.
func (w *Watcher) poll() (events []mvcc.Event, upTo banyan.Revision, live bool, err error) {
	t := w.topic
	t.mu.Lock()
	defer t.mu.Unlock()
	if w.closed {
		return nil, 0, false, banyan.Errorf(banyan.Canceled, "the watch was closed")
	}
	if err := cmp.Or(t.end, w.end); err != nil {
		return nil, 0, false, err
	}
	if !w.live && w.sent >= t.revision {
		w.live, w.seen = true, w.sent
	}
	if w.live {
		if len(w.queue) == 0 && w.seen < w.sent+progressEvery {
			return nil, 0, true, nil
		}
		events, w.queue, w.bytes = w.queue, nil, 0
		w.sent = w.seen
		return events, w.sent, true, nil
	}
	after := w.sent
	t.mu.Unlock()
	events, upTo, err = w.history(after)
	t.mu.Lock()
	if err = cmp.Or(err, t.end, w.end); err != nil { // what was read may be of after the shard was cut
		return nil, 0, false, err
	}
	w.sent = upTo
	return events, upTo, false, nil
}

func (w *Watcher) history(after banyan.Revision) ([]mvcc.Event, banyan.Revision, error) {
	view, err := w.hub.store.View(w.shard)
	if err != nil {
		return nil, 0, err
	}
	defer view.Close()
	events, upTo, err := mvcc.EventsSince(view, after, w.lo, w.hi, historyEventsMax)
	if err == nil {
		err = Held(view, w.shard, w.lo, append([]byte{}, w.hi...))
	}
	if err == nil && upTo <= after {
		err = banyan.Errorf(banyan.Corrupt, "shard %d: history ends at revision %d, before one that was applied", w.shard, after)
	}
	return events, upTo, err
}

// take queues what the watcher asked for; topic.mu is held. It gives copied back
// with what it has added.
func (w *Watcher) take(events, copied []mvcc.Event, revision banyan.Revision) []mvcc.Event {
	for i := range events {
		if events[i].Row.Mod <= w.seen {
			continue
		}
		e, ok := events[i].Within(w.lo, w.hi)
		if !ok {
			continue
		}
		w.bytes += len(e.Row.Key) + len(e.Row.Value) + len(e.End) + eventBytes
		if e.End != nil { // each watcher hears of its part
			w.queue = append(w.queue, standalone(&e))
			continue
		}
		if copied == nil {
			copied = make([]mvcc.Event, len(events))
		}
		if copied[i].Row.Mod == 0 {
			copied[i] = standalone(&e)
		}
		w.queue = append(w.queue, copied[i])
	}
	w.seen = max(w.seen, revision)
	if len(w.queue) > banyan.WatchQueueMax || w.bytes > banyan.WatchQueueBytesMax {
		w.fallBehind()
	}
	if !w.live || len(w.queue) > 0 || w.seen >= w.sent+progressEvery {
		w.signal()
	}
	return copied
}

// eventBytes is what an event takes besides its key and value.
const eventBytes = int(unsafe.Sizeof(mvcc.Event{}))

// standalone is a copy of an event in memory of its own.
func standalone(e *mvcc.Event) mvcc.Event {
	c, n := *e, len(e.Row.Key)
	c.End = bytes.Clone(e.End)
	held := append(append(make([]byte, 0, n+len(e.Row.Value)), e.Row.Key...), e.Row.Value...)
	c.Row.Key = held[:n:n]
	if e.Row.Value != nil {
		c.Row.Value = held[n:]
	}
	return c
}

// fallBehind makes the watcher read history from where it is.
func (w *Watcher) fallBehind() { w.live, w.queue, w.bytes = false, nil, 0 }

func (w *Watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Close ends the watch. A Next under way returns.
func (w *Watcher) Close() {
	w.topic.mu.Lock()
	was := w.closed
	w.closed = true
	delete(w.topic.watchers, w)
	w.signal()
	w.topic.mu.Unlock()
	if !was {
		w.hub.mu.Lock()
		w.hub.watchers--
		w.hub.mu.Unlock()
	}
}
