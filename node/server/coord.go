package server

import (
	"context"

	"banyan"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/api/wire"
	"banyan/core/mvcc"
	"banyan/engine/seam"
	"banyan/layer/coord"

	"connectrpc.com/connect"
)

// openCoord builds what gives out locks.
func (n *Server) openCoord() {
	n.coord = coord.New(coord.Config{Led: replicas{n, localRows{n}}, Rows: n.router, Shards: n.router, Logger: n.log})
}

// replicas are those of the shards that this node leads.
type replicas struct {
	n *Server
	localRows
}

var _ seam.Led = replicas{}

// Commit proposes a command, whose Term is set, here or not at all.
func (r replicas) Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	r.n.router.CommitThen(ctx, shard, cmd, done)
}

// ReadIndex returns once a majority has said that this node leads.
func (r replicas) ReadIndex(ctx context.Context, shard banyan.ShardID) error {
	return r.n.host.ReadIndex(ctx, shard)
}

// Holds gives Moved if another shard holds a row by now.
func (r replicas) Holds(shard banyan.ShardID, row []byte) error {
	return r.n.host.Holds(shard, row, nil)
}

// coordAt gives the locks of another node, for calls that are passed on to it.
func (n *Server) coordAt(id banyan.NodeID) (banyanv1connect.CoordClient, error) {
	return banyanv1connect.NewCoordClient(n.port.HTTPClient(), n.port.URL(id), connect.WithInterceptors(wire.ClientInterceptor())), nil
}
