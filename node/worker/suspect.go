package worker

import (
	"slices"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
)

// An attempt whose task was lost with a node before is a suspect: it may be what
// ends nodes. One runs here at a time, so that if this node ends it is known
// which it was. Its turn comes when a slot is free for it; the slot is kept while
// its controller makes durable that it begins, and says so. If leadership moves
// meanwhile, the next controller is asked.

// Lost is an attempt that ran here when this node ended without warning.
type Lost struct {
	Key     Key
	Suspect bool
}

// Lost says what ran when this node ended without warning. Each hello names it
// to the controller that leads its job, until that says that it is recorded.
func (c *Core) Lost(lost []Lost) {
	c.lost = append(c.lost, lost...)
	c.hellos()
}

// Unrecorded lists the losses that no controller has recorded yet.
func (c *Core) Unrecorded() []Lost { return slices.Clone(c.lost) }

// hellos has every controller told that leads the job of something lost.
func (c *Core) hellos() {
	for _, x := range c.controllers {
		x.hello = x.hello || slices.ContainsFunc(c.lost, func(l Lost) bool { return c.leads(x, l) })
	}
}

func (c *Core) leads(x *controller, l Lost) bool {
	return c.leaders[c.shardOf([]byte(l.Key.Job))] == x.node
}

// name puts what was lost into a hello.
func (c *Core) name(x *controller, h *peerv1.Hello) {
	for _, l := range c.lost {
		if c.leads(x, l) {
			h.Lost = append(h.Lost, &peerv1.Lost{Key: l.Key.proto(), Suspect: l.Suspect})
		}
	}
}

// told forgets a loss that a controller knows.
func (c *Core) told(k Key) {
	c.lost = slices.DeleteFunc(c.lost, func(l Lost) bool {
		if l.Key == k {
			c.effects.Told = append(c.effects.Told, k)
		}
		return l.Key == k
	})
}

// turn chooses the suspect that begins next, if none runs and a slot is free.
func (c *Core) turn() {
	if c.turns != nil || c.stopped || c.draining || c.free() == 0 ||
		slices.ContainsFunc(c.slots, func(a *attempt) bool { return a != nil && a.suspect }) {
		return
	}
	for _, a := range c.waiting {
		if a.suspect && !c.full(a) {
			c.turns, a.asked, a.begun = a, 0, false
			return
		}
	}
}

// begin takes a controller's word that a suspect may begin.
func (c *Core) begin(k Key) {
	if c.turns != nil && c.turns.key == k {
		c.turns.begun = true
	}
}

// mayStart says whether an attempt that waits may take free slots: not those
// that are kept for the suspect whose turn it is, and a suspect only that one.
func (c *Core) mayStart(a *attempt) bool {
	switch {
	case c.full(a):
		return false
	case a.suspect:
		return c.turns == a && a.begun
	}
	return c.turns == nil || c.free() >= a.demand.Slots+c.turns.demand.Slots
}

// full says whether as many of a job run here as may.
func (c *Core) full(a *attempt) bool {
	limit := int(a.job.GetSpec().GetPerNodeMax())
	if limit == 0 {
		return false
	}
	n := c.runningOf(a.key.Job)
	if c.turns != nil && c.turns != a && c.turns.key.Job == a.key.Job {
		n++
	}
	return n >= limit
}

// free counts the slots that attempts may take now.
func (c *Core) free() int { return max(0, c.most()-c.taken.Slots) }

// asks says whether a controller has yet to be asked to let a suspect begin.
func (c *Core) asks(x *controller) bool {
	return c.turns != nil && !c.turns.begun && c.turns.asked != x.node && c.owner(c.turns) == x
}

// unasked has a controller asked again.
func (c *Core) unasked(node banyan.NodeID) {
	if c.turns != nil && c.turns.asked == node {
		c.turns.asked = 0
	}
}
