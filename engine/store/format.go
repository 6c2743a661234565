package store

import (
	"encoding/binary"
	"hash/crc32"
	"slices"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"banyan"
)

// formatVersion is raised when an older binary could misread what a newer one
// writes. It stands in the first row and is checked before any other.
const formatVersion = 2

// rowVersion begins every row of ours. State rows belong to mvcc.
const rowVersion = 1

// The key space, in order:
//
//	00                        format
//	01                        identity
//	02 name                   note of the node itself
//	'l' shard index           log entry
//	'm' shard kind            what is known of a replica
//	's' state …               state row, see layout.go
//
// Numbers are big-endian, shard 4 bytes, index and state 8.
const (
	prefixFormat   = 0x00
	prefixIdentity = 0x01
	prefixNote     = 0x02
	prefixLog      = 'l'
	prefixMeta     = 'm'
	prefixState    = 's'
)

// Kinds of meta rows.
const (
	kindApplied    = 'a'
	kindBounds     = 'b'
	kindConf       = 'c'
	kindDescriptor = 'd'
	kindHardState  = 'h'
	kindTombstone  = 't'
)

const (
	rowHeaderBytes = 5
	shardBytes     = 4
)

func logKey(dst []byte, id banyan.ShardID, index uint64) []byte {
	dst = binary.BigEndian.AppendUint32(append(dst, prefixLog), uint32(id))
	return binary.BigEndian.AppendUint64(dst, index)
}

func metaKey(dst []byte, id banyan.ShardID, kind byte) []byte {
	return append(binary.BigEndian.AppendUint32(append(dst, prefixMeta), uint32(id)), kind)
}

func shardPrefix(prefix byte, id banyan.ShardID) []byte {
	return binary.BigEndian.AppendUint32([]byte{prefix}, uint32(id))
}

func stateKey(state uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte{prefixState}, state)
}

// prefixEnd is the first key after all keys that begin with p, which must not
// be all 0xff; no prefix of ours begins with 0xff.
func prefixEnd(p []byte) []byte {
	end := append([]byte(nil), p...)
	for i := len(end) - 1; ; i-- {
		end[i]++
		if end[i] != 0 {
			return end[:i+1]
		}
	}
}

func castagnoli() *crc32.Table { return crc32.MakeTable(crc32.Castagnoli) }

// startRow begins a row in dst; the payload is appended and then finishRow called.
func startRow(dst []byte) []byte { return append(dst, rowVersion, 0, 0, 0, 0) }

// finishRow fills in the checksum of key and payload.
func finishRow(key, row []byte) []byte {
	sum := crc32.Update(crc32.Checksum(key, castagnoli()), castagnoli(), row[rowHeaderBytes:])
	binary.LittleEndian.PutUint32(row[1:], sum)
	return row
}

// openRow checks a row and gives its payload, which aliases it.
func openRow(key, row []byte) ([]byte, error) {
	if len(row) > 0 && row[0] > rowVersion {
		return nil, banyan.Errorf(banyan.TooNew,
			"row %x has version %d, this binary (%s) knows %d: start the newer banyan that wrote it",
			key, row[0], banyan.Version, rowVersion)
	}
	if len(row) < rowHeaderBytes || row[0] != rowVersion {
		return nil, banyan.Errorf(banyan.Corrupt, "row %x is cut short", key)
	}
	sum := crc32.Update(crc32.Checksum(key, castagnoli()), castagnoli(), row[rowHeaderBytes:])
	if sum != binary.LittleEndian.Uint32(row[1:]) {
		return nil, banyan.Errorf(banyan.Corrupt, "row %x does not match its checksum", key)
	}
	return row[rowHeaderBytes:], nil
}

// appendEntry appends the row of an entry; key is its log key.
func appendEntry(dst, key []byte, e *raftpb.Entry) []byte {
	n := len(dst)
	dst = append(startRow(dst), byte(e.GetType()))
	dst = binary.LittleEndian.AppendUint64(dst, e.GetTerm())
	dst = append(dst, e.GetData()...)
	finishRow(key, dst[n:])
	return dst
}

