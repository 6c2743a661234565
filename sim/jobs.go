package sim

import (
	"fmt"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/replica"
	"banyan/layer/work"
)

// jobs is what clients have submitted and what became of it.
type jobs struct {
	all   map[banyan.JobID]*submitted
	order []*submitted
	led   map[banyan.ShardID]claim // the newest that leaders announce, as gossip carries it
}

type claim struct {
	term uint64
	node banyan.NodeID
}

// submitted is one job as the truth knows it.
type submitted struct {
	id      banyan.JobID
	shard   banyan.ShardID
	header  *banyanv1.Job
	stored  bool // the header is a row
	ended   bool
	removed bool
	results map[uint32]banyanv1.TaskState
	ran     map[work.Key]banyanv1.TaskState // how attempts ended at their workers
	begun   map[uint32]int                  // attempts at each task
}

// announce is what gossip tells of leaders: the newest claim wins, and stays
// until there is a newer one.
func (j *jobs) announce(node banyan.NodeID, l replica.Leadership) {
	if l.Leading && l.Term > j.led[l.Shard].term {
		j.led[l.Shard] = claim{l.Term, node}
	}
}

// shardOf spreads jobs over the shards.
func (w *world) shardOf(partition []byte) banyan.ShardID {
	return banyan.ShardID(banyan.SlotOf(partition) % w.plan.shards)
}

// addJob submits a job some time and keeps at it until it is stored.
func (w *world) addJob(i int) {
	d := newDice(w.cfg.Seed, 0x10b<<32+uint64(i))
	w.after(d.between(0, troubleMax*3/4), func() {
		s := &submitted{
			id:      banyan.NewJobID(w.now.Milliseconds(), uint32(d.Uint64())),
			results: map[uint32]banyanv1.TaskState{}, ran: map[work.Key]banyanv1.TaskState{}, begun: map[uint32]int{},
		}
		s.shard = w.shardOf([]byte(s.id))
		spec := &banyanv1.JobSpec{
			Command:     banyanv1.NewCommand("true"),
			AttemptsMax: uint32(d.IntN(4)), PerNodeMax: uint32(d.IntN(3)),
		}
		if d.chance(0.2) {
			spec.Demand = &banyanv1.Resources{Slots: uint32(d.IntN(slotsPerNode + 1)), Memory: uint64(d.IntN(memoryPerNode + 1))}
		}
		if d.chance(0.3) {
			spec.Then = spec.Command
		}
		s.header = &banyanv1.Job{
			Id: string(s.id), Spec: spec, State: banyanv1.JobState_JOB_STATE_ACTIVE,
			Tasks: uint32(1 + d.IntN(60)), SubmitMs: w.now.Milliseconds(),
		}
		w.jobs.all[s.id] = s
		w.jobs.order = append(w.jobs.order, s)
		w.submit(s)
	})
}

// submit asks the shard's controller, and asks again until the job is there.
func (w *world) submit(s *submitted) {
	if s.stored || w.over {
		return
	}
	if n := w.jobs.led[s.shard].node; n != 0 && w.node(n).proc != nil && !w.clientLost() {
		p := w.node(n).proc
		w.after(w.latency(), func() { p.resume(func() { p.office.submit(s) }) })
	}
	w.after(w.between(100*time.Millisecond, time.Second), func() { w.submit(s) })
}

// watch checks what one revision changes of jobs: a result is written once, for
// an attempt that ended so; a job ends once, when all its tasks have results.
func (j *jobs) watch(w *world, events []mvcc.Event) {
	for i := range events {
		if id, err := job.HeaderOf(events[i].Row.Key); err == nil && events[i].Deleted {
			j.all[id].gone(w, events[i].Row.Mod)
		}
	}
	for i := range events {
		if id, _, ok := job.ResultOf(events[i].Row.Key); ok {
			j.result(w, id, &events[i])
		}
	}
	for i := range events {
		if id, err := job.HeaderOf(events[i].Row.Key); err == nil && !events[i].Deleted {
			j.all[id].changed(w, &events[i])
		}
	}
}

