package mvcc_test

import (
	"errors"
	"fmt"
	"math"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// bed is a machine and its rows.
type bed struct {
	t    testing.TB
	rows *memrows.Rows
	m    *mvcc.Machine
}

// keyed gives a key in slot 0.
func keyed(format string, args ...any) []byte {
	return mvcc.ScriptKey(fmt.Appendf(nil, format, args...))
}

func newBed(t testing.TB) *bed {
	rows := memrows.New()
	m, err := mvcc.Open(rows)
	if err != nil {
		t.Fatal(err)
	}
	return &bed{t, rows, m}
}

func (b *bed) apply(muts ...mvcc.Mutation) (mvcc.Result, []mvcc.Event) {
	b.t.Helper()
	res, evs, err := b.m.Apply(b.rows, 1, &mvcc.Command{Muts: muts})
	if err != nil {
		b.t.Fatal(err)
	}
	b.m.Flush(b.rows)
	return res, evs
}

// fill puts n keys k00000000 and so on, in as few commands as the limits allow.
func (b *bed) fill(n, valueBytes int, lease uint64) {
	value := make([]byte, valueBytes)
	for i := 0; i < n; {
		var muts []mvcc.Mutation
		for ; i < n && len(muts) < banyan.CommandMutationsMax && (len(muts)+1)*valueBytes < banyan.CommandBytesMax; i++ {
			muts = append(muts, mvcc.Mutation{Op: mvcc.Put, Key: keyed("k%08d", i), Value: value, Lease: lease})
		}
		if res, _ := b.apply(muts...); !res.OK {
			b.t.Fatalf("%+v", res)
		}
	}
}

func (b *bed) live() int {
	rows, _, err := mvcc.Range(b.rows, mvcc.Query{KeysOnly: true, Limit: math.MaxInt, BytesMax: math.MaxInt})
	if err != nil {
		b.t.Fatal(err)
	}
	return len(rows)
}

var everything = mvcc.Mutation{Op: mvcc.DeleteRange, Key: keyed("k"), End: keyed("l")}

func TestDeleteRowsLimit(t *testing.T) {
	for name, removal := range map[string]mvcc.Mutation{
		"range": everything,
		"lease": {Op: mvcc.Revoke, Key: banyan.SlotKey(0), Lease: 5},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.fill(banyan.DeleteRowsMax+1, 1, 5)
			before := b.rows.Clone()
			full := b.m.Revision()

			res, evs := b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("x")}, removal)
			if res.OK || !res.More || res.FailedCond != -1 || len(evs) > 0 || !b.rows.Equal(before) {
				t.Fatalf("with another mutation: %+v", res)
			}
			res, evs = b.apply(removal)
			if !res.OK || !res.More || res.Deleted != banyan.DeleteRowsMax || len(evs) != banyan.DeleteRowsMax {
				t.Fatalf("alone: %+v, %d events", res, len(evs))
			}
			res, _ = b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("x")}, removal)
			if !res.OK || res.More || res.Deleted != 1 || b.live() != 1 {
				t.Fatalf("the rest: %+v, %d keys", res, b.live())
			}
			rows, _, err := mvcc.Range(b.rows, mvcc.Query{At: full, Limit: math.MaxInt})
			if err != nil || len(rows) != banyan.DeleteRowsMax+1 {
				t.Fatalf("%d rows at revision %d: %v", len(rows), full, err)
			}
		})
	}
}

// TestOverlappingRanges holds the work of one command to the limit, however
// often it names the same rows.
func TestOverlappingRanges(t *testing.T) {
	b := newBed(t)
	b.fill(banyan.DeleteRowsMax/2+1, 1, 5)
	for _, muts := range [][]mvcc.Mutation{
		{everything, everything},
		{{Op: mvcc.Revoke, Key: banyan.SlotKey(0), Lease: 5}, everything},
		{everything, {Op: mvcc.Revoke, Key: banyan.SlotKey(0), Lease: 5}},
	} {
		if res, _ := b.apply(muts...); res.OK || !res.More {
			t.Errorf("%v: %+v", muts, res)
		}
	}
}

func TestDeleteExactlyLimit(t *testing.T) {
	b := newBed(t)
	b.fill(banyan.DeleteRowsMax, 1, 0)
	if res, _ := b.apply(everything); !res.OK || res.More || res.Deleted != banyan.DeleteRowsMax {
		t.Fatalf("%+v", res)
	}
}

func TestDisplacedBytesLimit(t *testing.T) {
	const valueBytes = banyan.ValueBytesMax
	n := banyan.DisplacedBytesMax/valueBytes + 2
	b := newBed(t)
	b.fill(n, valueBytes, 0)
	before := b.rows.Clone()
	var muts []mvcc.Mutation
	for i := range n {
		muts = append(muts, mvcc.Mutation{Op: mvcc.Put, Key: keyed("k%08d", i)})
	}
	if res, _ := b.apply(muts...); res.OK || !res.More || !b.rows.Equal(before) {
		t.Fatalf("puts: %+v", res)
	}
	if res, _ := b.apply(everything); !res.OK || !res.More || res.Deleted != uint64(n-2) {
		t.Fatalf("range: %+v", res)
	}
	if res, _ := b.apply(everything); !res.OK || res.More || res.Deleted != 2 {
		t.Fatalf("the rest: %+v", res)
	}
}

