package sim

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"banyan"
)

// Kinds are the faults. Those before "message lost" begin at some moment and
// stand in the plan; the others are drawn for each message, clock or client.
var Kinds = []string{
	"kill", "power", "power all", "crash point", "disk error", "read error", "disk full", "slow disk", "bit flip",
	"cut node", "cut one way", "cut halves", "cut links", "flap", "burst",
	"pause", "slow node", "clock jump",
	"transfer", "reconfigure", "drain", "join", "leave", "replace",
	messageLost, messageDoubled, messageReordered, messageDelayed, messageCut, clockDrift, lateJoin, olderRelease, putBack, disksFill,
}

const (
	messageLost      = "message lost"
	messageDoubled   = "message doubled"
	messageReordered = "message reordered"
	messageDelayed   = "message delayed"
	messageCut       = "message cut off"
	clockDrift       = "clock drift"
	lateJoin         = "node joins late"
	olderRelease     = "older release"
	putBack          = "older release put back"
	disksFill        = "disks fill"
)

// Points are what a good set of seeds comes through sometimes: one that never
// happens is a part of the simulation that tests nothing.
var Points = append([]string{
	"1 voters", "3 voters", "5 voters", "change of voters unknown", "voters shrink to one while a read proof is under way", "leader transferred", "leader moved to make things even", "replica removed", "replica taken back", "node left",
	"snapshot installed", "snapshot broken off", "compacted", "watch moved", "watch compacted away", "watch begun anew",
	"client gave up", "client timed out", "outcome unknown", "retry deduplicated",
	"controller does not know", "controller refused by its term",
	"job ended", "job taken over", "task run again", "work stream broken", "batch of results refused by its term",
	"job removed", "result that refers to a chunk", "references refused by the fence",
	"chunk removed", "condemned chunk touched", "sweep given up",
	"lock taken", "lock waited for", "lock released", "lock abandoned", "locks taken over", "told that a lease has ended",
	"commands of locks under way together", "write under a lock", "write refused by its fencing token", "decision about locks refused by its term",
	"shard at rest", "shard at rest woken", "leader of a shard at rest missed", "beats that differ",
	"replicas compared", "row in the slot of its partition", "stale read", "stale read that says it is old",
	"late copy refused", "write refused for want of room", "deleted while disks are low",
	"bit of a log flipped", "bit of a state block flipped", "damage refused", "unreadable disk refused", "read refused by the disk",
}, mixedPoints[:pointsOfMixed()]...)

func pointsOfMixed() int {
	if mixes {
		return len(mixedPoints)
	}
	return 0
}

// mixedPoints are those of runs with an older release: they stand among Points
// while there is one (mixes).
var mixedPoints = []string{
	"acted at an older protocol", "rose to a newer protocol with commands under way", "command of a newer form applied after a rise",
	"older release stopped by what it does not know",
}

// Loads are what Without can leave out besides Kinds.
var Loads = []string{"jobs", "locks", "watchers", "controllers", "impatience", "late copies", "lulls", "sweeps"}

// begins are the kinds that stand in the plan.
var begins = Kinds[:slices.Index(Kinds, messageLost)]

// plan is what kind of run a seed makes. Each run has some of the faults, not
// all of them: what one fault hides another seed shows.
type plan struct {
	nodes, shards, clients, watchers, jobs, lockers int

	voters  int           // wanted of each shard
	keep    uint64        // log entries kept
	compact uint64        // revisions of history kept; 0: all
	length  time.Duration // with faults
	think   time.Duration // of a client between operations

	patience float64       // chance that a client gives an operation up
	joinBy   time.Duration // machines join one after the other until then; 0: at once
	mixed    time.Duration // some begin with the previous release and are upgraded by then; 0: none
	fillAt   time.Duration // when somebody begins to fill all disks; 0: never
	sweeps   bool          // outputs are chunks that are swept, and jobs are removed
	window   int           // requests that a shard remembers; 0: as always

	loss, dup, reorder, spike float64 // of messages
	spikeMax                  time.Duration
	drift                     float64 // of clocks

	lulls        []lull
	faults       []fault
	reconfigures bool // at will: the loss of a disk might not be borne
}

// lull is a while in which nobody writes to some shards, so that they come to
// rest; what breaks them out of it is left to faults, and to its end.
type lull struct {
	from, to time.Duration
	shards   uint32 // a bit each
}

// fault is one fault to come. It draws what it needs by itself, so that runs
// without other faults have the same.
type fault struct {
	number int
	at     time.Duration
	kind   string
	node   int // modulo how many there are
	dice   dice
}

// String shows a plan in a trace.
func (p plan) String() string {
	own := p
	own.faults = nil
	s := fmt.Sprintf("plan %+v", struct{ p any }{alias(own)})
	for _, f := range p.faults {
		s += fmt.Sprintf("\n  fault %d at %v: %s", f.number, f.at, f.kind)
	}
	return s
}

type alias plan // without String

// dice is where chances are drawn.
type dice struct{ *rand.Rand }

func newDice(seed, stream uint64) dice { return dice{rand.New(rand.NewPCG(seed, stream))} }

func (d dice) chance(p float64) bool { return p > 0 && d.Float64() < p }

// between draws a duration of [lo, hi).
func (d dice) between(lo, hi time.Duration) time.Duration {
	if hi <= lo {
		return lo
	}
	return lo + time.Duration(d.Int64N(int64(hi-lo)))
}

