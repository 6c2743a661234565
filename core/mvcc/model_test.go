package mvcc_test

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// model is a second machine, too dumb to be wrong: it keeps a whole map for
// every revision there ever was.
type model struct {
	states  []map[string]mvcc.Row // by revision
	events  [][]mvcc.Event        // by revision, sorted by key
	counts  map[string]uint64
	horizon banyan.Revision
	window  int
	notes   uint64 // since the latest revision
	seen    []seen // oldest first
}

type seen struct {
	id  banyan.RequestID
	res mvcc.Result
	rev banyan.Revision // of its record; 0: a note

	after banyan.Revision // of a note: the revision before it
	n     uint64          // and which it was behind that
}

// lost says whether a request that made no revision before earliest may have
// been driven out of the window.
func (m *model) lost(earliest banyan.Revision) bool {
	if len(m.seen) < m.window {
		return false
	}
	switch oldest := m.seen[0]; {
	case oldest.rev != 0:
		return oldest.rev >= earliest
	default:
		return oldest.after >= earliest || oldest.after == earliest-1 && oldest.n > 1
	}
}

// part makes an empty revision behind many notes.
func (m *model) part(c *mvcc.Command) {
	if c.Earliest != 0 && m.notes >= uint64(m.window/2) {
		m.states, m.events, m.notes = append(m.states, m.states[m.revision()]), append(m.events, nil), 0
	}
}

func newModel(window int) *model {
	return &model{
		states: []map[string]mvcc.Row{{}}, events: [][]mvcc.Event{nil},
		counts: map[string]uint64{}, window: window,
	}
}

func (m *model) revision() banyan.Revision { return banyan.Revision(len(m.states) - 1) }

func (m *model) apply(entryTerm uint64, c *mvcc.Command) (mvcc.Result, []mvcc.Event) {
	for _, s := range m.seen {
		if s.id == c.Request && c.Request != (banyan.RequestID{}) {
			s.res.Duplicate = true
			return s.res, nil
		}
	}
	if c.Term != 0 && c.Term != entryTerm {
		return mvcc.Result{Stale: true, Revision: m.revision()}, nil
	}
	if c.Earliest > m.revision()+1 || c.Earliest != 0 && m.lost(c.Earliest) {
		m.part(c)
		return mvcc.Result{Forgotten: true, Revision: m.revision()}, nil
	}
	res, evs, changed := m.try(c)
	s := seen{id: c.Request, res: res}
	switch {
	case changed:
		s.rev, m.notes = res.Revision, 0
	case c.Request != (banyan.RequestID{}):
		m.notes++
		s.after, s.n = m.revision(), m.notes
		m.part(c)
	}
	if c.Request != (banyan.RequestID{}) {
		m.seen = append(m.seen, s)
		m.seen = m.seen[max(0, len(m.seen)-m.window):]
	}
	return res, evs
}

func (m *model) try(c *mvcc.Command) (res mvcc.Result, evs []mvcc.Event, changed bool) {
	old := m.states[m.revision()]
	res.Revision = m.revision()
	for i, q := range c.Conds {
		row, ok := old[string(q.Key)]
		holds := map[mvcc.Test]bool{
			mvcc.Exists: ok, mvcc.Missing: !ok,
			mvcc.ValueEquals: ok && string(row.Value) == string(q.Value),
			mvcc.ModEquals:   row.Mod == q.Mod,
		}[q.Test]
		if !holds {
			res.FailedCond = i
			return res, nil, false
		}
	}
	res.OK = true
	rev := m.revision() + 1
	now := maps.Clone(old)
	put := func(key, value []byte, lease uint64) {
		row, ok := now[string(key)]
		switch {
		case !ok:
			row = mvcc.Row{Key: key, Create: rev, Version: 1}
		case row.Mod != rev:
			row.Version++
		}
		row.Mod, row.Value, row.Lease = rev, value, lease
		now[string(key)] = row
		changed = true
	}
	remove := func(which func(k string, r mvcc.Row) bool) {
		for k, r := range now {
			if which(k, r) {
				delete(now, k)
				res.Deleted++
				changed = true
			}
		}
	}
	compact := banyan.Revision(0)
	for _, u := range c.Muts {
		switch u.Op {
		case mvcc.Put:
			put(u.Key, u.Value, u.Lease)
		case mvcc.Append:
			m.counts[string(u.Key)]++
			n := m.counts[string(u.Key)]
			res.Sequences = append(res.Sequences, n)
			put(fmt.Appendf(nil, "%s%016x", u.Key, n), u.Value, u.Lease)
		case mvcc.Delete:
			remove(func(k string, _ mvcc.Row) bool { return k == string(u.Key) })
		case mvcc.DeleteRange:
			remove(func(k string, _ mvcc.Row) bool { return string(u.Key) <= k && k < string(u.End) })
		case mvcc.Revoke:
			remove(func(_ string, r mvcc.Row) bool { return r.Lease == u.Lease })
		case mvcc.Compact:
			compact = max(compact, u.Rev)
		}
	}
	m.horizon = max(m.horizon, min(compact, m.revision()))
	if !changed {
		return res, nil, false
	}
	res.Revision = rev
	for _, r := range now {
		if r.Mod == rev {
			evs = append(evs, mvcc.Event{Row: r})
		}
	}
	for k := range old {
		if _, ok := now[k]; !ok {
			evs = append(evs, mvcc.Event{Deleted: true, Row: mvcc.Row{Key: []byte(k), Mod: rev}})
		}
	}
	sortEvents(evs)
	m.states, m.events = append(m.states, now), append(m.events, evs)
	return res, evs, true
}