// decodeEntry copies what it needs of row.
func decodeEntry(key, row []byte) (*raftpb.Entry, error) {
	p, err := openRow(key, row)
	if err != nil {
		return nil, err
	}
	if len(p) < 9 || len(key) != 13 || p[0] > byte(raftpb.EntryConfChangeV2) {
		return nil, banyan.Errorf(banyan.Corrupt, "log row %x makes no sense", key)
	}
	e := &struct {
		raftpb.Entry
		typ         raftpb.EntryType
		term, index uint64
	}{typ: raftpb.EntryType(p[0]), term: binary.LittleEndian.Uint64(p[1:]), index: binary.BigEndian.Uint64(key[5:])}
	e.Type, e.Entry.Term, e.Entry.Index = &e.typ, &e.term, &e.index
	if len(p) > 9 {
		e.Data = append([]byte(nil), p[9:]...)
	}
	return &e.Entry, nil
}

// encodeNumbers makes the row of a fixed count of numbers in dst[:0].
func encodeNumbers(dst, key []byte, ns ...uint64) []byte {
	row := startRow(dst[:0])
	for _, n := range ns {
		row = binary.LittleEndian.AppendUint64(row, n)
	}
	return finishRow(key, row)
}

func decodeNumbers(key, row []byte, ns ...*uint64) error {
	p, err := openRow(key, row)
	if err != nil {
		return err
	}
	if len(p) != 8*len(ns) {
		return banyan.Errorf(banyan.Corrupt, "row %x holds %d bytes, not %d", key, len(p), 8*len(ns))
	}
	for i, n := range ns {
		*n = binary.LittleEndian.Uint64(p[8*i:])
	}
	return nil
}

func encodeConf(key []byte, cs *raftpb.ConfState) []byte {
	row, err := proto.MarshalOptions{Deterministic: true}.MarshalAppend(startRow(nil), cs)
	if err != nil {
		panic(err) // numbers and a bool always marshal
	}
	return finishRow(key, row)
}

func decodeConf(key, row []byte) (*raftpb.ConfState, error) {
	p, err := openRow(key, row)
	if err != nil {
		return nil, err
	}
	cs := new(raftpb.ConfState)
	if err := proto.Unmarshal(p, cs); err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "row %x is no configuration: %w", key, err)
	}
	return raftpb.EnsureConfState(cs), nil
}

// encodeBounds makes the row of a replica's part of its state id.
func encodeBounds(key, lo, hi []byte) []byte {
	row := binary.LittleEndian.AppendUint16(startRow(nil), uint16(len(lo)))
	return finishRow(key, append(append(row, lo...), hi...))
}

func decodeBounds(key, row []byte) (lo, hi []byte, err error) {
	p, err := openRow(key, row)
	if err != nil {
		return nil, nil, err
	}
	if len(p) < 2 || len(p)-2 < int(binary.LittleEndian.Uint16(p)) {
		return nil, nil, banyan.Errorf(banyan.Corrupt, "row %x is no range of keys", key)
	}
	n := binary.LittleEndian.Uint16(p)
	p = slices.Clone(p[2:])
	return p[:n:n], p[n:], nil
}

func encodeIdentity(key []byte, id Identity) []byte {
	row := binary.LittleEndian.AppendUint64(startRow(nil), uint64(id.Node))
	return finishRow(key, append(row, id.Cluster...))
}

func decodeIdentity(key, row []byte) (Identity, error) {
	p, err := openRow(key, row)
	if err != nil {
		return Identity{}, err
	}
	if len(p) < 8 {
		return Identity{}, banyan.Errorf(banyan.Corrupt, "row %x is no identity", key)
	}
	return Identity{Cluster: string(p[8:]), Node: banyan.NodeID(binary.LittleEndian.Uint64(p))}, nil
}
