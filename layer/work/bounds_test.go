package work

import (
	"sync/atomic"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
)

// TestAJobGoesOnInTheChild: the shard of a job that runs is split, and the map
// that the node follows does not tell of it yet. The child's controller takes over
// what runs: nothing of it is started again, or unknown to anybody.
func TestAJobGoesOnInTheChild(t *testing.T) {
	for _, order := range [][]banyan.ShardID{{1, 2}, {2, 1}} { // who hears of it first
		b := newBench(t)
		b.rows.bound(1, nil, banyan.SlotKey(banyan.SlotRoot))
		s := b.service(1, func(c *Config) {
			c.Now, c.Nodes = clock, func() []NodeInfo { return []NodeInfo{{ID: 1, Alive: true}} }
			c.ShardOf = func([]byte) banyan.ShardID { return 1 }
		})
		b.rows.setTerm(1, 3)
		s.Lead(1, 3)
		const tasks, window = 30, 40
		var given atomic.Int64
		var open atomic.Bool
		seen := map[Key]bool{} // only the worker's goroutine uses it
		w := b.worker(1, window, func(a *peerv1.Attempt) *banyanv1.TaskResult {
			if !seen[keyOf(a.Key)] {
				seen[keyOf(a.Key)] = true
				given.Add(1)
			}
			if a.Key.Task < 10 || open.Load() {
				return succeed(a)
			}
			return nil
		})
		cut := w.connect(s)
		b.submit(s, jobID, tasks, nil)
		var f followed
		_ = f.follow(b.ctx, s, jobID, func() bool { return len(f.results) == 10 }) // errEnough

		b.rows.split(1, 2, banyan.SlotKey(banyan.SlotOf([]byte(jobID))))
		b.rows.setTerm(2, 1)
		for _, shard := range order {
			s.Lead(shard, b.rows.shards[shard].term)
		}
		cut()
		open.Store(true)
		w.connect(s)
		for !isOver(f.state) {
			if err := f.follow(b.ctx, s, jobID, nil); err != nil && !banyan.IsKind(err, banyan.NotLeader) && !banyan.IsKind(err, banyan.Moved) && !banyan.IsKind(err, banyan.Unavailable) {
				t.Fatal(err)
			}
		}
		f.check(t, tasks)
		if n := given.Load(); n != tasks {
			t.Errorf("%v: %d attempts at %d tasks", order, n, tasks)
		}
		got, err := s.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID})
		if err != nil || got.Job.Shard != 2 {
			t.Errorf("the job is of shard %d, %v", got.GetJob().GetShard(), err)
		}
		list, err := s.List(b.ctx, &banyanv1.ListJobsRequest{})
		if err != nil || len(list.Jobs) != 1 {
			t.Errorf("%d jobs are listed, %v", len(list.GetJobs()), err)
		}
		covered := 0
		for _, span := range list.Spans {
			covered += int(span.Until - span.From)
		}
		if covered != banyan.Slots {
			t.Errorf("the list covers %d slots: %v", covered, list.Spans)
		}
	}
}

func isOver(s banyanv1.JobState) bool { return s == banyanv1.JobState_JOB_STATE_SUCCEEDED }
