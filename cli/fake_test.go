package cli

import (
	"context"
	"net/http"
	"sync"
	"testing"

	"connectrpc.com/connect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/client"
)

// fakeJobs is a small real job service for one job, whose results the test
// decides. Blobs are kept in memory.
type fakeJobs struct {
	banyanv1connect.UnimplementedJobsHandler

	follow  []*banyanv1.FollowResponse // sent in order
	pause   chan struct{}              // when not nil: waited for before the last message
	results []*banyanv1.TaskResult     // what Tasks knows
	job     *banyanv1.Job
	list    []*banyanv1.Job // what List knows

	mu      sync.Mutex
	spec    *banyanv1.JobSpec
	inputs  []*banyanv1.Input
	held    bool
	resumed bool
	reads   int // of Tasks
	removed []string
	blobs   map[string][]byte
}

// fakeCluster is a cluster whose nodes are listed as the test decides, the last
// listing again and again.
type fakeCluster struct {
	banyanv1connect.UnimplementedClusterHandler
	nodes  [][]*banyanv1.Node
	shards []*banyanv1.Shard
}

func (f *fakeCluster) Map(context.Context, *connect.Request[banyanv1.MapRequest]) (*connect.Response[banyanv1.MapResponse], error) {
	return connect.NewResponse(&banyanv1.MapResponse{Nodes: f.nodes[0], Shards: f.shards}), nil
}

func (f *fakeCluster) Nodes(context.Context, *connect.Request[banyanv1.NodesRequest]) (*connect.Response[banyanv1.NodesResponse], error) {
	return connect.NewResponse(&banyanv1.NodesResponse{Nodes: f.list()}), nil
}

func (f *fakeCluster) list() []*banyanv1.Node {
	now := f.nodes[0]
	if len(f.nodes) > 1 {
		f.nodes = f.nodes[1:]
	}
	return now
}

func (f *fakeCluster) Drain(_ context.Context, req *connect.Request[banyanv1.DrainRequest]) (*connect.Response[banyanv1.DrainResponse], error) {
	return connect.NewResponse(&banyanv1.DrainResponse{Node: &banyanv1.Node{Id: req.Msg.Node, State: "draining"}}), nil
}

func (f *fakeCluster) Status(context.Context, *connect.Request[banyanv1.StatusRequest]) (*connect.Response[banyanv1.StatusResponse], error) {
	return connect.NewResponse(&banyanv1.StatusResponse{Nodes: f.list(), Shards: f.shards}), nil
}

func (f *fakeCluster) session(t testing.TB) *session {
	t.Helper()
	_, h := banyanv1connect.NewClusterHandler(f, connect.WithInterceptors(wireErrors{}))
	return sessionAt(t, h)
}

// fakeKV keeps what was put.
type fakeKV struct {
	banyanv1connect.UnimplementedKVHandler
	values map[string]string
}

func (f *fakeKV) Put(_ context.Context, req *connect.Request[banyanv1.PutRequest]) (*connect.Response[banyanv1.PutResponse], error) {
	f.values[string(req.Msg.Key)] = string(req.Msg.Value)
	return connect.NewResponse(&banyanv1.PutResponse{Revision: uint64(len(f.values))}), nil
}

func (*fakeKV) Get(context.Context, *connect.Request[banyanv1.GetRequest]) (*connect.Response[banyanv1.GetResponse], error) {
	return connect.NewResponse(&banyanv1.GetResponse{Revision: 1}), nil
}

func (f *fakeKV) session(t testing.TB) *session {
	t.Helper()
	_, h := banyanv1connect.NewKVHandler(f, connect.WithInterceptors(wireErrors{}))
	return sessionAt(t, h)
}

// fakeDebug tells the same of every node.
type fakeDebug struct {
	banyanv1connect.UnimplementedDebugHandler
	data  string
	then  func()                            // after Slow has answered
	dumps func(*banyanv1.DumpRequest) error // what goes wrong with one
	nodes []*banyanv1.Node                  // of the cluster
}

func (f fakeDebug) Dump(_ context.Context, req *connect.Request[banyanv1.DumpRequest], st *connect.ServerStream[banyanv1.DumpResponse]) error {
	if f.dumps != nil {
		if err := f.dumps(req.Msg); err != nil {
			return err
		}
	}
	return st.Send(&banyanv1.DumpResponse{Data: []byte(f.data)})
}

// Slow is what a node tells of another that it cannot reach.
func (f fakeDebug) Slow(_ context.Context, req *connect.Request[banyanv1.SlowRequest]) (*connect.Response[banyanv1.SlowResponse], error) {
	if f.then != nil {
		defer f.then()
	}
	return connect.NewResponse(&banyanv1.SlowResponse{Errors: []*banyanv1.NodeError{{Node: max(req.Msg.Node, 2), Error: "no way there"}}}), nil
}

func (f fakeDebug) session(t testing.TB) *session {
	t.Helper()
	mux := http.NewServeMux()
	mux.Handle(banyanv1connect.NewDebugHandler(f, connect.WithInterceptors(wireErrors{})))
	mux.Handle(banyanv1connect.NewClusterHandler(&fakeCluster{nodes: [][]*banyanv1.Node{f.nodes}}, connect.WithInterceptors(wireErrors{})))
	return sessionAt(t, mux)
}

// session serves f in process.
func (f *fakeJobs) session(t testing.TB) *session {
	t.Helper()
	f.blobs = map[string][]byte{}
	mux := http.NewServeMux()
	encode := connect.WithInterceptors(wireErrors{})
	mux.Handle(banyanv1connect.NewJobsHandler(f, encode))
	mux.Handle(banyanv1connect.NewBlobsHandler(fakeBlobs{f}, encode))
	s := sessionAt(t, mux)
	s.local = true
	return s
}

