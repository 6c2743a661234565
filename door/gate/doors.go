package gate

import (
	"context"
	"fmt"
	"io"
	"sync/atomic"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"

	"connectrpc.com/connect"
)

var (
	_ banyanv1connect.KVHandler      = kvDoor{}
	_ banyanv1connect.ClusterHandler = clusterDoor{}
	_ banyanv1connect.JobsHandler    = jobsDoor{}
	_ banyanv1connect.BlobsHandler   = blobsDoor{}
)

// answer calls a layer's method with the message of a request.
func answer[Req, Res any](ctx context.Context, req *connect.Request[Req], method func(context.Context, *Req) (*Res, error)) (*connect.Response[Res], error) {
	res, err := method(ctx, req.Msg)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

// kvDoor is banyan.v1.KV over a layer.
type kvDoor struct {
	KV
	locks   Coord
	leaders Leaders
	edge    *edge
	meters  *[doors]atomic.Pointer[callMeter] // of sessions and the calls in them
}

func (d kvDoor) Get(ctx context.Context, req *connect.Request[banyanv1.GetRequest]) (*connect.Response[banyanv1.GetResponse], error) {
	return answer(ctx, req, d.KV.Get)
}

func (d kvDoor) Put(ctx context.Context, req *connect.Request[banyanv1.PutRequest]) (*connect.Response[banyanv1.PutResponse], error) {
	return answer(ctx, req, d.KV.Put)
}

func (d kvDoor) Delete(ctx context.Context, req *connect.Request[banyanv1.DeleteRequest]) (*connect.Response[banyanv1.DeleteResponse], error) {
	return answer(ctx, req, d.KV.Delete)
}

func (d kvDoor) List(ctx context.Context, req *connect.Request[banyanv1.ListRequest]) (*connect.Response[banyanv1.ListResponse], error) {
	return answer(ctx, req, d.KV.List)
}

func (d kvDoor) Txn(ctx context.Context, req *connect.Request[banyanv1.TxnRequest]) (*connect.Response[banyanv1.TxnResponse], error) {
	return answer(ctx, req, d.KV.Txn)
}

func (d kvDoor) Watch(ctx context.Context, req *connect.Request[banyanv1.WatchRequest], s *connect.ServerStream[banyanv1.WatchResponse]) error {
	return d.KV.Watch(ctx, req.Msg, s.Send)
}

func (d kvDoor) Session(ctx context.Context, s *connect.BidiStream[banyanv1.SessionRequest, banyanv1.SessionResponse]) error {
	return serveSession(ctx, d, s)
}

// clusterDoor is banyan.v1.Cluster over the server.
type clusterDoor struct{ Clusters }

func (d clusterDoor) Status(ctx context.Context, req *connect.Request[banyanv1.StatusRequest]) (*connect.Response[banyanv1.StatusResponse], error) {
	return answer(ctx, req, d.Clusters.Status)
}

func (d clusterDoor) Nodes(ctx context.Context, req *connect.Request[banyanv1.NodesRequest]) (*connect.Response[banyanv1.NodesResponse], error) {
	return answer(ctx, req, d.Clusters.Nodes)
}

func (d clusterDoor) Map(ctx context.Context, req *connect.Request[banyanv1.MapRequest]) (*connect.Response[banyanv1.MapResponse], error) {
	return answer(ctx, req, d.Clusters.Map)
}

func (d clusterDoor) Drain(ctx context.Context, req *connect.Request[banyanv1.DrainRequest]) (*connect.Response[banyanv1.DrainResponse], error) {
	return answer(ctx, req, d.Clusters.Drain)
}

func (d clusterDoor) CreateToken(ctx context.Context, req *connect.Request[banyanv1.CreateTokenRequest]) (*connect.Response[banyanv1.CreateTokenResponse], error) {
	return answer(ctx, req, d.Clusters.CreateToken)
}

func (d clusterDoor) ListTokens(ctx context.Context, req *connect.Request[banyanv1.ListTokensRequest]) (*connect.Response[banyanv1.ListTokensResponse], error) {
	return answer(ctx, req, d.Clusters.ListTokens)
}

func (d clusterDoor) RevokeToken(ctx context.Context, req *connect.Request[banyanv1.RevokeTokenRequest]) (*connect.Response[banyanv1.RevokeTokenResponse], error) {
	return answer(ctx, req, d.Clusters.RevokeToken)
}

func (d clusterDoor) Join(ctx context.Context, req *connect.Request[banyanv1.JoinRequest]) (*connect.Response[banyanv1.JoinResponse], error) {
	return answer(context.WithValue(ctx, fromKey{}, req.Peer().Addr), req, d.Clusters.Join)
}

func (d clusterDoor) Settings(ctx context.Context, req *connect.Request[banyanv1.SettingsRequest]) (*connect.Response[banyanv1.SettingsResponse], error) {
	return answer(ctx, req, d.Clusters.Settings)
}

func (d clusterDoor) ChangeSettings(ctx context.Context, req *connect.Request[banyanv1.ChangeSettingsRequest]) (*connect.Response[banyanv1.ChangeSettingsResponse], error) {
	return answer(ctx, req, d.Clusters.ChangeSettings)
}

func (d clusterDoor) RemoveNode(ctx context.Context, req *connect.Request[banyanv1.RemoveNodeRequest]) (*connect.Response[banyanv1.RemoveNodeResponse], error) {
	return answer(ctx, req, d.Clusters.RemoveNode)
}

func (d clusterDoor) Renew(ctx context.Context, req *connect.Request[banyanv1.RenewRequest]) (*connect.Response[banyanv1.RenewResponse], error) {
	return answer(ctx, req, d.Clusters.Renew)
}

// jobsDoor is banyan.v1.Jobs over the jobs of the whole cluster.
type jobsDoor struct {
	jobs *anywhere
	logs *logs
}

func (d jobsDoor) Submit(ctx context.Context, s *connect.ClientStream[banyanv1.SubmitRequest]) (*connect.Response[banyanv1.SubmitResponse], error) {
	res, err := d.jobs.Submit(ctx, func() (*banyanv1.SubmitRequest, error) {
		if s.Receive() {
			return s.Msg(), nil
		}
		if s.Err() != nil {
			return nil, fmt.Errorf("the submission broke off, nothing was stored: %w", wire.Decode(s.Err()))
		}
		return nil, io.EOF
	})
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(res), nil
}

func (d jobsDoor) Get(ctx context.Context, req *connect.Request[banyanv1.GetJobRequest]) (*connect.Response[banyanv1.GetJobResponse], error) {
	return answer(ctx, req, d.jobs.Get)
}

func (d jobsDoor) List(ctx context.Context, req *connect.Request[banyanv1.ListJobsRequest]) (*connect.Response[banyanv1.ListJobsResponse], error) {
	return answer(ctx, req, d.jobs.List)
}

func (d jobsDoor) Tasks(ctx context.Context, req *connect.Request[banyanv1.TasksRequest]) (*connect.Response[banyanv1.TasksResponse], error) {
	return answer(ctx, req, d.jobs.Tasks)
}

func (d jobsDoor) Feed(ctx context.Context, req *connect.Request[banyanv1.FeedRequest]) (*connect.Response[banyanv1.FeedResponse], error) {
	return answer(ctx, req, d.jobs.Feed)
}

func (d jobsDoor) Hold(ctx context.Context, req *connect.Request[banyanv1.HoldRequest]) (*connect.Response[banyanv1.HoldResponse], error) {
	return answer(ctx, req, d.jobs.Hold)
}

func (d jobsDoor) Resume(ctx context.Context, req *connect.Request[banyanv1.ResumeRequest]) (*connect.Response[banyanv1.ResumeResponse], error) {
	return answer(ctx, req, d.jobs.Resume)
}

func (d jobsDoor) Cancel(ctx context.Context, req *connect.Request[banyanv1.CancelRequest]) (*connect.Response[banyanv1.CancelResponse], error) {
	return answer(ctx, req, d.jobs.Cancel)
}

func (d jobsDoor) Remove(ctx context.Context, req *connect.Request[banyanv1.RemoveJobRequest]) (*connect.Response[banyanv1.RemoveJobResponse], error) {
	return answer(ctx, req, d.jobs.Remove)
}

func (d jobsDoor) Follow(ctx context.Context, req *connect.Request[banyanv1.FollowRequest], s *connect.ServerStream[banyanv1.FollowResponse]) error {
	return d.jobs.Follow(ctx, req.Msg, s.Send)
}

func (d jobsDoor) Logs(ctx context.Context, req *connect.Request[banyanv1.LogsRequest], s *connect.ServerStream[banyanv1.LogsResponse]) error {
	return d.logs.send(ctx, req.Msg, s.Send)
}

// Blobs answers banyan.v1.Blobs; *blob.Replicated does.
type Blobs interface {
	PutCopies(ctx context.Context, h banyan.Hash, data []byte) (copies int, err error)
	Get(ctx context.Context, h banyan.Hash) ([]byte, error)
	Missing(ctx context.Context, hs []banyan.Hash) ([]banyan.Hash, error)
}

// blobsDoor is banyan.v1.Blobs over the blob store.
type blobsDoor struct{ blobs Blobs }

func (d blobsDoor) Put(ctx context.Context, req *connect.Request[banyanv1.PutBlobRequest]) (*connect.Response[banyanv1.PutBlobResponse], error) {
	h, err := toHash(req.Msg.Hash)
	if err != nil {
		return nil, err
	}
	copies, err := d.blobs.PutCopies(ctx, h, req.Msg.Data)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&banyanv1.PutBlobResponse{Copies: uint32(copies)}), nil
}

