package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"sync"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/door/gate"
	"banyan/engine/blob"
)

// fake is the inside of one node: small services in memory behind the real door.
type fake struct {
	mu      sync.Mutex
	rev     uint64
	keys    map[string]*banyanv1.KeyValue
	changed chan struct{}
	applied map[string]uint64 // request id → revision
	jobs    map[banyan.JobID]*banyanv1.Job
	blobs   blob.Memory

	fail  func(call string) error // what a call fails with before it does anything, and after
	lose  func(call string) bool  // the answer is lost after the call was carried out
	put   func(*banyanv1.PutRequest)
	shard uint32 // that holds all keys; 0: shard 1
	puts  int    // chunks stored
	nth   map[string]int

	topology *banyanv1.MapResponse
	gate.Clusters
}

func newFake() *fake {
	return &fake{
		keys: map[string]*banyanv1.KeyValue{}, applied: map[string]uint64{}, jobs: map[banyan.JobID]*banyanv1.Job{}, changed: make(chan struct{}),
		nth: map[string]int{},
	}
}

// handler gives a door to the fake; there may be more. asked is called before
// keys are read or written, nil: nothing.
func (f *fake) handler(id banyan.NodeID, cluster string, asked func(context.Context)) http.Handler {
	return gate.New(gate.Config{
		Node: id, Cluster: cluster, Logger: slog.New(slog.DiscardHandler),
		KV: askedKV{(*fakeKV)(f), asked}, Jobs: (*fakeJobs)(f), Blobs: (*fakeBlobs)(f), Clusters: f, Leaders: oneShard{f}, Tail: noTail{},
	})
}

// oneShard is led by whom the topology names, else by node 1.
type oneShard struct{ *fake }

func (oneShard) ShardOf([]byte) banyan.ShardID { return 1 }
func (oneShard) DataShards() []banyan.ShardID  { return []banyan.ShardID{1} }

func (s oneShard) Leader(banyan.ShardID) (node banyan.NodeID, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.topology == nil || s.topology.Shards[0].Leader == 0 {
		return 1, true
	}
	return banyan.NodeID(s.topology.Shards[0].Leader), true
}

type noTail struct{}

func (noTail) Tail(context.Context, *peerv1.TailRequest, func(*peerv1.TailResponse) error) error {
	return banyan.Errorf(banyan.NotFound, "nothing runs here")
}

// enter is called by every call first.
func (f *fake) enter(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nth[call]++
	if f.fail != nil {
		return f.fail(call)
	}
	return nil
}

func (f *fake) leave(call string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lose != nil && f.lose(call) {
		return banyan.Errorf(banyan.Unavailable, "the connection broke after the fact")
	}
	return nil
}

// Status answers so little that a test knows who did.
func (f *fake) Status(context.Context, *banyanv1.StatusRequest) (*banyanv1.StatusResponse, error) {
	return &banyanv1.StatusResponse{ClusterId: "fake"}, f.enter("Status")
}

// Map answers what the test has set up.
func (f *fake) Map(context.Context, *banyanv1.MapRequest) (*banyanv1.MapResponse, error) {
	if err := f.enter("Map"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.topology, nil
}

// fakeKV is one partition after another in one map.
type fakeKV fake

func (k *fakeKV) once(id []byte, change func(rev uint64)) uint64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	if rev, ok := k.applied[string(id)]; ok {
		return rev
	}
	k.rev++
	change(k.rev)
	k.applied[string(id)] = k.rev
	close(k.changed)
	k.changed = make(chan struct{})
	return k.rev
}

// askedKV tells of the calls of one node, which may come in one session.
type askedKV struct {
	*fakeKV
	asked func(context.Context)
}

func (k askedKV) Get(ctx context.Context, req *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	if k.asked != nil {
		k.asked(ctx)
	}
	return k.fakeKV.Get(ctx, req)
}

func (k askedKV) Put(ctx context.Context, req *banyanv1.PutRequest) (*banyanv1.PutResponse, error) {
	if k.asked != nil {
		k.asked(ctx)
	}
	return k.fakeKV.Put(ctx, req)
}

