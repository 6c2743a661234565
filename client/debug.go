package client

import (
	"bytes"
	"context"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"

	"connectrpc.com/connect"
)

// Debug looks into nodes.
type Debug struct{ c *Client }

// Debug gives what operators look at.
func (c *Client) Debug() Debug { return Debug{c} }

// dumpPatience is how long a node may take for a dump, the time of a profile
// apart.
const dumpPatience = 20 * time.Second

// Dump reads one thing of one node (0: of whichever answers). seconds is for a
// profile of the CPU.
func (d Debug) Dump(ctx context.Context, kind banyanv1.DumpKind, of banyan.NodeID, seconds int) ([]byte, error) {
	takes := dumpPatience + time.Duration(seconds)*time.Second
	ctx, cancel := context.WithTimeout(ctx, takes+callMax)
	defer cancel()
	var out bytes.Buffer
	err := d.c.try(ctx, nil, takes, func(ctx context.Context, door *node) error {
		out.Reset()
		stream, err := d.at(door).Dump(ctx, connect.NewRequest(&banyanv1.DumpRequest{Kind: kind, Node: uint64(of), Seconds: uint32(seconds)}))
		if err != nil {
			return err
		}
		defer stream.Close()
		for stream.Receive() {
			out.Write(stream.Msg().Data)
		}
		return stream.Err()
	})
	return out.Bytes(), err
}

// Shard tells how raft is on every replica of a shard.
func (d Debug) Shard(ctx context.Context, shard banyan.ShardID) (*banyanv1.ShardResponse, error) {
	return unary(ctx, d.c, nil, &banyanv1.ShardRequest{Shard: uint32(shard)}, debugMethod(d, banyanv1connect.DebugClient.Shard))
}

// Split decides that a shard is split before a slot, or with a negative one where
// half of its bytes lie on either side. epoch is that of the map that the caller
// knows: if the shards have changed since, it is Conflict. The map tells when the
// child is there.
func (d Debug) Split(ctx context.Context, shard banyan.ShardID, at int, epoch uint64) (*banyanv1.SplitShardResponse, error) {
	req := &banyanv1.SplitShardRequest{Shard: uint32(shard), Epoch: epoch}
	if at >= 0 {
		req.At = new(uint32(at))
	}
	return unary(ctx, d.c, nil, req, debugMethod(d, banyanv1connect.DebugClient.Split))
}

// Slow gives the slow log of one node, or with 0 of all.
func (d Debug) Slow(ctx context.Context, node banyan.NodeID) (*banyanv1.SlowResponse, error) {
	return unary(ctx, d.c, nil, &banyanv1.SlowRequest{Node: uint64(node)}, debugMethod(d, banyanv1connect.DebugClient.Slow))
}

// Sweep tells when each node last removed chunks that nothing refers to; with
// begin an epoch begins first.
func (d Debug) Sweep(ctx context.Context, begin bool) (*banyanv1.SweepResponse, error) {
	return unary(ctx, d.c, nil, &banyanv1.SweepRequest{Begin: begin}, debugMethod(d, banyanv1connect.DebugClient.Sweep))
}

func (d Debug) at(n *node) banyanv1connect.DebugClient {
	return banyanv1connect.NewDebugClient(d.c.http, d.c.scheme+"://"+n.addr, connect.WithInterceptors(wire.ClientInterceptor()), connect.WithReadMaxBytes(readMax))
}

func debugMethod[Req, Res any](d Debug, m func(banyanv1connect.DebugClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(n *node, ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		return m(d.at(n), ctx, req)
	}
}
