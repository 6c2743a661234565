package gate

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/engine/blob"
	"banyan/node/pki"
	"banyan/obs/metric"

	"connectrpc.com/connect"
)

// fakeKV answers what its fields say.
type fakeKV struct {
	KV
	get   func(context.Context) error
	value []byte // of every key
	watch func(context.Context) error
	put   func(answer func()) // nil: answers at once
}

func (f fakeKV) Watch(ctx context.Context, _ *banyanv1.WatchRequest, send func(*banyanv1.WatchResponse) error) error {
	if err := send(&banyanv1.WatchResponse{}); err != nil {
		return err
	}
	return f.watch(ctx)
}

func (f fakeKV) Get(ctx context.Context, _ *banyanv1.GetRequest) (*banyanv1.GetResponse, error) {
	if err := f.get(ctx); err != nil {
		return nil, err
	}
	return &banyanv1.GetResponse{Revision: 7, Kv: &banyanv1.KeyValue{Value: f.value}}, nil
}

func (f fakeKV) GetThen(ctx context.Context, req *banyanv1.GetRequest, done func(*banyanv1.GetResponse, error)) {
	go func() { done(f.Get(ctx, req)) }()
}

// Delete is there to panic.
func (f fakeKV) Delete(ctx context.Context, _ *banyanv1.DeleteRequest) (*banyanv1.DeleteResponse, error) {
	return nil, f.get(ctx)
}

func (f fakeKV) PutThen(ctx context.Context, req *banyanv1.PutRequest, done func(*banyanv1.PutResponse, error)) {
	if f.put == nil {
		done(f.Put(ctx, req))
		return
	}
	f.put(func() { done(f.Put(ctx, req)) })
}

func (f fakeKV) Put(_ context.Context, req *banyanv1.PutRequest) (*banyanv1.PutResponse, error) {
	return &banyanv1.PutResponse{Revision: uint64(len(req.Value))}, nil
}

// fakeCluster lets everybody join.
type fakeCluster struct{ Clusters }

func (fakeCluster) Status(ctx context.Context, _ *banyanv1.StatusRequest) (*banyanv1.StatusResponse, error) {
	who, _ := Caller(ctx)
	return &banyanv1.StatusResponse{ClusterId: who.Name}, nil
}

func (fakeCluster) Join(ctx context.Context, _ *banyanv1.JoinRequest) (*banyanv1.JoinResponse, error) {
	if _, known := Caller(ctx); known {
		return nil, banyan.Errorf(banyan.Invalid, "known already")
	}
	return &banyanv1.JoinResponse{Node: 9}, nil
}

// notBlobs is a peer service without its other half.
type notBlobs struct {
	peerv1connect.UnimplementedPeerHandler
}

// wholePeer is the peer service of chunks and tails.
type wholePeer struct {
	notBlobs // one deeper, so that the methods of PeerBlobs win
	PeerBlobs
	tail Tailer
}

func (p *wholePeer) Tail(ctx context.Context, req *connect.Request[peerv1.TailRequest], s *connect.ServerStream[peerv1.TailResponse]) error {
	return p.tail.Tail(ctx, req.Msg, s.Send)
}

// fakeBlobs counts as one copy.
type fakeBlobs struct{ blob.Memory }

func (b *fakeBlobs) PutCopies(ctx context.Context, h banyan.Hash, data []byte) (int, error) {
	return 1, b.Put(ctx, h, data)
}

func (b *fakeBlobs) Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error) {
	return slices.DeleteFunc(slices.Clone(hs), func(h banyan.Hash) bool { _, err := b.Get(ctx, h); return err == nil }), nil
}

// fakeJobs are the jobs of one node of a fakeNet.
type fakeJobs struct {
	net  *fakeNet
	node banyan.NodeID

	mu    sync.Mutex
	jobs  map[string]*banyanv1.Job
	tasks map[string][]*banyanv1.TaskResult
}

// leads answers as package work does for what it does not lead.
func (f *fakeJobs) leads(id string) error {
	f.net.mu.Lock()
	defer f.net.mu.Unlock()
	if leader := f.net.leaders[f.net.ShardOf([]byte(id))]; leader != f.node {
		return &banyan.Error{Kind: banyan.NotLeader, Msg: "not led here", Leader: leader}
	}
	return nil
}

func (f *fakeJobs) Submit(_ context.Context, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error) {
	job := &banyanv1.Job{State: banyanv1.JobState_JOB_STATE_ACTIVE}
	for {
		m, err := next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		if job.Id == "" {
			job.Id, job.Spec, job.Leader = m.JobId, m.Spec, uint64(f.node)
		}
		job.Tasks += uint32(len(m.Inputs))
	}
	if err := f.leads(job.Id); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.jobs[job.Id] = job
	return &banyanv1.SubmitResponse{JobId: job.Id, Tasks: job.Tasks}, nil
}

