package mvcc_test

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/big"
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
	time    banyan.Timestamp
	lo, hi  []byte // bounds
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
		m.stamp(c)
	}
}

func (m *model) stamp(c *mvcc.Command) banyan.Timestamp {
	m.time = max(m.time+1, c.Time)
	return m.time
}

func isOwn(key string) bool { return strings.HasPrefix(key, "\xff\xff") }

// holds says whether the shard holds a row.
func (m *model) holds(key string) bool {
	return isOwn(key) || key >= string(m.lo) && (len(m.hi) == 0 || key < string(m.hi))
}

// holdsAll says whether it holds all rows of a command, whose ranges lie in one
// slot each, as bounds do.
func (m *model) holdsAll(c *mvcc.Command) bool {
	for _, q := range c.Conds {
		if !m.holds(string(q.Key)) {
			return false
		}
	}
	for _, u := range slices.Concat(c.Muts, c.Else) {
		if u.Op != mvcc.Compact && !m.holds(string(u.Key)) {
			return false
		}
	}
	return true
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
	if !m.holdsAll(c) {
		return mvcc.Result{Moved: true, Revision: m.revision()}, nil
	}
	if c.Term != 0 && c.Term != entryTerm {
		return mvcc.Result{Stale: true, Revision: m.revision()}, nil
	}
	if c.Earliest > m.revision()+1 || c.Earliest != 0 && m.lost(c.Earliest) {
		m.part(c)
		return mvcc.Result{Forgotten: true, Revision: m.revision()}, nil
	}
	res, evs, changed := m.try(c)
	s := seen{id: c.Request}
	switch {
	case changed:
		res.Time = m.stamp(c)
		s.rev, m.notes = res.Revision, 0
	case c.Request != (banyan.RequestID{}):
		res.Time = m.stamp(c)
		m.notes++
		s.after, s.n = m.revision(), m.notes
		m.part(c)
	}
	if s.res = res; c.Request != (banyan.RequestID{}) {
		m.seen = append(m.seen, s)
		m.seen = m.seen[max(0, len(m.seen)-m.window):]
	}
	return res, evs
}

// holdsIn says whether a condition holds in a state.
func holdsIn(q *mvcc.Cond, state map[string]mvcc.Row) bool {
	one := func(row mvcc.Row, there bool) bool {
		if q.Test <= mvcc.Missing {
			return there == (q.Test == mvcc.Exists)
		}
		numbers := map[mvcc.Test]uint64{
			mvcc.ModEquals: uint64(row.Mod), mvcc.CreateEquals: uint64(row.Create), mvcc.VersionEquals: row.Version, mvcc.LeaseEquals: row.Lease,
		}
		order := cmp.Compare(numbers[q.Test&0xf0], q.Number)
		if q.Test&0xf0 == mvcc.ValueEquals {
			if !there {
				return false
			}
			order = cmp.Compare(string(row.Value), string(q.Value))
		}
		return []bool{order == 0, order != 0, order < 0, order > 0}[q.Test&15]
	}
	if len(q.End) == 0 {
		row, ok := state[string(q.Key)]
		return one(row, ok)
	}
	met, all := false, true
	for k, row := range state {
		if string(q.Key) <= k && k < string(q.End) {
			met, all = true, all && one(row, true)
		}
	}
	return met && all || !met && one(mvcc.Row{}, false)
}

// trial is a command being tried.
type trial struct {
	*model
	res     mvcc.Result
	rev     banyan.Revision
	old     map[string]mvcc.Row
	now     map[string]mvcc.Row
	touched map[string]bool // looked at by itself
	trimmed map[string]bool // removed with others
	evs     []mvcc.Event
	changed bool
}

