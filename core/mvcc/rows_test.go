package mvcc

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"reflect"
	"testing"

	"banyan"
)

// FuzzRows feeds every decoder of rows; none may panic, and what one accepts
// must come back the same.
func FuzzRows(f *testing.F) {
	f.Add(appendVersion(nil, &Row{Value: []byte("v"), Create: 1, Mod: 300, Version: 2, Lease: 7}))
	f.Add(appendHistoryKey(nil, []byte("a\x00b"), 300))
	f.Add(appendPlaceKey(nil, place{rev: 300}))
	f.Add(appendPlaceKey(nil, place{rev: 300, n: 2}))
	f.Add(meta{revision: 9, horizon: 3, front: place{4, 1}, time: 5, history: 6, counted: 7, forked: 8, bounds: span{[]byte("aa"), []byte("bb")}}.encode(nil))
	f.Add(appendCounter(nil, 300))
	rec := appendRecord(nil, &Command{Request: banyan.RequestID{1}, Who: []byte("w"), Trace: []byte("t")}, &Result{OK: true, Revision: 9, Numbers: []int64{-1}}, 7)
	rec = append(appendTrims(rec, []trim{{lo: []byte("c"), hi: []byte("d"), spaces: []trimmed{{1, 2, 3}}}}), 2)
	rec = appendChange(rec, change{key: []byte("a"), deleted: true, bytes: -9})
	f.Add(appendChange(rec, change{key: []byte("b"), displaced: true}))
	f.Add((&tally{rows: 3, bytes: 300}).encode(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := decodeVersion(nil, b); err == nil {
			same(t, r, func(b []byte) (Row, error) { return decodeVersion(nil, b) }, appendVersion(nil, &r))
		}
		if key, end, err := parseHistoryKey(b); err == nil {
			if again := appendHistoryKey(nil, key, end); !bytes.Equal(again, b) {
				t.Fatalf("%q became %q", b, again)
			}
		}
		if p, err := parsePlaceKey(b); err == nil {
			if again := appendPlaceKey(nil, p); !bytes.Equal(again, b) {
				t.Fatalf("%q became %q", b, again)
			}
		}
		if m, err := decodeMeta(b); err == nil {
			same(t, m, decodeMeta, m.encode(nil))
		}
		if n, err := decodeCounter(b); err == nil {
			same(t, n, decodeCounter, appendCounter(nil, n))
		}
		if r, err := decodeRecord(b); err == nil {
			again := appendRecord(nil, &Command{Request: r.request, Who: r.who, Trace: r.trace}, &r.result, r.displaced)
			again = binary.AppendUvarint(appendTrims(again, r.trims), uint64(len(r.changes)))
			for _, c := range r.changes {
				again = appendChange(again, c)
			}
			same(t, r, decodeRecord, again)
			if id, err := decodeRequest(b); err != nil || id != r.request {
				t.Fatalf("request %v, %v; want %v", id, err, r.request)
			}
		}
	})
}

func same[T any](t *testing.T, v T, decode func([]byte) (T, error), encoded []byte) {
	t.Helper()
	again, err := decode(encoded)
	if err != nil || !reflect.DeepEqual(v, again) {
		t.Fatalf("%+v became %+v, %v", v, again, err)
	}
}

// TestHistoryKeyOrder checks the escaping over all pairs of short keys.
func TestHistoryKeyOrder(t *testing.T) {
	keys := [][]byte{nil}
	for i := 0; len(keys[i]) < 3; i++ {
		for _, c := range []byte{0, 1, 2, 0xfe, 0xff} {
			keys = append(keys, append(bytes.Clone(keys[i]), c))
		}
	}
	revs := []banyan.Revision{1, 0xff, 0x100, 1 << 63}
	for _, a := range keys {
		for _, b := range keys {
			for i, ra := range revs {
				rb := revs[(i+1)%len(revs)]
				want := cmp.Or(bytes.Compare(a, b), cmp.Compare(ra, rb))
				if got := bytes.Compare(appendHistoryKey(nil, a, ra), appendHistoryKey(nil, b, rb)); got != want {
					t.Fatalf("%q at %d and %q at %d compare %d, want %d", a, ra, b, rb, got, want)
				}
			}
		}
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string][]byte{
		"a": []byte("b"), "a\xff": []byte("b"), "a\x00": []byte("a\x01"), "\xff\xff": nil, "": nil,
	} {
		if got := PrefixEnd([]byte(prefix)); !bytes.Equal(got, want) {
			t.Errorf("PrefixEnd(%q) = %q, want %q", prefix, got, want)
		}
	}
}

func TestWindow(t *testing.T) {
	w := window{max: 3}
	if w.front() != (place{}) || w.back() != (place{}) {
		t.Fatal("an empty window has a front or a back")
	}
	for i := 1; i <= 20; i++ {
		at := place{rev: banyan.Revision(i)}
		out, full := w.push(remembered{banyan.RequestID{byte(i)}, at})
		if full != (i > 3) || full && out.at.rev != banyan.Revision(i-3) {
			t.Fatalf("push %d drove out %v, %v", i, out, full)
		}
		if w.back() != at || w.front().rev != banyan.Revision(max(1, i-2)) {
			t.Fatalf("after push %d: front %v, back %v", i, w.front(), w.back())
		}
		for j := 1; j <= i; j++ {
			if _, ok := w.find(banyan.RequestID{byte(j)}); ok != (j > i-3) {
				t.Fatalf("after push %d: find %d says %v", i, j, ok)
			}
		}
	}
	if w.slot.used != 3 || len(w.ring) != 3 {
		t.Fatalf("%d slots, %d entries", w.slot.used, len(w.ring))
	}
}

// A full window finds exactly the ids it holds, however often it turns over.
func TestWindowTurnsOver(t *testing.T) {
	const held, pushed = 500, 20_000
	id := func(i int) (id banyan.RequestID) {
		binary.BigEndian.PutUint64(id[:], uint64(i))
		return id
	}
	w := window{max: held}
	for i := range pushed {
		if _, ok := w.find(id(i)); ok {
			t.Fatalf("%d is found before it was pushed", i)
		}
		w.push(remembered{id(i), place{rev: banyan.Revision(i + 1)}})
		oldest := max(0, i+1-held)
		if _, ok := w.find(id(oldest - 1)); ok {
			t.Fatalf("%d is found after it was driven out", oldest-1)
		}
		j := oldest + i*7%(i+1-oldest)
		if at, ok := w.find(id(j)); !ok || at.rev != banyan.Revision(j+1) {
			t.Fatalf("after %d pushes: find %d says %v, %v", i+1, j, at, ok)
		}
	}
	if w.slot.used != held || len(w.slot.entries) > 4*held {
		t.Fatalf("%d of %d entries hold %d requests", w.slot.used, len(w.slot.entries), held)
	}
}
