package replica

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// BenchmarkCommit commits 256-byte values: three hosts in one process, real
// disks, messages in memory.
func BenchmarkCommit(b *testing.B) {
	for _, nodes := range []int{1, 3} {
		for _, clients := range []int{1, 16, 64, 256} {
			b.Run(fmt.Sprintf("nodes=%d/clients=%d", nodes, clients), func(b *testing.B) {
				benchmarkCommit(b, nodes, 8, clients)
			})
		}
	}
}

func diskMesh(b *testing.B, nodes, shards int) *mesh {
	m := newMesh(b)
	ids := make([]banyan.NodeID, nodes)
	for i := range ids {
		ids[i] = banyan.NodeID(i + 1)
		st, err := store.Open(b.TempDir(), store.Options{})
		if err != nil {
			b.Fatal(err)
		}
		if i == 0 {
			all := make([]banyan.ShardID, shards)
			for s := range all {
				all[s] = banyan.ShardID(s)
			}
			if err := st.Bootstrap(all, 1); err != nil {
				b.Fatal(err)
			}
		}
		m.add(ids[i], st)
	}
	awaitLeaders(b, m.at(1).Host, shards)
	if nodes > 1 {
		m.grow(shards, ids...)
	}
	return m
}

func benchmarkCommit(b *testing.B, nodes, shards, clients int) {
	m := diskMesh(b, nodes, shards)
	h := m.at(1)
	value := make([]byte, 256)
	var next atomic.Int64
	b.ResetTimer()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
				shard := banyan.ShardID(i % int64(shards))
				cmd := &mvcc.Command{Request: banyan.NewRequestID(), Muts: []mvcc.Mutation{
					{Op: mvcc.Put, Key: fmt.Appendf(nil, "key-%08d", i*7919%100_000_007), Value: value}}}
				if _, err := h.Propose(context.Background(), shard, cmd); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "commits/s")
}

// BenchmarkRead makes linearizable reads of one key, one shard per client in turn.
func BenchmarkRead(b *testing.B) {
	for _, clients := range []int{1, 16, 256} {
		b.Run(fmt.Sprintf("clients=%d", clients), func(b *testing.B) {
			const shards = 8
			m := diskMesh(b, 3, shards)
			h, ctx := m.at(1), context.Background()
			for s := range banyan.ShardID(shards) {
				if _, err := h.Propose(ctx, s, put("key", "value")); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			b.ResetTimer()
			var wg sync.WaitGroup
			for range clients {
				wg.Go(func() {
					for i := next.Add(1); i <= int64(b.N); i = next.Add(1) {
						shard := banyan.ShardID(i % shards)
						err := h.ReadIndex(ctx, shard)
						if err == nil {
							_, _, err = h.Get(shard, []byte("key"))
						}
						if err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "reads/s")
		})
	}
}
