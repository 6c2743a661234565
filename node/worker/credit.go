package worker

import (
	"math/bits"
	"slices"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	jobs "banyan/core/job"
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
// others; slots that are left are spread, so that a job can begin without asking.
func (c *Core) grant() {
	free := banyan.Resources{Slots: c.most() + c.ahead(c.pace.now), Memory: c.offer.Memory}
	if c.draining || c.stopped || len(c.results) >= banyan.WorkerResultsMax {
		free = banyan.Resources{}
	}
	for _, x := range c.controllers {
		x.credit = banyan.Resources{}
	}
	for _, a := range c.slots {
		if a != nil {
			free = free.Minus(a.demand)
			c.count(a)
		}
	}
	for _, a := range c.waiting {
		free = free.Minus(a.demand)
		c.count(a)
	}
	if len(c.controllers) == 0 {
		return
	}
	free = c.meet(free)
	for i := 0; free.Slots > 0; i, free.Slots = i+1, free.Slots-1 {
		c.controllers[i%len(c.controllers)].credit.Slots++
	}
}

// meet grants what the controllers have demand for, and gives what is left.
func (c *Core) meet(free banyan.Resources) banyan.Resources {
	left := make([][]demand, len(c.controllers))
	for i, x := range c.controllers {
		left[i] = slices.Clone(x.demand)
	}
	for free.Slots > 0 {
		least, kind := -1, 0
		for i, x := range c.controllers {
			if least >= 0 && x.credit.Slots >= c.controllers[least].credit.Slots {
				continue
			}
			if k := slices.IndexFunc(left[i], func(d demand) bool { return d.attempts > 0 && d.each.FitsIn(free) }); k >= 0 {
				least, kind = i, k
			}
		}
		if least < 0 {
			break
		}
		d, x := &left[least][kind], c.controllers[least]
		d.attempts--
		x.credit, free = x.credit.Plus(d.each), free.Minus(d.each)
	}
	return free
}

func demandsOf(list []*peerv1.Demand) []demand {
	var all []demand
	for _, d := range list[:min(len(list), banyan.DemandKindsMax)] {
		each := jobs.ResourcesOf(d.GetEach())
		each.Slots = max(1, each.Slots)
		all = append(all, demand{each, int(d.GetAttempts())})
	}
	return all
}

func (c *Core) count(a *attempt) {
	if x := c.owner(a); x != nil {
		x.credit = x.credit.Plus(a.demand)
	}
}