func (k *fakeKV) Get(_ context.Context, req *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	if err := (*fake)(k).enter("Get"); err != nil {
		return nil, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return &banyanv1.GetResponse{Kv: k.keys[string(req.Key)], Revision: k.rev, Shard: k.holds()}, nil
}

func (k askedKV) GetThen(ctx context.Context, req *banyanv1.GetRequest, done func(*banyanv1.GetResponse, error)) {
	go func() { done(k.Get(ctx, req)) }()
}

func (k askedKV) PutThen(ctx context.Context, req *banyanv1.PutRequest, done func(*banyanv1.PutResponse, error)) {
	go func() { done(k.Put(ctx, req)) }()
}

// holds is the shard that all keys are in.
func (k *fakeKV) holds() uint32 { return max(k.shard, 1) }

func (k *fakeKV) Put(_ context.Context, req *banyanv1.PutRequest) (*banyanv1.PutResponse, error) {
	if err := (*fake)(k).enter("Put"); err != nil {
		return nil, err
	}
	if k.put != nil {
		k.put(req)
	}
	if req.KnownShard != 0 && req.KnownShard != k.holds() {
		return nil, banyan.Errorf(banyan.Moved, "shard %d, not %d", k.holds(), req.KnownShard)
	}
	rev := k.once(req.RequestId, func(rev uint64) {
		kv := &banyanv1.KeyValue{Key: req.Key, Value: req.Value, CreateRevision: rev, ModRevision: rev, Version: 1}
		if old := k.keys[string(req.Key)]; old != nil {
			kv.CreateRevision, kv.Version = old.CreateRevision, old.Version+1
		}
		k.keys[string(req.Key)] = kv
	})
	return &banyanv1.PutResponse{Revision: rev, Shard: k.holds()}, (*fake)(k).leave("Put")
}

func (k *fakeKV) Delete(_ context.Context, req *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error) {
	out := &banyanv1.DeleteResponse{}
	out.Revision = k.once(req.RequestId, func(uint64) {
		for key := range k.keys {
			if key == string(req.Key) || req.Prefix && bytes.HasPrefix([]byte(key), req.Key) {
				delete(k.keys, key)
				out.Deleted++
			}
		}
	})
	return out, nil
}

func (k *fakeKV) List(_ context.Context, req *banyanv1.ListRequest) (*banyanv1.ListResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := &banyanv1.ListResponse{Revision: k.rev}
	if req.Revision != 0 && req.Revision != k.rev {
		return nil, banyan.Errorf(banyan.Compacted, "revision %d is gone", req.Revision)
	}
	for key, kv := range k.keys {
		if bytes.HasPrefix([]byte(key), req.Prefix) && key > string(req.After) {
			out.Kvs = append(out.Kvs, kv)
		}
	}
	slices.SortFunc(out.Kvs, func(a, b *banyanv1.KeyValue) int { return bytes.Compare(a.Key, b.Key) })
	if page := 2; len(out.Kvs) > page {
		out.Kvs, out.More = out.Kvs[:page], true
	}
	return out, nil
}

func (k *fakeKV) Txn(ctx context.Context, req *banyanv1.TxnRequest) (*banyanv1.TxnResponse, error) {
	for i, c := range req.Conditions {
		got, err := k.Get(ctx, &banyanv1.GetRequest{Key: c.Key})
		if err != nil {
			return nil, err
		}
		if c.GetExists() != (got.Kv != nil) {
			return &banyanv1.TxnResponse{FailedCondition: uint32(i)}, nil
		}
	}
	for _, m := range req.Mutations {
		if _, err := k.Put(ctx, &banyanv1.PutRequest{Key: m.GetPut().Key, Value: m.GetPut().Value, RequestId: req.RequestId}); err != nil {
			return nil, err
		}
	}
	return &banyanv1.TxnResponse{Succeeded: true}, nil
}

func (k *fakeKV) Watch(ctx context.Context, req *banyanv1.WatchRequest, send func(*banyanv1.WatchResponse) error) error {
	k.mu.Lock()
	from := req.FromRevision
	if from == 0 {
		from = k.rev + 1
	}
	k.mu.Unlock()
	if err := send(&banyanv1.WatchResponse{Revision: from - 1}); err != nil {
		return err
	}
	for {
		if err := (*fake)(k).enter("Watch"); err != nil {
			return err
		}
		k.mu.Lock()
		changed, now := k.changed, k.rev
		out := &banyanv1.WatchResponse{Revision: now}
		for _, kv := range k.keys {
			if bytes.HasPrefix(kv.Key, req.Key) && kv.ModRevision >= from {
				out.Events = append(out.Events, &banyanv1.Event{Type: banyanv1.Event_PUT, Kv: kv})
			}
		}
		k.mu.Unlock()
		if now >= from {
			from = now + 1
			slices.SortFunc(out.Events, func(a, b *banyanv1.Event) int { return int(a.Kv.ModRevision) - int(b.Kv.ModRevision) })
			if err := send(out); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// fakeJobs runs every task at once: it prints its input.
type fakeJobs fake

func (j *fakeJobs) Submit(ctx context.Context, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error) {
	if err := (*fake)(j).enter("Submit"); err != nil {
		return nil, err
	}
	job := &banyanv1.Job{State: banyanv1.JobState_JOB_STATE_SUCCEEDED}
	for {
		m, err := next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if m.JobId != "" {
			job.Id, job.Spec = m.JobId, m.Spec
		}
		job.Tasks += uint32(len(m.Inputs))
	}
	j.mu.Lock()
	j.jobs[banyan.JobID(job.Id)] = job
	j.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &banyanv1.SubmitResponse{JobId: job.Id, Tasks: job.Tasks}, (*fake)(j).leave("Submit")
}

func (j *fakeJobs) Get(_ context.Context, req *banyanv1.GetJobRequest) (*banyanv1.GetJobResponse, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if job := j.jobs[banyan.JobID(req.JobId)]; job != nil {
		return &banyanv1.GetJobResponse{Job: job}, nil
	}
	return nil, banyan.Errorf(banyan.NotFound, "no job %s", req.JobId)
}

func (j *fakeJobs) List(context.Context, *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	out := &banyanv1.ListJobsResponse{}
	for _, job := range j.jobs {
		out.Jobs = append(out.Jobs, job)
	}
	return out, nil
}

func (j *fakeJobs) result(task uint32) *banyanv1.TaskResult {
	return &banyanv1.TaskResult{
		Task: task, Attempt: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Revision: uint64(task) + 1,
		Stdout: &banyanv1.Output{Inline: fmt.Appendf(nil, "task %d\n", task+1)},
	}
}

func (j *fakeJobs) Tasks(ctx context.Context, req *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error) {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	if err != nil {
		return nil, err
	}
	out := &banyanv1.TasksResponse{}
	for task := req.From; task < got.Job.Tasks && len(out.Results) < int(req.Limit); task++ {
		out.Results = append(out.Results, j.result(task))
	}
	return out, nil
}

func (j *fakeJobs) Follow(ctx context.Context, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	if err != nil {
		return err
	}
	for task := uint32(req.AfterRevision); task < got.Job.Tasks; task++ {
		if err := (*fake)(j).enter("Follow"); err != nil {
			return err
		}
		r := j.result(task)
		if err := send(&banyanv1.FollowResponse{Results: []*banyanv1.TaskResult{r}, Revision: r.Revision, State: banyanv1.JobState_JOB_STATE_ACTIVE}); err != nil {
			return err
		}
	}
	return send(&banyanv1.FollowResponse{State: got.Job.State, Revision: uint64(got.Job.Tasks)})
}

func (j *fakeJobs) Hold(ctx context.Context, req *banyanv1.HoldRequest) (*banyanv1.HoldResponse, error) {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	return &banyanv1.HoldResponse{Job: got.GetJob()}, err
}

func (j *fakeJobs) Feed(_ context.Context, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	return &banyanv1.FeedResponse{Tasks: req.First + uint32(len(req.Inputs)), Open: !req.Close}, nil
}

func (j *fakeJobs) Resume(ctx context.Context, req *banyanv1.ResumeRequest) (*banyanv1.ResumeResponse, error) {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	return &banyanv1.ResumeResponse{Job: got.GetJob()}, err
}

func (j *fakeJobs) Cancel(ctx context.Context, req *banyanv1.CancelRequest) (*banyanv1.CancelResponse, error) {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	return &banyanv1.CancelResponse{Job: got.GetJob()}, err
}

func (j *fakeJobs) Remove(ctx context.Context, req *banyanv1.RemoveJobRequest) (*banyanv1.RemoveJobResponse, error) {
	got, err := j.Get(ctx, &banyanv1.GetJobRequest{JobId: req.JobId})
	return &banyanv1.RemoveJobResponse{Job: got.GetJob()}, err
}

// fakeBlobs counts what is stored.
type fakeBlobs fake

func (b *fakeBlobs) PutCopies(ctx context.Context, h banyan.Hash, data []byte) (int, error) {
	if err := (*fake)(b).enter("PutBlob"); err != nil {
		return 0, err
	}
	b.mu.Lock()
	b.puts++
	b.mu.Unlock()
	return 1, b.blobs.Put(ctx, h, data)
}

func (b *fakeBlobs) Get(ctx context.Context, h banyan.Hash) ([]byte, error) {
	if err := (*fake)(b).enter("GetBlob"); err != nil {
		return nil, err
	}
	return b.blobs.Get(ctx, h)
}

func (b *fakeBlobs) Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error) {
	return slices.DeleteFunc(slices.Clone(hs), func(h banyan.Hash) bool { _, err := b.blobs.Get(ctx, h); return err == nil }), nil
}
