package store

import (
	"go.etcd.io/raft/v3/raftpb"

	"banyan"
)

// OpenPebble opens the KV alone, for its contract suite.
func OpenPebble(dir string, o Options) (KV, error) {
	return openPebble(dir, o, func(error) {})
}

// Rows as they are on disk, for tests that damage them.

func LogKey(id banyan.ShardID, index uint64) []byte   { return logKey(nil, id, index) }
func SealNumbers(key []byte, ns ...uint64) []byte     { return encodeNumbers(nil, key, ns...) }
func SealEntry(key []byte, e *raftpb.Entry) []byte    { return appendEntry(nil, key, e) }
func SealConf(key []byte, c *raftpb.ConfState) []byte { return encodeConf(key, c) }
func SealIdentity(key []byte, id Identity) []byte     { return encodeIdentity(key, id) }

// DecodeAll gives the row to every decoder.
func DecodeAll(key, row []byte) []error {
	var a, b, c uint64
	_, entryErr := decodeEntry(key, row)
	_, confErr := decodeConf(key, row)
	_, idErr := decodeIdentity(key, row)
	_, _, boundsErr := decodeBounds(key, row)
	decodeSeal(row)
	decodeSeal(key)
	m := meta{at: &layout{}}
	var metaErr error
	if len(key) == 6 {
		metaErr = m.decode(key, row)
	}
	return []error{entryErr, confErr, idErr, boundsErr, metaErr,
		decodeNumbers(key, row, &a), decodeNumbers(key, row, &a, &b), decodeNumbers(key, row, &a, &b, &c)}
}
