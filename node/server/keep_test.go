package server

import (
	"fmt"
	"path/filepath"
	"strings"
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

// Rows of the root shard that say what is long past go, and only those.
func TestTheRootForgetsWhatIsLongPast(t *testing.T) {
	n, _ := start(t, filepath.Join(t.TempDir(), "node"))
	now := time.Now()
	var muts []mvcc.Mutation
	put := func(key, value []byte) { muts = append(muts, mvcc.Mutation{Op: mvcc.Put, Key: key, Value: value}) }
	removed := func(id banyan.NodeID, ago time.Duration) {
		put(nodeKey(id), nodeRow{ID: id, RemovedMs: now.Add(-ago).UnixMilli()}.encode())
	}
	put(nodeKey(1), nodeRow{ID: 1}.encode())
	removed(2, forgetRemoved+time.Hour)
	removed(3, forgetRemoved-time.Hour)
	for i := range banyan.NoticesMax + 3 {
		put(fmt.Appendf(nil, "%s%013d-n1", noticePrefix, i), []byte("{}"))
	}
	if _, err := n.router.Commit(t.Context(), banyan.RootShard, &mvcc.Command{Muts: muts}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := n.forgetOld(t.Context(), now.UnixMilli()); err != nil {
			t.Fatal(err)
		}
	}
	nodes, _, err := readRoot(t.Context(), n.router, nodePrefix)
	if err != nil || len(nodes) != 2 || string(nodes[1].Key) != string(nodeKey(3)) {
		t.Errorf("%d nodes, %v", len(nodes), err)
	}
	notices, _, err := readRoot(t.Context(), n.router, noticePrefix)
	if err != nil || len(notices) != banyan.NoticesMax || !strings.HasSuffix(string(notices[0].Key), "0000000000003-n1") {
		t.Errorf("%d notices, %v", len(notices), err)
	}
}
