package server

import (
	"fmt"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// TestEveryPage: rows of the root shard beyond one page of a list are not lost.
func TestEveryPage(t *testing.T) {
	rows := memrows.New()
	m, err := mvcc.Open(rows)
	if err != nil {
		t.Fatal(err)
	}
	const n = banyan.ListRowsMax + 1
	for i := 0; i < n; {
		cmd := &mvcc.Command{}
		for ; i < n && len(cmd.Muts) < banyan.CommandMutationsMax; i++ {
			cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: fmt.Appendf(nil, "%s%016x", nodePrefix, i)})
		}
		if _, _, err := m.Apply(rows, 1, cmd); err != nil {
			t.Fatal(err)
		}
		m.Flush(rows)
	}
	all, err := everyPage([]byte(nodePrefix), func(lo []byte) ([]mvcc.Row, bool, error) {
		return mvcc.Range(rows, mvcc.Query{Lo: lo, Hi: mvcc.PrefixEnd([]byte(nodePrefix))})
	})
	if err != nil || len(all) != n || string(all[n-1].Key) != fmt.Sprintf("%s%016x", nodePrefix, n-1) {
		t.Fatalf("%d of %d rows, %v", len(all), n, err)
	}
}
