//go:build soak

package server

import (
	"fmt"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/layer/work"
)

// TestTakeoverSoak measures what taking a shard over costs, and what lists and
// looks at old jobs cost, with 100,000 jobs that have ended and with one job that
// has a million results, all in one shard. Its figures are in docs/performance.md.
func TestTakeoverSoak(t *testing.T) {
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	shard := n.router.DataShards()[0]
	var muts []mvcc.Mutation
	flush := func() {
		t.Helper()
		if _, err := n.router.Commit(t.Context(), shard, &mvcc.Command{Muts: muts}); err != nil {
			t.Fatal(err)
		}
		muts = nil
	}
	measure := func(what string, do func() error) {
		t.Helper()
		var best time.Duration
		for range 5 {
			began := time.Now()
			if err := do(); err != nil {
				t.Fatal(err)
			}
			if d := time.Since(began); best == 0 || d < best {
				best = d
			}
		}
		t.Logf("%-50s %v", what, best.Round(10*time.Microsecond))
	}
	load := func() error {
		_, err := work.Load(t.Context(), localRows{n}, shard)
		return err
	}
	list := func() error {
		_, err := n.work.List(t.Context(), &banyanv1.ListJobsRequest{Limit: 20})
		return err
	}
	measure("takeover, nothing there", load)
	const jobs = 100_000
	now := time.Now().UnixMilli()
	for i := range jobs {
		at := now - int64(jobs-i)*10_000
		h := &banyanv1.Job{
			Id: string(banyan.NewJobID(at, uint32(i))), State: banyanv1.JobState_JOB_STATE_SUCCEEDED, SubmitMs: at, EndMs: at + 5000, Tasks: 1,
			Spec: &banyanv1.JobSpec{Command: banyanv1.NewShell("convert {} -resize 50% small/{/}"), Name: fmt.Sprint("job ", i)},
		}
		if muts = append(muts, work.Header(h)...); len(muts) > 3000 {
			flush()
		}
	}
	flush()
	measure("takeover, 100,000 ended jobs", load)
	measure("the newest 20 of 100,000", list)
	measure("a look at what is to go, 100,000 rows", func() error {
		_, _, err := n.jobKeeper().Pass(t.Context(), job.Keep{}, now)
		return err
	})
	const tasks = 1_000_000
	h := &banyanv1.Job{Id: string(banyan.NewJobID(now, 1)), State: banyanv1.JobState_JOB_STATE_HELD, Tasks: tasks, Spec: &banyanv1.JobSpec{Command: banyanv1.NewCommand("true")}}
	for i := range banyan.TaskIndex(tasks - 1) {
		row, err := job.EncodeResult(job.Meta{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Node: 1}, &banyanv1.TaskResult{
			Task: uint32(i), Attempt: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, StartMs: now, DurationUs: 1000, Node: 1,
			Stdout: &banyanv1.Output{Bytes: 200, Inline: make([]byte, 200)},
		})
		if err != nil {
			t.Fatal(err)
		}
		if muts = append(muts, mvcc.Mutation{Op: mvcc.Put, Key: job.ResultKey(banyan.JobID(h.Id), i), Value: row}); len(muts) > 3000 {
			flush()
		}
	}
	muts = append(muts, work.Header(h)...)
	flush()
	measure("takeover, one held job of a million results", load)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	kept, err := work.Load(t.Context(), localRows{n}, shard)
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%-50s %d MiB (%d jobs, %v)", "memory that it keeps", int64(after.HeapAlloc-before.HeapAlloc)>>20, len(kept), err)
	measure("the newest 20 beside it", list)
	runtime.KeepAlive(kept)
}
