package work

import "math/bits"

// bitmap is a set of task indices: one bit each, so that a million tasks cost
// 125 kB. It grows as it is set. Pages that are full cost nothing, so that a job
// without end, nearly all of whose tasks are done, does not either.
type bitmap struct{ pages []page }

// page is pageTasks tasks. Without bits it is empty or full, as n says.
type page struct {
	bits *[pageWords]uint64
	n    uint32
}

const (
	pageWords = 64
	pageTasks = 64 * pageWords
)

func (b *bitmap) has(i uint32) bool {
	if int(i/pageTasks) >= len(b.pages) {
		return false
	}
	p := &b.pages[i/pageTasks]
	if p.bits == nil {
		return p.n != 0
	}
	return p.bits[i%pageTasks/64]&(1<<(i%64)) != 0
}

func (b *bitmap) set(i uint32) {
	if b.has(i) {
		return
	}
	for int(i/pageTasks) >= len(b.pages) {
		b.pages = append(b.pages, page{})
	}
	p := &b.pages[i/pageTasks]
	if p.bits == nil {
		p.bits = new([pageWords]uint64)
	}
	p.bits[i%pageTasks/64] |= 1 << (i % 64)
	if p.n++; p.n == pageTasks {
		p.bits = nil
	}
}

func (b *bitmap) clear(i uint32) {
	if !b.has(i) {
		return
	}
	p := &b.pages[i/pageTasks]
	if p.bits == nil {
		p.bits = new([pageWords]uint64)
		for w := range p.bits {
			p.bits[w] = ^uint64(0)
		}
	}
	p.bits[i%pageTasks/64] &^= 1 << (i % 64)
	if p.n--; p.n == 0 {
		p.bits = nil
	}
}

// fill sets all before n.
func (b *bitmap) fill(n uint32) {
	for at := range int(n / pageTasks) {
		if at == len(b.pages) {
			b.pages = append(b.pages, page{})
		}
		b.pages[at] = page{n: pageTasks}
	}
	for i := n - n%pageTasks; i < n; i++ {
		b.set(i)
	}
}

// firstClear gives the first index at or after from that is not in the set and
// below n, or n.
func (b *bitmap) firstClear(from, n uint32) uint32 {
	for i := from; i < n; {
		if int(i/pageTasks) >= len(b.pages) {
			return i
		}
		p := &b.pages[i/pageTasks]
		if p.bits == nil {
			if p.n == 0 {
				return i
			}
			if i = (i/pageTasks + 1) * pageTasks; i == 0 { // behind the last number
				return n
			}
			continue
		}
		free := ^p.bits[i%pageTasks/64] &^ (1<<(i%64) - 1)
		if free != 0 {
			return min(i&^63+uint32(bits.TrailingZeros64(free)), n)
		}
		i = i&^63 + 64
	}
	return n
}

// last gives the last index below n that is in the set, or 0.
func (b *bitmap) last(n uint32) uint32 {
	for at := min(len(b.pages), int(n/pageTasks)+1) - 1; at >= 0; at-- {
		if b.pages[at].n == 0 {
			continue
		}
		for i := min(n, uint32(at+1)*pageTasks); i > uint32(at)*pageTasks; i-- {
			if b.has(i - 1) {
				return i - 1
			}
		}
	}
	return 0
}
