package work

import (
	"context"
	"io"
	"slices"
	"sync"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// fakeChunks is a blob store that has what the test puts in.
type fakeChunks struct {
	mu      sync.Mutex
	epoch   uint64
	root    uint64
	here    map[banyan.Hash]bool
	few     map[banyan.Hash]bool // here, on too few nodes
	lists   map[string][]*banyanv1.FileRef
	touched []banyan.Hash
}

func (f *fakeChunks) Epoch() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.epoch
}

func (f *fakeChunks) Learn(epoch uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.epoch = max(f.epoch, epoch)
}

func (f *fakeChunks) Missing(_ context.Context, hs []banyan.Hash) (out []banyan.Hash, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, h := range hs {
		f.touched = append(f.touched, h)
		if !f.here[h] || f.few[h] {
			out = append(out, h)
		}
	}
	return out, nil
}

func (f *fakeChunks) Restore(_ context.Context, h banyan.Hash) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if delete(f.few, h); !f.here[h] {
		return banyan.Errorf(banyan.NotFound, "no blob %v", h)
	}
	return nil
}

func (f *fakeChunks) Files(_ context.Context, l *banyanv1.FileList) ([]*banyanv1.FileRef, error) {
	return f.lists[string(l.Chunks[0])], nil
}

func (f *fakeChunks) Current(context.Context) (uint64, error) { return f.root, nil }

func chunkNamed(b byte) banyan.Hash { return banyan.Hash{b} }

func refTo(b ...byte) *banyanv1.FileRef {
	f := &banyanv1.FileRef{Path: []byte("f")}
	for _, b := range b {
		h := chunkNamed(b)
		f.Chunks = append(f.Chunks, h[:])
	}
	return f
}

// large is a result whose output is a chunk of its own.
func large(a *peerv1.Attempt) *banyanv1.TaskResult {
	r := succeed(a)
	r.Stdout = &banyanv1.Output{Bytes: 1 << 20, Chunks: refTo(byte(a.Key.Task)).Chunks}
	return r
}

// TestResultsWaitForATouch: what a result refers to was touched before two epochs
// began, so it is touched again before it is recorded; one that is gone is told.
func TestResultsWaitForATouch(t *testing.T) {
	b := newBench(t)
	ch := &fakeChunks{epoch: 3, root: 9, here: map[banyan.Hash]bool{chunkNamed(0): true, chunkNamed(1): true}, few: map[banyan.Hash]bool{chunkNamed(1): true}}
	s := b.service(1, func(c *Config) { c.Chunks = ch })
	b.lead(s, 3)
	b.worker(1, 8, large).connect(s) // it knows of no epoch
	b.submit(s, jobID, 3, nil)
	var f followed
	if err := f.follow(b.ctx, s, jobID, nil); err != nil {
		t.Fatal(err)
	}
	f.check(t, 3)
	b.versions(jobID, 3)
	for _, r := range f.results {
		if gone := len(r.Stdout.Chunks) == 0; gone != (r.Task == 2) || gone != (r.Error != "") || gone != r.Stdout.Truncated {
			t.Errorf("task %d: %v", r.Task, r)
		}
	}
	stored, err := s.result(b.ctx, s.cfg.ShardOf([]byte(jobID)), jobID, 2)
	if err != nil || stored.Error == "" || len(stored.Stdout.Chunks) > 0 {
		t.Errorf("the row of what is gone: %v, %v", stored, err)
	}
	if ch.epoch != 9 || !slices.Contains(ch.touched, chunkNamed(0)) {
		t.Errorf("epoch %d, touched %v", ch.epoch, ch.touched)
	}
	if row, err := get(b.ctx, b.rows, s.cfg.ShardOf([]byte(jobID)), job.FenceKey()); err != nil || row == nil {
		t.Errorf("a shard without a fence got none: %v", err)
	} else if fence, err := job.Fence(row.Value); fence != 9 || err != nil {
		t.Errorf("fence %d, %v", fence, err)
	}
}

