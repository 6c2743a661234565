package coord

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
)

// TestRandomLives lets random clients claim, keep and release locks while
// leaders come and go, and checks the rows after each command: no two who must
// not hold a lock do, tokens of a permit grow, no lease ended that was to last,
// and an idle core knows what its rows say.
func TestRandomLives(t *testing.T) {
	refused := 0
	for seed := range uint64(60) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			w := &lives{t: t, r: rand.New(rand.NewPCG(seed, 1)), disk: newDisk(t), sure: map[uint64]int64{}, tokens: map[string]uint64{}, asked: map[uint64]*banyanv1.AcquireRequest{}}
			w.lead()
			for range 600 {
				w.step()
			}
			if w.granted == 0 || w.expired == 0 {
				t.Errorf("nothing was tried: %d answers that a lock is held, %d leases expired", w.granted, w.expired)
			}
			refused += w.refused
		})
	}
	if refused == 0 {
		t.Error("no command was behind one that was lost")
	}
}

type lives struct {
	t    *testing.T
	r    *rand.Rand
	disk *disk
	core *Core
	cmds []*mvcc.Command // under way, not all of this core
	life uint64
	now  int64
	op   uint64

	sure    map[uint64]int64 // leases that last at least until then, unless released
	tokens  map[string]uint64
	asked   map[uint64]*banyanv1.AcquireRequest
	granted int
	expired int
	refused int
}

func (w *lives) lead() {
	w.disk.term++
	rows, err := w.disk.all()
	if err != nil {
		w.t.Fatal(err)
	}
	w.life++
	if w.core, err = Open(w.now, w.disk.term, w.life, rows); err != nil {
		w.t.Fatal(err)
	}
	w.cmds = nil
	clear(w.asked)
}

func (w *lives) step() {
	lease := 1 + w.r.Uint64N(12)
	name := []string{"a", "b", "c"}[lease%3] // a partition of its own each
	switch w.r.IntN(12) {
	case 0:
		w.lead()
	case 1, 2, 3:
		w.op++
		req := &banyanv1.AcquireRequest{Name: name, Lease: lease, TtlMs: 1000 + int64(w.r.IntN(3000)), Owner: fmt.Sprint(lease)}
		switch name {
		case "b":
			req.Shared = w.r.IntN(3) > 0
		case "c":
			req.Permits = 2
		}
		w.asked[w.op] = req
		w.core.Acquire(w.now, w.op, req, 0, w.r.IntN(2) == 0)
	case 4:
		w.op++
		w.core.Release(w.now, w.op, lease, []string{"", name}[w.r.IntN(2)])
		delete(w.sure, lease)
	case 5:
		w.now += int64(w.r.IntN(600))
	case 6:
		if at, ok := w.core.Deadline(); ok && at < w.now+2000 {
			w.now = max(w.now, at)
			w.core.Tick(w.now)
		}
	case 7:
		if gone := w.core.KeepAlive(w.now, []uint64{lease}); len(gone) == 0 && w.exists(lease) && !w.ending(lease) {
			w.sure[lease] = w.now + w.ttl(lease)
		}
	case 8, 9:
		if cmd := w.core.Next(); cmd != nil {
			w.cmds = append(w.cmds, cmd)
		}
	default:
		w.commit()
	}
	w.answered()
}

func (w *lives) commit() {
	if len(w.cmds) == 0 {
		return
	}
	cmd := w.cmds[0]
	w.cmds = w.cmds[1:]
	if w.r.IntN(20) == 0 {
		w.lose()
		return
	}
	for _, m := range cmd.Muts {
		if m.Op == mvcc.Revoke && w.exists(m.Lease) {
			if w.sure[m.Lease] > w.now {
				w.t.Fatalf("at %d lease %d ends, which was to last until %d", w.now, m.Lease, w.sure[m.Lease])
			}
			w.expired++
		}
	}
	res, err := w.disk.apply(cmd)
	if err != nil || !res.OK {
		w.t.Fatalf("%+v, %v", res, err)
	}
	w.core.Committed(res.Revision)
	w.check()
}

