package work

import "math/bits"

// bitmap is a set of task indices: one bit each, so that a million tasks cost
// 125 kB.
type bitmap []uint64

func newBitmap(n int) bitmap { return make(bitmap, (n+63)/64) }

func (b bitmap) has(i uint32) bool { return b[i/64]&(1<<(i%64)) != 0 }

func (b bitmap) set(i uint32) { b[i/64] |= 1 << (i % 64) }

func (b bitmap) clear(i uint32) { b[i/64] &^= 1 << (i % 64) }

// firstClear gives the first index at or after from that is not in the set and
// below n, or n.
func (b bitmap) firstClear(from, n uint32) uint32 {
	for i := from / 64; i*64 < n; i++ {
		free := ^b[i]
		if i == from/64 {
			free &^= 1<<(from%64) - 1
		}
		if free != 0 {
			return min(i*64+uint32(bits.TrailingZeros64(free)), n)
		}
	}
	return n
}
