package store_test

import (
	"bytes"
	"fmt"
	"sync/atomic"
	"testing"

	"banyan"
	"banyan/engine/store"
	"banyan/engine/store/simdisk"
	"banyan/engine/store/storetest"
)

// BenchmarkCold is what a node's first start asks of the store: an empty
// directory and 20 commits that wait for the disk.
func BenchmarkCold(b *testing.B) {
	for b.Loop() {
		s, err := store.Open(b.TempDir(), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Bootstrap([]banyan.ShardID{0, 1, 2, 3, 4, 5, 6, 7, 8}, 1); err != nil {
			b.Fatal(err)
		}
		l := &life{s: s}
		for i := range uint64(20) {
			if err := l.ready(1, 11+i, 11+i, []byte("value"), true); err != nil {
				b.Fatal(err)
			}
		}
		if err := s.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// benchmarkReady: one batch of 8 shards, each with n entries of 256 bytes
// appended and as many applied, as a busy node commits them.
func benchmarkReady(b *testing.B, s *store.Store, n uint64, sync bool) {
	ids := []banyan.ShardID{0, 1, 2, 3, 4, 5, 6, 7}
	if err := s.Bootstrap(ids, 1); err != nil {
		b.Fatal(err)
	}
	value := bytes.Repeat([]byte{'x'}, 256)
	batch, last := s.NewBatch(), uint64(10)
	b.ReportAllocs()
	for b.Loop() {
		for _, id := range ids {
			ents := storetest.Entries(2, last+1, last+n)
			for _, e := range ents {
				e.Data = value
			}
			batch.Append(id, ents)
			batch.SetHardState(id, storetest.HardState(2, 1, last+n))
			state := batch.State(id)
			for i := range n {
				k := fmt.Appendf(nil, "key%08d", (last+i)%1000)
				if _, err := state.Get(k); err != nil {
					b.Fatal(err)
				}
				state.Set(k, value)
			}
			batch.SetApplied(id, last+n, 2)
			if last > 5000 && last/1000 != (last+n)/1000 {
				batch.Truncate(id, last-5000)
			}
		}
		last += n
		if err := batch.Commit(sync); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/float64(8*n), "ns/entry")
}

func BenchmarkReady(b *testing.B) {
	for _, sync := range []bool{false, true} {
		for _, n := range []uint64{1, 8} {
			b.Run(fmt.Sprintf("sync=%v/n=%d", sync, n), func(b *testing.B) {
				s, err := store.Open(b.TempDir(), store.Options{})
				if err != nil {
					b.Fatal(err)
				}
				defer s.Close()
				benchmarkReady(b, s, n, sync)
			})
		}
	}
}

func BenchmarkSimdisk(b *testing.B) {
	d := simdisk.New(1)
	s, err := simOpen(d)()
	if err != nil {
		b.Fatal(err)
	}
	benchmarkReady(b, s, 1, true)
}

// TestHotPathReadsNothing: appending, committing and reading back recent
// entries asks the disk for nothing.
func TestHotPathReadsNothing(t *testing.T) {
	d := simdisk.New(1)
	s, err := simOpen(d)()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Bootstrap([]banyan.ShardID{1}, 1); err != nil {
		t.Fatal(err)
	}
	b, sh := s.NewBatch(), s.Shard(1)
	var reads atomic.Int32
	d.Inject(func(op simdisk.Op) error {
		if op == simdisk.Read {
			reads.Add(1)
		}
		return nil
	})
	for i := uint64(11); i < 500; i++ {
		b.Append(1, storetest.Entries(2, i, i))
		b.SetHardState(1, storetest.HardState(2, 1, i-1))
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
		first, _ := sh.FirstIndex()
		if _, err := sh.Entries(first, i+1, 1<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := sh.Term(i); err != nil {
			t.Fatal(err)
		}
		b.SetApplied(1, i-1, 2)
		if i%50 == 0 {
			b.Truncate(1, i-20)
		}
		if err := b.Commit(false); err != nil {
			t.Fatal(err)
		}
	}
	if n := reads.Load(); n != 0 {
		t.Fatalf("%d reads", n)
	}
	if syncs := d.Stats().Syncs; syncs != 490 {
		t.Fatalf("%d syncs for 490 synced commits", syncs)
	}
}
