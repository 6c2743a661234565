package mvcc_test

import (
	"fmt"
	"slices"
	"testing"

	"banyan/core/mvcc"
)

// TestAppendLeavesOutWhatIsThere: a key that a put made under a number that an
// append would take keeps its value.
func TestAppendLeavesOutWhatIsThere(t *testing.T) {
	b := newBed(t)
	prefix := []byte("q/")
	for _, n := range []uint64{1, 2, 4} {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: mvcc.SequenceKey(prefix, n), Value: fmt.Appendf(nil, "own %d", n)})
	}
	one := mvcc.Mutation{Op: mvcc.Append, Key: prefix, Value: []byte("appended")}
	res, _ := b.apply(one, one)
	if !slices.Equal(res.Sequences, []uint64{3, 5}) {
		t.Errorf("numbers %v", res.Sequences)
	}
	row, err := mvcc.Get(b.rows, mvcc.SequenceKey(prefix, 4), 0)
	if err != nil || string(row.Value) != "own 4" {
		t.Errorf("%+v, %v", row, err)
	}
}

// TestAppendPastManyThatAreThere looks at few keys, however many were put.
func TestAppendPastManyThatAreThere(t *testing.T) {
	b := newBed(t)
	prefix := []byte("q/")
	const there = 3000
	for n := uint64(1); n <= there; n++ {
		b.apply(mvcc.Mutation{Op: mvcc.Put, Key: mvcc.SequenceKey(prefix, n)})
	}
	res, _ := b.apply(mvcc.Mutation{Op: mvcc.Append, Key: prefix})
	if len(res.Sequences) != 1 || res.Sequences[0] <= there || res.Sequences[0] > 4*there {
		t.Errorf("numbers %v", res.Sequences)
	}
}
