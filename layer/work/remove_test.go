package work

import (
	"bytes"
	"fmt"
	"io"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/internal/pause"
)

// rowsOf counts the rows of jobs in a shard, whatever they are.
func (b *bench) rowsOf(shard banyan.ShardID) (n int) {
	b.t.Helper()
	for _, layer := range []banyan.Layer{banyan.LayerJob, banyan.LayerResult} {
		lo := []byte{byte(layer)}
		err := scan(b.ctx, b.rows, shard, mvcc.Query{Lo: lo, Hi: []byte{byte(layer) + 1}, EachSlot: true, KeysOnly: true}, func(mvcc.Row) error {
			n++
			return nil
		})
		if err != nil {
			b.t.Fatal(err)
		}
	}
	return n
}

// await lets the controllers go on until something is so.
func (b *bench) await(what string, so func() bool) {
	b.t.Helper()
	for !so() {
		if b.ctx.Err() != nil {
			b.t.Fatal(what)
		}
		_ = pause.For(b.ctx, 5*time.Millisecond)
	}
}

func failSome(a *peerv1.Attempt) *banyanv1.TaskResult {
	r := &banyanv1.TaskResult{State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Stdout: &banyanv1.Output{Bytes: 10, Inline: bytes.Repeat([]byte("x"), 10)}}
	if a.Key.Task%3 == 0 {
		r.State = banyanv1.TaskState_TASK_STATE_FAILED
	}
	return r
}

func TestARemovedJobIsGoneAtOnceAndLeavesNothing(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	b.worker(1, 64, failSome).connect(s)
	shard := s.cfg.ShardOf([]byte(jobID))
	sent := &banyanv1.FileRef{Path: []byte("f"), Size: 100, Chunks: [][]byte{make([]byte, 32)}}
	b.submit(s, jobID, 30, func(spec *banyanv1.JobSpec) { spec.Send = []*banyanv1.FileRef{sent} })
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	j, err := s.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID})
	if err != nil || j.Job.StoredBytes != 100+30*10 {
		t.Errorf("it says %d bytes (%v), want what it was sent and what its tasks have written", j.GetJob().GetStoredBytes(), err)
	}
	for range 2 { // the second is a copy whose first answer was lost, or comes when it is over
		if _, err := s.Remove(b.ctx, &banyanv1.RemoveJobRequest{JobId: jobID}); err != nil && !banyan.IsKind(err, banyan.NotFound) {
			t.Fatal(err)
		}
	}
	_, err = s.Get(b.ctx, &banyanv1.GetJobRequest{JobId: jobID})
	_, terr := s.Tasks(b.ctx, &banyanv1.TasksRequest{JobId: jobID})
	ferr := (&followed{}).follow(b.ctx, s, jobID, nil)
	list, _ := s.List(b.ctx, &banyanv1.ListJobsRequest{})
	for _, err := range []error{err, terr, ferr} {
		if !banyan.IsKind(err, banyan.NotFound) {
			t.Errorf("a removed job answers %v", err)
		}
	}
	if len(list.Jobs) != 0 {
		t.Errorf("a removed job is listed: %v", list)
	}
	b.await("the rows go", func() bool { return b.rowsOf(shard) == 0 })
}

func TestAJobThatRunsIsRemovedByForceOnly(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.lead(s, 3)
	b.worker(1, 4, never).connect(s)
	shard := s.cfg.ShardOf([]byte(jobID))
	b.submit(s, jobID, 10, nil)
	if _, err := s.Remove(b.ctx, &banyanv1.RemoveJobRequest{JobId: jobID}); !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("it runs and is removed: %v", err)
	}
	got, err := s.Remove(b.ctx, &banyanv1.RemoveJobRequest{JobId: jobID, Force: true})
	if err != nil || got.Job.State != banyanv1.JobState_JOB_STATE_CANCELED {
		t.Fatalf("%v, %v", got, err)
	}
	b.await("the rows go", func() bool { return b.rowsOf(shard) == 0 })
}

// A leader ends between any two steps of a removal; the next one goes on. While
// it lasts the id is taken.
func TestTheNextLeaderEndsARemoval(t *testing.T) {
	b := newBench(t)
	for i, rows := range []int{1, 3, 40} {
		id := banyan.JobID(fmt.Sprintf("j000000000000%d", 2*i+1))
		shard := banyan.ShardID(1 + id[len(id)-1]%2)
		h := header(id, 50, nil)
		h.State = banyanv1.JobState_JOB_STATE_SUCCEEDED
		mod := banyan.Revision(0)
		res, err := b.rows.commit(shard, submitCommand(h))
		if mod = res.Revision; err != nil || !res.OK {
			t.Fatal(err, res)
		}
		for n := range rows {
			b.rows.put(shard, job.InputKey(id, banyan.TaskIndex(n)), []byte("i"), job.ResultKey(id, banyan.TaskIndex(n)), []byte("r"))
		}
		if res, err := b.rows.commit(shard, Forget(id, mod-1)); err != nil || res.OK {
			t.Fatalf("a job that was changed meanwhile is removed: %v, %v", res, err)
		}
		if res, err := b.rows.commit(shard, Forget(id, mod)); err != nil || !res.OK {
			t.Fatal(err, res)
		}
		steps := 0
		for {
			cmd, err := NextRemoval(b.ctx, b.rows, shard) // all that is known is in the rows
			if err != nil {
				t.Fatal(err)
			}
			if cmd == nil {
				break
			}
			if res, err := b.rows.commit(shard, cmd); err != nil || !res.OK {
				t.Fatal(err, res)
			}
			if steps++; steps == 1 && b.rowsOf(shard) == 0 {
				t.Error("the row that says that it is being removed went first")
			}
		}
		if steps != 3 || b.rowsOf(shard) != 0 {
			t.Errorf("%d steps, %d rows are left", steps, b.rowsOf(shard))
		}
	}
}

