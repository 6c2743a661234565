package work

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// faults is a small world from one seed: two controller nodes that take turns
// in leading, workers that die, stall and reconnect, commits that get lost.
type faults struct {
	t       *testing.T
	seed    uint64
	rng     *rand.Rand
	now     int64
	rows    *fakeShards
	core    *Core // of the present leader
	term    uint64
	batch   *Batch
	workers []*simWorker
	jobs    map[banyan.JobID]*banyanv1.Job
	session uint64
	answers []Answer
}

// simWorker does what package worker promises to a controller.
type simWorker struct {
	id      banyan.NodeID
	alive   bool
	session Session // ID 0: no stream
	slots   int
	held    []simAttempt
	up      []*peerv1.WorkerMessage // on their way
	down    []Message
}

func (w *simWorker) offer() *banyanv1.Resources {
	return &banyanv1.Resources{Slots: uint32(w.slots), Memory: uint64(w.slots)}
}

type simAttempt struct {
	key  Key
	done *banyanv1.TaskResult
	said bool // on this stream
}

const seeds = 60

func TestCoreUnderRandomFaults(t *testing.T) {
	for seed := range uint64(seeds) {
		x := newFaults(t, seed)
		for range 400 {
			x.step(true)
		}
		for n := 0; !x.over(); n++ {
			if n > 20_000 {
				t.Fatalf("seed %d: not over:\n%s", seed, x.describe())
			}
			x.step(false)
		}
		x.verify()
	}
}

func newFaults(t *testing.T, seed uint64) *faults {
	x := &faults{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 7)), now: 1000, rows: newFakeShards(1), jobs: map[banyan.JobID]*banyanv1.Job{}}
	for i := range 3 {
		x.workers = append(x.workers, &simWorker{id: banyan.NodeID(i + 1), alive: true, slots: 1 + i})
	}
	x.elect()
	for i := range 3 {
		h := header(banyan.JobID(fmt.Sprintf("job%d", i)), 5+x.rng.IntN(40), func(s *banyanv1.JobSpec) {
			s.AttemptsMax = uint32(x.rng.IntN(3))
			s.PerNodeMax = uint32(x.rng.IntN(3))
			if x.rng.IntN(3) == 0 {
				s.Demand = &banyanv1.Resources{Slots: uint32(x.rng.IntN(3)), Memory: uint64(x.rng.IntN(3))}
			}
			if x.rng.IntN(2) == 0 {
				s.Then = s.Command
			}
		})
		id := banyan.JobID(h.Id)
		x.jobs[id] = h
		x.core.Do(&Op{ID: 1, Kind: OpSubmit, Shard: 1, Job: id, Cmd: submitCommand(h), Run: NewRun(h, 0)})
		for x.batch == nil {
			x.commit(false)
		}
		x.commit(false)
	}
	return x
}

// elect makes a new leader, whose core knows only the rows.
func (x *faults) elect() {
	x.term++
	x.rows.setTerm(1, x.term)
	loaded, err := Load(context.Background(), x.rows, 1)
	if err != nil {
		x.t.Fatal(err)
	}
	if x.core == nil || x.rng.IntN(2) == 0 {
		x.core = NewCore(func([]byte) banyan.ShardID { return 1 })
		for _, w := range x.workers {
			w.cut()
		}
	} // else the same node is elected again, streams stay
	x.members()
	var runs []*Run
	for _, l := range loaded {
		runs = append(runs, l.Run)
	}
	x.batch = nil
	x.core.Lead(x.now, 1, x.term, x.now, runs, nil)
}

func (x *faults) members() {
	var nodes []NodeInfo
	for _, w := range x.workers {
		nodes = append(nodes, NodeInfo{ID: w.id, Name: w.id.String(), Alive: w.alive, Slots: w.slots})
	}
	x.core.Members(x.now, nodes)
}

func (x *faults) step(trouble bool) {
	x.now += int64(x.rng.IntN(60))
	w := x.workers[x.rng.IntN(len(x.workers))]
	switch n := x.rng.IntN(100); {
	case trouble && n < 2:
		x.elect()
	case trouble && n < 4:
		w.alive = !w.alive
		if !w.alive && x.rng.IntN(2) == 0 { // else it was only believed dead
			w.held = nil
		}
		w.cut()
		x.members()
	case trouble && n < 6 && w.session.ID != 0:
		x.core.Disconnect(x.now, w.session)
		w.cut()
	case trouble && n < 8:
		if id := banyan.JobID(fmt.Sprintf("job%d", x.rng.IntN(3))); x.core.Run(id) != nil {
			x.core.Do(&Op{Kind: []OpKind{OpHold, OpResume}[x.rng.IntN(2)], Shard: 1, Job: id})
		}
	case n < 40:
		x.commit(trouble && x.rng.IntN(10) == 0)
	case n < 50:
		x.core.Tick(x.now)
	case n < 75:
		x.carry(w)
	default:
		x.talk(w)
	}
	x.effects(trouble)
}