func (f *fakeJobs) find(id string) (*banyanv1.Job, error) {
	if err := f.leads(id); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if job := f.jobs[id]; job != nil {
		return job, nil
	}
	return nil, banyan.Errorf(banyan.NotFound, "no job %s", id)
}

func (f *fakeJobs) Get(_ context.Context, req *banyanv1.GetJobRequest) (*banyanv1.GetJobResponse, error) {
	job, err := f.find(req.JobId)
	return &banyanv1.GetJobResponse{Job: job}, err
}

func (f *fakeJobs) List(context.Context, *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &banyanv1.ListJobsResponse{Spans: []*banyanv1.SlotSpan{{Until: banyan.Slots}}}
	for _, j := range f.jobs {
		out.Jobs = append(out.Jobs, j)
	}
	return out, nil
}

func (f *fakeJobs) Tasks(_ context.Context, req *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error) {
	if _, err := f.find(req.JobId); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	out := &banyanv1.TasksResponse{}
	for _, r := range f.tasks[req.JobId] {
		if r.Task >= req.From && len(out.Results) < int(req.Limit) {
			out.Results = append(out.Results, r)
		}
	}
	return out, nil
}

func (f *fakeJobs) set(id string, results ...*banyanv1.TaskResult) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tasks[id] = results
}