// TestASubmissionTouchesWhatItSends, as often as the fence rises before it is there.
func TestASubmissionTouchesWhatItSends(t *testing.T) {
	b := newBench(t)
	ch := &fakeChunks{here: map[banyan.Hash]bool{chunkNamed(7): true}}
	rises := 3
	b.rows.before = func(shard banyan.ShardID, cmd *mvcc.Command) (bool, error) {
		if rises > 0 && len(cmd.Conds) > 2 {
			rises--
			b.rows.mu.Unlock()
			defer b.rows.mu.Lock()
			_, err := b.rows.commit(shard, Raise(uint64(20-2*rises)))
			return false, err
		}
		return false, nil
	}
	s := b.service(1, func(c *Config) { c.Chunks = ch })
	b.lead(s, 3)
	b.submit(s, jobID, 1, func(spec *banyanv1.JobSpec) { spec.Send = []*banyanv1.FileRef{refTo(7)} })
	if rises != 0 || ch.epoch != 20 {
		t.Errorf("the job is there at epoch %d, after touches %v", ch.epoch, ch.touched)
	}
	const other = "j0000000000003"
	spec := header("", 0, func(spec *banyanv1.JobSpec) { spec.Send = []*banyanv1.FileRef{refTo(7, 8)} }).Spec
	if _, err := s.Submit(b.ctx, messages(other, spec, inputsOf(1), io.EOF)); !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("what is not there is sent: %v", err)
	}
}

// TestMarksFindEveryReference of a shard, whatever rows they stand in.
func TestMarksFindEveryReference(t *testing.T) {
	b := newBench(t)
	list := refTo(30)
	ch := &fakeChunks{lists: map[string][]*banyanv1.FileRef{string(list.Chunks[0]): {refTo(31), refTo(32, 33)}}}
	want := map[byte]bool{30: true, 31: true, 32: true, 33: true}
	put := func(id banyan.JobID, task banyan.TaskIndex, r *banyanv1.TaskResult) {
		row, err := job.EncodeResult(job.Meta{}, r)
		if err != nil {
			t.Fatal(err)
		}
		b.rows.put(1, job.ResultKey(id, task), row)
	}
	for i, id := range []banyan.JobID{"j0000000000002", "j0000000000004", "j0000000000006"} {
		n := byte(10 * (i + 4))
		for at, piece := range job.EncodeSend([]*banyanv1.FileRef{refTo(n), refTo(n+1, n+2)}) {
			b.rows.put(1, job.SendKey(id, at), piece)
		}
		put(id, 0, &banyanv1.TaskResult{Stdout: &banyanv1.Output{Chunks: refTo(n + 3).Chunks}})
		put(id, 1, &banyanv1.TaskResult{Stderr: &banyanv1.Output{Chunks: refTo(n + 4).Chunks}, Returned: []*banyanv1.FileRef{refTo(n + 5)}})
		put(id, 2, &banyanv1.TaskResult{Stdout: &banyanv1.Output{Inline: []byte("x")}})
		for d := range byte(6) {
			want[n+d] = true
		}
	}
	put("j0000000000002", 3, &banyanv1.TaskResult{ReturnedList: &banyanv1.FileList{Chunks: list.Chunks}})
	got := map[byte]bool{}
	err := Marks(b.ctx, b.rows, 1, nil, nil, ch, func(h []byte) error {
		got[h[0]] = true
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for n := range want {
		if !got[n] {
			t.Errorf("the mark lacks %d", n)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%v, want %v", got, want)
	}
	if first, last := slotsOf(nil, nil); first != 0 || last != banyan.Slots-1 {
		t.Errorf("slots %d to %d", first, last)
	}
	if first, last := slotsOf(banyan.SlotKey(5), banyan.SlotKey(9)); first != 5 || last != 9 {
		t.Errorf("slots %d to %d", first, last)
	}
}
