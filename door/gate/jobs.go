package gate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/obs"

	"connectrpc.com/connect"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
)

// Jobs answers for the jobs of the shards that this node leads, and with
// NotLeader for others.
type Jobs interface {
	// Submit takes the messages that next gives until io.EOF, which it gives
	// after at least one. Any other error of next ends the submission with
	// nothing stored.
	Submit(ctx context.Context, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error)
	Feed(context.Context, *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error)
	Get(context.Context, *banyanv1.GetJobRequest) (*banyanv1.GetJobResponse, error)
	// List gives the jobs of all shards led here, newest first.
	List(context.Context, *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error)
	Tasks(context.Context, *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error)
	Follow(ctx context.Context, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error
	Hold(context.Context, *banyanv1.HoldRequest) (*banyanv1.HoldResponse, error)
	Resume(context.Context, *banyanv1.ResumeRequest) (*banyanv1.ResumeResponse, error)
	Cancel(context.Context, *banyanv1.CancelRequest) (*banyanv1.CancelResponse, error)
	Remove(context.Context, *banyanv1.RemoveJobRequest) (*banyanv1.RemoveJobResponse, error)
}

// Leaders says which node leads what; *route.Router does.
type Leaders interface {
	ShardOf(partition []byte) banyan.ShardID
	DataShards() []banyan.ShardID
	Leader(shard banyan.ShardID) (banyan.NodeID, bool)
}

const (
	listDefault = 100
	listMax     = 1000
)

// anywhere wraps the jobs led here into the jobs of the whole cluster: a call
// is answered here or passed on, once, to the node that leads the job's shard.
type anywhere struct {
	finder[banyanv1connect.JobsClient]
	here Jobs
}

var _ Jobs = (*anywhere)(nil)

// atLeader is finder's, for a job.
func (a *anywhere) atLeader(ctx context.Context, job string, try func(context.Context, banyan.NodeID) error) error {
	id, err := banyan.ParseJobID(job)
	if err != nil {
		return err
	}
	return a.finder.atLeader(ctx, "job "+string(id), []byte(id), try)
}

// unary answers one call at the leader of its job.
func unary[Req, Res any](ctx context.Context, a *anywhere, job string, req *Req,
	here func(Jobs, context.Context, *Req) (*Res, error),
	there func(banyanv1connect.JobsClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error),
) (res *Res, err error) {
	id, err := banyan.ParseJobID(job)
	if err != nil {
		return nil, err
	}
	return askLeader(ctx, &a.finder, "job "+string(id), []byte(id), a.here, req, here, there)
}

// Feed answers at the job's leader.
func (a *anywhere) Feed(ctx context.Context, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Feed, banyanv1connect.JobsClient.Feed)
}

// Get answers at the job's leader.
func (a *anywhere) Get(ctx context.Context, req *banyanv1.GetJobRequest) (*banyanv1.GetJobResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Get, banyanv1connect.JobsClient.Get)
}

// Tasks answers at the job's leader.
func (a *anywhere) Tasks(ctx context.Context, req *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Tasks, banyanv1connect.JobsClient.Tasks)
}

// Hold answers at the job's leader.
func (a *anywhere) Hold(ctx context.Context, req *banyanv1.HoldRequest) (*banyanv1.HoldResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Hold, banyanv1connect.JobsClient.Hold)
}

// Resume answers at the job's leader.
func (a *anywhere) Resume(ctx context.Context, req *banyanv1.ResumeRequest) (*banyanv1.ResumeResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Resume, banyanv1connect.JobsClient.Resume)
}

// Cancel answers at the job's leader.
func (a *anywhere) Cancel(ctx context.Context, req *banyanv1.CancelRequest) (*banyanv1.CancelResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Cancel, banyanv1connect.JobsClient.Cancel)
}

// Remove answers at the job's leader.
func (a *anywhere) Remove(ctx context.Context, req *banyanv1.RemoveJobRequest) (*banyanv1.RemoveJobResponse, error) {
	return unary(ctx, a, req.JobId, req, Jobs.Remove, banyanv1connect.JobsClient.Remove)
}

// Submit goes to the job's leader. It is not repeated once the first message
// is on its way: the caller does that, with the same job id.
func (a *anywhere) Submit(ctx context.Context, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error) {
	first, err := next()
	if errors.Is(err, io.EOF) {
		return nil, banyan.Errorf(banyan.Invalid, "the submission is empty: its first message carries job_id and spec")
	} else if err != nil {
		return nil, err
	}
	var res *banyanv1.SubmitResponse
	var sent error // what may not be tried again
	err = a.atLeader(ctx, first.JobId, func(ctx context.Context, node banyan.NodeID) error {
		if node == a.self {
			res, sent = a.here.Submit(ctx, prepend(first, next))
			return nil
		}
		client, err := a.at(node)
		if err == nil {
			res, sent = forward(ctx, client, first, next)
		}
		return err
	})
	return res, cmp.Or(err, sent)
}

func prepend(first *banyanv1.SubmitRequest, next func() (*banyanv1.SubmitRequest, error)) func() (*banyanv1.SubmitRequest, error) {
	return func() (*banyanv1.SubmitRequest, error) {
		if m := first; m != nil {
			first = nil
			return m, nil
		}
		return next()
	}
}

