package server

import (
	"path/filepath"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/route"
	"banyan/layer/work"
)

// A node inside a command looks at its jobs before it ends, however short the
// command was, and what it began to remove the next one ends.
func TestOldJobsAreRemovedByANodeThatIsSoonGone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n, stop := start(t, dir)
	add := func(ago time.Duration, spec *banyanv1.JobSpec) banyan.JobID {
		t.Helper()
		end := time.Now().Add(-ago).UnixMilli()
		id := banyan.NewJobID(end, 1)
		spec.Command = banyanv1.NewCommand("true")
		h := &banyanv1.Job{Id: string(id), Spec: spec, State: banyanv1.JobState_JOB_STATE_SUCCEEDED, EndMs: end}
		muts := append(work.Header(h), mvcc.Mutation{Op: mvcc.Put, Key: job.ResultKey(id, 0), Value: []byte("r")})
		if _, err := n.router.Commit(t.Context(), n.router.ShardOf([]byte(id)), &mvcc.Command{Muts: muts}); err != nil {
			t.Fatal(err)
		}
		return id
	}
	const day = 24 * time.Hour
	old, young := add(15*day, &banyanv1.JobSpec{}), add(13*day, &banyanv1.JobSpec{})
	kept, short := add(90*day, &banyanv1.JobSpec{KeepMs: -1}), add(time.Minute, &banyanv1.JobSpec{KeepMs: 1})
	stop()
	n, _ = start(t, dir)
	for id, want := range map[banyan.JobID]bool{old: false, young: true, kept: true, short: false} {
		_, err := n.work.Get(t.Context(), &banyanv1.GetJobRequest{JobId: string(id)})
		if err == nil != want || err != nil && !banyan.IsKind(err, banyan.NotFound) {
			t.Errorf("job %s: kept %v (%v), want %v", id, err == nil, err, want)
		}
		for !want { // the rest goes in the background
			res, err := n.router.Read(t.Context(), n.router.ShardOf([]byte(id)), route.ReadQuery{Key: job.ResultKey(id, 0)})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Rows) == 0 {
				break
			}
			time.Sleep(time.Millisecond)
		}
	}
	row, _, err := n.readKeep(t.Context())
	if err != nil || time.Since(time.UnixMilli(row.PassMs)) > time.Minute {
		t.Errorf("that it looked is not noted: %+v, %v", row, err)
	}
}
