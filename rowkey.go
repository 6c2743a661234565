package banyan

import (
	"encoding/binary"
	"strconv"
)

// The key of a row: slot (2 bytes, big-endian) | layer (1 byte) | space
// (varint) | key. Whatever must change in one command shares a partition, and
// so a slot; a shard holds a range of row keys.

// Slots is the number of hash slots of the data shards' rows.
const Slots = 1024

// The slots that no partition hashes to.
const (
	SlotRoot = 0xFFFE // the root shard's rows
	SlotOwn  = 0xFFFF // rows of one shard alone: they stay with it when it splits
)

// Space is a namespace of partitions.
type Space uint64

// The spaces there are.
const (
	SpaceSystem  Space = 0 // of the system itself
	SpaceDefault Space = 1
)

// Layer says whose row it is. Its top bit says that the row is unversioned: it
// has no history, and a read at an older revision gives it as it is now.
type Layer byte

// Unversioned is the top bit of a Layer.
const Unversioned Layer = 0x80

// The layers. The numbers are part of the data format.
const (
	LayerKV      Layer = 1               // the users' keys
	LayerLock    Layer = 2               // leases and the claims to locks
	LayerJob     Layer = 3               // jobs and their inputs
	LayerCluster Layer = 4               // nodes, tokens, settings, in the root shard
	LayerChain   Layer = 2 | Unversioned // the latest command of a shard's lock controller
	LayerResult  Layer = 3 | Unversioned // the results of tasks
)

var layerNames = map[Layer]string{
	LayerKV: "kv", LayerLock: "lock", LayerJob: "job", LayerCluster: "cluster", LayerChain: "chain", LayerResult: "result",
}

// String gives the layer's name.
func (l Layer) String() string {
	if name, ok := layerNames[l]; ok {
		return name
	}
	return "layer " + strconv.Itoa(int(l))
}

// Partition gives the part of a key before its first '/', or all of it. Keys
// of one partition live in one shard.
func Partition(key []byte) []byte {
	for i, c := range key {
		if c == '/' {
			return key[:i]
		}
	}
	return key
}

// SlotIn gives the hash slot of a partition of a space: FNV-1a, 64 bit, over
// the space as a varint and the partition, modulo Slots. It is part of the
// protocol: clients use it to ask a shard's leader directly.
func SlotIn(space Space, partition []byte) int {
	const prime = 1099511628211
	var b [binary.MaxVarintLen64]byte
	h := uint64(14695981039346656037)
	for _, c := range b[:binary.PutUvarint(b[:], uint64(space))] {
		h = (h ^ uint64(c)) * prime
	}
	for _, c := range partition {
		h = (h ^ uint64(c)) * prime
	}
	return int(h % Slots)
}

// SlotOf is SlotIn for the default space.
func SlotOf(partition []byte) int { return SlotIn(SpaceDefault, partition) }

// AppendRowKey writes what stands before the layer's own key.
func AppendRowKey(dst []byte, slot int, layer Layer, space Space) []byte {
	return binary.AppendUvarint(append(dst, byte(slot>>8), byte(slot), byte(layer)), uint64(space))
}

// SlotKey is the first row key that a slot can have: the bound between it and
// the slot before.
func SlotKey(slot int) []byte { return []byte{byte(slot >> 8), byte(slot)} }

// Row is a row key taken apart.
type Row struct {
	Slot  int
	Layer Layer
	Space Space
	Key   []byte // the layer's own, a part of the row key
}

// ParseRowKey takes a row key apart.
func ParseRowKey(row []byte) (r Row, ok bool) {
	if len(row) < 4 {
		return Row{}, false
	}
	space, n := binary.Uvarint(row[3:])
	if n <= 0 {
		return Row{}, false
	}
	return Row{Slot: int(row[0])<<8 | int(row[1]), Layer: Layer(row[2]), Space: Space(space), Key: row[3+n:]}, true
}