// lose has a command vanish on its way: those behind it must have no effect,
// and the term goes on with another core.
func (w *lives) lose() {
	before, err := w.disk.all()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, cmd := range w.cmds {
		if res, err := w.disk.apply(cmd); err != nil || res.OK {
			w.t.Fatalf("a command behind one that was lost: %+v, %v", res, err)
		}
		w.refused++
	}
	if after, err := w.disk.all(); err != nil || !reflect.DeepEqual(before, after) {
		w.t.Fatalf("commands behind one that was lost changed\n%v\nto\n%v, %v", before, after, err)
	}
	w.disk.term--
	w.lead()
}

// check looks at what is durable.
func (w *lives) check() {
	rows, err := w.disk.all()
	if err != nil {
		w.t.Fatal(err)
	}
	holders := map[string][]*banyanv1.Claim{}
	for i := range rows {
		c, p, err := decodeClaim(&rows[i])
		if err != nil {
			w.t.Fatal(err)
		}
		if p.lease || !p.held {
			continue
		}
		permit := fmt.Sprint(p.name, p.number)
		if c.Token < w.tokens[permit] {
			w.t.Fatalf("permit %s: token %d after %d", permit, c.Token, w.tokens[permit])
		}
		w.tokens[permit] = c.Token
		holders[p.name] = append(holders[p.name], c)
	}
	for name, hs := range holders {
		alone := slices.ContainsFunc(hs, func(c *banyanv1.Claim) bool { return c.Permits == 1 && !c.Shared })
		if alone && len(hs) > 1 || name == "c" && len(hs) > 2 {
			w.t.Fatalf("lock %s is held by %v", name, hs)
		}
	}
	if len(w.core.queue)+len(w.core.inflight) == 0 {
		again, err := Open(w.now, w.disk.term, 0, rows)
		if err != nil {
			w.t.Fatal(err)
		}
		if got, want := again.String(), w.core.String(); got != want {
			w.t.Fatalf("the rows say\n%s\nthe core believes\n%s", got, want)
		}
	}
}

// String lists locks, who holds them and who waits.
func (c *Core) String() string {
	var b strings.Builder
	for _, name := range []string{"a", "b", "c"} {
		l := c.locks[name]
		if l == nil {
			continue
		}
		fmt.Fprintf(&b, "%s:", name)
		for _, cl := range l.holders {
			fmt.Fprintf(&b, " %d@%d/%d", cl.Lease, cl.Token, cl.Permit)
		}
		for _, cl := range l.queue {
			fmt.Fprintf(&b, " %d", cl.Lease)
		}
		fmt.Fprintln(&b)
	}
	for id := range uint64(13) {
		if le := c.leases[id]; le != nil {
			fmt.Fprint(&b, " ", id, "·", len(le.claims))
		}
	}
	return b.String()
}

func (w *lives) answered() {
	for _, a := range w.core.Answers() {
		req := w.asked[a.Op]
		if a.Err != nil && !banyan.IsKind(a.Err, banyan.NotFound) && !banyan.IsKind(a.Err, banyan.Invalid) {
			w.t.Fatalf("%v", a.Err)
		}
		if a.Claim == nil || a.Claim.Token == 0 || w.core.leases[req.Lease] == nil || w.core.leases[req.Lease].claim(req.Name) == nil {
			continue
		}
		w.granted++
		row, err := mvcc.Get(w.disk.rows, banyan.LockRow(req.Name, a.Claim.Permit), 0)
		if w.core.leases[req.Lease].claim(req.Name).Token != a.Claim.Token {
			continue // it was released and is claimed again
		}
		if err != nil || row == nil || row.Lease != req.Lease || uint64(row.Mod) != a.Claim.Token {
			w.t.Fatalf("answered that %v holds; its row is %v, %v", a.Claim, row, err)
		}
	}
}

// ending says that a lease was released and begun again before that was committed.
func (w *lives) ending(lease uint64) bool {
	return slices.ContainsFunc(slices.Concat(slices.Concat(w.core.inflight...), w.core.queue), func(u unit) bool {
		return u.muts != nil && u.muts[0].Op == mvcc.Revoke && u.muts[0].Lease == lease
	})
}

func (w *lives) exists(lease uint64) bool { return w.row(lease) != nil }