func sortEvents(evs []mvcc.Event) {
	slices.SortFunc(evs, func(a, b mvcc.Event) int { return bytes.Compare(a.Row.Key, b.Row.Key) })
}

// rowCounts says how many rows of each kind there must be: none missing, none
// left behind.
func (m *model) rowCounts() map[byte]int {
	n := map[byte]int{'c': len(m.states[m.revision()]), 'q': len(m.counts), 'm': 1}
	for _, r := range m.states[m.revision()] {
		if r.Lease != 0 {
			n['a']++
		}
	}
	for rev := m.horizon + 1; rev <= m.revision(); rev++ {
		n['r']++
		for _, e := range m.events[rev] {
			if _, ok := m.states[rev-1][string(e.Row.Key)]; ok {
				n['h']++
			}
		}
	}
	for _, s := range m.seen {
		if s.rev <= m.horizon { // a note, or a record kept for its result
			n['r']++
		}
	}
	for k, v := range n {
		if v == 0 {
			delete(n, k)
		}
	}
	return n
}

func (m *model) list(q mvcc.Query) (rows []mvcc.Row, more bool) {
	at := q.At
	if at == 0 {
		at = m.revision()
	}
	size := 0
	for _, k := range slices.Sorted(maps.Keys(m.states[at])) {
		if k < string(q.Lo) || len(q.Hi) > 0 && k >= string(q.Hi) {
			continue
		}
		if len(rows) == q.Limit || size >= q.BytesMax {
			return rows, true
		}
		r := m.states[at][k]
		if q.KeysOnly {
			r.Value = nil
		}
		rows = append(rows, r)
		size += len(r.Key) + len(r.Value)
	}
	return rows, false
}

// rig runs a machine, a second one that is restarted and flushed at other
// times, and the model side by side.
type rig struct {
	t       *testing.T
	rnd     *rand.Rand
	model   *model
	rows    [2]*memrows.Rows
	machine [2]*mvcc.Machine
	lent    [][]byte
	live    map[banyan.Revision][]mvcc.Event // as Apply gave them

	sent    []banyan.Revision // what each request of those that say so was first sent with
	carried map[int]bool      // those of them that were carried out
}

const rigWindow = 6

// strict keeps no more than Reader promises: slices of Get turn to rubbish at
// the next write, those of Scan behind the callback.
type strict struct {
	*memrows.Rows
	lent *[][]byte
}

func (s strict) lend(b []byte) []byte {
	b = bytes.Clone(b)
	*s.lent = append(*s.lent, b)
	return b
}

func (s strict) reclaim(from int) {
	for _, b := range (*s.lent)[from:] {
		for i := range b {
			b[i] = 0xee
		}
	}
	*s.lent = (*s.lent)[:from]
}

func (s strict) Get(k []byte) ([]byte, error) {
	b, err := s.Rows.Get(k)
	return s.lend(b), err
}

func (s strict) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	return s.Rows.Scan(lo, hi, func(k, v []byte) bool {
		defer s.reclaim(len(*s.lent))
		return fn(s.lend(k), s.lend(v))
	})
}

func (s strict) Set(k, v []byte)           { s.Rows.Set(k, v); s.reclaim(0) }
func (s strict) Delete(k []byte)           { s.Rows.Delete(k); s.reclaim(0) }
func (s strict) DeleteRange(lo, hi []byte) { s.Rows.DeleteRange(lo, hi); s.reclaim(0) }

func (g *rig) open(i int) {
	m, err := mvcc.OpenWindow(g.rows[i], rigWindow)
	if err != nil {
		g.t.Fatal(err)
	}
	g.machine[i] = m
}

func (g *rig) key() []byte {
	b := make([]byte, 1+g.rnd.IntN(3))
	for i := range b {
		b[i] = "ab\x00\x01\xff"[g.rnd.IntN(5)]
	}
	return b
}

func (g *rig) value() []byte {
	return []byte(strings.Repeat("v", g.rnd.IntN(4)))
}

