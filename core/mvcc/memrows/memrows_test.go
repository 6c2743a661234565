package memrows_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"banyan/core/mvcc/memrows"
)

// TestAgainstMap compares with a plain map under random changes, and holds
// clones to their independence.
func TestAgainstMap(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	rows, model := memrows.New(), map[string]string{}
	key := func() string { return fmt.Sprint(rnd.IntN(50)) }
	for i := range 3000 {
		switch lo, hi := key(), key(); rnd.IntN(6) {
		case 0:
			rows.DeleteRange([]byte(lo), []byte(hi))
			maps.DeleteFunc(model, func(k, _ string) bool { return lo <= k && k < hi })
		case 1:
			rows.Delete([]byte(lo))
			delete(model, lo)
		default:
			v := fmt.Sprint(i)
			rows.Set([]byte(lo), []byte(v))
			model[lo] = v
		}
		if rnd.IntN(20) == 0 {
			old := rows
			rows = old.Clone()
			if !rows.Equal(old) {
				t.Fatal("a clone differs")
			}
			old.Set([]byte("only in the origin"), nil)
			if rows.Equal(old) {
				t.Fatal("a clone changes with its origin")
			}
		}
		lo, hi := key(), key()
		var got, want []string
		rows.Scan([]byte(lo), []byte(hi), func(k, v []byte) bool {
			got = append(got, string(k)+"="+string(v))
			return true
		})
		for _, k := range slices.Sorted(maps.Keys(model)) {
			if lo <= k && k < hi {
				want = append(want, k+"="+model[k])
			}
		}
		if !slices.Equal(got, want) || rows.Len() != len(model) {
			t.Fatalf("step %d, [%s, %s): got %v, want %v", i, lo, hi, got, want)
		}
		if v, _ := rows.Get([]byte(lo)); string(v) != model[lo] || (v == nil) != (model[lo] == "") {
			t.Fatalf("step %d: get %s: %q, want %q", i, lo, v, model[lo])
		}
	}
}

// TestCopies checks that arguments stay the caller's, and that an empty value
// is not none.
func TestCopies(t *testing.T) {
	rows := memrows.New()
	k, v := []byte("k"), []byte("v")
	rows.Set(k, v)
	k[0], v[0] = 'x', 'x'
	if got, _ := rows.Get([]byte("k")); string(got) != "v" {
		t.Errorf("got %q", got)
	}
	rows.Set([]byte("empty"), nil)
	if got, _ := rows.Get([]byte("empty")); got == nil {
		t.Error("an empty value reads as none")
	}
	n := 0
	rows.Scan(nil, nil, func(_, _ []byte) bool { n++; return false })
	if n != 1 {
		t.Errorf("%d rows after fn answered false", n)
	}
}
