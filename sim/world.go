package sim

import (
	"container/heap"
	"fmt"
	"time"

	"banyan"
)

// world is one run: the clock, what is to happen, the nodes, the network, and
// what is known to be true.
type world struct {
	cfg  Config
	plan plan
	rng  dice // of everything that has none of its own
	now  time.Duration

	queue  queue
	seq    uint64
	events int
	hash   uint64

	nodes     []*node // by id
	net       network
	clients   []*client
	watchers  []*watcher
	lockers   []*locker
	operator  operator
	heat      *heat
	truth     map[banyan.ShardID]*truth
	history   history
	jobs      jobs
	locks     locks
	releases  releases
	chunks    chunks
	faults    map[string]int
	reached   map[string]int
	longest   map[string]int // queues, by name
	injected  []int          // numbers of the plan's faults
	lossy     bool           // a disk was lost or damaged: never two in a run
	faultless bool           // no more faults: the cluster must recover
	over      bool

	failure     string
	failureKind string
}

// event is something that happens at a time; events of one time happen in the
// order in which they were planned.
type event struct {
	at  time.Duration
	seq uint64
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = event{}
	*q = old[:len(old)-1]
	return e
}

func newWorld(cfg Config) *world {
	w := &world{
		cfg: cfg, plan: drawPlan(&cfg), rng: newDice(cfg.Seed, 0x7105<<32+cfg.Twist), hash: fnvStart,
		truth: map[banyan.ShardID]*truth{}, faults: map[string]int{}, reached: map[string]int{}, longest: map[string]int{}, locks: newLocks(),
	}
	w.jobs = jobs{all: map[banyan.JobID]*submitted{}, led: map[banyan.ShardID]claim{}}
	w.net = newNetwork()
	return w
}

// begin starts a cluster of one that the others join, clients, and trouble.
func (w *world) begin() {
	w.say("%v", w.plan)
	for _, s := range w.shards() {
		w.truth[s] = newTruth(w, s)
	}
	w.beginReleases()
	w.beginHeat()
	w.beginChunks()
	w.beginNodes()
	for i := range w.plan.clients {
		w.addClient(i)
	}
	for i := range w.plan.watchers {
		w.addWatcher(i)
	}
	for i := range w.plan.jobs {
		w.addJob(i)
	}
	for i := range w.plan.lockers {
		w.addLocker(i)
	}
	w.operator.begin(w)
	w.beginFaults()
	w.beginFill()
	w.every(time.Second, w.compareReplicas)
	w.after(w.plan.length, w.beginRecovery)
}

// beginNodes starts the first machine and lets the others join, at once or one
// after the other.
func (w *world) beginNodes() {
	w.addNode().bootstrap(w.shards())
	for i := 1; i < w.plan.nodes; i++ {
		if w.plan.joinBy == 0 {
			w.addNode().bootstrap(nil)
			continue
		}
		w.after(w.plan.joinBy*time.Duration(i)/time.Duration(w.plan.nodes), func() {
			w.fault(lateJoin)
			w.addNode().bootstrap(nil)
		})
	}
}

// shards are numbered from the root shard.
func (w *world) shards() []banyan.ShardID {
	out := make([]banyan.ShardID, w.plan.shards)
	for i := range out {
		out[i] = banyan.ShardID(i)
	}
	return out
}

// eventsMax ends a run that does not end by itself.
const eventsMax = 5_000_000

// run makes everything happen until the run is over or something is wrong.
func (w *world) run() {
	for w.failure == "" && !w.over && len(w.queue) > 0 {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		w.events++
		if w.events > eventsMax {
			w.fail("the run does not end: %d events", w.events)
		}
		e.do()
	}
}

// after plans an event d from now.
func (w *world) after(d time.Duration, do func()) {
	w.seq++
	heap.Push(&w.queue, event{w.now + max(d, 0), w.seq, do})
}

// every does something at intervals around d until the run is over.
func (w *world) every(d time.Duration, do func()) {
	w.after(w.between(d/2, d*3/2), func() {
		do()
		w.every(d, do)
	})
}

// fail ends the run; only the first reason counts.
func (w *world) fail(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf("at %v: "+format, append([]any{w.now}, args...)...)
		w.failureKind = format
		w.say("FAILURE %v", w.failure)
	}
}

func (w *world) chance(p float64) bool                      { return w.rng.chance(p) }
func (w *world) between(lo, hi time.Duration) time.Duration { return w.rng.between(lo, hi) }

// fault counts an injected fault, reach a state that runs should come through.
func (w *world) fault(kind string) { w.faults[kind]++ }
func (w *world) reach(name string) { w.reached[name]++ }

// FNV-1a, 64 bit.
const (
	fnvStart = 14695981039346656037
	fnvPrime = 1099511628211
)

func (w *world) mix(v uint64) {
	for range 8 {
		w.hash = (w.hash ^ v&0xff) * fnvPrime
		v >>= 8
	}
}

// note makes something that happened part of the run's hash and trace.
func (w *world) note(what string, numbers ...uint64) {
	w.mix(uint64(w.now))
	for i := range len(what) {
		w.hash = (w.hash ^ uint64(what[i])) * fnvPrime
	}
	for _, n := range numbers {
		w.mix(n)
	}
	if w.cfg.Trace != nil {
		fmt.Fprintf(w.cfg.Trace, "%12.6f %s %v\n", w.now.Seconds(), what, numbers)
	}
}

// say is note for what does not happen often.
func (w *world) say(format string, args ...any) { w.note(fmt.Sprintf(format, args...)) }