func (w *simWorker) cut() {
	w.session, w.up, w.down = Session{}, nil, nil
	for i := range w.held {
		w.held[i].said = false
	}
}

// talk lets a worker end something and say so, or open a stream.
func (x *faults) talk(w *simWorker) {
	if !w.alive || len(w.up) > 3 {
		return
	}
	for i := range w.held {
		if a := &w.held[i]; a.done == nil && x.rng.IntN(3) == 0 {
			state := banyanv1.TaskState_TASK_STATE_SUCCEEDED
			if x.rng.IntN(12) == 0 {
				state = banyanv1.TaskState_TASK_STATE_FAILED
			}
			a.done = &banyanv1.TaskResult{State: state}
		}
	}
	m := &peerv1.WorkerMessage{Credit: w.offer()}
	if w.session.ID == 0 {
		x.session++
		w.session = Session{w.id, x.session}
		x.core.Connect(x.now, w.session)
		m.Hello = x.hello(w)
	}
	for i := range w.held {
		if a := &w.held[i]; a.done != nil && (!a.said || x.rng.IntN(10) == 0) {
			a.said = true
			m.Finished = append(m.Finished, &peerv1.Finished{Key: protoKey(a.key), Result: &banyanv1.TaskResult{State: a.done.State}})
		}
	}
	w.up = append(w.up, m)
}

// carry brings one message of a worker's stream to its end.
func (x *faults) carry(w *simWorker) {
	if w.session.ID == 0 {
		return
	}
	if len(w.up) > 0 && x.rng.IntN(2) == 0 {
		m := w.up[0]
		w.up = w.up[1:]
		n := x.core.find(w.id)
		before, room := len(n.holds), job.ResourcesOf(w.offer())
		fits := x.core.held(n).FitsIn(room)
		x.core.Receive(x.now, w.session, m)
		if m.Hello == nil && fits && !x.core.held(n).FitsIn(room) {
			x.t.Fatalf("seed %d: %s holds %+v of a window of %+v", x.seed, w.id, x.core.held(n), room)
		}
		if m.Hello == nil && before <= w.slots && len(n.holds) > w.slots {
			x.t.Fatalf("seed %d: %s holds %d of a window of %d", x.seed, w.id, len(n.holds), w.slots)
		}
	} else if len(w.down) > 0 {
		m := w.down[0]
		w.down = w.down[1:]
		x.deliver(w, m)
	}
}

func (x *faults) hello(w *simWorker) *peerv1.Hello {
	h := &peerv1.Hello{Node: uint64(w.id), Offer: w.offer(), Leads: []uint32{1}}
	for _, a := range w.held {
		h.Running = append(h.Running, protoKey(a.key))
	}
	return h
}

func (x *faults) commit(lost bool) {
	if x.batch == nil {
		x.batch = x.core.NextBatch(x.now, x.now, 1)
		return
	}
	b := x.batch
	x.batch = nil
	res, err := x.rows.commit(1, b.Cmd)
	if lost { // it is durable, but the leader dies before it knows
		x.elect()
		return
	}
	if err != nil {
		x.t.Fatalf("seed %d: %v", x.seed, err)
	}
	if !x.core.Committed(x.now, b, res) {
		x.t.Fatalf("seed %d: condition %d of %v did not hold", x.seed, res.FailedCond, b.Cmd.Conds)
	}
}

func (x *faults) effects(trouble bool) {
	e := x.core.Effects()
	x.answers = append(x.answers, e.Answers...)
	for _, s := range e.Close {
		for _, w := range x.workers {
			if w.session == s {
				w.cut()
			}
		}
	}
	for _, s := range e.Wake {
		m, ok := x.core.Take(s)
		for _, w := range x.workers {
			if ok && w.session == s {
				w.down = append(w.down, m)
			}
		}
	}
	if !trouble {
		for _, w := range x.workers {
			if !w.alive {
				w.alive = true
				x.members()
			}
		}
		for id := range x.jobs {
			if r := x.core.Run(id); r != nil && r.header.State == banyanv1.JobState_JOB_STATE_HELD {
				x.core.Do(&Op{Kind: OpResume, Shard: 1, Job: id})
			}
		}
	}
}

