package mvcc_test

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

func sampleCommand() *mvcc.Command {
	return &mvcc.Command{
		Term: 7, Time: banyan.TimestampOf(1_700_000_000_000), Who: []byte("me"), Trace: []byte{1, 2}, Request: banyan.RequestID{1, 2, 3},
		Conds: []mvcc.Cond{
			{Key: []byte("a"), Test: mvcc.Exists},
			{Key: []byte("b"), Test: mvcc.Missing},
			{Key: []byte("c"), Test: mvcc.ValueEquals, Value: []byte("v")},
			{Key: []byte("d"), Test: mvcc.ModEquals, Number: 300},
			{Key: []byte("d"), End: []byte("d\x00\x80"), Test: mvcc.LeaseGreater, Number: 300},
			{Key: []byte("d\x00\x80"), End: []byte("d\x01"), Test: mvcc.ValueLess, Value: []byte("w")},
		},
		Muts: []mvcc.Mutation{
			{Op: mvcc.Put, Key: []byte("a"), Value: []byte("1"), Lease: 9},
			{Op: mvcc.Delete, Key: []byte("b")},
			{Op: mvcc.DeleteRange, Key: []byte("c"), End: []byte("c\x00\x01")},
			{Op: mvcc.Append, Key: []byte("e"), Value: []byte("2"), Lease: 9},
			{Op: mvcc.Revoke, Key: []byte{1, 2}, Lease: math.MaxUint64},
			{Op: mvcc.Compact, Rev: math.MaxUint64},
		},
		Else: []mvcc.Mutation{
			{Op: mvcc.Add, Key: []byte("n"), Number: math.MinInt64},
			{Op: mvcc.Max, Key: []byte("n"), Number: math.MaxInt64},
		},
	}
}

func TestCodec(t *testing.T) {
	earliest := sampleCommand()
	earliest.Earliest = 1 << 40
	for _, c := range []*mvcc.Command{sampleCommand(), {}, {Time: math.MaxUint64}, earliest, {Earliest: 1}} {
		prefix := []byte("mine")
		b := c.Encode(prefix)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatalf("Encode did not append to its buffer: %q", b)
		}
		got, err := mvcc.Decode(b[len(prefix):])
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, c) {
			t.Errorf("got %+v, want %+v", got, c)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	good := sampleCommand().Encode(nil)
	for n := range good {
		if _, err := mvcc.Decode(good[:n]); !banyan.IsKind(err, banyan.Corrupt) {
			t.Errorf("first %d bytes of %d: %v", n, len(good), err)
		}
	}
	newer := bytes.Clone(good)
	newer[0] = 4
	if _, err := mvcc.Decode(newer); !banyan.IsKind(err, banyan.TooNew) {
		t.Errorf("a newer version: %v", err)
	}
	if _, err := mvcc.Decode(append(good, 0)); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("a byte too many: %v", err)
	}
	unknown := (&mvcc.Command{Muts: []mvcc.Mutation{{Op: 99}}}).Encode(nil)
	if _, err := mvcc.Decode(unknown); !banyan.IsKind(err, banyan.Corrupt) {
		t.Errorf("an unknown mutation: %v", err)
	}
}