func (g *rig) someRevision() banyan.Revision {
	return banyan.Revision(g.rnd.Uint64N(uint64(g.model.revision()) + 1))
}

func (g *rig) command() *mvcc.Command {
	r := g.rnd
	c := &mvcc.Command{Term: r.Uint64N(2) * (1 + r.Uint64N(3)), TimeMs: int64(r.IntN(100))}
	switch r.IntN(4) {
	case 0:
		g.repeat(c)
	case 1, 2:
		c.Request[0] = byte(1 + r.IntN(12))
	}
	for range r.IntN(3) * r.IntN(2) {
		q := mvcc.Cond{Key: g.key(), Test: mvcc.Test(1 + r.IntN(4))}
		switch q.Test {
		case mvcc.ValueEquals:
			q.Value = g.value()
		case mvcc.ModEquals:
			q.Mod = g.someRevision() * banyan.Revision(r.IntN(2))
		}
		c.Conds = append(c.Conds, q)
	}
	n := r.IntN(4)
	if r.IntN(20) == 0 {
		n = 30 // more keys than are searched in line
	}
	for range n {
		c.Muts = append(c.Muts, g.mutation())
	}
	return c
}

// repeat makes c a copy of one of the last requests, or a new one, that says
// what its sender knew.
func (g *rig) repeat(c *mvcc.Command) {
	i := max(0, len(g.sent)-g.rnd.IntN(8))
	if i == len(g.sent) {
		g.sent = append(g.sent, g.someRevision()/4+g.model.revision()*3/4+1)
	}
	c.Earliest = g.sent[i]
	c.Request[0], c.Request[1], c.Request[2] = 100, byte(i), byte(i>>8)
}

// once checks that a request that says what its sender knew is carried out once.
func (g *rig) once(c *mvcc.Command, res mvcc.Result) {
	if c.Earliest == 0 || res.Duplicate || res.Forgotten || res.Stale {
		return
	}
	i := int(c.Request[1]) + int(c.Request[2])<<8
	if g.carried[i] {
		g.t.Fatalf("request %d, first sent by one who knew revision %d, was carried out twice: %+v", i, c.Earliest-1, res)
	}
	g.carried[i] = true
}

func (g *rig) mutation() mvcc.Mutation {
	r := g.rnd
	u := mvcc.Mutation{Op: mvcc.Put, Key: g.key()}
	switch n := r.IntN(20); {
	case n < 10:
		u.Value, u.Lease = g.value(), r.Uint64N(4)
	case n < 14:
		u.Op = mvcc.Delete
	case n < 15:
		u.Op, u.End = mvcc.DeleteRange, g.key()
		if bytes.Compare(u.Key, u.End) >= 0 {
			u.Key, u.End = u.End, append(u.Key, 'x')
		}
	case n < 18:
		u.Op, u.Value, u.Lease = mvcc.Append, g.value(), r.Uint64N(3)
	case n < 19:
		u = mvcc.Mutation{Op: mvcc.Revoke, Lease: 1 + r.Uint64N(3)}
	default:
		u = mvcc.Mutation{Op: mvcc.Compact, Rev: g.someRevision() + 2}
		if r.IntN(3) > 0 {
			u.Rev = u.Rev / 2
		}
	}
	return u
}