func sessionAt(t testing.TB, h http.Handler) *session {
	t.Helper()
	c, err := client.Open(client.Config{Transport: client.InProcess(h)})
	if err != nil {
		t.Fatal(err)
	}
	return &session{Client: c, stop: c.Close}
}

// wireErrors puts kinds of errors on the wire, as the gate does.
type wireErrors struct{}

func (wireErrors) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, req connect.AnyRequest) (connect.AnyResponse, error) {
		res, err := next(ctx, req)
		if err != nil {
			return nil, wire.Encode(err)
		}
		return res, nil
	}
}
func (wireErrors) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}
func (wireErrors) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, c connect.StreamingHandlerConn) error {
		if err := next(ctx, c); err != nil {
			return wire.Encode(err)
		}
		return nil
	}
}

func (f *fakeJobs) Submit(_ context.Context, st *connect.ClientStream[banyanv1.SubmitRequest]) (*connect.Response[banyanv1.SubmitResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := ""
	f.inputs = nil
	for st.Receive() {
		if st.Msg().Spec != nil {
			f.spec, id = st.Msg().Spec, st.Msg().JobId
		}
		f.inputs = append(f.inputs, st.Msg().Inputs...)
	}
	return connect.NewResponse(&banyanv1.SubmitResponse{JobId: id, Tasks: uint32(len(f.inputs))}), st.Err()
}

func (f *fakeJobs) Get(context.Context, *connect.Request[banyanv1.GetJobRequest]) (*connect.Response[banyanv1.GetJobResponse], error) {
	if f.job == nil {
		return nil, banyan.Errorf(banyan.NotFound, "there is no such job")
	}
	return connect.NewResponse(&banyanv1.GetJobResponse{Job: f.job}), nil
}

func (f *fakeJobs) List(context.Context, *connect.Request[banyanv1.ListJobsRequest]) (*connect.Response[banyanv1.ListJobsResponse], error) {
	return connect.NewResponse(&banyanv1.ListJobsResponse{Jobs: f.list}), nil
}

func (f *fakeJobs) Tasks(_ context.Context, req *connect.Request[banyanv1.TasksRequest]) (*connect.Response[banyanv1.TasksResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.reads++
	res := &banyanv1.TasksResponse{}
	for _, r := range f.results {
		switch {
		case r.Task < req.Msg.From || req.Msg.FailedOnly && rank(r) != 0:
		case req.Msg.Limit > 0 && len(res.Results) == int(req.Msg.Limit):
			res.More, res.Next = true, r.Task
			return connect.NewResponse(res), nil
		default:
			res.Results = append(res.Results, r)
		}
	}
	return connect.NewResponse(res), nil
}

func (f *fakeJobs) Follow(ctx context.Context, _ *connect.Request[banyanv1.FollowRequest], st *connect.ServerStream[banyanv1.FollowResponse]) error {
	for i, m := range f.follow {
		if f.pause != nil && i == len(f.follow)-1 {
			select {
			case <-f.pause:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if err := st.Send(m); err != nil {
			return err
		}
	}
	return nil
}

func (f *fakeJobs) Hold(context.Context, *connect.Request[banyanv1.HoldRequest]) (*connect.Response[banyanv1.HoldResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held = true
	return connect.NewResponse(&banyanv1.HoldResponse{Job: f.job}), nil
}

func (f *fakeJobs) Resume(context.Context, *connect.Request[banyanv1.ResumeRequest]) (*connect.Response[banyanv1.ResumeResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resumed = true
	return connect.NewResponse(&banyanv1.ResumeResponse{Job: f.job}), nil
}

func (f *fakeJobs) Remove(_ context.Context, req *connect.Request[banyanv1.RemoveJobRequest]) (*connect.Response[banyanv1.RemoveJobResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, j := range f.list {
		if j.Id == req.Msg.JobId && (ended(j.State) || req.Msg.Force) {
			f.removed = append(f.removed, j.Id)
			return connect.NewResponse(&banyanv1.RemoveJobResponse{Job: j}), nil
		} else if j.Id == req.Msg.JobId {
			return nil, banyan.Errorf(banyan.Conflict, "job %s is %s", j.Id, jobState(j.State))
		}
	}
	return nil, banyan.Errorf(banyan.NotFound, "there is no job %s", req.Msg.JobId)
}

// fakeBlobs are the chunks of a fakeJobs.
type fakeBlobs struct{ *fakeJobs }

func (f fakeBlobs) Put(_ context.Context, req *connect.Request[banyanv1.PutBlobRequest]) (*connect.Response[banyanv1.PutBlobResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[string(req.Msg.Hash)] = req.Msg.Data
	return connect.NewResponse(&banyanv1.PutBlobResponse{Copies: 1}), nil
}

func (f fakeBlobs) Missing(_ context.Context, req *connect.Request[banyanv1.MissingRequest]) (*connect.Response[banyanv1.MissingResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	res := &banyanv1.MissingResponse{}
	for _, h := range req.Msg.Hashes {
		if f.blobs[string(h)] == nil {
			res.Hashes = append(res.Hashes, h)
		}
	}
	return connect.NewResponse(res), nil
}

func (f fakeBlobs) Get(_ context.Context, req *connect.Request[banyanv1.GetBlobRequest]) (*connect.Response[banyanv1.GetBlobResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, ok := f.blobs[string(req.Msg.Hash)]
	if !ok {
		return nil, banyan.Errorf(banyan.NotFound, "there is no such chunk")
	}
	return connect.NewResponse(&banyanv1.GetBlobResponse{Data: b}), nil
}
