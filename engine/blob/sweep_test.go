package blob

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"testing"

	"banyan"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// rowsFor makes the marks of rows that refer to some chunks.
func rowsFor(hs ...banyan.Hash) Marks {
	return func(_ context.Context, _ uint64, from, to byte, fn func(banyan.Hash)) error {
		for _, h := range hs {
			if h[0] >= from && h[0] <= to {
				fn(h)
			}
		}
		return nil
	}
}

func swept(t *testing.T, d *Disk, epoch uint64, m Marks) Swept {
	t.Helper()
	s, err := d.Sweep(t.Context(), epoch, m)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func wantHere(t *testing.T, d *Disk, h banyan.Hash, want bool) {
	t.Helper()
	if has, err := d.Has(h); has != want || err != nil {
		t.Errorf("%.4x is here: %v (%v), want %v", h, has, err, want)
	}
}

func TestSweepRemovesWhatNothingRefersTo(t *testing.T) {
	d := open(t, vfs.NewMem())
	used, unused, touched, put2 := put(t, d, "used"), put(t, d, "unused"), put(t, d, "touched"), put(t, d, "stored again")
	m := rowsFor(used)
	if s := swept(t, d, 4, m); s.Gone != 0 || s.Condemned != 3 || s.Chunks != 4 {
		t.Fatalf("%+v", s)
	}
	swept(t, d, 5, m)
	if has, err := d.Check(5, []banyan.Hash{touched, unused}[:1]); err != nil || !has[0] {
		t.Fatal(has, err)
	}
	put(t, d, "stored again")
	if _, err := d.HasAll([]banyan.Hash{unused}); err != nil { // a question of repair saves nothing
		t.Fatal(err)
	}
	failing := func(ctx context.Context, epoch uint64, from, to byte, fn func(banyan.Hash)) error {
		_ = m(ctx, epoch, from, to, fn)
		return errors.New("a shard cannot be read")
	}
	if s, err := d.Sweep(t.Context(), 6, failing); err == nil || s.Gone != 0 {
		t.Fatalf("swept though a shard could not be read: %+v, %v", s, err)
	}
	s := swept(t, d, 6, m)
	if s.Gone != 1 || s.Freed != int64(len("unused")) || s.Condemned != 2 {
		t.Errorf("%+v", s)
	}
	for h, want := range map[banyan.Hash]bool{used: true, unused: false, touched: true, put2: true} {
		wantHere(t, d, h, want)
	}
	if swept(t, d, 7, m); d.Epoch() != 7 {
		t.Errorf("epoch %d", d.Epoch())
	}
	if s := swept(t, d, 8, m); s.Gone != 2 || s.Condemned != 0 {
		t.Errorf("%+v", s)
	}
}

// Who touches a chunk while the marks are read, or while others are removed, has it.
func TestATouchWhileSweepingSaves(t *testing.T) {
	d := open(t, vfs.NewMem())
	var hs []banyan.Hash
	for i := range 3 * removeAtOnce {
		hs = append(hs, put(t, d, fmt.Sprint(i)))
	}
	swept(t, d, 1, rowsFor())
	s := swept(t, d, 3, func(context.Context, uint64, byte, byte, func(banyan.Hash)) error {
		_, err := d.Check(3, hs[:5])
		return err
	})
	if s.Gone != len(hs)-5 {
		t.Errorf("%+v", s)
	}
	for _, h := range hs[:5] {
		wantHere(t, d, h, true)
	}
}

// After a crash nothing counts as condemned that was touched, stored again or
// marked before it; what was condemned may be forgotten.
func TestACrashCondemnsNothingAnew(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 1))
		mem := vfs.NewCrashableMem()
		d := open(t, mem)
		touched, again, marked, gone := put(t, d, "touched"), put(t, d, "again"), put(t, d, "marked"), put(t, d, "gone")
		swept(t, d, 1, rowsFor())
		if _, err := d.Check(1, []banyan.Hash{touched}); err != nil {
			t.Fatal(err)
		}
		swept(t, d, 3, rowsFor(marked)) // again and gone go
		wantHere(t, d, again, false)
		put(t, d, "again")
		mem = mem.CrashClone(vfs.CrashCloneCfg{UnsyncedDataPercent: int(seed * 5), RNG: rng})
		d = open(t, mem)
		swept(t, d, 4, rowsFor())
		for _, h := range []banyan.Hash{touched, again, marked} {
			wantHere(t, d, h, true)
		}
		swept(t, d, 6, rowsFor())
		for _, h := range []banyan.Hash{touched, again, marked, gone} {
			wantHere(t, d, h, false)
		}
	}
}

func TestADamagedListCondemnsNothing(t *testing.T) {
	mem := vfs.NewMem()
	d := open(t, mem)
	h := put(t, d, "x")
	swept(t, d, 1, rowsFor())
	f, err := mem.OpenReadWrite("blobs/"+condemnedFile, vfs.WriteCategoryUnspecified)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte{0xff}, 3); err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	d = open(t, mem)
	if s := swept(t, d, 9, rowsFor()); s.Gone != 0 || s.Condemned != 1 {
		t.Errorf("%+v", s)
	}
	wantHere(t, d, h, true)
}

// Repair makes no copies of what is to go.
func TestRepairLeavesTheCondemned(t *testing.T) {
	c := newCluster(t, 3)
	c.believe(1)
	kept, unused := put(t, c.nodes[1], "kept"), put(t, c.nodes[1], "unused")
	swept(t, c.nodes[1].Local, 1, rowsFor(kept))
	c.believe(1, 2, 3)
	if _, err := c.nodes[1].Repair(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	if a, b := len(c.holders(t, kept)), len(c.holders(t, unused)); a != 3 || b != 1 {
		t.Errorf("%d and %d copies", a, b)
	}
	if m, err := c.nodes[2].Missing(t.Context(), []banyan.Hash{unused}); err != nil || len(m) != 1 {
		t.Errorf("missing: %v, %v", m, err)
	}
	if c.nodes[1].Local.Condemned(unused) {
		t.Error("who asks what is missing will refer to it")
	}
}