func TestAnIdIsTakenUntilItsJobIsGone(t *testing.T) {
	b := newBench(t)
	s := b.service(1, nil)
	b.rows.before = func(_ banyan.ShardID, cmd *mvcc.Command) (bool, error) {
		if len(cmd.Muts) == 1 && cmd.Muts[0].Op != mvcc.Put {
			return false, banyan.Errorf(banyan.Invalid, "the removal does not go on")
		}
		return false, nil
	}
	b.lead(s, 3)
	b.rows.put(s.cfg.ShardOf([]byte(jobID)), job.RemovedKey(jobID), nil)
	_, err := s.Submit(b.ctx, messages(jobID, header("", 0, nil).Spec, inputsOf(1), io.EOF))
	if !banyan.IsKind(err, banyan.Conflict) {
		t.Errorf("%v", err)
	}
}

// The newest are found whatever the spans between jobs, and whatever their number.
func TestTheNewestJobsAreListedInPages(t *testing.T) {
	b := newBench(t)
	const now = 1_700_000_000_000
	var all []banyan.JobID
	add := func(ms int64, n uint32) {
		id := banyan.NewJobID(ms, n)
		h := header(id, 1, nil)
		h.State = banyanv1.JobState_JOB_STATE_SUCCEEDED
		if _, err := b.rows.commit(1, submitCommand(h)); err != nil {
			t.Fatal(err)
		}
		all = append(all, id)
	}
	add(1, 1)
	add(now-400*24*3_600_000, 1)
	for n := range uint32(newestRows + 500) {
		add(now-90_000+int64(n/40), n)
	}
	for n := range uint32(30) {
		add(now-10, n)
	}
	add(now+5_000_000, 1) // by a clock that is ahead
	for _, limit := range []int{1, 7, 1000} {
		var got []banyan.JobID
		for before, more := banyan.JobID(""), true; more && len(got) < 5*limit; {
			var keys [][]byte
			var err error
			if keys, more, err = newest(b.ctx, b.rows, 1, before, limit, now); err != nil {
				t.Fatal(err)
			}
			for i := range keys {
				got = append(got, banyan.JobID(keys[len(keys)-1-i][len(keys[0])-14:]))
			}
			before = got[len(got)-1]
		}
		for i, id := range got {
			if id != all[len(all)-1-i] {
				t.Fatalf("limit %d: job %d is %s, want %s", limit, i, id, all[len(all)-1-i])
			}
		}
		if limit == 1000 && len(got) != len(all) {
			t.Errorf("%d of %d jobs are listed", len(got), len(all))
		}
	}
}

// One keeper looks at all shards: the bounds hold for the cluster. A job that was
// resumed since its row was read stays.
func TestTheKeeperRemovesWhatIsTooOldInAllShards(t *testing.T) {
	b := newBench(t)
	shardOf := func(p []byte) banyan.ShardID { return 1 + banyan.ShardID(p[len(p)-1]%2) }
	k := &Keeper{Reader: b.rows, Committer: anywhere{b.rows}, Shards: func() []banyan.ShardID { return []banyan.ShardID{1, 2} }, ShardOf: shardOf}
	const all = keepStep + 300
	const now = 1_000_000_000_000
	var ids []banyan.JobID
	for n := range int64(all) {
		h := header(banyan.NewJobID(n, 0), 1, nil)
		h.Id = h.Id[:13] + string("12"[n%2])
		h.State, h.EndMs = banyanv1.JobState_JOB_STATE_SUCCEEDED, now-10*job.KeepLeastMs+n
		ids = append(ids, banyan.JobID(h.Id))
		if _, err := b.rows.commit(shardOf([]byte(h.Id)), submitCommand(h)); err != nil {
			t.Fatal(err)
		}
	}
	resumed := ids[1]
	b.rows.before = func(shard banyan.ShardID, cmd *mvcc.Command) (bool, error) {
		if len(cmd.Conds) > 1 && resumed != "" && shard == shardOf([]byte(resumed)) {
			h := header(resumed, 1, nil)
			resumed = ""
			b.rows.mu.Unlock()
			defer b.rows.mu.Lock()
			_, err := b.rows.commit(shard, &mvcc.Command{Muts: Header(h)})
			return false, err
		}
		return false, nil
	}
	removed, more, err := k.Pass(b.ctx, job.Keep{Jobs: 100}, now)
	if err != nil || !more || removed != keepStep-1 {
		t.Fatalf("%d, %v, %v", removed, more, err)
	}
	removed, more, err = k.Pass(b.ctx, job.Keep{Jobs: 100}, now)
	if err != nil || more || removed != all-keepStep-100 {
		t.Fatalf("%d, %v, %v", removed, more, err)
	}
	for i, id := range ids {
		_, _, err := readHeader(b.ctx, b.rows, shardOf([]byte(id)), id)
		if want := i == 1 || i >= all-100; (err == nil) != want {
			t.Errorf("job %d: %v", i, err)
		}
	}
}
