package client_test

import (
	"fmt"
	"testing"
)

// BenchmarkPut is the way through SDK, TLS, HTTP and door, with next to nothing
// behind it: what a put costs beside consensus and disk.
func BenchmarkPut(b *testing.B) {
	for _, clients := range []int{1, 64, 256} {
		b.Run(fmt.Sprint(clients), func(b *testing.B) {
			c := newCluster(b, 1)
			cl := c.open(b)
			value := make([]byte, 256)
			b.SetParallelism((clients + 1) / 2) // of two cores
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					if _, err := cl.KV().Put(b.Context(), []byte("bench/key"), value); err != nil {
						b.Error(err)
					}
				}
			})
		})
	}
}
