package worker

import (
	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	jobs "banyan/core/job"
)

// Due says whether there is something to tell a controller. It is not urgent
// when it is only results while there is enough to do: then waiting a few
// milliseconds makes one message and one commit of many.
func (c *Core) Due(node banyan.NodeID) (due, urgent bool) {
	x := c.controller(node)
	if x == nil {
		return false, false
	}
	if x.hello || c.asks(x) || x.told == nil || len(x.rejected) > 0 || *x.told != (told{x.credit, c.drains()}) {
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
	m := &peerv1.WorkerMessage{Credit: jobs.ResourcesProto(x.credit), Draining: c.drains()}
	if x.hello {
		x.hello, x.helloAt, x.leads = false, now, c.leadsOf(x)
		m.Hello = &peerv1.Hello{Node: uint64(c.node), Offer: jobs.ResourcesProto(c.offer), Protocol: banyan.ProtocolMin} // the same in all protocols so far
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
			break // what is left makes the next message: it stays due
		}
		if c.owes(x, a) {
			a.sentTo, a.sentAt = x.node, now
			bytes += a.bytes
			m.Finished = append(m.Finished, &peerv1.Finished{Key: a.key.proto(), Result: a.result, Epoch: a.epoch})
		}
	}
	n := min(len(x.rejected), rejectedMax)
	for _, k := range x.rejected[:n] {
		m.Rejected = append(m.Rejected, k.proto())
	}
	x.rejected = x.rejected[n:]
	x.told = &told{x.credit, c.drains()}
	return m
}

// rejectedMax bounds the attempts handed back in one message.
const rejectedMax = 4096

// Unmade takes it that a message could not be made: nothing of it went out, and
// the stream is not to blame. Results that cannot be carried become failures
// that say so; all that the message told is due again.
func (c *Core) Unmade(node banyan.NodeID, m *peerv1.WorkerMessage, why error) {
	for _, f := range m.GetFinished() {
		a := c.attempts[keyOf(f.GetKey())]
		if a == nil || a.result != f.GetResult() {
			continue
		}
		a.sentTo = 0
		if _, err := proto.Marshal(f); err != nil {
			r := a.result
			a.finish(&banyanv1.TaskResult{
				Task: r.GetTask(), Attempt: r.GetAttempt(), Node: r.GetNode(), Slot: r.GetSlot(), ExitCode: r.GetExitCode(),
				StartMs: r.GetStartMs(), DurationUs: r.GetDurationUs(), State: banyanv1.TaskState_TASK_STATE_FAILED,
				Error: "the result cannot be sent: " + why.Error(),
			})
		}
	}
	x := c.controller(node)
	if x == nil {
		return
	}
	x.hello, x.told = x.hello || m.GetHello() != nil, nil
	for _, k := range m.GetRejected() {
		x.rejected = append(x.rejected, keyOf(k))
	}
}

// owes says whether a result has yet to be sent to x.
func (c *Core) owes(x *controller, a *attempt) bool {
	return a.sentTo != x.node && c.owner(a) == x
}

func (c *Core) drains() bool { return c.draining || c.stopped }
