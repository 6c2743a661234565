package mvcc

import (
	"bytes"

	"github.com/cespare/xxhash/v2"

	"banyan"
)

// known tells keys that have no current row for certain from those that may
// have one, so that a new key is put without a search for its old version. It
// is memory only: no state follows from it.
//
// It knows the keys written since the machine was opened at once; those that
// were there before it learns in steps, in their order, while commands are
// applied. Until it has them all, or if they are too many, it knows nothing.
type known struct {
	segments [][]block // each twice as large as the one before
	room     int       // keys that the last one still takes
	blocks   int       // in all

	learning bool
	useless  bool   // too many keys
	where    []span // the rows still to learn
	commands int    // until the next step
}

// block is one cache line of a blocked Bloom filter: a key sets blockBits bits
// of one block (Putze, Sanders, Singler: Cache-, Hash- and Space-Efficient
// Bloom Filters, 2007). About three absent keys in a thousand look present.
type block [8]uint64

const (
	blockBits     = 7
	blockKeys     = 32 // of a full block: 16 bits a key
	segmentBlocks = 1024
	blocksMax     = banyan.KeyFilterBytesMax / 64

	learnEvery = 64  // commands between steps
	learnRows  = 512 // in a step
)

// keyBits gives the bits of a key in its block.
func keyBits(h uint64) (b block) {
	h *= 0x9e3779b97f4a7c15 // the block was chosen by the upper half of h
	for range blockBits {
		b[h>>61] |= 1 << (h >> 55 & 63)
		h <<= 9
	}
	return b
}

// at is the block of a key in a segment.
func at(segment []block, h uint64) *block {
	return &segment[(h>>32)*uint64(len(segment))>>32]
}

func (k *known) has(h uint64) bool {
	b := keyBits(h)
next:
	for _, segment := range k.segments {
		for i, w := range at(segment, h) {
			if w&b[i] != b[i] {
				continue next
			}
		}
		return true
	}
	return false
}

// keyHash is what known knows of a key.
func keyHash(key []byte) uint64 { return xxhash.Sum64(key) }

// lacks says that the key of a hash has no current row.
func (k *known) lacks(h uint64) bool { return !k.learning && !k.useless && !k.has(h) }

// add notes that the key of a hash has a current row.
func (k *known) add(h uint64) {
	if !k.has(h) {
		k.addNew(h)
	}
}

// addNew is add for a key that it lacked when asked last.
func (k *known) addNew(h uint64) {
	if k.useless {
		return
	}
	if k.room == 0 {
		n := segmentBlocks << len(k.segments)
		if k.blocks+n > blocksMax {
			*k = known{useless: true}
			return
		}
		k.segments = append(k.segments, make([]block, n))
		k.blocks, k.room = k.blocks+n, n*blockKeys
	}
	k.room--
	to := at(k.segments[len(k.segments)-1], h)
	for i, w := range keyBits(h) {
		to[i] |= w
	}
}

// learn makes a step now and then. Call it before each command.
func (k *known) learn(r Reader) error {
	if !k.learning {
		return nil
	}
	if k.commands > 0 {
		k.commands--
		return nil
	}
	k.commands = learnEvery
	rows := 0
	for len(k.where) > 0 && !k.useless {
		part := &k.where[0]
		err := r.Scan(part.lo, part.hi, func(row, _ []byte) bool {
			k.add(keyHash(row[1:]))
			if rows++; rows == learnRows {
				part.lo = append(bytes.Clone(row), 0)
			}
			return rows < learnRows && !k.useless
		})
		if err != nil || rows == learnRows || k.useless {
			return err
		}
		k.where = k.where[1:]
	}
	k.learning, k.where = false, nil
	return nil
}

// toLearn is where the keys are of a machine that was opened on rows.
func toLearn(mt *meta) (where []span) {
	if mt.revision == 0 {
		return nil
	}
	apart := banyan.SlotKey(banyan.SlotOwn)
	for _, class := range [...]byte{currentPrefix, unversionedPrefix} {
		from, to := Bounds(class, mt.bounds.lo, mt.bounds.hi)
		where = append(where, span{from, to})
		if !mt.bounds.all() {
			from, to = Bounds(class, apart, nil)
			where = append(where, span{from, to})
		}
	}
	return where
}
