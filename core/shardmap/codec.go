package shardmap

import (
	"bytes"
	"encoding/binary"

	"banyan"
)

// The row of the map: version | epoch | next | count of ranges, and for each its
// lo, shard, voters, zones, parent and the revision it was split off at | 1 and
// the pending split, or 0. Numbers are varints; bytes have their length before
// them. Version 1 has no parents.
const codecVersion = 2

// zonesMax is the most zones that one shard names.
const zonesMax = 64

// Encode writes the map's row.
func (m *Map) Encode() []byte {
	b := []byte{codecVersion}
	num := func(n uint64) { b = binary.AppendUvarint(b, n) }
	str := func(s []byte) { num(uint64(len(s))); b = append(b, s...) }
	num(m.Epoch)
	num(uint64(m.Next))
	num(uint64(len(m.Ranges)))
	for i := range m.Ranges {
		r := &m.Ranges[i]
		str(r.Lo)
		num(uint64(r.Shard))
		num(uint64(r.Voters))
		num(uint64(len(r.Zones)))
		for _, z := range r.Zones {
			str([]byte(z))
		}
		num(uint64(r.Parent))
		num(uint64(r.Forked))
	}
	if m.Pending == nil {
		num(0)
		return b
	}
	num(1)
	num(uint64(m.Pending.Parent))
	str(m.Pending.At)
	num(uint64(m.Pending.Child))
	return b
}

// decoder reads varints until something does not fit.
type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) num(most uint64) uint64 {
	n, size := binary.Uvarint(d.b)
	if size <= 0 || n > most {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) str(most int) []byte {
	n := int(d.num(uint64(most)))
	if n > len(d.b) {
		d.bad, d.b = true, nil
		return nil
	}
	s := bytes.Clone(d.b[:n])
	d.b = d.b[n:]
	return s
}

const shardMost = 1<<32 - 1

// Decode reads the map's row. What Encode did not write is banyan.Corrupt, a
// newer form banyan.TooNew.
func Decode(b []byte) (*Map, error) {
	if len(b) == 0 || b[0] == 0 {
		return nil, banyan.Errorf(banyan.Corrupt, "the shard map cannot be read")
	}
	if b[0] > codecVersion {
		return nil, banyan.Errorf(banyan.TooNew, "the shard map has version %d, this binary (%s) knows %d: use a newer banyan", b[0], banyan.Version, codecVersion)
	}
	d := decoder{b: b[1:]}
	m := &Map{Epoch: d.num(1<<63 - 1), Next: banyan.ShardID(d.num(shardMost))}
	for n := d.num(banyan.ShardsMax + 1); n > 0 && !d.bad; n-- {
		r := Range{Lo: d.str(banyan.KeyBytesMax), Shard: banyan.ShardID(d.num(shardMost)), Voters: int(d.num(banyan.NodesMax))}
		for z := d.num(zonesMax); z > 0 && !d.bad; z-- {
			r.Zones = append(r.Zones, string(d.str(banyan.NameBytesMax)))
		}
		if b[0] > 1 {
			r.Parent, r.Forked = banyan.ShardID(d.num(shardMost)), banyan.Revision(d.num(1<<63-1))
		}
		m.Ranges = append(m.Ranges, r)
	}
	if d.num(1) == 1 {
		m.Pending = &Split{Parent: banyan.ShardID(d.num(shardMost)), At: d.str(banyan.KeyBytesMax), Child: banyan.ShardID(d.num(shardMost))}
	}
	if d.bad || len(d.b) > 0 || !m.sound() {
		return nil, banyan.Errorf(banyan.Corrupt, "the shard map cannot be read")
	}
	return m, nil
}

// sound says whether the ranges cover all rows, in order, each shard once, and
// all numbers are below Next.
func (m *Map) sound() bool {
	seen := map[banyan.ShardID]bool{}
	for i := range m.Ranges {
		r := &m.Ranges[i]
		if seen[r.Shard] || r.Shard >= m.Next || i == 0 && len(r.Lo) != 0 || i > 0 && bytes.Compare(m.Ranges[i-1].Lo, r.Lo) >= 0 {
			return false
		}
		seen[r.Shard] = true
	}
	p := m.Pending
	return m.Epoch > 0 && seen[banyan.RootShard] && (p == nil || seen[p.Parent] && !seen[p.Child] && p.Child < m.Next && m.Of(p.At) == p.Parent)
}