// forward streams a submission to another node.
func forward(ctx context.Context, client banyanv1connect.JobsClient, first *banyanv1.SubmitRequest, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := client.Submit(ctx)
	stream.RequestHeader().Set(hopHeader, "1")
	obs.ToHeader(ctx, stream.RequestHeader())
	m, err := first, error(nil)
	for ; err == nil; m, err = next() {
		if stream.Send(m) != nil {
			err = io.EOF // the answer says why
			break
		}
	}
	if !errors.Is(err, io.EOF) {
		cancel()                        // never closed, so never stored
		_, _ = stream.CloseAndReceive() // frees the stream; err says what went wrong
		return nil, err
	}
	reply, err := stream.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return reply.Msg, nil
}

// Follow streams from the job's leader. When that breaks off, the stream ends
// with an error and the caller follows again from where it was.
func (a *anywhere) Follow(ctx context.Context, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error {
	var broken error // what may not be tried again, for messages went out
	err := a.atLeader(ctx, req.JobId, func(ctx context.Context, node banyan.NodeID) error {
		began := false
		err := a.followAt(ctx, node, req, func(m *banyanv1.FollowResponse) error {
			began = true
			return send(m)
		})
		if began {
			broken, err = err, nil
		}
		return err
	})
	return cmp.Or(err, broken)
}

func (a *anywhere) followAt(ctx context.Context, node banyan.NodeID, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error {
	if node == a.self {
		return a.here.Follow(ctx, req, send)
	}
	client, err := a.at(node)
	if err != nil {
		return err
	}
	stream, err := client.Follow(ctx, passOn(ctx, req))
	if err != nil {
		return err
	}
	defer stream.Close()
	for stream.Receive() {
		if err := send(stream.Msg()); err != nil {
			return err
		}
	}
	return stream.Err()
}

// List merges the lists of all nodes that lead shards, newest first.
func (a *anywhere) List(ctx context.Context, req *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	limit := int(req.Limit)
	if limit <= 0 {
		limit = listDefault
	}
	req = &banyanv1.ListJobsRequest{Limit: uint32(min(limit, listMax)), Before: req.Before}
	if hopped(ctx) || a.at == nil {
		return a.here.List(ctx, req)
	}
	var out *banyanv1.ListJobsResponse
	err := again(ctx, func(banyan.NodeID) (err error) {
		out, err = a.listOnce(ctx, req)
		return err
	})
	return out, err
}

func (a *anywhere) listOnce(ctx context.Context, req *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	var nodes []banyan.NodeID
	for _, shard := range a.leaders.DataShards() {
		node, ok := a.leaders.Leader(shard)
		if !ok {
			return nil, banyan.Errorf(banyan.Unavailable, "shard %d has no leader now, its jobs cannot be listed: try again; 'banyan status' shows what is missing", shard)
		}
		if !slices.Contains(nodes, node) {
			nodes = append(nodes, node)
		}
	}
	answers := make([]*banyanv1.ListJobsResponse, len(nodes))
	g, ctx := errgroup.WithContext(ctx)
	for i, node := range nodes {
		g.Go(func() (err error) {
			answers[i], err = a.listAt(ctx, node, req)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	if slot := uncovered(answers); slot < banyan.Slots {
		return nil, banyan.Errorf(banyan.Unavailable, "nobody who was asked leads the shard of slot %d now, its jobs cannot be listed: try again; 'banyan status' shows what is missing", slot)
	}
	return merged(answers, int(req.Limit)), nil
}

// merged puts pages of several nodes into one, which ends where the first of them
// does that has more behind it: what is older than its end is the next page's.
func merged(answers []*banyanv1.ListJobsResponse, limit int) *banyanv1.ListJobsResponse {
	out := &banyanv1.ListJobsResponse{}
	floor := ""
	for _, r := range answers {
		out.Jobs = append(out.Jobs, r.Jobs...)
		out.More = out.More || r.More
		if n := len(r.Jobs); n > 0 && r.More {
			floor = max(floor, r.Jobs[n-1].Id)
		}
	}
	out.Jobs = slices.DeleteFunc(out.Jobs, func(j *banyanv1.Job) bool { return j.Id < floor })
	slices.SortFunc(out.Jobs, func(x, y *banyanv1.Job) int { return cmp.Compare(y.Id, x.Id) })
	out.Jobs = slices.CompactFunc(out.Jobs, func(x, y *banyanv1.Job) bool { return x.Id == y.Id })
	bytes := 0
	for i, j := range out.Jobs {
		if bytes += proto.Size(j); i >= limit || bytes > banyan.ListBytesMax && i > 0 {
			out.Jobs, out.More = out.Jobs[:i], true
			break
		}
	}
	return out
}

// uncovered gives the first slot whose jobs none of the answers lists, banyan.Slots
// if there is none. A shard may have been split, or its leader have moved, since
// this node decided whom to ask.
func uncovered(answers []*banyanv1.ListJobsResponse) int {
	var covered [banyan.Slots]bool
	for _, r := range answers {
		for _, s := range r.GetSpans() {
			for slot := s.From; slot < min(s.Until, banyan.Slots); slot++ {
				covered[slot] = true
			}
		}
	}
	if i := slices.Index(covered[:], false); i >= 0 {
		return i
	}
	return banyan.Slots
}

func (a *anywhere) listAt(ctx context.Context, node banyan.NodeID, req *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	if node == a.self {
		return a.here.List(ctx, req)
	}
	client, err := a.at(node)
	if err != nil {
		return nil, err
	}
	reply, err := client.List(ctx, passOn(ctx, req))
	if err != nil {
		return nil, fmt.Errorf("jobs of node %v: %w", node, err)
	}
	return reply.Msg, nil
}