func (x *faults) deliver(w *simWorker, m Message) {
	for _, k := range append(m.Recorded, m.Unknown...) {
		w.held = slices.DeleteFunc(w.held, func(a simAttempt) bool { return a.key == k })
	}
	for _, k := range m.Stop {
		for i := range w.held {
			if w.held[i].key == k && w.held[i].done == nil {
				w.held[i].done = &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_CANCELED}
			}
		}
	}
	for _, s := range m.Start {
		h := x.jobs[s.Key.Job]
		if s.Key.Task == h.Tasks && x.recorded(s.Key.Job, banyanv1.TaskState_TASK_STATE_SUCCEEDED) < int(h.Tasks) {
			x.t.Fatalf("seed %d: the then step of %s began too early", x.seed, h.Id)
		}
		w.held = append(w.held, simAttempt{key: s.Key})
	}
	if m.SayHello {
		w.up = append(w.up, &peerv1.WorkerMessage{Credit: w.offer(), Hello: x.hello(w)})
	}
}

func (x *faults) over() bool {
	for id := range x.jobs {
		if h, _, err := readHeader(context.Background(), x.rows, 1, id); err != nil || !job.Ended(h.State) {
			return false
		}
	}
	return true
}

// recorded counts the durable results of a job's tasks in a state.
func (x *faults) recorded(id banyan.JobID, state banyanv1.TaskState) (n int) {
	lo, _ := job.ResultRange(id, 0)
	rows, _, err := x.rows.Range(context.Background(), 1, mvcc.Query{Lo: lo, Hi: job.ResultKey(id, banyan.TaskIndex(x.jobs[id].Tasks))})
	if err != nil {
		x.t.Fatal(err)
	}
	for _, row := range rows {
		if row.Version != 1 {
			x.t.Errorf("seed %d: %q was written %d times", x.seed, row.Key, row.Version)
		}
		if m, _, _ := job.DecodeMeta(row.Value); m.State == state {
			n++
		}
	}
	return n
}

// verify demands one result per task, the right end, and tries within bounds.
func (x *faults) verify() {
	for id, submitted := range x.jobs {
		h, _, err := readHeader(context.Background(), x.rows, 1, id)
		if err != nil {
			x.t.Fatal(err)
		}
		good, bad := x.recorded(id, banyanv1.TaskState_TASK_STATE_SUCCEEDED), x.recorded(id, banyanv1.TaskState_TASK_STATE_FAILED)
		row, err := get(context.Background(), x.rows, 1, job.ResultKey(id, banyan.TaskIndex(h.Tasks)))
		if err != nil {
			x.t.Fatal(err)
		}
		want := banyanv1.JobState_JOB_STATE_SUCCEEDED
		if bad > 0 {
			want = banyanv1.JobState_JOB_STATE_FAILED
		}
		if then := submitted.Spec.Then != nil && bad == 0; then != (row != nil) {
			x.t.Errorf("seed %d: %s has a then result: %v", x.seed, id, row != nil)
		} else if then {
			if m, _, _ := job.DecodeMeta(row.Value); m.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED {
				want = banyanv1.JobState_JOB_STATE_FAILED
			}
		}
		p := h.Progress
		if good+bad != int(h.Tasks) || h.State != want || int(p.Succeeded) != good || int(p.Failed) != bad || p.Running+p.Pending != 0 {
			x.t.Errorf("seed %d: %s: %d succeeded, %d failed, ended %v as %v", x.seed, id, good, bad, h.State, p)
		}
		lo, hi := job.FailureRange(id, 0)
		rows, _, _ := x.rows.Range(context.Background(), 1, mvcc.Query{Lo: lo, Hi: hi})
		for _, row := range rows {
			if f, err := job.DecodeFailure(row.Value); err != nil || int(f.Count) > job.Tries(h.Spec) {
				x.t.Errorf("seed %d: %q counts %d failures of %d", x.seed, row.Key, f.Count, job.Tries(h.Spec))
			}
		}
	}
}

func (x *faults) describe() (s string) {
	for id := range x.jobs {
		if r := x.core.Run(id); r != nil {
			s += fmt.Sprintf("%s %v settled=%v freezing=%v pending=%d open=%v %v\n", id, r.header.State, r.settled, r.freezing, r.pending, r.openTasks(), x.core.Progress(x.now, r))
		}
	}
	for _, w := range x.workers {
		s += fmt.Sprintf("%v alive=%v holds %v, %d messages up, %d down\n  as seen: %+v\n", w.id, w.alive, w.held, len(w.up), len(w.down), *x.core.find(w.id))
	}
	return s
}
