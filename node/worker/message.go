package worker

import (
	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
)

// Due says whether there is something to tell a controller. It is not urgent
// when it is only results while there is enough to do: then waiting a few
// milliseconds makes one message and one commit of many.
func (c *Core) Due(node banyan.NodeID) (due, urgent bool) {
	x := c.controller(node)
	if x == nil {
		return false, false
	}
	if x.hello || c.asks(x) || x.told == nil || len(x.rejected) > 0 || int(x.told.Credit) != x.credit || x.told.Draining != c.drains() {
		return true, true
	}
	for _, a := range c.results {
		if c.owes(x, a) {
			return true, len(c.waiting) < len(c.slots) || c.stopped
		}
	}
	return false, false
}

// Message makes the next message to a controller, nil if there is nothing to
// say. Once made it counts as sent.
func (c *Core) Message(now int64, node banyan.NodeID) *peerv1.WorkerMessage {
	if due, _ := c.Due(node); !due {
		return nil
	}
	x := c.controller(node)
	m := &peerv1.WorkerMessage{Credit: uint32(x.credit), Draining: c.drains()}
	if x.hello {
		x.hello, x.helloAt, x.leads = false, now, c.leadsOf(x)
		m.Hello = &peerv1.Hello{Node: uint64(c.node), Slots: uint32(len(c.slots)), Protocol: banyan.ProtocolMin} // the same in all protocols so far
		for _, shard := range x.leads {
			m.Hello.Leads = append(m.Hello.Leads, uint32(shard))
		}
		for _, a := range append(c.held(), c.results...) {
			if c.owner(a) == x {
				m.Hello.Running = append(m.Hello.Running, a.key.proto())
			}
		}
		c.name(x, m.Hello)
	}
	if c.asks(x) {
		c.turns.asked = x.node
		m.Begins = []*peerv1.AttemptKey{c.turns.key.proto()}
	}
	bytes := 0
	for _, a := range c.results {
		if len(m.Finished) >= banyan.ResultBatchMax || bytes >= messageMax {
			break
		}
		if c.owes(x, a) {
			a.sentTo, a.sentAt = x.node, now
			bytes += a.bytes
			m.Finished = append(m.Finished, &peerv1.Finished{Key: a.key.proto(), Result: a.result})
		}
	}
	for _, k := range x.rejected {
		m.Rejected = append(m.Rejected, k.proto())
	}
	x.rejected = nil
	x.told = &peerv1.WorkerMessage{Credit: m.Credit, Draining: m.Draining}
	return m
}

// owes says whether a result has yet to be sent to x.
func (c *Core) owes(x *controller, a *attempt) bool {
	return a.sentTo != x.node && c.owner(a) == x
}

func (c *Core) drains() bool { return c.draining || c.stopped }
