package blob

import (
	"cmp"
	"encoding/binary"
	"slices"

	"banyan"
)

// Rank orders nodes by how much a chunk belongs on them (rendezvous hashing):
// every node that knows the same nodes gives the same order, and a node that
// comes or goes moves only the chunks it takes or leaves.
func Rank(h banyan.Hash, nodes []banyan.NodeID) []banyan.NodeID {
	key := binary.LittleEndian.Uint64(h[:8])
	out := slices.Clone(nodes)
	slices.SortFunc(out, func(a, b banyan.NodeID) int {
		return cmp.Or(cmp.Compare(weight(key, b), weight(key, a)), cmp.Compare(a, b))
	})
	return slices.Compact(out)
}

// weight mixes a node into a chunk's key (the finalizer of splitmix64).
func weight(key uint64, n banyan.NodeID) uint64 {
	z := key ^ uint64(n)*0x9e3779b97f4a7c15
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	return z ^ z>>31
}
