package worker

import (
	"math/rand/v2"
	"path"
	"path/filepath"
	"slices"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	jobs "banyan/core/job"
)

// TestRandom throws everything at a core in any order and holds it to what must
// always be true; in the end all that was started is told of.
func TestRandom(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		m := &chaos{t: t, seed: seed, r: r, told: map[Key]int{}, killed: map[Key]bool{}, window: map[banyan.NodeID]int{}}
		m.large = r.IntN(2) == 0
		m.core = NewCore(9, banyan.Resources{Slots: 1 + r.IntN(4), Memory: r.Int64N(6)}, func(p []byte) banyan.ShardID { return banyan.ShardID(p[0]) })
		for range 400 {
			m.step()
			m.check()
		}
		m.quiesce()
	}
}

type chaos struct {
	t       *testing.T
	seed    uint64
	r       *rand.Rand
	core    *Core
	now     int64
	next    uint64
	running []Key
	started int
	told    map[Key]int // finished, rejected
	killed  map[Key]bool
	window  map[banyan.NodeID]int
	large   bool // job b needs more than a slot
}

var largeDemand = &banyanv1.Resources{Slots: 2, Memory: 2}

func (m *chaos) node() banyan.NodeID { return banyan.NodeID(1 + m.r.IntN(3)) }

func (m *chaos) step() {
	m.now += m.r.Int64N(30_000)
	switch m.r.IntN(12) {
	case 0:
		m.core.Lead(map[banyan.ShardID]banyan.NodeID{'a': m.node(), 'b': m.node()})
	case 1:
		m.core.Connect(m.node())
	case 2:
		if m.r.IntN(4) == 0 {
			m.core.Disconnect(m.node())
		}
	case 3, 4, 5:
		m.start(m.node())
	case 6, 7, 8:
		m.finish()
	case 9:
		if n := m.node(); len(m.core.attempts) > 0 {
			var ks []Key
			for k := range m.core.attempts {
				ks = append(ks, k)
			}
			slices.SortFunc(ks, func(a, b Key) int { return int(int64(a.Attempt) - int64(b.Attempt)) })
			k := ks[m.r.IntN(len(ks))].proto()
			msg := &peerv1.ControllerMessage{Demand: []*peerv1.Demand{{Attempts: uint32(m.r.IntN(5))}}}
			switch m.r.IntN(3) {
			case 0:
				msg.Stop = append(msg.Stop, k)
			case 1:
				msg.Recorded = append(msg.Recorded, k)
			case 2:
				msg.Unknown = append(msg.Unknown, k)
			}
			m.core.Receive(m.now, n, msg)
		}
	case 10:
		m.core.Drain(m.r.IntN(3) == 0)
	case 11:
		m.core.Tick(m.now)
	}
	m.effects()
	m.send(m.node())
}

// start sends as much as the window allows, and now and then more.
func (m *chaos) start(n banyan.NodeID) {
	msg := &peerv1.ControllerMessage{Demand: []*peerv1.Demand{
		{Attempts: uint32(m.r.IntN(50))}, {Each: largeDemand, Attempts: uint32(m.r.IntN(50))},
	}}
	job := []string{"a", "b"}[m.r.IntN(2)]
	var demand *banyanv1.Resources
	if job == "b" && m.large {
		demand = largeDemand
	}
	msg.Jobs = []*peerv1.JobHeader{{JobId: job, Tasks: 1000, Spec: &banyanv1.JobSpec{PerNodeMax: uint32(len(job) * m.r.IntN(3)), Demand: demand}}}
	for range m.r.IntN(2 + m.window[n]/jobs.Demand(msg.Jobs[0].Spec).Slots) {
		m.next++
		msg.Start = append(msg.Start, &peerv1.Attempt{Key: Key{banyan.JobID(job), uint32(m.next % 1000), m.next}.proto(), Try: 1})
	}
	if err := m.core.Receive(m.now, n, msg); err != nil {
		m.t.Fatalf("seed %d: %v", m.seed, err)
	}
}

func (m *chaos) finish() {
	if len(m.running) == 0 {
		return
	}
	i := m.r.IntN(len(m.running))
	k := m.running[i]
	m.running = slices.Delete(m.running, i, i+1)
	m.core.Finish(m.now, k, &banyanv1.TaskResult{Task: k.Task, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED})
}

func (m *chaos) effects() {
	e := m.core.Take()
	for _, k := range e.Stop {
		if !slices.Contains(m.running, k) || m.killed[k] {
			m.t.Fatalf("seed %d: stop of %v, which does not run or was stopped", m.seed, k)
		}
		m.killed[k] = true
	}
	for _, s := range e.Start {
		if slices.Contains(m.running, s.Key) || m.core.slots[s.Slot-1].key != s.Key {
			m.t.Fatalf("seed %d: start of %v twice, or in a slot that is not its own", m.seed, s.Key)
		}
		m.running = append(m.running, s.Key)
		m.started++
	}
}