func TestCompactLimit(t *testing.T) {
	b := newBed(t)
	const n = banyan.CompactRowsMax
	for range n {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("k")})
	}
	compact := mvcc.Mutation{Op: mvcc.Compact, Rev: math.MaxUint64}
	steps := 0
	for more := true; more; steps++ {
		before := b.rows.Len()
		var res mvcc.Result
		res, _ = b.apply(compact)
		more = res.More
		if gone := before - b.rows.Len(); !res.OK || gone > n+1 || more != (b.m.Horizon() < n) {
			t.Fatalf("%d rows gone, horizon %d: %+v", gone, b.m.Horizon(), res)
		}
	}
	if steps != 2 || b.m.Revision() != n || b.rows.Len() != 3 { // the key, its count, and the meta row
		t.Fatalf("%d steps, revision %d, %d rows", steps, b.m.Revision(), b.rows.Len())
	}
}

// TestHistoryBytes: few revisions of large values are too much history too, and
// compacting to what Target says, as often as it says, brings it under the bound.
func TestHistoryBytes(t *testing.T) {
	const revisionsMax, bytesMax = 1000, 64 << 10
	b := newBed(t)
	for i := range 300 {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("k"), Value: make([]byte, 10*i)})
	}
	steps := 0
	for {
		h, err := mvcc.HistoryOf(b.rows)
		if err != nil || h.Bytes != b.m.HistoryBytes() {
			t.Fatal(h, err)
		}
		to := h.Target(revisionsMax, bytesMax)
		if to == 0 {
			if h.Bytes > bytesMax+bytesMax/10 || h.Bytes < bytesMax/2 || h.Horizon == 0 {
				t.Errorf("it ends with %+v", h)
			}
			break
		}
		if steps++; to <= h.Horizon || to > h.Revision || steps > 20 {
			t.Fatalf("step %d: to %d of %+v", steps, to, h)
		}
		b.apply(mvcc.Mutation{Op: mvcc.Compact, Rev: to})
	}
	if steps == 0 {
		t.Error("it was not too long")
	}
	for h, want := range map[mvcc.History]banyan.Revision{
		{Revision: 1100}:                                       0,
		{Revision: 1101}:                                       101,
		{Horizon: 5, Revision: 1100}:                           0,
		{Horizon: 5, Revision: 10, Bytes: 1 << 40}:             10,
		{Horizon: 10, Revision: 10, Bytes: 1 << 40}:            10,
		{Horizon: 0, Revision: 100, Bytes: 2 * bytesMax}:       51,
		{Horizon: 0, Revision: 100, Bytes: bytesMax + 1}:       0,
		{Horizon: 100, Revision: 5000, Bytes: bytesMax + 1000}: 4000,
	} {
		if got := h.Target(revisionsMax, bytesMax); got != want {
			t.Errorf("%+v: to %d, want %d", h, got, want)
		}
	}
}

// TestEventsBytes follows changes of large values in several steps.
func TestEventsBytes(t *testing.T) {
	b := newBed(t)
	b.fill(9, banyan.ValueBytesMax, 0)
	var at banyan.Revision
	events, steps := 0, 0
	for at < b.m.Revision() {
		evs, upTo, err := mvcc.EventsSince(b.rows, at, nil, nil, 0)
		if err != nil || upTo <= at {
			t.Fatal(upTo, err)
		}
		if len(evs) > 0 && evs[len(evs)-1].Row.Mod > upTo {
			t.Fatalf("an event at %d, up to %d", evs[len(evs)-1].Row.Mod, upTo)
		}
		events += len(evs)
		at = upTo
		steps++
	}
	if events != 9 || steps != 2 {
		t.Fatalf("%d events in %d steps", events, steps)
	}
}

// TestEventsScan follows a narrow range through much other history.
func TestEventsScan(t *testing.T) {
	b := newBed(t)
	for range banyan.HistoryScanMax + 1 {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("other")})
	}
	b.apply(mvcc.Mutation{Op: mvcc.Put, Key: keyed("k")})
	evs, upTo, err := mvcc.EventsSince(b.rows, 0, keyed("k"), keyed("l"), 0)
	if err != nil || len(evs) != 0 || upTo != banyan.HistoryScanMax {
		t.Fatal(evs, upTo, err)
	}
	evs, upTo, err = mvcc.EventsSince(b.rows, upTo, keyed("k"), keyed("l"), 0)
	if err != nil || len(evs) != 1 || upTo != b.m.Revision() {
		t.Fatal(evs, upTo, err)
	}
}

