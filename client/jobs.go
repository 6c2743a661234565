package client

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"iter"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/obs"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"
)

// Jobs submits jobs and follows them.
type Jobs struct{ c *Client }

// Jobs gives the jobs of the cluster.
func (c *Client) Jobs() Jobs { return Jobs{c} }

const (
	submitPatience = 30 * time.Second
	submitBytes    = 1 << 20 // of inputs in one message, well below banyan.RequestBytesMax
)

// Submit stores a job under an id that the caller has drawn (banyan.NewJobID);
// when it returns nil the job is durable and will run. An id that another
// submission has is refused with banyan.AlreadyExists: draw another one. inputs may be ranged
// over again when a try failed. spec is sent without changes.
func (j Jobs) Submit(ctx context.Context, id banyan.JobID, spec *banyanv1.JobSpec, inputs iter.Seq[*banyanv1.Input]) (tasks uint32, err error) {
	return j.submit(ctx, &banyanv1.SubmitRequest{JobId: string(id), Spec: spec}, inputs)
}

// Open is Submit of a job whose source stays open: its first inputs are given,
// and their tasks begin; more come by Feed, until that closes the source.
func (j Jobs) Open(ctx context.Context, id banyan.JobID, spec *banyanv1.JobSpec, inputs iter.Seq[*banyanv1.Input]) (tasks uint32, err error) {
	return j.submit(ctx, &banyanv1.SubmitRequest{JobId: string(id), Spec: spec, Open: true}, inputs)
}

// Feed appends inputs to an open job, behind those that there are, and may be
// repeated. An answer of kind Exhausted says that too much is not done yet.
func (j Jobs) Feed(ctx context.Context, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	return unary(ctx, j.c, []byte(req.JobId), req, jobsMethod(banyanv1connect.JobsClient.Feed))
}

func (j Jobs) submit(ctx context.Context, first *banyanv1.SubmitRequest, inputs iter.Seq[*banyanv1.Input]) (tasks uint32, err error) {
	r := banyan.NewRequestID()
	first.Nonce = binary.LittleEndian.Uint64(r[:]) | 1 // the same in every try; not 0
	err = j.c.try(ctx, []byte(first.JobId), submitPatience, func(ctx context.Context, n *node) error {
		stream := n.jobs.Submit(ctx)
		obs.ToHeader(ctx, stream.RequestHeader())
		unmade := sendInputs(stream, &banyanv1.SubmitRequest{JobId: first.JobId, Spec: first.Spec, Nonce: first.Nonce, Open: first.Open}, inputs)
		reply, err := stream.CloseAndReceive()
		if unmade != nil {
			return unmade
		}
		if err == nil {
			tasks = reply.Msg.Tasks
		}
		return err
	})
	return tasks, err
}

// sendInputs sends a submission in messages of some size. It stops when the
// stream has ended, and the answer says why. Its error says that a message could
// not be made: no node is to blame, and none can help.
func sendInputs(stream *connect.ClientStreamForClient[banyanv1.SubmitRequest, banyanv1.SubmitResponse], req *banyanv1.SubmitRequest, inputs iter.Seq[*banyanv1.Input]) error {
	send := func() (ended bool, unmade error) {
		if err := stream.Send(req); err == nil {
			return false, nil
		}
		if _, err := proto.Marshal(req); err != nil {
			return true, banyan.Errorf(banyan.Invalid, "the job cannot be sent: %w: what is text, such as its name, must be UTF-8", err)
		}
		return true, nil
	}
	size := 0
	for in := range inputs {
		req.Inputs = append(req.Inputs, in)
		for _, column := range in.Columns {
			size += len(column) + 8
		}
		if size >= submitBytes {
			if ended, err := send(); ended {
				return err
			}
			req, size = &banyanv1.SubmitRequest{}, 0
		}
	}
	if len(req.Inputs) > 0 || req.Spec != nil {
		_, err := send()
		return err
	}
	return nil
}

