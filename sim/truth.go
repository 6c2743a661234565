package sim

import (
	"bytes"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/replica"
)

// truth is the one history of a shard, as first applied anywhere. Every other
// replica, and every watcher, must see the same.
type truth struct {
	w     *world
	shard banyan.ShardID

	revisions [][]mvcc.Event          // of revision i+1
	values    map[string][]mvcc.Event // of each key, in order
	leaders   map[uint64]banyan.NodeID
	digests   map[uint64]uint64 // of the state at an applied index
	acked     []ack
	tally     int
}

// ack says that by at the revision was acknowledged to somebody.
type ack struct {
	at       time.Duration
	revision banyan.Revision // the highest so far
}

func newTruth(w *world, shard banyan.ShardID) *truth {
	return &truth{w: w, shard: shard, values: map[string][]mvcc.Event{}, leaders: map[uint64]banyan.NodeID{}, digests: map[uint64]uint64{}}
}

func (t *truth) revision() banyan.Revision { return banyan.Revision(len(t.revisions)) }

// leads checks that a term has one leader.
func (t *truth) leads(node banyan.NodeID, l replica.Leadership) {
	if !l.Leading {
		return
	}
	t.w.reach("elected")
	if other, ok := t.leaders[l.Term]; ok && other != node {
		t.w.fail("shard %d has two leaders in term %d: %v and %v", t.shard, l.Term, other, node)
	}
	t.leaders[l.Term] = node
}

func (t *truth) acknowledge(revision banyan.Revision) {
	if n := len(t.acked); n == 0 || t.acked[n-1].revision < revision {
		t.acked = append(t.acked, ack{t.w.now, revision})
	}
}