func (m *chaos) send(n banyan.NodeID) *peerv1.WorkerMessage {
	msg := m.core.Message(m.now, n)
	if msg == nil {
		return nil
	}
	m.window[n] = int(msg.Credit.GetSlots())
	for _, f := range msg.Finished {
		m.told[keyOf(f.Key)]++
	}
	for _, k := range msg.Rejected {
		m.told[keyOf(k)]++
	}
	if due, _ := m.core.Due(n); due {
		m.t.Fatalf("seed %d: more to say to n%d after a small message", m.seed, n)
	}
	return msg
}

// check holds the core to what is always true.
func (m *chaos) check() {
	c := m.core
	seen := map[*attempt]bool{}
	for slot, a := range c.slots {
		if a != nil {
			seen[a] = true
			if a.slot != slot+1 || a.result != nil || c.attempts[a.key] != a {
				m.t.Fatalf("seed %d: slot %d holds %+v", m.seed, slot+1, a)
			}
		}
	}
	for _, a := range c.waiting {
		if a.slot != 0 || a.result != nil || seen[a] {
			m.t.Fatalf("seed %d: waiting is %+v", m.seed, a)
		}
		seen[a] = true
	}
	held := len(seen)
	for _, a := range c.results {
		if a.slot != 0 || a.result == nil || seen[a] {
			m.t.Fatalf("seed %d: finished is %+v", m.seed, a)
		}
		seen[a] = true
	}
	if len(seen) != len(c.attempts) {
		m.t.Fatalf("seed %d: %d attempts are somewhere, %d are known", m.seed, len(seen), len(c.attempts))
	}
	if running := len(m.running); running != held-len(c.waiting) {
		m.t.Fatalf("seed %d: %d run, the core knows %d", m.seed, running, held-len(c.waiting))
	}
	var credit, holds, runs banyan.Resources
	asking := 0 // of those that run, for memory; one alone may ask for more than there is
	for _, x := range c.controllers {
		credit = credit.Plus(x.credit)
	}
	for _, a := range c.held() {
		holds = holds.Plus(a.demand)
		if a.slot > 0 {
			runs = runs.Plus(a.demand)
			asking += int(min(a.demand.Memory, 1))
		}
	}
	if most := max(holds.Slots, len(c.slots)+c.pace.ahead(c.pace.now, len(c.slots))); credit.Slots > most || credit.Memory > max(holds.Memory, c.offer.Memory) {
		m.t.Fatalf("seed %d: credit for %+v given, there is room for %d slots and %d bytes", m.seed, credit, most, c.offer.Memory)
	}
	if runs != c.taken || len(m.running) > 1 && runs.Slots > c.offer.Slots || asking > 1 && runs.Memory > c.offer.Memory {
		m.t.Fatalf("seed %d: what runs occupies %+v, the core counts %+v of %+v", m.seed, runs, c.taken, c.offer)
	}
}

// quiesce lets everything end and every result be recorded.
func (m *chaos) quiesce() {
	m.core.Drain(false)
	m.core.Lead(map[banyan.ShardID]banyan.NodeID{'a': 1, 'b': 2})
	for n := range banyan.NodeID(2) {
		m.core.Connect(n + 1)
	}
	for i := 0; len(m.core.attempts) > 0; i++ {
		if i > 10_000 {
			w, r, u := m.core.Holds()
			m.t.Fatalf("seed %d: %d wait, %d run, %d unrecorded, for ever", m.seed, w, r, u)
		}
		m.now += 1000
		m.core.Tick(m.now)
		m.effects()
		m.finish()
		m.effects()
		for n := range banyan.NodeID(2) {
			if msg := m.send(n + 1); msg != nil {
				answer := &peerv1.ControllerMessage{}
				for _, f := range msg.Finished {
					answer.Recorded = append(answer.Recorded, f.Key)
				}
				m.core.Receive(m.now, n+1, answer)
			}
		}
		m.check()
	}
	if m.started < 3 {
		m.t.Errorf("seed %d: only %d started", m.seed, m.started)
	}
}

func FuzzPaths(f *testing.F) {
	for _, s := range []string{"a", "a/b", "../a", "/a", "a/../b", "", ".", "..", "a/", `a\b`, "a\x00b", "c:/x", "con"} {
		f.Add(s, "x")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		files, err := merge([]*banyanv1.FileRef{{Path: []byte(a)}}, []*banyanv1.FileRef{{Path: []byte(b)}})
		if err != nil {
			return
		}
		for _, f := range files {
			if p := string(f.Path); !filepath.IsLocal(p) || path.Clean(p) != p || path.IsAbs(p) {
				t.Errorf("%q was taken", p)
			}
		}
	})
}