func (m *model) try(c *mvcc.Command) (res mvcc.Result, evs []mvcc.Event, changed bool) {
	old := m.states[m.revision()]
	t := &trial{
		model: m, rev: m.revision() + 1, old: old, now: maps.Clone(old),
		touched: map[string]bool{}, trimmed: map[string]bool{}, res: mvcc.Result{OK: true, Revision: m.revision()},
	}
	muts := c.Muts
	for i := range c.Conds {
		if len(c.Conds[i].End) == 0 {
			t.touched[string(c.Conds[i].Key)] = true
		}
		if !holdsIn(&c.Conds[i], old) {
			t.res.OK, t.res.FailedCond, muts = false, i, c.Else
			break
		}
	}
	counts, compact := maps.Clone(m.counts), banyan.Revision(0)
	for i := range muts {
		if !t.mutate(&muts[i], &compact) {
			m.counts = counts
			return mvcc.Result{FailedCond: -1, NotNumber: true, Revision: m.revision()}, nil, false
		}
	}
	m.horizon = max(m.horizon, min(compact, m.revision()))
	if !t.changed {
		return t.res, nil, false
	}
	t.res.Revision = t.rev
	for _, r := range t.now {
		if r.Mod == t.rev {
			t.evs = append(t.evs, mvcc.Event{Row: r})
		}
	}
	for k := range old {
		if _, ok := t.now[k]; !ok && !t.trimmed[k] {
			t.evs = append(t.evs, mvcc.Event{Deleted: true, Row: mvcc.Row{Key: []byte(k), Mod: t.rev}})
		}
	}
	sortEvents(t.evs)
	m.states, m.events = append(m.states, t.now), append(m.events, t.evs)
	return t.res, t.evs, true
}

func (t *trial) put(key, value []byte, lease uint64) {
	t.touched[string(key)] = true
	row, ok := t.now[string(key)]
	switch {
	case !ok:
		row = mvcc.Row{Key: key, Create: t.rev, Version: 1}
	case row.Mod != t.rev:
		row.Version++
	}
	row.Mod, row.Value, row.Lease = t.rev, value, lease
	t.now[string(key)] = row
	t.changed = true
}

func (t *trial) remove(which func(k string, r mvcc.Row) bool) {
	for k, r := range t.now {
		if which(k, r) {
			delete(t.now, k)
			t.touched[k] = true
			t.res.Deleted++
			t.changed = true
		}
	}
}

// trim removes a range of unversioned rows.
func (t *trial) trim(lo, hi []byte) {
	some := false
	for k := range t.now {
		if string(lo) <= k && k < string(hi) {
			delete(t.now, k)
			t.res.Deleted++
			t.changed = true
			if !t.touched[k] {
				t.trimmed[k], some = true, true
			}
		}
	}
	if some {
		t.evs = append(t.evs, mvcc.Event{Deleted: true, Row: mvcc.Row{Key: lo, Mod: t.rev}, End: hi})
	}
}

// number is false if there is none.
func (t *trial) number(u *mvcc.Mutation) bool {
	row, ok := t.now[string(u.Key)]
	t.touched[string(u.Key)] = true
	n := u.Number
	if ok {
		if len(row.Value) != 8 {
			return false
		}
		old := int64(binary.BigEndian.Uint64(row.Value))
		sum := new(big.Int).Add(big.NewInt(old), big.NewInt(n))
		if u.Op == mvcc.Add && !sum.IsInt64() {
			return false
		}
		if n = max(n, old); u.Op == mvcc.Add {
			n = sum.Int64()
		}
		if n == old {
			t.res.Numbers = append(t.res.Numbers, n)
			return true
		}
	}
	t.res.Numbers = append(t.res.Numbers, n)
	t.put(u.Key, binary.BigEndian.AppendUint64(nil, uint64(n)), row.Lease)
	return true
}

func (t *trial) mutate(u *mvcc.Mutation, compact *banyan.Revision) bool {
	switch u.Op {
	case mvcc.Put:
		t.put(u.Key, u.Value, u.Lease)
	case mvcc.Append:
		n := t.counts[string(u.Key)] + 1
		for _, taken := t.now[string(mvcc.SequenceKey(u.Key, n))]; taken; _, taken = t.now[string(mvcc.SequenceKey(u.Key, n))] {
			t.touched[string(mvcc.SequenceKey(u.Key, n))] = true
			n++
		}
		t.counts[string(u.Key)] = n
		t.res.Sequences = append(t.res.Sequences, n)
		t.put(fmt.Appendf(nil, "%s%016x", u.Key, n), u.Value, u.Lease)
	case mvcc.Delete:
		t.touched[string(u.Key)] = true
		t.remove(func(k string, _ mvcc.Row) bool { return k == string(u.Key) })
	case mvcc.DeleteRange:
		if mvcc.Unversioned(u.Key) {
			t.trim(u.Key, u.End)
			break
		}
		t.remove(func(k string, _ mvcc.Row) bool { return string(u.Key) <= k && k < string(u.End) })
	case mvcc.Revoke:
		t.remove(func(k string, r mvcc.Row) bool { return r.Lease == u.Lease && strings.HasPrefix(k, string(u.Key)) })
	case mvcc.Compact:
		*compact = max(*compact, u.Rev)
	case mvcc.Add, mvcc.Max:
		return t.number(u)
	}
	return true
}