func (j *jobs) result(w *world, id banyan.JobID, e *mvcc.Event) {
	if e.Deleted && j.all[id].removed {
		return
	}
	task, err := job.Number(e.Row.Key)
	if err != nil || e.Deleted || e.Row.Version != 1 {
		w.fail("job %s, task %d: the recorded result was changed, at revision %d", id, task, e.Row.Mod)
		return
	}
	j.all[id].record(w, uint32(task), e)
}

// record checks a result.
func (s *submitted) record(w *world, task uint32, e *mvcc.Event) {
	result, err := job.DecodeResult(e.Row.Value)
	if err != nil {
		w.fail("job %s, task %d: %v", s.id, task, err)
		return
	}
	honest := false
	for k, state := range s.ran { // any will do: the order does not show
		honest = honest || k.Task == task && state == result.State
	}
	if !honest && result.State == banyanv1.TaskState_TASK_STATE_FAILED && strings.HasPrefix(result.Error, "lost with its node twice") && s.begun[task] > 1 {
		honest = true
		w.reach("task lost twice")
	}
	switch {
	case s.ended:
		w.fail("job %s, task %d: a result was recorded after the job had ended", s.id, task)
	case task > s.header.Tasks || !honest:
		w.fail("job %s, task %d: recorded as %v, but no attempt ended so: %s", s.id, task, result.State, result.Error)
	}
	s.results[task] = result.State
	w.chunks.refer(w, s, task, result)
	w.reach("result recorded")
	if s.begun[task] > 1 {
		w.reach("task run again")
	}
}

// gone checks that a job is removed once, after its end.
func (s *submitted) gone(w *world, at banyan.Revision) {
	if !s.ended || s.removed {
		w.fail("job %s was removed at revision %d; ended: %v, removed before: %v", s.id, at, s.ended, s.removed)
	}
	s.removed = true
	w.chunks.forget(s.id)
	w.reach("job removed")
}

// changed checks a change of the header.
func (s *submitted) changed(w *world, e *mvcc.Event) {
	header, err := job.DecodeHeader(e.Row.Value)
	switch {
	case err != nil:
		w.fail("job %s: %v", s.id, err)
	case e.Deleted || s.ended:
		w.fail("job %s was changed after it had ended, at revision %d", s.id, e.Row.Mod)
	case !job.Ended(header.State):
		s.stored = true
	default:
		s.ended = true
		s.complete(w, header)
	}
}

// complete checks that a job that ended is done.
func (s *submitted) complete(w *world, header *banyanv1.Job) {
	failed := false
	for task := range s.header.Tasks {
		state, ok := s.results[task]
		if !ok {
			w.fail("job %s ended as %v without a result of task %d", s.id, header.State, task)
			return
		}
		failed = failed || state != banyanv1.TaskState_TASK_STATE_SUCCEEDED
	}
	then, ok := s.results[s.header.Tasks]
	if wants := s.header.Spec.Then != nil && !failed; ok != wants {
		w.fail("job %s ended as %v; the then step ran: %v, should: %v", s.id, header.State, ok, wants)
	}
	failed = failed || ok && then != banyanv1.TaskState_TASK_STATE_SUCCEEDED
	if (header.State == banyanv1.JobState_JOB_STATE_SUCCEEDED) == failed {
		w.fail("job %s ended as %v, though a task failed: %v", s.id, header.State, failed)
	}
	w.reach("job ended")
	if w.plan.sweeps {
		w.removeLater(s)
	}
}

// done says whether every job has ended.
func (j *jobs) done() bool {
	for _, s := range j.order {
		if !s.ended {
			return false
		}
	}
	return true
}

func (s *submitted) String() string {
	return fmt.Sprintf("job %s of shard %d: stored %v, %d of %d results, ended %v, removed %v", s.id, s.shard, s.stored, len(s.results), s.header.Tasks, s.ended, s.removed)
}
