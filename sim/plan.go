package sim

import (
	"math/rand/v2"
	"time"
)

// plan is what kind of run a seed makes. Each run has some of the faults, not
// all of them: what one fault hides another seed shows.
type plan struct {
	nodes, shards, clients, watchers, jobs int

	keep     uint64        // log entries kept
	compact  uint64        // revisions of history kept; 0: all
	length   time.Duration // with faults
	think    time.Duration // of a client between operations
	patience float64       // chance that a client gives an operation up

	loss, dup, reorder, spike float64 // of messages
	spikeMax                  time.Duration
	drift                     float64 // of clocks

	every  time.Duration // between faults, about
	faults []string      // drawn from
}

// faultKinds are the faults that have a beginning; those of messages are drawn
// for each message.
var faultKinds = [...]string{
	"kill", "power", "power all", "disk", "cut node", "cut one way", "cut halves", "cut links", "flap",
	"pause", "slow node", "slow disk", "disk full", "transfer", "reconfigure", "drain", "replace", "burst",
}

func drawPlan(rng *rand.Rand, nodes int) plan {
	p := plan{
		nodes: nodes, shards: 1 + rng.IntN(3), clients: 3 + rng.IntN(4), watchers: 2, jobs: rng.IntN(4),
		keep:   uint64(8 + rng.IntN(120)),
		length: 8 * time.Second,
		think:  time.Duration(5+rng.IntN(60)) * time.Millisecond,
		every:  time.Duration(200+rng.IntN(2500)) * time.Millisecond,
	}
	if drawn := []int{3, 3, 5}[rng.IntN(3)]; nodes == 0 {
		p.nodes = drawn // drawn also if it is given: a given number changes nothing else
	}
	if rng.IntN(2) == 0 {
		p.compact = uint64(20 + rng.IntN(200))
	}
	p.patience = sometimes(rng, 0.01)
	p.loss, p.dup = sometimes(rng, 0.15), sometimes(rng, 0.1)
	p.reorder, p.spike = sometimes(rng, 0.2), sometimes(rng, 0.05)
	p.spikeMax = time.Duration(20+rng.IntN(3000)) * time.Millisecond
	p.drift = sometimes(rng, 0.1)
	for _, kind := range faultKinds {
		if rng.IntN(5) < 2 {
			p.faults = append(p.faults, kind)
		}
	}
	return p
}

// sometimes draws 0 half of the time, else a number up to most.
func sometimes(rng *rand.Rand, most float64) float64 {
	if rng.IntN(2) == 0 {
		return 0
	}
	return most * rng.Float64()
}