func sortEvents(evs []mvcc.Event) {
	slices.SortFunc(evs, func(a, b mvcc.Event) int {
		return cmp.Or(-cmp.Compare(len(a.End), len(b.End)), bytes.Compare(a.Row.Key, b.Row.Key), bytes.Compare(a.End, b.End))
	})
}

// rowCounts says how many rows of each kind there must be: none missing, none
// left behind.
func (m *model) rowCounts() map[byte]int {
	n := map[byte]int{'q': len(m.counts)}
	for k, r := range m.states[m.revision()] {
		if mvcc.Unversioned([]byte(k)) {
			n['u']++
		} else {
			n['c']++
		}
		if r.Lease != 0 {
			n['a']++
		}
	}
	for rev := m.horizon + 1; rev <= m.revision(); rev++ {
		n['r']++
		for _, e := range m.events[rev] {
			if _, ok := m.states[rev-1][string(e.Row.Key)]; ok && !mvcc.Unversioned(e.Row.Key) {
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

// rowsBySpace says how many rows there are.
func (m *model) rowsBySpace() map[[2]uint64]mvcc.Count {
	out := map[[2]uint64]mvcc.Count{}
	for k, r := range m.states[m.revision()] {
		row, _ := banyan.ParseRowKey([]byte(k))
		at := [2]uint64{uint64(row.Slot), uint64(row.Space)}
		c := out[at]
		c.Slot, c.Space, c.Rows, c.Bytes = row.Slot, row.Space, c.Rows+1, c.Bytes+int64(len(k)+len(r.Value))
		out[at] = c
	}
	return out
}

// eachSlot is list of a range of each slot.
func (m *model) eachSlot(q mvcc.Query) (rows []mvcc.Row, more bool) {
	size := 0
	now := m.states[m.revision()]
	keys := slices.SortedFunc(maps.Keys(now), func(a, b string) int { return cmp.Or(cmp.Compare(a[2:], b[2:]), cmp.Compare(a, b)) })
	for _, k := range keys {
		if isOwn(k) || k[2:] < string(q.Lo) || k[2:] >= string(q.Hi) {
			continue
		}
		if len(rows) == q.Limit || size >= q.BytesMax {
			return rows, true
		}
		rows = append(rows, now[k])
		size += len(k) + len(now[k].Value)
	}
	return rows, false
}

func (m *model) list(q mvcc.Query) (rows []mvcc.Row, more bool) {
	at := q.At
	if at == 0 {
		at = m.revision()
	}
	size := 0
	state := maps.Clone(m.states[at])
	maps.DeleteFunc(state, func(k string, _ mvcc.Row) bool { return mvcc.Unversioned([]byte(k)) })
	for k, r := range m.states[m.revision()] {
		if mvcc.Unversioned([]byte(k)) { // as it is now
			state[k] = r
		}
	}
	for _, k := range slices.Sorted(maps.Keys(state)) {
		if k < string(q.Lo) || len(q.Hi) > 0 && k >= string(q.Hi) {
			continue
		}
		if len(rows) == q.Limit || size >= q.BytesMax {
			return rows, true
		}
		r := state[k]
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
	from    map[banyan.Revision]*mvcc.Command

	forked bool

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
	return g.keyIn(g.place())
}

// place is a slot, a class and a space, as they begin a key.
func (g *rig) place() []byte {
	slot := []int{3, 4, 4, 700, banyan.SlotOwn}[g.rnd.IntN(5)]
	layer := banyan.LayerKV | banyan.Layer(g.rnd.IntN(2))<<7
	return banyan.AppendRowKey(nil, slot, layer, banyan.Space(g.rnd.IntN(2)))
}

func (g *rig) keyIn(place []byte) []byte {
	b := bytes.Clone(place)
	for range 1 + g.rnd.IntN(2) {
		b = append(b, "ab\x00\x01\xff"[g.rnd.IntN(5)])
	}
	return b
}

// span is a range of keys of one class.
func (g *rig) span() (lo, hi []byte) {
	at := g.place()
	switch lo, hi = g.keyIn(at), g.keyIn(at); {
	case g.rnd.IntN(4) == 0:
		return at, mvcc.PrefixEnd(at)
	case bytes.Compare(lo, hi) > 0:
		return hi, lo
	case bytes.Equal(lo, hi):
		hi = append(hi, 'x')
	}
	return lo, hi
}

func (g *rig) value() []byte {
	if g.rnd.IntN(3) == 0 {
		return binary.BigEndian.AppendUint64(nil, uint64(g.number()))
	}
	return []byte(strings.Repeat("v", g.rnd.IntN(4)))
}

func (g *rig) number() int64 {
	return []int64{0, 1, -1, 7, math.MaxInt64, math.MinInt64}[g.rnd.IntN(6)]
}

func (g *rig) someRevision() banyan.Revision {
	return banyan.Revision(g.rnd.Uint64N(uint64(g.model.revision()) + 1))
}

func (g *rig) command() *mvcc.Command {
	r := g.rnd
	c := &mvcc.Command{Term: r.Uint64N(2) * (1 + r.Uint64N(3)), Time: banyan.Timestamp(r.IntN(1000))}
	if r.IntN(8) == 0 {
		c.Who, c.Trace = []byte("who"), []byte("trace")
	}
	switch r.IntN(4) {
	case 0:
		g.repeat(c)
	case 1, 2:
		c.Request[0] = byte(1 + r.IntN(12))
	}
	for range r.IntN(3) * r.IntN(2) {
		c.Conds = append(c.Conds, g.cond())
	}
	n := r.IntN(4)
	if r.IntN(20) == 0 {
		n = 30 // more keys than are searched in line
	}
	for range n {
		c.Muts = append(c.Muts, g.mutation())
	}
	if len(c.Conds) > 0 && r.IntN(2) == 0 {
		for range 1 + r.IntN(3) {
			c.Else = append(c.Else, g.mutation())
		}
	}
	return c
}

func (g *rig) cond() mvcc.Cond {
	r := g.rnd
	q := mvcc.Cond{Key: g.key(), Test: mvcc.Test(1 + r.IntN(2))}
	if r.IntN(3) == 0 {
		q.Key, q.End = g.span()
	}
	if r.IntN(3) == 0 {
		return q
	}
	q.Test = mvcc.Test(1+r.IntN(5))<<4 | mvcc.Test(r.IntN(4))
	switch q.Test & 0xf0 {
	case mvcc.ValueEquals:
		q.Value = g.value()
	case mvcc.ModEquals, mvcc.CreateEquals:
		q.Number = uint64(g.someRevision()) * r.Uint64N(2)
	default:
		q.Number = r.Uint64N(4)
	}
	return q
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
	if c.Earliest == 0 || res.Duplicate || res.Forgotten || res.Stale || res.Moved {
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
	switch n := r.IntN(24); {
	case n >= 20:
		u.Op, u.Number = mvcc.Add+mvcc.Op(n&1), g.number()
	case n < 10:
		u.Value, u.Lease = g.value(), r.Uint64N(4)
	case n < 14:
		u.Op = mvcc.Delete
	case n < 15:
		u.Op = mvcc.DeleteRange
		u.Key, u.End = g.span()
	case n < 18:
		u.Op, u.Value, u.Lease = mvcc.Append, g.value(), r.Uint64N(3)
	case n < 19:
		u = mvcc.Mutation{Op: mvcc.Revoke, Key: g.place()[:2], Lease: 1 + r.Uint64N(3)}
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
			g.from[res.Revision] = c
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
		fmt.Fprintf(&b, "%v %q %q %q %d %d %d %d\n", e.Deleted, e.End, e.Row.Key, e.Row.Value, e.Row.Create, e.Row.Mod, e.Row.Version, e.Row.Lease)
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
		if mvcc.Unversioned(key) {
			wantAt = g.model.revision()
		}
		want, ok := g.model.states[wantAt][string(key)]
		g.equal("there", row != nil, ok)
		if ok {
			g.equal(fmt.Sprintf("get %q at %d", key, at), formatRow(*row), formatRow(want))
		}
	}
	g.history(at, q.Lo, q.Hi, q.Limit)
	place := g.place()[2:]
	q = mvcc.Query{Lo: place, Hi: mvcc.PrefixEnd(place), Limit: 1 + r.IntN(9), BytesMax: 1 + r.IntN(100), EachSlot: true}
	rows, more, err := mvcc.Range(g.rows[0], q)
	if err != nil {
		g.t.Fatal(err)
	}
	wantRows, wantMore := g.model.eachSlot(q)
	g.equal(fmt.Sprintf("range %+v", q), normalRows(rows), normalRows(wantRows))
	g.equal(fmt.Sprintf("range %+v: more", q), more, wantMore)
	g.origin(at)
}

// origin asks where a revision comes from.
func (g *rig) origin(rev banyan.Revision) {
	c := g.from[rev]
	got, err := mvcc.OriginOf(g.rows[0], rev)
	if c == nil || err != nil && rev <= g.model.horizon {
		return
	}
	if err != nil || got.Request != c.Request || string(got.Who) != string(c.Who) || string(got.Trace) != string(c.Trace) || got.Time < c.Time {
		g.t.Fatalf("the origin of revision %d is %+v, %v; it was %+v", rev, got, err, c)
	}
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
			e, ok := e.Within(lo, hi)
			if ok && !e.Deleted && mvcc.Unversioned(e.Row.Key) {
				e.Row, ok = g.model.states[g.model.revision()][string(e.Row.Key)]
				ok = ok && e.Row.Mod == rev
			}
			if ok && g.model.holds(string(e.Row.Key)) {
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
			row, err := mvcc.Get(g.rows[0], append(bytes.Clone(k[1:3]), k[11:]...), 0)
			if err != nil || row == nil || row.Lease != uint64(k[10]) {
				g.t.Fatalf("%s, but the key is %v, %v", mvcc.DescribeRow(k, v), row, err)
			}
		}
		return true
	})
	if err != nil {
		g.t.Fatal(err)
	}
	delete(counts, 'm')
	g.equal("rows of each kind", counts, g.model.rowCounts())
	g.tally()
}

// tally compares what the machine knows of its rows' number.
func (g *rig) tally() {
	var want []mvcc.Count
	for _, c := range g.model.rowsBySpace() {
		want = append(want, c)
	}
	slices.SortFunc(want, func(a, b mvcc.Count) int { return cmp.Or(cmp.Compare(a.Slot, b.Slot), cmp.Compare(a.Space, b.Space)) })
	for i := range 2 {
		got, err := g.machine[i].Counts(g.rows[i])
		again, err2 := mvcc.CountsOf(g.rows[i])
		if err := cmp.Or(err, err2); err != nil {
			g.t.Fatal(err)
		}
		g.equal("counts", fmt.Sprint(got), fmt.Sprint(want))
		g.equal("counts from the rows", fmt.Sprint(again), fmt.Sprint(want))
	}
	history := 0
	g.rows[0].Scan(nil, nil, func(k, v []byte) bool {
		if k[0] == 'h' || k[0] == 'r' && len(k) == 9 && banyan.Revision(binary.BigEndian.Uint64(k[1:])) > g.model.horizon {
			history += len(k) + len(v)
		}
		return true
	})
	if !g.forked {
		g.equal("bytes of history", g.machine[0].HistoryBytes(), uint64(history))
	}
}

func newRig(t *testing.T, seed, stream uint64) *rig {
	g := &rig{
		t: t, rnd: rand.New(rand.NewPCG(seed, stream)), model: newModel(rigWindow),
		live: map[banyan.Revision][]mvcc.Event{}, from: map[banyan.Revision]*mvcc.Command{}, carried: map[int]bool{},
	}
	for i := range 2 {
		g.rows[i] = memrows.New()
		g.open(i)
	}
	return g
}

func (g *rig) run(steps int) {
	for range steps {
		g.step()
		if g.rnd.IntN(3) == 0 && g.model.revision() > 0 {
			g.flush()
			g.read()
			g.audit()
		}
	}
}

func (g *rig) flush() {
	g.machine[0].Flush(g.rows[0])
	g.machine[1].Flush(g.rows[1])
}

func TestAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { newRig(t, seed, 1).run(600) })
	}
}

// fork splits the rig's shard at a slot, as a store does it, and gives the child.
func (g *rig) fork(slot int) *rig {
	at := banyan.SlotKey(slot)
	c := &rig{
		t: g.t, rnd: g.rnd, live: maps.Clone(g.live), from: maps.Clone(g.from), forked: true,
		sent: slices.Clone(g.sent), carried: maps.Clone(g.carried),
	}
	_, hi := g.machine[0].Bounds()
	for i := range 2 {
		c.rows[i] = memrows.New()
		if err := g.machine[i].Fork(g.rows[i], c.rows[i], at, hi); err != nil {
			g.t.Fatal(err)
		}
		lo, _ := g.machine[i].Bounds()
		if err := g.machine[i].Cut(g.rows[i], lo, at); err != nil {
			g.t.Fatal(err)
		}
		divide(g.rows[i], c.rows[i], at)
		c.open(i)
	}
	g.forked = true
	c.model = g.model.fork(at)
	return c
}

// divide is what a store does: rows of keys are those of the one who holds
// them, records are of both.
func divide(parent, child *memrows.Rows, at []byte) {
	apart := banyan.SlotKey(banyan.SlotOwn)
	for _, class := range mvcc.Classes() {
		from, to := mvcc.Bounds(class, at, apart)
		parent.Scan(from, to, func(k, v []byte) bool { child.Set(k, v); return true })
		parent.DeleteRange(from, to)
	}
	parent.Scan(nil, nil, func(k, v []byte) bool {
		if !mvcc.OfKey(k) && k[0] != 'm' {
			child.Set(k, v)
		}
		return true
	})
}

func (m *model) fork(at []byte) *model {
	c := *m
	c.lo, m.hi = at, at
	c.states, c.events, c.counts, c.seen = slices.Clone(m.states), slices.Clone(m.events), maps.Clone(m.counts), slices.Clone(m.seen)
	m.states, m.events = slices.Clone(m.states), slices.Clone(m.events)
	for of, part := range map[*model]func(string) bool{m: m.holds, &c: func(k string) bool { return c.holds(k) && !isOwn(k) }} {
		lacks := func(k string) bool { return !part(k) }
		for i := range of.states {
			of.states[i] = maps.Clone(of.states[i])
			maps.DeleteFunc(of.states[i], func(k string, _ mvcc.Row) bool { return lacks(k) })
			of.events[i] = slices.DeleteFunc(slices.Clone(of.events[i]), func(e mvcc.Event) bool { return lacks(string(e.Row.Key)) })
		}
		maps.DeleteFunc(of.counts, func(k string, _ uint64) bool { return lacks(k) })
	}
	return &c
}

// A shard that is cut, and its child, go on as if each had always had its part:
// nothing is lost, done twice or goes back.
func TestForkAgainstModel(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			g := newRig(t, seed, 2)
			g.run(150)
			g.flush()
			child := g.fork(4)
			for rev, evs := range child.live { // what the child tells of its parent's time
				child.live[rev] = slices.DeleteFunc(slices.Clone(evs), func(e mvcc.Event) bool { return isOwn(string(e.Row.Key)) })
			}
			g.run(150)
			child.run(150)
			grandchild := child.fork(5)
			for rev, evs := range grandchild.live {
				grandchild.live[rev] = slices.DeleteFunc(slices.Clone(evs), func(e mvcc.Event) bool { return isOwn(string(e.Row.Key)) })
			}
			child.run(100)
			grandchild.run(100)
		})
	}
}

