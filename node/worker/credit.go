package worker

import (
	"math/bits"

	"banyan"
)

// ahead is how much work may wait at a worker, in µs of each slot's time: it
// covers the way to the controller and back, and the commit of a batch.
const workAhead = 50_000

// pace is how fast attempts go by.
type pace struct {
	mean  int64 // µs that an attempt occupies a slot, moving average; 0: unknown
	moved int64 // when an attempt last began or ended
	now   int64
}

func (p *pace) ended(now, took int64) {
	p.moved, p.now = now, now
	took = max(took, 1)
	if p.mean == 0 {
		p.mean = took
		return
	}
	p.mean = max(1, p.mean+(took-p.mean)/8)
}

// ahead is how many attempts may wait beyond the slots: none while attempts
// take longer than workAhead, or when nothing has moved for as long. It is a
// power of two, so that it changes seldom.
func (p *pace) ahead(now int64, slots int) int {
	if p.mean == 0 {
		return 0
	}
	d := max(p.mean, now-p.moved)
	n := min(workAhead*int64(slots)/d, banyan.WorkerBacklogMax)
	if d > workAhead || n == 0 {
		return 0
	}
	return 1 << (bits.Len64(uint64(n)) - 1)
}

// grant divides what this worker can take among the controllers. A credit is a
// window: it includes what is held already, so that nothing in flight is
// counted twice. Those with demand come first, the one that holds least before
// others; what is left is spread, so that a job can begin without asking.
func (c *Core) grant() {
	free := c.most() + c.ahead(c.pace.now)
	if c.draining || c.stopped || len(c.results) >= banyan.WorkerResultsMax {
		free = 0
	}
	for _, x := range c.controllers {
		x.credit = 0
	}
	for _, a := range c.slots {
		if a != nil {
			free--
			c.count(a)
		}
	}
	for _, a := range c.waiting {
		free--
		c.count(a)
	}
	if len(c.controllers) == 0 {
		return
	}
	demand := make([]int, len(c.controllers))
	for i, x := range c.controllers {
		demand[i] = x.demand
	}
	for ; free > 0; free-- {
		least := -1
		for i, x := range c.controllers {
			if demand[i] > 0 && (least < 0 || x.credit < c.controllers[least].credit) {
				least = i
			}
		}
		if least < 0 {
			break
		}
		demand[least]--
		c.controllers[least].credit++
	}
	for i := 0; free > 0; i, free = i+1, free-1 {
		c.controllers[i%len(c.controllers)].credit++
	}
}

func (c *Core) count(a *attempt) {
	if x := c.owner(a); x != nil {
		x.credit++
	}
}