// TestWindowLimit fills the dedup window over its size and restarts.
func TestWindowLimit(t *testing.T) {
	b := newBed(t)
	request := func(i int) *mvcc.Command {
		return &mvcc.Command{
			Request: banyan.RequestID{byte(i), byte(i >> 8), byte(i >> 16), 1},
			Muts:    []mvcc.Mutation{{Op: mvcc.Append, Key: keyed("q")}},
		}
	}
	const n = banyan.DedupWindowMax + 10
	for i := range n {
		if _, _, err := b.m.Apply(b.rows, 1, request(i)); err != nil {
			t.Fatal(err)
		}
	}
	b.m.Flush(b.rows)
	reopened, err := mvcc.Open(b.rows)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range []*mvcc.Machine{b.m, reopened} {
		for _, i := range []int{n - 1, 10, 9} { // the last one is forgotten
			res, _, err := m.Apply(b.rows.Clone(), 1, request(i))
			if err != nil || res.Duplicate != (i > 9) || i > 9 && res.Sequences[0] != uint64(i+1) {
				t.Errorf("request %d: %+v, %v", i, res, err)
			}
		}
	}
}

// flaky fails its n-th read and counts writes.
type flaky struct {
	*memrows.Rows
	left   int
	writes int
}

var errFlaky = errors.New("the disk is gone")

func (f *flaky) fail() error {
	if f.left--; f.left == 0 {
		return errFlaky
	}
	return nil
}

func (f *flaky) Get(k []byte) ([]byte, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.Rows.Get(k)
}

func (f *flaky) Scan(lo, hi []byte, fn func(k, v []byte) bool) error {
	err := f.Rows.Scan(lo, hi, fn)
	return errors.Join(err, f.fail())
}

func (f *flaky) Set(k, v []byte)           { f.writes++; f.Rows.Set(k, v) }
func (f *flaky) Delete(k []byte)           { f.writes++; f.Rows.Delete(k) }
func (f *flaky) DeleteRange(lo, hi []byte) { f.writes++; f.Rows.DeleteRange(lo, hi) }

// TestReadFails fails each read of a command in turn: nothing may be written,
// and the error must come out.
func TestReadFails(t *testing.T) {
	cmd := sampleCommand()
	cmd.Conds = []mvcc.Cond{{Key: keyed("k00000001"), Test: mvcc.Exists}} // a key it lacks need not be read
	failures := 0
	for n := 1; ; n++ {
		b := newBed(t)
		b.fill(8, 1, math.MaxUint64)
		if _, _, err := b.m.Apply(b.rows, 1, &mvcc.Command{Request: banyan.RequestID{9}}); err != nil {
			t.Fatal(err)
		}
		b.m.Flush(b.rows)
		m, err := mvcc.Open(b.rows)
		if err != nil {
			t.Fatal(err)
		}
		f := &flaky{Rows: b.rows, left: n}
		res, _, err := m.Apply(f, cmd.Term, cmd)
		if err == nil {
			if !res.OK || f.writes == 0 {
				t.Fatalf("%+v, %d writes", res, f.writes)
			}
			break
		}
		failures++
		if !errors.Is(err, errFlaky) || f.writes > 0 {
			t.Fatalf("read %d: %v, %d writes", n, err, f.writes)
		}
	}
	if failures < 10 {
		t.Errorf("only %d reads could fail", failures)
	}
}

// TestCorruptRows damages each row in turn: opening, applying and reading may
// give an error of kind Corrupt or TooNew, but may not panic.
func TestCorruptRows(t *testing.T) {
	b := newBed(t)
	b.fill(3, 1, 7)
	cmd := sampleCommand()
	cmd.Conds = nil
	if _, _, err := b.m.Apply(b.rows, cmd.Term, cmd); err != nil {
		t.Fatal(err)
	}
	b.m.Flush(b.rows)
	var keys [][]byte
	b.rows.Scan(nil, nil, func(k, _ []byte) bool { keys = append(keys, k); return true })
	noticed := 0
	for _, k := range keys {
		for _, damage := range [][]byte{{}, {0}, {4}, {3, 0xff}} {
			rows := b.rows.Clone()
			rows.Set(k, damage)
			if err := exercise(rows, cmd); err != nil {
				noticed++
				if kind := banyan.KindOf(err); kind != banyan.Corrupt && kind != banyan.TooNew {
					t.Errorf("row %q as %v: %v", k, damage, err)
				}
			}
		}
	}
	if noticed < 4*4 {
		t.Errorf("only %d damages noticed", noticed)
	}
}

func exercise(rows *memrows.Rows, cmd *mvcc.Command) error {
	m, err := mvcc.Open(rows)
	if err != nil {
		return err
	}
	if _, _, err := mvcc.Range(rows, mvcc.Query{At: m.Revision()}); err != nil {
		return err
	}
	if _, _, err := mvcc.EventsSince(rows, m.Horizon(), nil, nil, 0); err != nil {
		return err
	}
	for range 2 {
		if _, _, err := m.Apply(rows, cmd.Term, cmd); err != nil {
			return err
		}
	}
	return nil
}