func (f *fakeJobs) Follow(_ context.Context, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error {
	if _, err := f.find(req.JobId); err != nil {
		return err
	}
	for rev := req.AfterRevision + 1; rev <= 3; rev++ {
		if err := send(&banyanv1.FollowResponse{Revision: rev}); err != nil {
			return err
		}
	}
	return banyan.Errorf(banyan.Unavailable, "lost the lead")
}

func (f *fakeJobs) Hold(_ context.Context, req *banyanv1.HoldRequest) (*banyanv1.HoldResponse, error) {
	job, err := f.find(req.JobId)
	return &banyanv1.HoldResponse{Job: job}, err
}

func (f *fakeJobs) Feed(_ context.Context, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	_, err := f.find(req.JobId)
	return &banyanv1.FeedResponse{Tasks: req.First + uint32(len(req.Inputs)), Open: !req.Close}, err
}

func (f *fakeJobs) Resume(context.Context, *banyanv1.ResumeRequest) (*banyanv1.ResumeResponse, error) {
	panic("oops")
}

func (f *fakeJobs) Cancel(_ context.Context, req *banyanv1.CancelRequest) (*banyanv1.CancelResponse, error) {
	job, err := f.find(req.JobId)
	return &banyanv1.CancelResponse{Job: job}, err
}

func (f *fakeJobs) Remove(_ context.Context, req *banyanv1.RemoveJobRequest) (*banyanv1.RemoveJobResponse, error) {
	job, err := f.find(req.JobId)
	return &banyanv1.RemoveJobResponse{Job: job}, err
}

// fakeTail is the output of attempts that run on one node.
type fakeTail struct {
	mu   sync.Mutex
	text string        // standard output so far
	ends chan struct{} // closed: the attempt has ended
}

func (f *fakeTail) Tail(ctx context.Context, req *peerv1.TailRequest, send func(*peerv1.TailResponse) error) error {
	f.mu.Lock()
	text, ends := f.text, f.ends
	f.mu.Unlock()
	if ends == nil {
		return banyan.Errorf(banyan.NotFound, "no such attempt here")
	}
	if err := send(&peerv1.TailResponse{Data: []byte(text[req.StdoutFrom:])}); err != nil || !req.Follow {
		return err
	}
	select {
	case <-ends:
		return send(&peerv1.TailResponse{Ended: true})
	case <-ctx.Done():
		return ctx.Err()
	}
}

// lockedBuffer is a log that tests read while others write.
type lockedBuffer struct {
	mu   sync.Mutex
	text strings.Builder
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// fakeNet is a cluster of doors on loopback, with real TLS.
type fakeNet struct {
	ca   *pki.CA
	kv   fakeKV
	logs *lockedBuffer

	mu      sync.Mutex
	leaders map[banyan.ShardID]banyan.NodeID
	nodes   map[banyan.NodeID]*fakeNode
}

type fakeNode struct {
	url         string
	strangerURL string
	jobs        *fakeJobs
	tail        *fakeTail
	blobs       *fakeBlobs
	handler     http.Handler
	ready       error
	client      *http.Client // that this node calls others with
	server      *Server
}

const shards = 4

func (n *fakeNet) ShardOf(partition []byte) banyan.ShardID {
	return banyan.ShardID(1 + banyan.SlotOf(partition)%shards)
}

func (n *fakeNet) DataShards() []banyan.ShardID { return []banyan.ShardID{1, 2, 3, 4} }

func (n *fakeNet) Leader(shard banyan.ShardID) (banyan.NodeID, bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	id := n.leaders[shard]
	return id, id != 0
}

func (n *fakeNet) lead(id banyan.NodeID, shards ...banyan.ShardID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range shards {
		n.leaders[s] = id
	}
}

func newNet(t *testing.T, nodes int) *fakeNet {
	t.Helper()
	ca, err := pki.NewCA("c-test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNet{ca: ca, leaders: map[banyan.ShardID]banyan.NodeID{}, nodes: map[banyan.NodeID]*fakeNode{}, logs: &lockedBuffer{}}
	n.kv.get = func(context.Context) error { return nil }
	for i := range nodes {
		n.add(t, banyan.NodeID(i+1))
	}
	n.lead(1, n.DataShards()...)
	return n
}

func (n *fakeNet) add(t *testing.T, id banyan.NodeID) {
	t.Helper()
	keeper, err := pki.NewKeeper(n.ca, pki.Subject{Kind: pki.Node, Name: id.String(), Node: id}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	node := &fakeNode{
		jobs:   &fakeJobs{net: n, node: id, jobs: map[string]*banyanv1.Job{}, tasks: map[string][]*banyanv1.TaskResult{}},
		tail:   &fakeTail{},
		blobs:  &fakeBlobs{},
		client: httpClient(keeper.ClientTLS("h2", "http/1.1")),
	}
	disk, err := blob.OpenDisk(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(n.logs, nil))
	config := Config{
		Node: id, Cluster: n.ca.Cluster(), Logger: log, Metrics: metric.NewSet(),
		KV: &n.kv, Clusters: fakeCluster{}, Blobs: node.blobs, Jobs: node.jobs, Leaders: n, Tail: node.tail, Coord: fakeLocks{jobs: node.jobs},
		CoordAt: func(to banyan.NodeID) (banyanv1connect.CoordClient, error) {
			return banyanv1connect.NewCoordClient(node.client, n.nodes[to].url, connect.WithInterceptors(ClientInterceptor())), nil
		},
		JobsAt: func(to banyan.NodeID) (banyanv1connect.JobsClient, error) {
			return banyanv1connect.NewJobsClient(node.client, n.nodes[to].url, connect.WithInterceptors(ClientInterceptor())), nil
		},
		PeerAt: func(to banyan.NodeID) (peerv1connect.PeerClient, error) {
			return peerv1connect.NewPeerClient(node.client, n.nodes[to].url, connect.WithInterceptors(ClientInterceptor())), nil
		},
		Peer: &wholePeer{tail: node.tail, PeerBlobs: PeerBlobs{blob.New(blob.Config{
			Self: id, Local: disk, Nodes: func() []banyan.NodeID { return []banyan.NodeID{id} },
		})}},
		Ready: func() error { return node.ready },
	}
	node.handler = New(config)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	node.url = "https://" + listener.Addr().String()
	srv := NewServer(node.handler, log)
	node.server = srv
	node.strangerURL = serveStrangers(t, Strangers(config, Opening{"GET /sign-in", http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "who are you?") })}), keeper, log)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(tls.NewListener(listener, keeper.ServerTLS("h2", "http/1.1"))) }()
	t.Cleanup(func() {
		node.client.CloseIdleConnections()
		srv.Close()
		<-ended
	})
	n.nodes[id] = node
}

func serveStrangers(t *testing.T, h http.Handler, keeper *pki.Keeper, log *slog.Logger) string {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewStrangers(h, log)
	ended := make(chan error, 1)
	go func() { ended <- srv.Serve(tls.NewListener(listener, keeper.ServerTLS("h2", "http/1.1"))) }()
	t.Cleanup(func() {
		srv.Close()
		<-ended
	})
	return "https://" + listener.Addr().String()
}

func httpClient(config *tls.Config) *http.Client {
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
}

// as gives an HTTP client with a certificate of the net's cluster.
func (n *fakeNet) as(t *testing.T, who pki.Subject) *http.Client {
	t.Helper()
	c := httpClient(n.tlsOf(t, who))
	t.Cleanup(c.CloseIdleConnections)
	return c
}

func (n *fakeNet) tlsOf(t *testing.T, who pki.Subject) *tls.Config {
	t.Helper()
	keeper, err := pki.NewKeeper(n.ca, who, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return keeper.ClientTLS("h2", "http/1.1")
}

var ann = pki.Subject{Kind: pki.User, Name: "ann"}

func (n *fakeNet) user(t *testing.T) *http.Client { return n.as(t, ann) }

func (n *fakeNet) userTLS(t *testing.T) *tls.Config { return n.tlsOf(t, ann) }
