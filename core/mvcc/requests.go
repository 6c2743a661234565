package mvcc

import (
	"hash/maphash"

	"banyan"
)

// requests finds the places in a window's ring by request id. A map does the
// same with twice the memory and more than twice the cache misses, which are what
// looking up a new id costs.
//
// It is a hash table with linear probing, at most half full. An entry is the
// upper half of the id's hash and, behind it, the place plus one; 0 is empty.
// The seed keeps callers from choosing ids that collide.
type requests struct {
	entries []uint64 // a power of two of them
	used    int
	seed    maphash.Seed
}

const requestsLeast = 64 // entries

func requestEntry(hash uint64, at int) uint64 { return hash>>32<<32 | uint64(at+1) }

// home is where the search for an entry begins.
func (q *requests) home(entry uint64) int { return int(entry>>32) & (len(q.entries) - 1) }

func (q *requests) next(i int) int { return (i + 1) & (len(q.entries) - 1) }

// expect makes room for n ids.
func (q *requests) expect(n int) {
	size := requestsLeast
	for size < 2*n {
		size *= 2
	}
	if size <= len(q.entries) {
		return
	}
	if q.entries == nil {
		q.seed = maphash.MakeSeed()
	}
	old := q.entries
	q.entries = make([]uint64, size)
	for _, e := range old {
		if e != 0 {
			q.put(e)
		}
	}
}

func (q *requests) put(entry uint64) {
	i := q.home(entry)
	for q.entries[i] != 0 {
		i = q.next(i)
	}
	q.entries[i] = entry
}

// find gives the entry of id, whose place is in ring, and where it points.
func (q *requests) find(ring []remembered, id *banyan.RequestID) (entry, at int, ok bool) {
	if q.used == 0 {
		return 0, 0, false
	}
	want := requestEntry(maphash.Bytes(q.seed, id[:]), -1)
	for i := q.home(want); q.entries[i] != 0; i = q.next(i) {
		if e := q.entries[i]; e>>32 == want>>32 {
			if at := int(uint32(e)) - 1; ring[at].id == *id {
				return i, at, true
			}
		}
	}
	return 0, 0, false
}

// add notes the place of an id that is not there.
func (q *requests) add(id *banyan.RequestID, at int) {
	q.expect(q.used + 1)
	q.put(requestEntry(maphash.Bytes(q.seed, id[:]), at))
	q.used++
}

// remove empties an entry and moves up what it kept from its home.
func (q *requests) remove(hole int) {
	q.used--
	for i := q.next(hole); q.entries[i] != 0; i = q.next(i) {
		home, mask := q.home(q.entries[i]), len(q.entries)-1
		if (i-home)&mask >= (i-hole)&mask {
			q.entries[hole], hole = q.entries[i], i
		}
	}
	q.entries[hole] = 0
}