// sometimes draws 0 half of the time, else a number up to most.
func (d dice) sometimes(most float64) float64 {
	if d.IntN(2) == 0 {
		return 0
	}
	return most * d.Float64()
}

func pick[T any](d dice, from []T) T { return from[d.IntN(len(from))] }

// troubleMax is how long faults last unless the configuration says less.
const troubleMax = 8 * time.Second

// drawPlan draws everything in any case and then leaves out what cfg does
// without: the rest stays as it was.
func drawPlan(cfg *Config) plan {
	d := newDice(cfg.Seed, 0xba27a2)
	p := plan{
		nodes: pick(d, []int{3, 3, 3, 4, 5, 5, 7}), shards: 1 + d.IntN(3), clients: 3 + d.IntN(4), watchers: 2, jobs: d.IntN(4),
		voters: pick(d, []int{3, 3, 3, 5}),
		keep:   uint64(8 + d.IntN(120)),
		length: troubleMax,
		think:  time.Duration(5+d.IntN(60)) * time.Millisecond,
	}
	every := time.Duration(200+d.IntN(2500)) * time.Millisecond
	if d.IntN(2) == 0 {
		p.compact = uint64(20 + d.IntN(200))
	}
	p.patience = d.sometimes(0.01)
	p.loss, p.dup = d.sometimes(0.15), d.sometimes(0.1)
	p.reorder, p.spike = d.sometimes(0.2), d.sometimes(0.05)
	p.spikeMax = time.Duration(20+d.IntN(3000)) * time.Millisecond
	p.drift = d.sometimes(0.1)
	if d.IntN(2) == 0 {
		p.lockers = 1 + d.IntN(4)
	}
	if d.IntN(3) == 0 {
		p.joinBy = d.between(time.Second, 4*time.Second)
	}
	p.schedule(d, every)
	switch d := newDice(cfg.Seed, 0x3e1ea5e); d.IntN(3) {
	case 0:
		if p.mixed = d.between(time.Second, 10*time.Second); !mixes {
			p.mixed = 0
		}
	case 1:
		p.window = 8 + d.IntN(56) // the older release carries late copies out again
	}
	p.calm(newDice(cfg.Seed, 0x1011))
	p.sweeps = newDice(cfg.Seed, 0x5eeb5).IntN(2) == 0
	if d := newDice(cfg.Seed, 0xf111); d.IntN(5) == 0 {
		p.fillAt = d.between(2*time.Second, 6*time.Second)
	}
	p.shrink(cfg)
	return p
}

// calm draws the lulls.
func (p *plan) calm(d dice) {
	if d.IntN(2) == 0 {
		return
	}
	for at := d.between(0, troubleMax/2); at < troubleMax; at += d.between(0, 2*time.Second) {
		l := lull{at, at + d.between(1500*time.Millisecond, 5*time.Second), d.Uint32() | d.Uint32()}
		p.lulls = append(p.lulls, l)
		at = l.to
	}
}

// lulled says whether nobody writes to a shard now.
func (w *world) lulled(shard banyan.ShardID) bool {
	return !w.faultless && slices.ContainsFunc(w.plan.lulls, func(l lull) bool {
		return l.from <= w.now && w.now < l.to && l.shards>>(shard%32)&1 == 1
	})
}

// schedule draws the faults that begin at some moment.
func (p *plan) schedule(d dice, every time.Duration) {
	var kinds []string
	for _, kind := range begins {
		if d.IntN(5) < 2 {
			kinds = append(kinds, kind)
		}
	}
	p.reconfigures = slices.Contains(kinds, "reconfigure")
	if len(kinds) == 0 {
		return
	}
	for at := d.between(every/2, every*3/2); at < troubleMax; at += d.between(every/2, every*3/2) {
		p.faults = append(p.faults, fault{len(p.faults), at, pick(d, kinds), d.IntN(1 << 20), newDice(d.Uint64(), 1)})
	}
}

// shrink leaves out what the configuration does without.
func (p *plan) shrink(cfg *Config) {
	set := func(to *int, n int) {
		if n != 0 {
			*to = n
		}
	}
	set(&p.nodes, cfg.Nodes)
	set(&p.shards, cfg.Shards)
	set(&p.clients, cfg.Clients)
	if cfg.Length != 0 {
		p.length = min(cfg.Length, troubleMax)
	}
	for kind, chance := range map[string]*float64{
		messageLost: &p.loss, messageDoubled: &p.dup, messageReordered: &p.reorder, messageDelayed: &p.spike,
		clockDrift: &p.drift, "impatience": &p.patience,
	} {
		if cfg.without(kind) {
			*chance = 0
		}
	}
	if cfg.without(lateJoin) {
		p.joinBy = 0
	}
	if cfg.without(olderRelease) {
		p.mixed = 0
	}
	if cfg.without(disksFill) {
		p.fillAt = 0
	}
	if cfg.without("lulls") {
		p.lulls = nil
	}
	if cfg.without("late copies") {
		p.window = 0
	}
	if cfg.without("locks") {
		p.lockers = 0
	}
	if cfg.without("sweeps") {
		p.sweeps = false
	}
	if cfg.without("jobs") {
		p.jobs = 0
	}
	if cfg.without("watchers") {
		p.watchers = 0
	}
	p.faults = slices.DeleteFunc(p.faults, func(f fault) bool {
		return f.at >= p.length || cfg.without(f.kind) || cfg.Only != nil && !slices.Contains(cfg.Only, f.number)
	})
}