// Get describes a job.
func (j Jobs) Get(ctx context.Context, id banyan.JobID) (*banyanv1.Job, error) {
	res, err := unary(ctx, j.c, []byte(id), &banyanv1.GetJobRequest{JobId: string(id)}, jobsMethod(banyanv1connect.JobsClient.Get))
	return res.GetJob(), err
}

// List gives the newest jobs, and whether there are more. limit 0 leaves the
// number to the cluster.
func (j Jobs) List(ctx context.Context, limit int) (jobs []*banyanv1.Job, more bool, err error) {
	return j.ListBefore(ctx, "", limit)
}

// ListBefore gives the newest of the jobs whose ids are below one, so that all
// can be listed in pages.
func (j Jobs) ListBefore(ctx context.Context, before banyan.JobID, limit int) (jobs []*banyanv1.Job, more bool, err error) {
	res, err := unary(ctx, j.c, nil, &banyanv1.ListJobsRequest{Limit: uint32(limit), Before: string(before)}, jobsMethod(banyanv1connect.JobsClient.List))
	return res.GetJobs(), res.GetMore(), err
}

// Tasks gives a page of a job's results.
func (j Jobs) Tasks(ctx context.Context, req *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error) {
	return unary(ctx, j.c, []byte(req.JobId), req, jobsMethod(banyanv1connect.JobsClient.Tasks))
}

// Hold stops a job's attempts and starts no more.
func (j Jobs) Hold(ctx context.Context, id banyan.JobID) (*banyanv1.Job, error) {
	res, err := unary(ctx, j.c, []byte(id), &banyanv1.HoldRequest{JobId: string(id)}, jobsMethod(banyanv1connect.JobsClient.Hold))
	return res.GetJob(), err
}

// Resume goes on with what is not done; with retryFailed failed tasks are tried again.
func (j Jobs) Resume(ctx context.Context, id banyan.JobID, retryFailed bool) (*banyanv1.Job, error) {
	res, err := unary(ctx, j.c, []byte(id), &banyanv1.ResumeRequest{JobId: string(id), RetryFailed: retryFailed}, jobsMethod(banyanv1connect.JobsClient.Resume))
	return res.GetJob(), err
}

// Cancel ends a job for good.
func (j Jobs) Cancel(ctx context.Context, id banyan.JobID) (*banyanv1.Job, error) {
	res, err := unary(ctx, j.c, []byte(id), &banyanv1.CancelRequest{JobId: string(id)}, jobsMethod(banyanv1connect.JobsClient.Cancel))
	return res.GetJob(), err
}

// Remove forgets a job that has ended, with its results and outputs, and gives
// it as it was. One that has not ended is refused, or canceled first with force.
func (j Jobs) Remove(ctx context.Context, id banyan.JobID, force bool) (*banyanv1.Job, error) {
	res, err := unary(ctx, j.c, []byte(id), &banyanv1.RemoveJobRequest{JobId: string(id), Force: force}, jobsMethod(banyanv1connect.JobsClient.Remove))
	return res.GetJob(), err
}

// Follow calls fn with every result recorded after a revision (0: all), once,
// and with the progress of the job, until the job has ended; then it returns
// nil. Whatever becomes of the nodes, it goes on where it was. Otherwise it
// ends with fn's error or ctx's.
func (j Jobs) Follow(ctx context.Context, id banyan.JobID, after banyan.Revision, fn func(*banyanv1.FollowResponse) error) error {
	var own error
	err := j.c.keep(ctx, []byte(id), func(ctx context.Context, n *node, heard func()) error {
		msg := connect.NewRequest(&banyanv1.FollowRequest{JobId: string(id), AfterRevision: uint64(after)})
		obs.ToHeader(ctx, msg.Header())
		stream, err := n.jobs.Follow(ctx, msg)
		if err != nil {
			return err
		}
		defer stream.Close()
		ended := false
		for stream.Receive() {
			heard()
			m := stream.Msg()
			after = max(after, banyan.Revision(m.Revision))
			ended = m.State > banyanv1.JobState_JOB_STATE_HELD
			if own = fn(m); own != nil {
				return nil
			}
		}
		if ended && stream.Err() == nil {
			return nil
		}
		return brokenOff(stream.Err())
	})
	if own != nil {
		return own
	}
	return err
}

