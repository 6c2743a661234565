package gate

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"

	"connectrpc.com/connect"
)

// Coord answers banyan.v1.Coord; *coord.Service does. The first three it
// answers for shards that this node leads, and with NotLeader for others.
type Coord interface {
	Acquire(context.Context, *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error)
	Release(context.Context, *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error)
	KeepAlive(context.Context, *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error)
	List(context.Context, *banyanv1.ListLocksRequest) (*banyanv1.ListLocksResponse, error)
	Watch(ctx context.Context, req *banyanv1.WatchLockRequest, send func(*banyanv1.WatchLockResponse) error) error
}

// locks wraps the locks led here into those of the whole cluster: a call is
// answered here or passed on, once, to the node that leads the lock's shard.
type locks struct {
	Coord
	finder[banyanv1connect.CoordClient]
}

var _ Coord = (*locks)(nil)

// lockCall answers one call at the leader of a lock. All of them may safely be
// repeated.
func lockCall[Req, Res any](ctx context.Context, l *locks, name string, req *Req,
	here func(Coord, context.Context, *Req) (*Res, error),
	there func(banyanv1connect.CoordClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (*Res, error) {
	return askLeader(ctx, &l.finder, fmt.Sprintf("lock %q", name), banyan.Partition([]byte(name)), l.Coord, req, here, there)
}

// Acquire answers at the lock's leader.
func (l *locks) Acquire(ctx context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	return lockCall(ctx, l, req.Name, req, Coord.Acquire, banyanv1connect.CoordClient.Acquire)
}

// Release answers at the lock's leader.
func (l *locks) Release(ctx context.Context, req *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error) {
	return lockCall(ctx, l, string(releasedAt(req)), req, Coord.Release, banyanv1connect.CoordClient.Release)
}

// releasedAt names what a Release is about: a lock, or a lease's partition.
func releasedAt(req *banyanv1.ReleaseRequest) []byte {
	return []byte(cmp.Or(req.GetName(), req.GetPartition()))
}

// keepAliveMax is how long the leases of one node may keep those of others waiting.
const keepAliveMax = 500 * time.Millisecond

// KeepAlive asks each node for the leases that it leads. Who calls asks again
// for those of which nothing is known.
func (l *locks) KeepAlive(ctx context.Context, req *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error) {
	if l.stays(ctx) {
		return l.Coord.KeepAlive(ctx, req)
	}
	failed := banyan.Errorf(banyan.Unavailable, "no leader is known now: try again; 'banyan status' shows what is missing")
	nodes := map[banyan.NodeID]*banyanv1.KeepAliveRequest{}
	for _, ref := range req.Leases {
		node, ok := l.leaders.Leader(l.leaders.ShardOf(banyan.Partition([]byte(ref.Partition))))
		if !ok {
			continue
		}
		if nodes[node] == nil {
			nodes[node] = &banyanv1.KeepAliveRequest{}
		}
		nodes[node].Leases = append(nodes[node].Leases, ref)
	}
	out := &banyanv1.KeepAliveResponse{}
	var mu sync.Mutex // of out and failed
	var wg sync.WaitGroup
	for node, part := range nodes {
		wg.Go(func() {
			res, err := l.keepAliveAt(ctx, node, part)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			out.Kept, out.Ended = append(out.Kept, res.Kept...), append(out.Ended, res.Ended...)
		})
	}
	wg.Wait()
	if len(out.Kept)+len(out.Ended) > 0 || len(req.Leases) == 0 {
		return out, nil
	}
	return nil, failed
}

func (l *locks) keepAliveAt(ctx context.Context, node banyan.NodeID, req *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error) {
	if node == l.self {
		return l.Coord.KeepAlive(ctx, req)
	}
	client, err := l.at(node)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, keepAliveMax)
	defer cancel()
	reply, err := client.KeepAlive(ctx, passOn(ctx, req))
	if err != nil {
		return nil, err
	}
	return reply.Msg, nil
}

// coordDoor is banyan.v1.Coord over the locks of the whole cluster.
type coordDoor struct{ locks Coord }

var _ banyanv1connect.CoordHandler = coordDoor{}

func (d coordDoor) Acquire(ctx context.Context, req *connect.Request[banyanv1.AcquireRequest]) (*connect.Response[banyanv1.AcquireResponse], error) {
	return answer(ctx, req, d.locks.Acquire)
}

func (d coordDoor) Release(ctx context.Context, req *connect.Request[banyanv1.ReleaseRequest]) (*connect.Response[banyanv1.ReleaseResponse], error) {
	return answer(ctx, req, d.locks.Release)
}

func (d coordDoor) KeepAlive(ctx context.Context, req *connect.Request[banyanv1.KeepAliveRequest]) (*connect.Response[banyanv1.KeepAliveResponse], error) {
	return answer(ctx, req, d.locks.KeepAlive)
}

func (d coordDoor) List(ctx context.Context, req *connect.Request[banyanv1.ListLocksRequest]) (*connect.Response[banyanv1.ListLocksResponse], error) {
	return answer(ctx, req, d.locks.List)
}

func (d coordDoor) Watch(ctx context.Context, req *connect.Request[banyanv1.WatchLockRequest], s *connect.ServerStream[banyanv1.WatchLockResponse]) error {
	return d.locks.Watch(ctx, req.Msg, s.Send)
}