func (g *rig) equal(what string, got, want any) {
	g.t.Helper()
	if !reflect.DeepEqual(got, want) {
		g.t.Fatalf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func (g *rig) step() {
	c := g.command()
	if err := c.Validate(); err != nil {
		g.t.Fatal(err)
	}
	encoded := c.Encode(nil)
	term := 1 + g.rnd.Uint64N(2)
	if c.Term != 0 && g.rnd.IntN(5) > 0 {
		term = c.Term
	}
	wantRes, wantEvs := g.model.apply(term, c)
	g.once(c, wantRes)
	for i := range 2 {
		if g.rnd.IntN(10) == 0 {
			g.machine[i].Flush(g.rows[i])
			g.open(i)
		}
		d, err := mvcc.Decode(encoded)
		if err != nil {
			g.t.Fatal(err)
		}
		res, evs, err := g.machine[i].Apply(strict{g.rows[i], &g.lent}, term, d)
		if err != nil {
			g.t.Fatal(err)
		}
		g.equal("result", res, wantRes)
		if len(evs) > 0 {
			g.live[res.Revision] = slices.Clone(evs)
		}
		sortEvents(evs)
		g.equal("events", normal(evs), normal(wantEvs))
		back, err := mvcc.DecodeResult(res.Encode(nil))
		if err != nil {
			g.t.Fatal(err)
		}
		g.equal("result after the wire", back, res)
	}
	g.equal("revision", g.machine[0].Revision(), g.model.revision())
	g.equal("horizon", g.machine[0].Horizon(), g.model.horizon)
}

// normal makes equal what means the same.
func normal(evs []mvcc.Event) string {
	var b strings.Builder
	for _, e := range evs {
		fmt.Fprintf(&b, "%v %q %q %d %d %d %d\n", e.Deleted, e.Row.Key, e.Row.Value, e.Row.Create, e.Row.Mod, e.Row.Version, e.Row.Lease)
	}
	return b.String()
}

func normalRows(rows []mvcc.Row) string {
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(formatRow(r) + "\n")
	}
	return b.String()
}

// read compares reads at a random revision; the rows must be flushed.
func (g *rig) read() {
	r := g.rnd
	at := g.someRevision()
	q := mvcc.Query{At: at, Limit: 1 + r.IntN(20), BytesMax: 1 + r.IntN(60), KeysOnly: r.IntN(3) == 0}
	if r.IntN(2) == 0 {
		q.Limit, q.BytesMax = 1000, 100_000
	}
	if r.IntN(2) == 0 {
		q.Lo = g.key()
	}
	if r.IntN(2) == 0 {
		q.Hi = g.key()
	}
	key := g.key()
	row, errGet := mvcc.Get(g.rows[0], key, at)
	rows, more, errRange := mvcc.Range(g.rows[0], q)
	if at != 0 && at < g.model.horizon {
		g.equal("get below the horizon", banyan.KindOf(errGet), banyan.Compacted)
		g.equal("range below the horizon", banyan.KindOf(errRange), banyan.Compacted)
	} else {
		if errGet != nil || errRange != nil {
			g.t.Fatal(errGet, errRange)
		}
		wantRows, wantMore := g.model.list(q)
		g.equal(fmt.Sprintf("range %+v", q), normalRows(rows), normalRows(wantRows))
		g.equal(fmt.Sprintf("range %+v: more", q), more, wantMore)
		wantAt := at
		if at == 0 {
			wantAt = g.model.revision()
		}
		want, ok := g.model.states[wantAt][string(key)]
		g.equal("there", row != nil, ok)
		if ok {
			g.equal(fmt.Sprintf("get %q at %d", key, at), formatRow(*row), formatRow(want))
		}
	}
	g.history(at, q.Lo, q.Hi, q.Limit)
}

// history follows the changes from a revision to the end, step by step.
func (g *rig) history(after banyan.Revision, lo, hi []byte, limit int) {
	var got, want strings.Builder
	for at := after; at < g.model.revision(); {
		evs, upTo, err := mvcc.EventsSince(g.rows[0], at, lo, hi, limit)
		if after < g.model.horizon {
			g.equal("history below the horizon", banyan.KindOf(err), banyan.Compacted)
			return
		}
		if err != nil || upTo <= at {
			g.t.Fatalf("after %d up to %d: %v", at, upTo, err)
		}
		got.WriteString(normal(evs))
		at = upTo
	}
	for rev := after + 1; rev <= g.model.revision(); rev++ {
		for _, e := range g.live[rev] {
			if k := e.Row.Key; bytes.Compare(lo, k) <= 0 && (len(hi) == 0 || bytes.Compare(k, hi) < 0) {
				want.WriteString(normal([]mvcc.Event{e}))
			}
		}
	}
	g.equal(fmt.Sprintf("history after %d of %q to %q", after, lo, hi), got.String(), want.String())
}

// audit looks at the raw rows.
func (g *rig) audit() {
	if !g.rows[0].Equal(g.rows[1]) {
		g.t.Fatal("two machines fed the same commands hold different rows")
	}
	counts := map[byte]int{}
	err := g.rows[0].Scan(nil, nil, func(k, v []byte) bool {
		counts[k[0]]++
		if s := mvcc.DescribeRow(k, v); strings.Contains(s, "ERROR") {
			g.t.Fatal(s)
		}
		if k[0] == 'a' {
			row, err := mvcc.Get(g.rows[0], k[9:], 0)
			if err != nil || row == nil || row.Lease != uint64(k[8]) {
				g.t.Fatalf("%s, but the key is %v, %v", mvcc.DescribeRow(k, v), row, err)
			}
		}
		return true
	})
	if err != nil {
		g.t.Fatal(err)
	}
	g.equal("rows of each kind", counts, g.model.rowCounts())
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			g := &rig{t: t, rnd: rand.New(rand.NewPCG(seed, 1)), model: newModel(rigWindow), live: map[banyan.Revision][]mvcc.Event{}, carried: map[int]bool{}}
			for i := range 2 {
				g.rows[i] = memrows.New()
				g.open(i)
			}
			for range 600 {
				g.step()
				if g.rnd.IntN(3) == 0 && g.model.revision() > 0 {
					g.machine[0].Flush(g.rows[0])
					g.machine[1].Flush(g.rows[1])
					g.read()
					g.audit()
				}
			}
		})
	}
}