// Logs calls fn with a task's output and last with Ended if the task has
// ended. With follow, a stream that broke off is taken up where it was. Output of
// another attempt follows from the front, after a Note that says why.
func (j Jobs) Logs(ctx context.Context, req *banyanv1.LogsRequest, fn func(*banyanv1.LogsResponse) error) error {
	var own error
	var seen [2]int64  // bytes given to fn, of stdout and stderr
	var attempt uint32 // whose
	err := j.c.keep(ctx, []byte(req.JobId), func(ctx context.Context, n *node, heard func()) error {
		msg := connect.NewRequest(req)
		obs.ToHeader(ctx, msg.Header())
		stream, err := n.jobs.Logs(ctx, msg)
		if err != nil {
			return err
		}
		defer stream.Close()
		skip := seen
		for stream.Receive() {
			heard()
			m := stream.Msg()
			if m.Attempt != 0 && m.Attempt != attempt { // from the front; 0: the node is too old to say
				if attempt != 0 && m.Note == "" { // the stream broke off in between
					if own = fn(&banyanv1.LogsResponse{Attempt: m.Attempt, Node: m.Node, Note: fmt.Sprintf("attempt %d is over; the output of attempt %d follows from the front", attempt, m.Attempt)}); own != nil {
						return nil
					}
				}
				attempt, seen, skip = m.Attempt, [2]int64{}, [2]int64{}
			}
			i := 0
			if m.Stderr {
				i = 1
			}
			n := min(skip[i], int64(len(m.Data)))
			skip[i] -= n
			m.Data = m.Data[n:]
			seen[i] += int64(len(m.Data))
			if own = fn(m); own != nil {
				return nil
			}
			if m.Ended {
				return nil
			}
		}
		if stream.Err() == nil && !req.Follow {
			return nil
		}
		return brokenOff(stream.Err())
	})
	if own != nil {
		return own
	}
	return err
}

// Output gives the whole of a recorded output to w.
func (j Jobs) Output(ctx context.Context, o *banyanv1.Output, w io.Writer) error {
	if len(o.GetInline()) > 0 {
		_, err := w.Write(o.Inline)
		return err
	}
	return j.c.Blobs().Download(ctx, o.GetChunks(), w)
}

// Returned gives the files that a task returned, also where their list is long
// and kept beside the result.
func (j Jobs) Returned(ctx context.Context, r *banyanv1.TaskResult) ([]*banyanv1.FileRef, error) {
	l := r.GetReturnedList()
	if l == nil {
		return r.GetReturned(), nil
	}
	if l.Size > banyan.ReturnListBytesMax {
		return nil, banyan.Errorf(banyan.Corrupt, "task %d says that the list of its files has %d bytes, the most is %d (ReturnListBytesMax)", r.Task+1, l.Size, banyan.ReturnListBytesMax)
	}
	var b bytes.Buffer
	if err := j.c.Blobs().Download(ctx, l.Chunks, &b); err != nil {
		return nil, err
	}
	files, err := banyanv1.DecodeFiles(b.Bytes())
	if err != nil {
		return nil, banyan.Errorf(banyan.Corrupt, "the files of task %d: %w", r.Task+1, err)
	}
	return files, nil
}

func jobsMethod[Req, Res any](m func(banyanv1connect.JobsClient, context.Context, *connect.Request[Req]) (*connect.Response[Res], error)) func(*node, context.Context, *connect.Request[Req]) (*connect.Response[Res], error) {
	return func(n *node, ctx context.Context, req *connect.Request[Req]) (*connect.Response[Res], error) {
		return m(n.jobs, ctx, req)
	}
}