func (w *lives) row(lease uint64) *mvcc.Row {
	row, err := mvcc.Get(w.disk.rows, LeaseRow([]string{"a", "b", "c"}[lease%3], lease), 0)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

func (w *lives) ttl(lease uint64) int64 {
	ttl, err := decodeLease(w.row(lease).Value)
	if err != nil {
		w.t.Fatal(err)
	}
	return ttl
}

func TestRowsAreChecked(t *testing.T) {
	good := mvcc.Row{Key: holderKey("a/b", 3), Lease: 7, Mod: 9, Value: encodeClaim(&banyanv1.Claim{Name: "a/b", Lease: 7, Permits: 4})}
	c, _, err := decodeClaim(&good)
	if err != nil || c.Token != 9 || c.Permit != 3 {
		t.Fatalf("%v, %v", c, err)
	}
	for what, change := range map[string]func(*mvcc.Row){
		"another lease":   func(r *mvcc.Row) { r.Lease = 8 },
		"another lock":    func(r *mvcc.Row) { r.Key = holderKey("a/c", 3) },
		"no value":        func(r *mvcc.Row) { r.Value = nil },
		"damage":          func(r *mvcc.Row) { r.Value = append([]byte{1, 0xff}, r.Value...) },
		"another kind":    func(r *mvcc.Row) { r.Key = []byte("k/a") },
		"no number":       func(r *mvcc.Row) { r.Key = append(prefix(slotOf("a")), "oa/b\x00h"...) },
		"neither":         func(r *mvcc.Row) { r.Key = append(prefix(slotOf("a")), "oa/b\x00x00000003"...) },
		"a short number":  func(r *mvcc.Row) { r.Key = append(prefix(slotOf("a")), "oa/b\x00w00000003"...) },
		"a newer version": func(r *mvcc.Row) { r.Value = append([]byte{9}, r.Value[1:]...) },
	} {
		bad := good
		bad.Value = slices.Clone(good.Value)
		change(&bad)
		if _, _, err := decodeClaim(&bad); !banyan.IsKind(err, banyan.Corrupt) && !banyan.IsKind(err, banyan.TooNew) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := decodeLease(encodeLease(TTLMaxMs)); err != nil {
		t.Error(err)
	}
	if _, err := decodeLease(encodeLease(TTLMaxMs + 1)); err == nil {
		t.Error("a lease longer than any was read")
	}
}

func FuzzRows(f *testing.F) {
	f.Add(holderKey("a/b", 3), encodeClaim(&banyanv1.Claim{Name: "a/b", Lease: 7, Permits: 4}))
	f.Add(waiterKey("a", 3), encodeClaim(&banyanv1.Claim{Name: "a", Lease: 7, Permits: 1}))
	f.Add(leaseKey("a", 3), encodeLease(1000))
	f.Fuzz(func(_ *testing.T, key, value []byte) {
		_, _ = Open(0, 1, 0, []mvcc.Row{{Key: key, Value: value, Lease: 7, Mod: 1}})
	})
}

// TestBatchesAreBounded lets a leader die between the commands of one release:
// the next one goes on.
func TestBatchesAreBounded(t *testing.T) {
	d := newDisk(t)
	c, err := Open(0, 0, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	const readers = 2 * batchRowsMax
	c.Acquire(0, 0, &banyanv1.AcquireRequest{Name: "L", Lease: 1, TtlMs: 1000}, 0, false)
	for i := range uint64(readers) {
		c.Acquire(0, i+1, &banyanv1.AcquireRequest{Name: "L", Lease: i + 2, TtlMs: 1000, Shared: true}, 0, false)
	}
	c.Release(0, 0, 1, "")
	commands := 0
	for cmd := c.Next(); cmd != nil; cmd = c.Next() {
		if len(cmd.Muts) > batchRowsMax {
			t.Fatalf("a command with %d mutations", len(cmd.Muts))
		}
		res, err := d.apply(cmd)
		if err != nil || !res.OK {
			t.Fatalf("%+v, %v", res, err)
		}
		c.Committed(res.Revision)
		if commands++; cmd.Muts[len(cmd.Muts)-1].Op == mvcc.Put && len(c.queue) > 0 && c.locks["L"].holders[0].Token > 0 && c.locks["L"].holders[0].Shared {
			rows, err := d.all()
			if err == nil {
				c, err = Open(0, 0, 1, rows)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if l := c.locks["L"]; len(l.holders) != readers || commands < 8 {
		t.Fatalf("%d readers hold the lock after %d commands", len(l.holders), commands)
	}
}
