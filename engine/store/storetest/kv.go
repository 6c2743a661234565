// Package storetest holds every store.KV to one contract, and Store over it.
package storetest

import (
	"bytes"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"banyan/engine/store"
)

// Machine is a disk and the power that it hangs on.
type Machine interface {
	// Open starts the KV on what the disk holds.
	Open(t testing.TB) store.KV
	// Crash is the loss of power under the open KV, if any: what was not
	// synced may be lost from the end.
	Crash()
}

// KV runs the contract of store.KV. Each call of boot gives an empty machine
// whose crashes follow from the seed.
func KV(t *testing.T, boot func(seed uint64) Machine) {
	t.Run("rows", func(t *testing.T) { testRows(t, boot(1).Open(t)) })
	t.Run("ranges", func(t *testing.T) { testRanges(t, boot(1).Open(t)) })
	t.Run("copies", func(t *testing.T) { testCopies(t, boot(1).Open(t)) })
	t.Run("snapshot", func(t *testing.T) { testSnapshot(t, boot(1).Open(t)) })
	t.Run("bulk", func(t *testing.T) {
		for seed := range uint64(5) {
			testBulk(t, boot(seed))
		}
	})
	t.Run("concurrent", func(t *testing.T) { testConcurrent(t, boot(1).Open(t)) })
	t.Run("model", func(t *testing.T) {
		for seed := range uint64(10) {
			testModel(t, seed, boot(seed))
		}
	})
	t.Run("crash", func(t *testing.T) {
		for seed := range uint64(30) {
			testCrash(t, seed, boot(seed))
		}
	})
}

type scanner interface {
	Scan(lo, hi []byte, fn func(k, v []byte) bool) error
}

// show gives the rows of [lo, hi) as "k=v k=v".
func show(t testing.TB, r scanner, lo, hi []byte) string {
	t.Helper()
	var b strings.Builder
	if err := r.Scan(lo, hi, func(k, v []byte) bool {
		fmt.Fprintf(&b, "%s=%s ", k, v)
		return true
	}); err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(b.String())
}

func commit(t testing.TB, b store.KVBatch, sync bool) {
	t.Helper()
	if err := b.Commit(sync); err != nil {
		t.Fatal(err)
	}
}

func set(b store.KVBatch, pairs ...string) {
	for _, p := range pairs {
		k, v, _ := strings.Cut(p, "=")
		b.Set([]byte(k), []byte(v))
	}
}

func testRows(t *testing.T, kv store.KV) {
	defer kv.Close()
	if v, err := kv.Get([]byte("none")); v != nil || err != nil {
		t.Fatalf("Get of nothing: %q, %v", v, err)
	}
	b := kv.NewBatch()
	set(b, "a=1", "b=2", "empty=", "a=3")
	b.Delete([]byte("b"))
	if v, err := b.Get([]byte("a")); string(v) != "3" || err != nil {
		t.Fatalf("a batch does not read its own write: %q, %v", v, err)
	}
	if v, err := b.Get([]byte("b")); v != nil || err != nil {
		t.Fatalf("a batch reads what it deleted: %q, %v", v, err)
	}
	if v, _ := kv.Get([]byte("a")); v != nil {
		t.Fatalf("an uncommitted write is visible: %q", v)
	}
	commit(t, b, true)
	b.Close()
	if v, err := kv.Get([]byte("empty")); v == nil || len(v) != 0 || err != nil {
		t.Fatalf("an empty value: %v, %v", v, err)
	}
	dropped := kv.NewBatch()
	set(dropped, "c=4")
	dropped.Close()
	if got, want := show(t, kv, nil, nil), "a=3 empty="; got != want {
		t.Fatalf("rows are %q, want %q", got, want)
	}
}

func testRanges(t *testing.T, kv store.KV) {
	defer kv.Close()
	b := kv.NewBatch()
	set(b, "a=1", "b=2", "c=3", "d=4", "e=5")
	commit(t, b, false)
	b = kv.NewBatch()
	set(b, "bb=6", "c=7")
	b.DeleteRange([]byte("b"), []byte("d"))
	set(b, "bc=8")
	b.Delete([]byte("e"))
	b.DeleteRange([]byte("z"), []byte("a"))
	b.DeleteRange([]byte("d"), []byte("d"))
	set(b, "f=9")
	want := "a=1 bc=8 d=4 f=9"
	if got := show(t, b, nil, nil); got != want {
		t.Fatalf("in the batch %q, want %q", got, want)
	}
	if got, want := show(t, b, []byte("b"), []byte("d")), "bc=8"; got != want {
		t.Fatalf("a part of the batch %q, want %q", got, want)
	}
	commit(t, b, false)
	if got := show(t, kv, nil, nil); got != want {
		t.Fatalf("committed %q, want %q", got, want)
	}
	if got, want := show(t, kv, []byte("a"), []byte("d")), "a=1 bc=8"; got != want {
		t.Fatalf("hi is exclusive: %q, want %q", got, want)
	}
	n := 0
	if err := kv.Scan(nil, nil, func(_, _ []byte) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Fatalf("Scan went on after false: %d rows, %v", n, err)
	}
	if kv.Size() < 0 {
		t.Fatal("negative size")
	}
}

