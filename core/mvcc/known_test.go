package mvcc_test

import (
	"fmt"
	"testing"

	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

func numbered(i int) []byte { return fmt.Appendf(nil, "key-%08d", i) }

func TestKnownNeverLacksWhatItHas(t *testing.T) {
	const keys = 300_000
	var k mvcc.Known
	for i := range keys {
		k.Add(numbered(i))
	}
	for i := range keys {
		if k.Lacks(numbered(i)) {
			t.Fatalf("%s was added and is said to lack", numbered(i))
		}
	}
	wrong := 0
	for i := range keys {
		if !k.Lacks(numbered(keys + i)) {
			wrong++
		}
	}
	if wrong > keys/100 {
		t.Errorf("%d of %d absent keys look present", wrong, keys)
	}
}

func TestKnownGivesUp(t *testing.T) {
	var k mvcc.Known
	for i := 0; !k.GaveUp(); i++ {
		if i > mvcc.KnownKeysMax {
			t.Fatal("it grows beyond its bound")
		}
		k.Add(numbered(i))
	}
	if k.Lacks([]byte("another")) {
		t.Error("it gave up, and still claims to know")
	}
}

// A machine that was opened on rows learns them while it works, and takes none
// for new before it has learned all.
func TestKnownLearns(t *testing.T) {
	rows := memrows.New()
	put := func(m *mvcc.Machine, i, version int) {
		t.Helper()
		res, events, err := m.Apply(rows, 1, &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: numbered(i), Value: []byte("v")}}})
		if err != nil || !res.OK {
			t.Fatal(res, err)
		}
		if got := events[0].Row.Version; got != uint64(version) {
			t.Fatalf("%s has version %d, not %d", numbered(i), got, version)
		}
		m.Flush(rows)
	}
	const keys = 5 * mvcc.LearnRows
	m, err := mvcc.Open(rows)
	if err != nil {
		t.Fatal(err)
	}
	for i := range keys {
		put(m, i, 1)
	}
	if m, err = mvcc.Open(rows); err != nil {
		t.Fatal(err)
	}
	for i := keys - 1; i >= 0; i-- {
		put(m, i, 2)
		put(m, 2*keys+i, 1) // new, some of them behind the last that was there
	}
	if k, all := m.Known(); !all || k.Lacks(numbered(keys/2)) || !k.Lacks(numbered(3*keys)) {
		t.Error("it has not learned what there is")
	}
}
