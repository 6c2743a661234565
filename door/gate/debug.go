package gate

import (
	"context"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"

	"connectrpc.com/connect"
)

// Debug answers banyan.v1.Debug; the server does.
type Debug interface {
	Dump(ctx context.Context, req *banyanv1.DumpRequest, send func(*banyanv1.DumpResponse) error) error
	Shard(context.Context, *banyanv1.ShardRequest) (*banyanv1.ShardResponse, error)
	Split(context.Context, *banyanv1.SplitShardRequest) (*banyanv1.SplitShardResponse, error)
	Slow(context.Context, *banyanv1.SlowRequest) (*banyanv1.SlowResponse, error)
	Sweep(context.Context, *banyanv1.SweepRequest) (*banyanv1.SweepResponse, error)
}

var _ banyanv1connect.DebugHandler = debugDoor{}

// debugDoor is banyan.v1.Debug over the server.
type debugDoor struct{ Debug }

func (d debugDoor) Dump(ctx context.Context, req *connect.Request[banyanv1.DumpRequest], s *connect.ServerStream[banyanv1.DumpResponse]) error {
	return d.Debug.Dump(ctx, req.Msg, s.Send)
}

func (d debugDoor) Shard(ctx context.Context, req *connect.Request[banyanv1.ShardRequest]) (*connect.Response[banyanv1.ShardResponse], error) {
	return answer(ctx, req, d.Debug.Shard)
}

func (d debugDoor) Slow(ctx context.Context, req *connect.Request[banyanv1.SlowRequest]) (*connect.Response[banyanv1.SlowResponse], error) {
	return answer(ctx, req, d.Debug.Slow)
}

func (d debugDoor) Split(ctx context.Context, req *connect.Request[banyanv1.SplitShardRequest]) (*connect.Response[banyanv1.SplitShardResponse], error) {
	return answer(ctx, req, d.Debug.Split)
}

func (d debugDoor) Sweep(ctx context.Context, req *connect.Request[banyanv1.SweepRequest]) (*connect.Response[banyanv1.SweepResponse], error) {
	return answer(ctx, req, d.Debug.Sweep)
}