// ackedBy is the highest revision that was acknowledged by a time.
func (t *truth) ackedBy(at time.Duration) banyan.Revision {
	lo, hi := 0, len(t.acked)
	for lo < hi {
		if mid := (lo + hi) / 2; t.acked[mid].at <= at {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	if lo == 0 {
		return 0
	}
	return t.acked[lo-1].revision
}

// extend takes the events of the next revision.
func (t *truth) extend(events []mvcc.Event) {
	t.revisions = append(t.revisions, events)
	t.w.jobs.watch(t.w, events)
	t.w.releases.watch(t.w, events)
	t.w.locks.watch(t.w, events)
	for i := range events {
		t.placed(&events[i])
		key := string(events[i].Row.Key)
		t.values[key] = append(t.values[key], events[i])
		if e := &events[i]; string(e.Row.Key) == tallyKey {
			t.tally++
			if got := string(e.Row.Value); got != strconv.Itoa(t.tally) {
				t.w.fail("shard %d, revision %d: a controller wrote tally %q over %d: it did not know what was committed before its term", t.shard, e.Row.Mod, got, t.tally-1)
			}
		}
	}
}

// placed checks that a layer's row lies in the slot of its partition.
func (t *truth) placed(e *mvcc.Event) {
	r, ok := banyan.ParseRowKey(e.Row.Key)
	if !ok {
		return
	}
	var partition []byte
	switch key := bytes.TrimLeft(r.Key, "hadloex"); {
	case r.Layer == banyan.LayerLock:
		name, _, _ := bytes.Cut(r.Key[1:], []byte{0})
		partition = banyan.Partition(name)
	case r.Layer == banyan.LayerJob && r.Slot == banyan.SlotOwn: // its fence
		return
	case r.Layer == banyan.LayerJob, r.Layer == banyan.LayerResult:
		partition = banyan.Partition(key)
	case r.Layer == banyan.LayerChain && r.Slot != banyan.SlotOwn:
		t.w.fail("shard %d: the row of its locks' commands lies in slot %d", t.shard, r.Slot)
		return
	default:
		return
	}
	if want := banyan.SlotIn(r.Space, partition); r.Slot != want {
		t.w.fail("shard %d, revision %d: row %q lies in slot %d, its partition %q in %d", t.shard, e.Row.Mod, e.Row.Key, r.Slot, partition, want)
	}
	t.w.reach("row in the slot of its partition")
}

// value is what a key held at a revision, "" if nothing.
func (t *truth) value(key string, at banyan.Revision) string {
	changes := t.values[key]
	i := sort.Search(len(changes), func(i int) bool { return changes[i].Row.Mod > at })
	if i == 0 || changes[i-1].Deleted {
		return ""
	}
	return string(changes[i-1].Row.Value)
}

// listener is somebody who watches [lo, hi) of a shard: what it hears is
// compared with the truth.
type listener struct {
	w      *world
	who    string
	shard  banyan.ShardID
	lo, hi []byte
	upTo   banyan.Revision // it has heard everything up to here
	watch  *replica.Watcher
	first  bool // may be the first to hear of a revision
}

// drain takes all there is. An error ends the watch.
func (l *listener) drain() error {
	for {
		events, upTo, ok, err := l.watch.TryNext()
		if err != nil || !ok {
			return err
		}
		l.hear(events, upTo)
		if l.w.failure != "" {
			return nil //nolint:nilerr // err is nil; the failure is the world's
		}
	}
}

func (l *listener) hear(events []mvcc.Event, upTo banyan.Revision) {
	t := l.w.truth[l.shard]
	if upTo < l.upTo {
		l.w.fail("%s, shard %d: told of revision %d after %d", l.who, l.shard, upTo, l.upTo)
		return
	}
	for rev := l.upTo + 1; rev <= upTo; rev++ {
		n := 0
		for n < len(events) && events[n].Row.Mod == rev {
			n++
		}
		if rev > t.revision() {
			if !l.first {
				l.w.fail("%s, shard %d: told of revision %d, and nobody has applied more than %d", l.who, l.shard, rev, t.revision())
				return
			}
			t.extend(events[:n:n])
		} else if want := l.filter(t.revisions[rev-1]); !sameEvents(events[:n], want) {
			l.w.fail("%s, shard %d, revision %d: heard %v, but it was %v", l.who, l.shard, rev, showEvents(events[:n]), showEvents(want))
			return
		}
		events = events[n:]
	}
	if len(events) > 0 {
		l.w.fail("%s, shard %d: heard %v, which is not of revisions %d to %d in order", l.who, l.shard, showEvents(events), l.upTo+1, upTo)
	}
	l.upTo = upTo
}

func (l *listener) filter(events []mvcc.Event) []mvcc.Event {
	if l.lo == nil && l.hi == nil {
		return events
	}
	var out []mvcc.Event
	for _, e := range events {
		if bytes.Compare(e.Row.Key, l.lo) >= 0 && (l.hi == nil || bytes.Compare(e.Row.Key, l.hi) < 0) {
			out = append(out, e)
		}
	}
	return out
}

// sameEvents compares what was heard of a revision. Who reads history is told
// only the latest change of an unversioned row, others of each.
func sameEvents(a, b []mvcc.Event) bool {
	a, b = common(a, b), common(b, a)
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		x, y := &a[i].Row, &b[i].Row
		if a[i].Deleted != b[i].Deleted || !bytes.Equal(x.Key, y.Key) || !bytes.Equal(x.Value, y.Value) ||
			x.Create != y.Create || x.Mod != y.Mod || x.Version != y.Version || x.Lease != y.Lease {
			return false
		}
	}
	return true
}

// common leaves out the puts of unversioned rows that others did not hear of.
func common(events, others []mvcc.Event) (out []mvcc.Event) {
	for _, e := range events {
		if e.Deleted || !mvcc.Unversioned(e.Row.Key) || slices.ContainsFunc(others, func(o mvcc.Event) bool { return bytes.Equal(o.Row.Key, e.Row.Key) }) {
			out = append(out, e)
		}
	}
	return out
}

func showEvents(events []mvcc.Event) []string {
	out := []string{}
	for _, e := range events {
		if e.Deleted {
			out = append(out, fmt.Sprintf("%q deleted at %d", e.Row.Key, e.Row.Mod))
		} else {
			out = append(out, fmt.Sprintf("%q=%q at %d", e.Row.Key, e.Row.Value, e.Row.Mod))
		}
	}
	return out
}

// tap listens to everything that this process applies.
func (p *process) tap() {
	for _, shard := range p.w.shards() {
		l := &listener{w: p.w, who: "replica on " + p.n.id.String(), shard: shard, first: true}
		p.taps = append(p.taps, l)
		if p.listen(l); p.dead {
			return
		}
	}
}

// listen begins a tap where the state is, or where the truth ends: an apply
// that was cut off by a crash may have reached the disk and nobody else.
func (p *process) listen(l *listener) {
	var revision banyan.Revision
	var err error
	p.n.inspect(func() { revision, err = mvcc.RevisionOf(p.store.Shard(l.shard).Latest()) })
	if err == nil {
		revision = min(revision, p.w.truth[l.shard].revision())
		l.upTo = revision
		l.watch, err = p.hub.Watch(l.shard, nil, nil, revision)
	}
	if err != nil && !p.unread(err) {
		p.w.fail("%s: shard %d: %v", l.who, l.shard, err)
	}
}

func (p *process) drainTaps() {
	for _, l := range p.taps {
		if p.dead {
			return
		}
		var err error
		p.n.inspect(func() { err = l.drain() })
		switch {
		case err == nil && p.w.failure == "": // of revisions without events nobody is told
			l.hear(nil, max(l.upTo, p.hub.Revision(l.shard)))
		case err == nil:
		case p.unread(err):
		case banyan.IsKind(err, banyan.Compacted) || banyan.IsKind(err, banyan.Unavailable):
			p.w.reach("watch begun anew")
			l.watch.Close()
			p.listen(l)
		default:
			p.w.fail("%s: shard %d: %v", l.who, l.shard, err)
		}
	}
}

// compareReplicas compares the state of replicas that have applied as much.
func (w *world) compareReplicas() {
	for _, p := range w.up() {
		for _, shard := range w.shards() {
			if !p.dead {
				w.compareReplica(p, shard)
			}
		}
	}
}

func (w *world) compareReplica(p *process, shard banyan.ShardID) {
	d := fnv(fnvStart)
	var at uint64
	var err error
	p.n.inspect(func() { at, err = p.digest(shard, &d) })
	if err != nil {
		if !p.unread(err) && !banyan.IsKind(err, banyan.NotFound) {
			w.fail("%v: shard %d: %v", p.n.id, shard, err)
		}
		return // no replica there, or none that can be read
	}
	t := w.truth[shard]
	other, ok := t.digests[at]
	if ok {
		w.reach("replicas compared")
	}
	if ok && other != uint64(d) {
		w.fail("%v: shard %d differs from another replica at applied index %d", p.n.id, shard, at)
	}
	t.digests[at] = uint64(d)
}

// digest takes in all rows of a shard's state.
func (p *process) digest(shard banyan.ShardID, d *fnv) (applied uint64, err error) {
	view, err := p.store.View(shard)
	if err != nil {
		return 0, err
	}
	defer view.Close()
	err = view.Scan(nil, nil, func(k, v []byte) bool {
		d.bytes(k)
		d.bytes(v)
		if p.speaks == older && len(v) > 0 && v[0] != 1 {
			p.w.fail("%v runs the previous release and holds row %q in form %d, which that does not know", p.n.id, k, v[0])
		}
		return true
	})
	return view.AppliedIndex(), err
}

type fnv uint64

func (f *fnv) bytes(b []byte) {
	h := (*f ^ fnv(len(b))) * fnvPrime
	for _, c := range b {
		h = (h ^ fnv(c)) * fnvPrime
	}
	*f = h
}
