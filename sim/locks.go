package sim

import (
	"strconv"
	"strings"

	"banyan"
	"banyan/core/mvcc"
)

// locks is what is true of locks: the rows, as first applied anywhere.
type locks struct {
	rounds  map[*locker]int // when faults ended
	claims  map[uint64]*held
	leases  map[string]bool              // there are, by key
	holders map[string]map[string]holder // by shard and lock, by row
}

type holder struct {
	lease uint64
	token banyan.Revision
}

// guarded begins the keys that locks protect.
const guarded = "k/guarded/"

func newLocks() locks {
	return locks{rounds: map[*locker]int{}, claims: map[uint64]*held{}, leases: map[string]bool{}, holders: map[string]map[string]holder{}}
}

// watch checks what one revision changes.
func (l *locks) watch(w *world, events []mvcc.Event) {
	for _, deleted := range []bool{true, false} { // a lock that goes from one to the other is never held by both
		for i := range events {
			if e := &events[i]; e.Deleted == deleted {
				l.change(w, e)
			}
		}
	}
	for i := range events {
		if name, ok := strings.CutPrefix(string(events[i].Row.Key), guarded); ok {
			l.protect(w, name, &events[i].Row)
		}
	}
}

func (l *locks) change(w *world, e *mvcc.Event) {
	r, ok := banyan.ParseRowKey(e.Row.Key)
	if !ok || r.Layer != banyan.LayerLock || len(r.Key) == 0 {
		return
	}
	key := string(e.Row.Key)
	if r.Key[0] == 'l' {
		if e.Deleted {
			delete(l.leases, key)
		} else {
			l.leases[key] = true
		}
		return
	}
	name, row, ok := strings.Cut(string(r.Key[1:]), "\x00")
	if !ok || row[0] != 'h' {
		return
	}
	if l.holders[name] == nil {
		l.holders[name] = map[string]holder{}
	}
	if e.Deleted {
		delete(l.holders[name], row)
		return
	}
	if other := l.holders[name][row]; e.Row.Create != e.Row.Mod { // else the same command has ended the other
		w.fail("lock %q: lease %x holds %q at revision %d, and lease %x did still", name, e.Row.Lease, row, e.Row.Mod, other.lease)
	}
	l.holders[name][row] = holder{e.Row.Lease, e.Row.Mod}
	l.granted(w, name, e.Row.Lease)
}

// granted checks that those who hold a lock may hold it together, and that
// nobody who does not hold it any more has reason to believe so.
func (l *locks) granted(w *world, name string, lease uint64) {
	c := l.claims[lease]
	if c == nil {
		w.fail("lock %q is held by lease %x, which nobody has", name, lease)
		return
	}
	together := 0
	for _, h := range l.holders[name] { // only counts: the order does not show
		if o := l.claims[h.lease]; o != c && !(o.shared && c.shared) {
			together++
		}
	}
	if together >= int(c.permits) {
		w.fail("lock %q is held by %d at once", name, together+1)
	}
	believe := 0
	for _, k := range w.lockers {
		o := k.claim
		if o != nil && o != c && o.name == name && o.relies(w, k.drift) && !(o.shared && c.shared) {
			believe++
		}
	}
	if believe >= int(c.permits) {
		w.fail("lock %q was given to lease %x while %d others had reason to rely on it", name, lease, believe)
	}
}

// told checks what an answer says of a lock.
func (l *locks) told(w *world, k *locker, c *held) {
	rev := banyan.Revision(c.token)
	t := w.truth[c.shard]
	if rev <= t.revision() {
		for _, e := range t.revisions[rev-1] {
			if string(e.Row.Key) == string(banyan.LockRow(c.name, c.permit)) && !e.Deleted && e.Row.Lease == c.lease {
				return
			}
		}
	}
	w.fail("locker %d was told that it holds permit %d of lock %q with token %d, but nobody got it at that revision", k.id, c.permit, c.name, c.token)
}

// protect checks a write under a lock: its token is that of a holder.
func (l *locks) protect(w *world, name string, row *mvcc.Row) {
	token, err := strconv.ParseUint(string(row.Value), 10, 64)
	for _, h := range l.holders[name] {
		if err == nil && h.token == banyan.Revision(token) {
			w.reach("write under a lock")
			return
		}
	}
	w.fail("lock %q: a write with token %q was accepted at revision %d, and nobody holds the lock with that", name, row.Value, row.Mod)
}

// done says whether everybody has what they want, and what was left behind is
// gone.
func (l *locks) done(w *world) bool {
	for _, k := range w.lockers {
		if _, ok := l.rounds[k]; !ok || !k.done() {
			return false
		}
	}
	return len(l.leases) == 0
}