func testCopies(t *testing.T, kv store.KV) {
	defer kv.Close()
	k, v := []byte("key"), []byte("value")
	b := kv.NewBatch()
	b.Set(k, v)
	copy(k, "xxx")
	copy(v, "xxxxx")
	first, err := b.Get([]byte("key"))
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		show(t, b, nil, nil)
		if _, err := b.Get([]byte("other")); err != nil {
			t.Fatal(err)
		}
	}
	if string(first) != "value" {
		t.Fatalf("Get and Scan disturbed what Get gave: %q", first)
	}
	commit(t, b, false)
	got, _ := kv.Get([]byte("key"))
	copy(got, "yyyyy")
	if got, _ := kv.Get([]byte("key")); string(got) != "value" {
		t.Fatalf("the stored value is %q", got)
	}
}

func testSnapshot(t *testing.T, kv store.KV) {
	defer kv.Close()
	b := kv.NewBatch()
	set(b, "a=1", "b=2")
	commit(t, b, false)
	snap, err := kv.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	defer snap.Close()
	b = kv.NewBatch()
	set(b, "a=9", "c=3")
	b.Delete([]byte("b"))
	commit(t, b, true)
	if got, want := show(t, snap, nil, nil), "a=1 b=2"; got != want {
		t.Fatalf("the snapshot became %q, want %q", got, want)
	}
	if v, err := snap.Get([]byte("b")); string(v) != "2" || err != nil {
		t.Fatalf("the snapshot lost a row: %q, %v", v, err)
	}
	if got, want := show(t, kv, nil, nil), "a=9 c=3"; got != want {
		t.Fatalf("the newest state is %q, want %q", got, want)
	}
}

