package sim

import (
	"time"

	"banyan"
)

// beginFaults injects the plan's faults, each at its time.
func (w *world) beginFaults() {
	for i := range w.plan.faults {
		f := &w.plan.faults[i]
		w.after(f.at, func() {
			n := w.nodes[f.node%len(w.nodes)]
			if w.inject(f, n) {
				w.say("fault %d: %s (%v)", f.number, f.kind, n.id)
				w.injected = append(w.injected, f.number)
				w.fault(f.kind)
			}
		})
	}
}

// inject begins a fault; false: it was not possible.
func (w *world) inject(f *fault, n *node) bool {
	d := f.dice
	switch f.kind {
	case "cut node", "cut one way", "cut halves", "cut links", "flap":
		w.cut(f, n)
	case "burst":
		w.net.burst = 0.2 + 0.6*d.Float64()
		w.later(d, func() { w.net.burst = 0 })
	case "pause":
		n.pausedTill = w.now + d.between(200*time.Millisecond, 4*time.Second)
	case "slow node":
		n.slow = 2 + d.IntN(200)
		w.later(d, func() { n.slow = 1 })
	case "clock jump":
		n.wall += d.between(-time.Hour, time.Hour)
	case "slow disk":
		n.slowDisk = 2 + d.IntN(200)
		w.later(d, func() { n.slowDisk = 1 })
	case "read error":
		n.unreadable = d.Float64() * d.Float64()
		n.arm()
		w.later(d, func() { n.unreadable = 0 })
	case "bit flip":
		return n.flip(d)
	case "transfer", "reconfigure", "drain", "join", "leave", "replace":
		return w.operator.disturb(f, n)
	default:
		return w.crash(f, n)
	}
	return true
}

// later undoes something after a while.
func (w *world) later(d dice, undo func()) {
	w.after(d.between(100*time.Millisecond, 3*time.Second), undo)
}

func (w *world) crash(f *fault, n *node) bool {
	d := f.dice
	if f.kind == "power all" {
		for _, n := range w.nodes {
			n.die(pick(d, []death{power, powerLost}), "all")
		}
		return true
	}
	if n.proc == nil {
		return false
	}
	switch f.kind {
	case "kill":
		n.die(kill, "")
	case "power":
		n.die(pick(d, []death{power, powerLost}), "")
	case "disk error":
		n.doom = doom{pick(d, []string{"write", "sync"}), d.IntN(30), pick(d, []death{kill, power, powerLost})}
		n.arm()
	case "crash point":
		n.doom = doom{pick(d, []string{"send", "written", "applied"}), d.IntN(30), pick(d, []death{kill, power, powerLost})}
	case "disk full":
		n.taken = true
		n.disk.SetCapacity(n.kv.Size() + int64(d.IntN(4096)))
	}
	return true
}

// cut makes a partition.
func (w *world) cut(f *fault, n *node) {
	d := f.dice
	var ways [][2]banyan.NodeID
	side := map[banyan.NodeID]bool{}
	for _, m := range w.nodes {
		side[m.id] = d.chance(0.5)
	}
	out := d.chance(0.5)
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			switch {
			case a == b:
			case f.kind == "cut one way" && (out && a == n || !out && b == n),
				(f.kind == "cut node" || f.kind == "flap") && (a == n || b == n),
				f.kind == "cut halves" && side[a.id] != side[b.id],
				f.kind == "cut links" && d.chance(0.3):
				ways = append(ways, [2]banyan.NodeID{a.id, b.id})
			}
		}
	}
	times := 1
	if f.kind == "flap" {
		times = 8
	}
	w.cutFor(d, ways, times)
}

// cutFor cuts ways some times for a while each.
func (w *world) cutFor(d dice, ways [][2]banyan.NodeID, times int) {
	if w.faultless {
		return
	}
	span := d.between(100*time.Millisecond, 4*time.Second) / time.Duration(times)
	for _, way := range ways {
		w.net.block(way[0], way[1], 1)
	}
	w.after(span, func() {
		if w.faultless {
			return // all is open already
		}
		for _, way := range ways {
			w.net.block(way[0], way[1], -1)
		}
		if times > 1 {
			w.after(span, func() { w.cutFor(d, ways, times-1) })
		}
	})
}

// recoverIn is how long a cluster may take, once nothing is broken any more,
// until every client has been answered and replicas and watchers are level.
const recoverIn = 40 * time.Second

// beginRecovery ends all faults. What follows must succeed.
func (w *world) beginRecovery() {
	w.say("faults end")
	w.faultless = true
	for _, n := range w.nodes {
		n.slow, n.slowDisk, n.pausedTill, n.doom, n.unreadable, n.draining = 1, 1, 0, doom{}, 0, n.leaving
		n.disk.Inject(nil)
		n.disk.SetCapacity(0)
		w.after(w.between(0, time.Second), n.restart)
	}
	clear(w.net.cut)
	w.after(recoverIn, func() { w.fail("the cluster has not recovered in %v:\n%s", recoverIn, w.status()) })
	w.every(200*time.Millisecond, w.recovered)
}