func TestValidate(t *testing.T) {
	key, longKey := []byte("k"), bytes.Repeat([]byte("k"), banyan.RowKeyBytesMax)
	put := func(k []byte, valueBytes int) mvcc.Mutation {
		return mvcc.Mutation{Op: mvcc.Put, Key: k, Value: make([]byte, valueBytes)}
	}
	puts := func(n, valueBytes int) []mvcc.Mutation {
		var muts []mvcc.Mutation
		for range n {
			muts = append(muts, put(key, valueBytes))
		}
		return muts
	}
	cond := mvcc.Cond{Key: key, Test: mvcc.ValueEquals, Value: make([]byte, banyan.ValueBytesMax)}
	for _, c := range []struct {
		name  string
		conds []mvcc.Cond
		muts  []mvcc.Mutation
		want  string // part of the message; empty: fine
	}{
		{"sample", sampleCommand().Conds, sampleCommand().Muts, ""},
		{"longest key", nil, []mvcc.Mutation{put(longKey, 1)}, ""},
		{"no key", nil, []mvcc.Mutation{put(nil, 1)}, "key is empty"},
		{"key too long", nil, []mvcc.Mutation{put(append(longKey, 'k'), 1)}, "4161 bytes"},
		{"appended key too long", nil, []mvcc.Mutation{{Op: mvcc.Append, Key: longKey}}, "4176 bytes"},
		{"largest value", nil, puts(1, banyan.ValueBytesMax), ""},
		{"value too large", nil, puts(1, banyan.ValueBytesMax+1), "1048577 bytes"},
		{"command too large", nil, puts(4, banyan.ValueBytesMax), "split it"},
		{"most mutations", nil, puts(banyan.CommandMutationsMax, 1), ""},
		{"too many mutations", nil, puts(banyan.CommandMutationsMax+1, 1), "4097 mutations"},
		{"conditions too large", []mvcc.Cond{cond, cond, cond, cond}, nil, "split it"},
		{"too many conditions", make([]mvcc.Cond, banyan.CommandConditionsMax+1), nil, "1025 conditions"},
		{"unknown test", []mvcc.Cond{{Key: key}}, nil, "unknown test 0"},
		{"unknown mutation", nil, []mvcc.Mutation{{Key: key}}, "mutation 0 is unknown"},
		{"condition on nothing", []mvcc.Cond{{Test: mvcc.Exists}}, nil, "key is empty"},
		{"empty range", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: key, End: key}}, "is empty"},
		{"range of several slots", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: []byte("aa\x01"), End: []byte("ab\x01")}}, "mixes versioned and unversioned"},
		{"range of both classes", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: []byte("aa\x01"), End: []byte("aa\x81")}}, "mixes versioned and unversioned"},
		{"range of all that is unversioned in a slot", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: []byte("aa\x80"), End: []byte("ab")}}, ""},
		{"condition over both classes", []mvcc.Cond{{Key: []byte("aa\x01"), End: []byte("aa\x81"), Test: mvcc.Missing}}, nil, "mixes versioned and unversioned"},
		{"condition over an empty range", []mvcc.Cond{{Key: []byte("aa\x02"), End: []byte("aa\x01"), Test: mvcc.Missing}}, nil, "is empty"},
		{"revoke in no slot", nil, []mvcc.Mutation{{Op: mvcc.Revoke, Lease: 1}}, "slot of two bytes"},
		{"range without end", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: key}}, "is empty"},
		{"range without start", nil, []mvcc.Mutation{{Op: mvcc.DeleteRange, End: key}}, "key is empty"},
		{"lease 0", nil, []mvcc.Mutation{{Op: mvcc.Revoke}}, "lease 0"},
	} {
		err := (&mvcc.Command{Conds: c.conds, Muts: c.muts}).Validate()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
}

// TestValidBound holds Validate to its promise that what passes it can be
// decoded and encodes to little more than CommandBytesMax.
func TestValidBound(t *testing.T) {
	c := &mvcc.Command{Term: math.MaxUint64, Time: math.MaxUint64, Request: banyan.RequestID{1}}
	for range banyan.CommandConditionsMax {
		c.Conds = append(c.Conds, mvcc.Cond{Key: []byte("k"), Test: mvcc.ModEquals, Number: math.MaxUint64})
	}
	for range banyan.CommandMutationsMax {
		c.Muts = append(c.Muts, mvcc.Mutation{Op: mvcc.Put, Key: []byte("k"), Value: make([]byte, 900), Lease: math.MaxUint64})
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	b := c.Encode(nil)
	if len(b) > banyan.CommandBytesMax+100 {
		t.Errorf("%d bytes", len(b))
	}
	if _, err := mvcc.Decode(b); err != nil {
		t.Error(err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(sampleCommand().Encode(nil))
	f.Add((&mvcc.Command{}).Encode(nil))
	f.Add((&mvcc.Command{Earliest: 1, Request: banyan.RequestID{1}, Muts: sampleCommand().Muts}).Encode(nil))
	f.Add([]byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0x03})
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := mvcc.Decode(b)
		if err != nil {
			return
		}
		again, err := mvcc.Decode(c.Encode(nil))
		if err != nil || !reflect.DeepEqual(c, again) {
			t.Fatalf("%+v became %+v, %v", c, again, err)
		}
		// Whatever can be decoded can be applied, on top of itself too, and a
		// machine opened on the rows agrees.
		rows := memrows.New()
		m, _ := mvcc.Open(rows)
		for range 2 {
			c.Term = 0
			if _, _, err := m.Apply(rows, 1, c); err != nil {
				t.Fatal(err)
			}
			m.Flush(rows)
			c.Request[5]++
		}
		reopened, err := mvcc.Open(rows)
		if err != nil || reopened.Revision() != m.Revision() {
			t.Fatalf("revision %d before, %v after", m.Revision(), err)
		}
		if _, _, err := mvcc.EventsSince(rows, m.Horizon(), nil, nil, 0); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzDecodeResult(f *testing.F) {
	for _, r := range []mvcc.Result{
		{}, {OK: true, Revision: 5, Deleted: 3, Sequences: []uint64{1, 1 << 40}, More: true},
		{FailedCond: -1, More: true}, {Moved: true}, {OK: true, Time: 1 << 60, Numbers: []int64{-1, math.MaxInt64}}, {FailedCond: -1, NotNumber: true}, {Stale: true, Duplicate: true, FailedCond: 7},
	} {
		f.Add(r.Encode(nil))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := mvcc.DecodeResult(b)
		if err != nil {
			return
		}
		again, err := mvcc.DecodeResult(r.Encode(nil))
		if err != nil || !reflect.DeepEqual(r, again) {
			t.Fatalf("%+v became %+v, %v", r, again, err)
		}
	})
}