func (d blobsDoor) Get(ctx context.Context, req *connect.Request[banyanv1.GetBlobRequest]) (*connect.Response[banyanv1.GetBlobResponse], error) {
	h, err := toHash(req.Msg.Hash)
	if err != nil {
		return nil, err
	}
	data, err := d.blobs.Get(ctx, h)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&banyanv1.GetBlobResponse{Data: data}), nil
}

func (d blobsDoor) Missing(ctx context.Context, req *connect.Request[banyanv1.MissingRequest]) (*connect.Response[banyanv1.MissingResponse], error) {
	hs, err := toHashes(req.Msg.Hashes)
	if err != nil {
		return nil, err
	}
	missing, err := d.blobs.Missing(ctx, hs)
	if err != nil {
		return nil, err
	}
	return connect.NewResponse(&banyanv1.MissingResponse{Hashes: fromHashes(missing)}), nil
}

func toHash(b []byte) (h banyan.Hash, err error) {
	if len(b) != len(h) {
		return h, banyan.Errorf(banyan.Invalid, "a blob's hash has %d bytes, not %d", len(h), len(b))
	}
	copy(h[:], b)
	return h, nil
}

func toHashes(raw [][]byte) ([]banyan.Hash, error) {
	if len(raw) > banyan.BlobHashesMax {
		return nil, banyan.Errorf(banyan.Exhausted, "%d hashes in one request: ask about at most %d at once (BlobHashesMax)", len(raw), banyan.BlobHashesMax)
	}
	out := make([]banyan.Hash, len(raw))
	for i, b := range raw {
		var err error
		if out[i], err = toHash(b); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func fromHashes(hs []banyan.Hash) [][]byte {
	out := make([][]byte, len(hs))
	for i := range hs {
		out[i] = hs[i][:]
	}
	return out
}
