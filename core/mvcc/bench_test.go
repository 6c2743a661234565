package mvcc_test

import (
	"encoding/binary"
	"testing"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// void holds nothing: what is left is the machine's own cost.
type void struct{}

func (void) Get([]byte) ([]byte, error)                       { return nil, nil }
func (void) Scan(_, _ []byte, _ func(_, _ []byte) bool) error { return nil }
func (void) Set(_, _ []byte)                                  {}
func (void) Delete([]byte)                                    {}
func (void) DeleteRange(_, _ []byte)                          {}

func BenchmarkApplyPut(b *testing.B) {
	b.Run("rows=none", func(b *testing.B) { benchmarkPuts(b, void{}) })
	b.Run("rows=memory", func(b *testing.B) { benchmarkPuts(b, memrows.New()) })
}

// benchmarkPuts decodes and applies puts of 256 bytes to fresh keys.
func benchmarkPuts(b *testing.B, rows mvcc.ReadWriter) {
	m, err := mvcc.Open(rows)
	if err != nil {
		b.Fatal(err)
	}
	c := &mvcc.Command{Term: 1, Time: banyan.TimestampOf(1_700_000_000_000), Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: make([]byte, 24), Value: make([]byte, 256)}}}
	var buf []byte
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		binary.BigEndian.PutUint64(c.Request[:], uint64(i+1))
		key := banyan.AppendRowKey(c.Muts[0].Key[:0], i*31%128, banyan.LayerKV, banyan.SpaceDefault) // a shard has 128 slots
		c.Muts[0].Key = append(binary.BigEndian.AppendUint64(key, uint64(i)*0x9e3779b97f4a7c15), "padding to 24"[:12]...)
		buf = c.Encode(buf[:0])
		d, err := mvcc.Decode(buf)
		if err != nil {
			b.Fatal(err)
		}
		if res, _, err := m.Apply(rows, 1, d); err != nil || !res.OK {
			b.Fatal(res, err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	c := &mvcc.Command{Term: 1, Time: banyan.TimestampOf(1_700_000_000_000), Request: banyan.RequestID{1}, Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: make([]byte, 24), Value: make([]byte, 256)}}}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = c.Encode(buf[:0])
	}
}

// BenchmarkOpen opens a machine whose dedup window is full, and applies one
// command, which is when the window is read.
func BenchmarkOpen(b *testing.B) {
	rows := memrows.New()
	m, err := mvcc.Open(rows)
	if err != nil {
		b.Fatal(err)
	}
	c := &mvcc.Command{Muts: []mvcc.Mutation{{Op: mvcc.Put, Key: []byte("k"), Value: make([]byte, 256)}}}
	apply := func(m *mvcc.Machine, n int) {
		binary.BigEndian.PutUint64(c.Request[:], uint64(n))
		if res, _, err := m.Apply(rows, 1, c); err != nil || !res.OK {
			b.Fatal(res, err)
		}
		m.Flush(rows)
	}
	for i := range banyan.DedupWindowMax {
		apply(m, i+1)
	}
	for i := 0; b.Loop(); i++ {
		m, err := mvcc.Open(rows)
		if err != nil {
			b.Fatal(err)
		}
		apply(m, banyan.DedupWindowMax+1+i)
	}
}
