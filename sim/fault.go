package sim

import (
	"time"

	"banyan"
)

// beginFaults injects one of the plan's faults after the other.
func (w *world) beginFaults() {
	if len(w.plan.faults) == 0 {
		return
	}
	w.after(w.between(w.plan.every/2, w.plan.every*3/2), func() {
		if w.faultless {
			return
		}
		kind := pick(w.rng, w.plan.faults)
		n := pick(w.rng, w.nodes)
		if w.inject(kind, n) {
			w.say("fault: %s (%v)", kind, n.id)
			w.fault(kind)
		}
		w.beginFaults()
	})
}

// inject begins a fault; false: it was not possible.
func (w *world) inject(kind string, n *node) bool {
	switch kind {
	case "cut node", "cut one way", "cut halves", "cut links", "flap":
		w.cut(kind, n)
	case "pause":
		n.pausedTill = w.now + w.between(200*time.Millisecond, 4*time.Second)
	case "slow node":
		n.slow = 2 + w.rng.IntN(200)
		w.later(func() { n.slow = 1 })
	case "slow disk":
		n.slowDisk = 2 + w.rng.IntN(200)
		w.later(func() { n.slowDisk = 1 })
	case "burst":
		w.net.burst = 0.2 + 0.6*w.rng.Float64()
		w.later(func() { w.net.burst = 0 })
	case "transfer", "reconfigure", "drain", "replace":
		return w.operator.disturb(kind, n)
	default:
		return w.crash(kind, n)
	}
	return true
}

// later undoes something after a while, or when faults end.
func (w *world) later(undo func()) { w.after(w.between(100*time.Millisecond, 3*time.Second), undo) }

func (w *world) crash(kind string, n *node) bool {
	if kind == "power all" {
		for _, n := range w.nodes {
			n.die(pick(w.rng, []death{power, powerLost}), "all")
		}
		return true
	}
	if n.proc == nil {
		return false
	}
	switch kind {
	case "kill":
		n.die(kill, "")
	case "power":
		n.die(pick(w.rng, []death{power, powerLost}), "")
	case "disk":
		n.doom = doom{
			point: pick(w.rng, []string{"write", "sync", "send", "written", "applied"}),
			left:  w.rng.IntN(30),
			how:   pick(w.rng, []death{kill, power, powerLost}),
		}
		n.arm()
	case "disk full":
		n.disk.SetCapacity(n.kv.Size() + int64(w.rng.IntN(4096)))
	}
	return true
}

// cut makes a partition.
func (w *world) cut(kind string, n *node) {
	var ways [][2]banyan.NodeID
	between := func(a, b *node) { ways = append(ways, [2]banyan.NodeID{a.id, b.id}) }
	side := map[banyan.NodeID]bool{}
	for _, m := range w.nodes {
		side[m.id] = w.chance(0.5)
	}
	out := w.chance(0.5)
	for _, a := range w.nodes {
		for _, b := range w.nodes {
			switch {
			case a == b:
			case kind == "cut one way" && (out && a == n || !out && b == n),
				(kind == "cut node" || kind == "flap") && (a == n || b == n),
				kind == "cut halves" && side[a.id] != side[b.id],
				kind == "cut links" && w.chance(0.3):
				between(a, b)
			}
		}
	}
	times := 1
	if kind == "flap" {
		times = 8
	}
	w.cutFor(ways, times)
}

// cutFor cuts ways some times for a while each.
func (w *world) cutFor(ways [][2]banyan.NodeID, times int) {
	d := w.between(100*time.Millisecond, 4*time.Second) / time.Duration(times)
	for _, way := range ways {
		w.net.block(way[0], way[1], 1)
	}
	w.after(d, func() {
		for _, way := range ways {
			w.net.block(way[0], way[1], -1)
		}
		if times > 1 && !w.faultless {
			w.after(d, func() { w.cutFor(ways, times-1) })
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
		n.slow, n.slowDisk, n.pausedTill, n.doom, n.draining = 1, 1, 0, doom{}, false
		n.disk.Inject(nil)
		n.disk.SetCapacity(0)
		w.after(w.between(0, time.Second), n.restart)
	}
	for way := range w.net.cut { // only deletes: the order does not show
		delete(w.net.cut, way)
	}
	w.after(recoverIn, func() { w.fail("the cluster has not recovered in %v:\n%s", recoverIn, w.status()) })
	w.every(200*time.Millisecond, w.recovered)
}