func testConcurrent(t *testing.T, kv store.KV) {
	defer kv.Close()
	const writers, commits = 4, 20
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			for i := range commits {
				b := kv.NewBatch()
				set(b, fmt.Sprintf("w%d/%02d=x", w, i), fmt.Sprintf("n%d=%02d", w, i))
				if err := b.Commit(i%3 == 0); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Go(func() {
		for range commits {
			snap, err := kv.Snapshot()
			if err != nil {
				t.Error(err)
				return
			}
			for w := range writers { // a batch is seen whole or not at all
				n, _ := snap.Get(fmt.Appendf(nil, "n%d", w))
				if n == nil {
					continue
				}
				if v, err := snap.Get(fmt.Appendf(nil, "w%d/%s", w, n)); v == nil || err != nil {
					t.Errorf("half of a batch is visible: writer %d, commit %s, %v", w, n, err)
				}
			}
			snap.Close()
		}
	})
	wg.Wait()
	n := 0
	err := kv.Scan([]byte("w"), []byte("x"), func(_, _ []byte) bool { n++; return true })
	if err != nil || n != writers*commits {
		t.Fatalf("%d rows, want %d: %v", n, writers*commits, err)
	}
}

// scribble writes the same random changes to a batch and to a model.
func scribble(rng *rand.Rand, b store.KVBatch, model map[string]string, ops int) {
	key := func() []byte { return fmt.Appendf(nil, "k%02d", rng.IntN(60)) }
	for range ops {
		k := key()
		switch rng.IntN(6) {
		case 0:
			b.Delete(k)
			delete(model, string(k))
		case 1:
			lo, hi := k, key()
			b.DeleteRange(lo, hi)
			maps.DeleteFunc(model, func(k, _ string) bool { return k >= string(lo) && k < string(hi) })
		default:
			v := bytes.Repeat([]byte{'a' + byte(rng.IntN(26))}, rng.IntN(40))
			b.Set(k, v)
			model[string(k)] = string(v)
		}
	}
}

func render(model map[string]string) string {
	var b strings.Builder
	for _, k := range slices.Sorted(maps.Keys(model)) {
		fmt.Fprintf(&b, "%s=%s ", k, model[k])
	}
	return strings.TrimSpace(b.String())
}

func testModel(t *testing.T, seed uint64, m Machine) {
	rng := rand.New(rand.NewPCG(seed, 1))
	kv := m.Open(t)
	model := map[string]string{}
	for i := range 20 {
		b := kv.NewBatch()
		next := maps.Clone(model)
		scribble(rng, b, next, 1+rng.IntN(20))
		if got, want := show(t, b, nil, nil), render(next); got != want {
			t.Fatalf("seed %d, batch %d: inside it\n%s\nwant\n%s", seed, i, got, want)
		}
		for n := range 60 {
			k := fmt.Sprintf("k%02d", n)
			want, ok := next[k]
			if got, err := b.Get([]byte(k)); err != nil || (got != nil) != ok || string(got) != want {
				t.Fatalf("seed %d, batch %d: Get %s: %q, %v, want %q", seed, i, k, got, err, want)
			}
		}
		if rng.IntN(4) == 0 {
			b.Close()
		} else {
			commit(t, b, rng.IntN(2) == 0)
			model = next
		}
		if got, want := show(t, kv, nil, nil), render(model); got != want {
			t.Fatalf("seed %d, batch %d: committed\n%s\nwant\n%s", seed, i, got, want)
		}
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
	m.Crash() // Close was in time
	kv = m.Open(t)
	defer kv.Close()
	if got, want := show(t, kv, nil, nil), render(model); got != want {
		t.Fatalf("seed %d: after a restart\n%s\nwant\n%s", seed, got, want)
	}
}

// testCrash: what survives is a prefix that reaches at least to the last sync.
func testCrash(t *testing.T, seed uint64, m Machine) {
	rng := rand.New(rand.NewPCG(seed, 2))
	model := map[string]string{}
	for life := range 3 {
		kv := m.Open(t)
		states := []string{render(model)} // after each commit that may be the last
		models := []map[string]string{model}
		for range rng.IntN(12) {
			b := kv.NewBatch()
			next := maps.Clone(model)
			sync := rng.IntN(4) == 0
			if rng.IntN(8) > 0 { // else an empty batch
				scribble(rng, b, next, 1+rng.IntN(10))
			}
			commit(t, b, sync)
			model = next
			if sync {
				states, models = nil, nil
			}
			states, models = append(states, render(model)), append(models, model)
		}
		m.Crash()
		kv = m.Open(t)
		got := show(t, kv, nil, nil)
		i := slices.Index(states, got)
		if i < 0 {
			t.Fatalf("seed %d, life %d: after the crash\n%s\nwhich is none of the states since the last sync:\n%s",
				seed, life, got, strings.Join(states, "\n"))
		}
		model = models[i]
		kv.Close()
	}
}

// testBulk: what a bulk has committed outlives a crash, what it has dropped is
// gone, and batches beside it are as they were.
func testBulk(t *testing.T, m Machine) {
	kv := m.Open(t)
	commit(t, batchOf(kv, "a=1", "m150=old", "z=1"), true)
	add := func(u store.KVBulk, from, to int) {
		t.Helper()
		var rows []store.KVRow
		for i := from; i < to; i++ {
			rows = append(rows, store.KVRow{Key: fmt.Appendf(nil, "m%03d", i), Value: bytes.Repeat([]byte{byte(i)}, 3000)})
		}
		if err := u.Add(rows); err != nil {
			t.Fatal(err)
		}
		for _, r := range rows {
			clear(r.Value)
		}
	}
	dropped := kv.NewBulk()
	add(dropped, 700, 800)
	dropped.Close()
	u := kv.NewBulk()
	defer u.Close()
	add(u, 100, 200)
	commit(t, batchOf(kv, "b=2"), true)
	add(u, 200, 400)
	if err := u.Commit(); err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"before", "after"} {
		n := 0
		if err := kv.Scan([]byte("m"), []byte("n"), func(k, v []byte) bool {
			if string(k) != fmt.Sprintf("m%03d", 100+n) || !bytes.Equal(v, bytes.Repeat([]byte{byte(100 + n)}, 3000)) {
				t.Fatalf("%s the crash: row %d is %q", when, n, k)
			}
			n++
			return true
		}); err != nil || n != 300 {
			t.Fatalf("%s the crash: %d rows, %v", when, n, err)
		}
		if got := show(t, kv, []byte("a"), []byte("c")); got != "a=1 b=2" {
			t.Fatalf("%s the crash: %s", when, got)
		}
		if when == "before" {
			m.Crash()
			kv = m.Open(t)
		}
	}
	if err := kv.Close(); err != nil {
		t.Fatal(err)
	}
}

func batchOf(kv store.KV, pairs ...string) store.KVBatch {
	b := kv.NewBatch()
	set(b, pairs...)
	return b
}
