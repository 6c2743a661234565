package server

import (
	"bytes"
	"path/filepath"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/blob"
	"banyan/layer/work"
)

func TestCovered(t *testing.T) {
	r := func(bounds ...int) (out [][2][]byte) {
		for i := 0; i < len(bounds); i += 2 {
			var hi []byte
			if bounds[i+1] > 0 {
				hi = banyan.SlotKey(bounds[i+1])
			}
			out = append(out, [2][]byte{banyan.SlotKey(bounds[i]), hi})
		}
		return out
	}
	for _, c := range []struct {
		ranges [][2][]byte
		want   bool
	}{
		{r(0, 0), true}, {r(0, banyan.Slots), true}, {r(512, 1024, 0, 512), true}, {r(0, 600, 512, 0), true},
		{r(0, 512), false}, {r(1, 0), false}, {r(0, 512, 513, 1024), false}, {nil, false},
	} {
		if err := covered(c.ranges); (err == nil) != c.want {
			t.Errorf("%x: %v", c.ranges, err)
		}
	}
}

// A node inside a command removes what nothing refers to when it ends after a job
// was removed, and keeps what a job refers to.
func TestWhatARemovedJobReferredToIsFreedAtOnce(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "node")
	n, stop := start(t, dir)
	keep := func(text string) banyan.Hash {
		t.Helper()
		h := blob.Sum([]byte(text))
		if err := n.blobs.Put(t.Context(), h, []byte(text)); err != nil {
			t.Fatal(err)
		}
		return h
	}
	var shared []banyan.Hash
	add := func(id banyan.JobID, hs ...banyan.Hash) {
		t.Helper()
		out := &banyanv1.Output{Bytes: 1}
		for _, h := range hs {
			out.Chunks = append(out.Chunks, bytes.Clone(h[:]))
		}
		row, err := job.EncodeResult(job.Meta{}, &banyanv1.TaskResult{Stdout: out})
		if err != nil {
			t.Fatal(err)
		}
		h := &banyanv1.Job{Id: string(id), Spec: &banyanv1.JobSpec{Command: banyanv1.NewCommand("true")}, State: banyanv1.JobState_JOB_STATE_SUCCEEDED, StoredBytes: 1}
		h.EndMs = id.TimeMs()
		muts := append(work.Header(h), mvcc.Mutation{Op: mvcc.Put, Key: job.ResultKey(id, 0), Value: row})
		if _, err := n.router.Commit(t.Context(), n.router.ShardOf([]byte(id)), &mvcc.Command{Muts: muts}); err != nil {
			t.Fatal(err)
		}
	}
	mine, both, other, none := keep("mine"), keep("both"), keep("other"), keep("none")
	shared = append(shared, both)
	now := banyan.NewJobID(1<<42, 1)
	next := banyan.NewJobID(1<<42, 2)
	add(now, mine, shared[0])
	add(next, other, shared[0])
	if _, err := n.work.Remove(t.Context(), &banyanv1.RemoveJobRequest{JobId: string(now)}); err != nil {
		t.Fatal(err)
	}
	stop()
	n, _ = start(t, dir)
	for h, want := range map[banyan.Hash]bool{mine: false, both: true, other: true, none: false} {
		if has, err := n.blobs.Local.Has(h); has != want || err != nil {
			t.Errorf("%.4x: %v (%v), want %v", h, has, err, want)
		}
	}
	if n.blobs.Epoch() != 3 {
		t.Errorf("epoch %d after a restart", n.blobs.Epoch())
	}
}