func TestBounds(t *testing.T) {
	b := newBed(t)
	for _, bad := range [][2][]byte{{{1}, {2, 0}}, {{2, 0}, {2, 0}}, {{3, 0}, {2, 0}}, {{1, 2, 3}, nil}} {
		if err := b.m.Cut(b.rows, bad[0], bad[1]); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("bounds %x: %v", bad, err)
		}
	}
	if err := b.m.Cut(b.rows, []byte{1, 0}, []byte{2, 0}); err != nil {
		t.Fatal(err)
	}
	if err := b.m.Cut(b.rows, []byte{0, 0}, []byte{2, 0}); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("wider bounds: %v", err)
	}
	b.m.Flush(b.rows)
	if lo, hi, err := mvcc.BoundsOf(b.rows); err != nil || string(lo) != "\x01\x00" || string(hi) != "\x02\x00" {
		t.Fatal(lo, hi, err)
	}
	for key, held := range map[string]bool{"\x00\xff\x01a": false, "\x01\x00": true, "\x01\xff\x81a": true, "\x02\x00": false, "\xff\xff\x81": true} {
		res, _ := b.apply(mvcc.Mutation{Op: mvcc.Put, Key: []byte(key)})
		if res.OK != held || res.Moved == held {
			t.Errorf("put %x: %+v", key, res)
		}
	}
	res, _ := b.apply(mvcc.Mutation{Op: mvcc.Put, Key: []byte("\x01\x00")}, mvcc.Mutation{Op: mvcc.DeleteRange, Key: []byte("\x00\xff\x80"), End: []byte("\x01\x00")})
	if !res.Moved {
		t.Errorf("a range before the bounds: %+v", res)
	}
}
