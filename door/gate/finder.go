package gate

import (
	"context"
	"errors"
	"time"

	"banyan"
	"banyan/internal/pause"
	"banyan/obs"

	"connectrpc.com/connect"
)

// findLeaderMax bounds the search for a leader that answers.
const findLeaderMax = 10 * time.Second

// finder finds the node that leads what a call is about. C is the client of
// its service.
type finder[C any] struct {
	self    banyan.NodeID
	leaders Leaders
	at      func(banyan.NodeID) (C, error) // nil: there are no other nodes
}

// stays says that a call is answered here, whoever leads.
func (f *finder[C]) stays(ctx context.Context) bool { return hopped(ctx) || f.at == nil }

// atLeader calls try with the node that leads a partition until one answers;
// what names it in errors. Only what may safely be repeated goes through here.
func (f *finder[C]) atLeader(ctx context.Context, what string, partition []byte, try func(context.Context, banyan.NodeID) error) error {
	if f.stays(ctx) {
		if err := try(ctx, f.self); hopped(ctx) || !banyan.IsKind(err, banyan.Moved) {
			return err
		}
		return stillMoving(what)
	}
	err := again(ctx, func(hint banyan.NodeID) error {
		shard := f.leaders.ShardOf(partition) // each time anew: it may have been split meanwhile
		node, ok := f.leaders.Leader(shard)
		if hint != 0 {
			node, ok = hint, true
		}
		if !ok {
			return banyan.Errorf(banyan.Unavailable, "%s: its shard %d has no leader now: try again; 'banyan status' shows what is missing", what, shard)
		}
		return try(ctx, node)
	})
	if banyan.IsKind(err, banyan.Moved) {
		return stillMoving(what)
	}
	return err
}

// stillMoving stands for Moved where only nodes can follow it: the caller is to
// ask again.
func stillMoving(what string) error {
	return banyan.Errorf(banyan.Unavailable, "%s: its shard is being split: try again", what)
}

// askLeader answers one call at the leader of a partition: by local if that is
// this node.
func askLeader[S, C, Req, Res any](ctx context.Context, f *finder[C], what string, partition []byte, local S, req *Req,
	here func(S, context.Context, *Req) (*Res, error),
	there func(C, context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (res *Res, err error) {
	err = f.atLeader(ctx, what, partition, func(ctx context.Context, node banyan.NodeID) (err error) {
		if node == f.self {
			res, err = here(local, ctx, req)
			return err
		}
		client, err := f.at(node)
		if err != nil {
			return err
		}
		reply, err := there(client, ctx, passOn(ctx, req))
		if err == nil {
			res = reply.Msg
		}
		return err
	})
	return res, err
}

// passOn makes the request for another node.
func passOn[T any](ctx context.Context, msg *T) *connect.Request[T] {
	req := connect.NewRequest(msg)
	req.Header().Set(hopHeader, "1")
	obs.ToHeader(ctx, req.Header())
	return req
}

// again repeats try while its error may pass, for findLeaderMax at most. It
// hands it the node that the last NotLeader named.
func again(ctx context.Context, try func(hint banyan.NodeID) error) error {
	until := time.Now().Add(findLeaderMax)
	var hint banyan.NodeID
	for wait := (pause.Retry{}); ; {
		err := try(hint)
		var e *banyan.Error
		if !errors.As(err, &e) || !passing(e.Kind) || ctx.Err() != nil || time.Now().After(until) {
			return err
		}
		hint = e.Leader
		if wait.Pause(ctx) != nil {
			return err
		}
	}
}

func passing(k banyan.Kind) bool {
	return k == banyan.NotLeader || k == banyan.Unavailable || k == banyan.Stale || k == banyan.Moved
}
