package gate

import (
	"context"
	"fmt"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"

	"connectrpc.com/connect"
)

// Tailer reads the output of an attempt that runs on this node; the worker
// does. It calls send until the output has ended, with Follow, or all there is
// now has been sent. NotFound: no such attempt runs here.
type Tailer interface {
	Tail(ctx context.Context, req *peerv1.TailRequest, send func(*peerv1.TailResponse) error) error
}

// tail reads from whichever node runs the attempt.
func (g *gate) tail(ctx context.Context, node banyan.NodeID, req *peerv1.TailRequest, send func(*peerv1.TailResponse) error) error {
	if node == g.Node {
		return g.Tail.Tail(ctx, req, send)
	}
	if g.PeerAt == nil {
		return banyan.Errorf(banyan.NotFound, "the task runs on node %v, which is not here", node)
	}
	peer, err := g.PeerAt(node)
	if err != nil {
		return err
	}
	stream, err := peer.Tail(ctx, connect.NewRequest(req))
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

const (
	logPollMin = 50 * time.Millisecond
	logPollMax = time.Second
	logPiece   = 256 << 10 // bytes of recorded output in one message
)

// logs sends a task's output wherever it is: in the result's row, in blobs, or
// on the disk of the node that runs the task.
type logs struct {
	jobs  *anywhere
	blobs Blobs
	tail  func(ctx context.Context, node banyan.NodeID, req *peerv1.TailRequest, send func(*peerv1.TailResponse) error) error
}

// following is one call's place in the output of one task.
type following struct {
	*logs
	req      *banyanv1.LogsRequest
	out      func(*banyanv1.LogsResponse) error
	attempt  uint32 // whose output was sent
	node     uint64 // it ran there
	lost     uint32 // attempts that were lost with their nodes until it began
	sent     [2]int64
	sendFail error // of out: the caller is gone
}

func (l *logs) send(ctx context.Context, req *banyanv1.LogsRequest, out func(*banyanv1.LogsResponse) error) error {
	if req.StdoutOnly && req.StderrOnly {
		return banyan.Errorf(banyan.Invalid, "stdout_only and stderr_only exclude each other: set one or none")
	}
	f := &following{logs: l, req: req, out: out}
	for wait := logPollMin; ; wait = min(2*wait, logPollMax) {
		r, err := l.find(ctx, req.JobId, req.Task)
		if err != nil {
			return err
		}
		if err := f.check(r); err != nil {
			return err
		}
		if done := isDone(r.GetState()); done {
			return f.recorded(ctx, r)
		}
		if r.GetState() == banyanv1.TaskState_TASK_STATE_RUNNING {
			before := f.sent
			if err := f.running(ctx, r); err != nil {
				return err
			}
			if f.sent != before {
				wait = logPollMin
			}
		}
		if !req.Follow {
			return out(&banyanv1.LogsResponse{})
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
	}
}

func isDone(s banyanv1.TaskState) bool { return s > banyanv1.TaskState_TASK_STATE_RUNNING }

// find gives the task's result, or where it runs; nil: it waits. The then step
// is the task behind the last.
func (l *logs) find(ctx context.Context, job string, task uint32) (*banyanv1.TaskResult, error) {
	res, err := l.jobs.Tasks(ctx, &banyanv1.TasksRequest{JobId: job, From: task, Limit: 1, WithRunning: true})
	if err != nil {
		return nil, err
	}
	if len(res.Results) > 0 && res.Results[0].Task == task {
		return res.Results[0], nil
	}
	got, err := l.jobs.Get(ctx, &banyanv1.GetJobRequest{JobId: job})
	if err != nil {
		return nil, err
	}
	j := got.Job
	switch {
	case task < j.GetTrimmed():
		return nil, banyan.Errorf(banyan.NotFound, "the output of task %d of job %s was printed, and is not kept: 'run --keep TIME' keeps it", uint64(task)+1, job)
	case task > j.GetTasks() || task == j.GetTasks() && (j.GetSpec().GetThen() == nil || j.GetOpen()):
		return nil, banyan.Errorf(banyan.NotFound, "job %s has no task %d: it has %d tasks, counted from 1", job, uint64(task)+1, j.GetTasks())
	case task == j.GetTasks() && j.ThenResult != nil:
		return j.ThenResult, nil
	case j.GetState() != banyanv1.JobState_JOB_STATE_ACTIVE && j.GetState() != banyanv1.JobState_JOB_STATE_HELD:
		return nil, banyan.Errorf(banyan.NotFound, "task %d of job %s has no result: the job has ended without it", uint64(task)+1, job)
	}
	return nil, nil
}

// check refuses when one attempt is asked for and it is not the one there is: a
// task keeps the output of its latest. Who follows waits for one to come.
func (f *following) check(r *banyanv1.TaskResult) error {
	want, is := f.req.Attempt, r.GetAttempt()
	if want == 0 || want == is || f.req.Follow && is < want && !isDone(r.GetState()) {
		return nil
	}
	if is == 0 {
		return banyan.Errorf(banyan.NotFound, "task %d of job %s has no attempt %d yet: it waits", uint64(f.req.Task)+1, f.req.JobId, want)
	}
	return banyan.Errorf(banyan.NotFound, "task %d of job %s is at attempt %d: the output of attempt %d is not there; leave --attempt away to see the latest", uint64(f.req.Task)+1, f.req.JobId, is, want)
}

// restart begins at the front when another attempt's output comes, and says why.
func (f *following) restart(r *banyanv1.TaskResult) error {
	was, node, lost := f.attempt, f.node, f.lost
	if r.Attempt == was {
		return nil
	}
	f.attempt, f.node, f.lost, f.sent = r.Attempt, r.Node, r.Lost, [2]int64{}
	if was == 0 {
		return nil
	}
	why := "has failed"
	if r.Lost > lost {
		why = "was lost with its node"
	}
	f.sendFail = f.out(&banyanv1.LogsResponse{Attempt: r.Attempt, Node: r.Node,
		Note: fmt.Sprintf("attempt %d on %v %s; attempt %d began on %v, its output follows from the front", was, banyan.NodeID(node), why, r.Attempt, banyan.NodeID(r.Node))})
	return f.sendFail
}

func (f *following) wants(stderr bool) bool {
	return stderr && !f.req.StdoutOnly || !stderr && !f.req.StderrOnly
}

func (f *following) piece(data []byte, stderr bool) error {
	i := 0
	if stderr {
		i = 1
	}
	f.sent[i] += int64(len(data))
	if !f.wants(stderr) || len(data) == 0 {
		return nil
	}
	f.sendFail = f.out(&banyanv1.LogsResponse{Data: data, Stderr: stderr, Attempt: f.attempt, Node: f.node})
	return f.sendFail
}

// running sends what the attempt has written, and while following what it
// writes until it ends. That the node went away is no error: the next look at
// the task tells what became of it.
func (f *following) running(ctx context.Context, r *banyanv1.TaskResult) error {
	if f.req.Attempt != 0 && f.req.Attempt != r.Attempt {
		return nil // it has yet to come
	}
	if err := f.restart(r); err != nil {
		return err
	}
	err := f.tail(ctx, banyan.NodeID(r.Node), &peerv1.TailRequest{
		Key:    &peerv1.AttemptKey{JobId: f.req.JobId, Task: f.req.Task},
		Follow: f.req.Follow, StdoutFrom: f.sent[0], StderrFrom: f.sent[1],
	}, func(m *peerv1.TailResponse) error { return f.piece(m.Data, m.Stderr) })
	switch {
	case f.sendFail != nil:
		return f.sendFail
	case ctx.Err() != nil:
		return ctx.Err()
	case f.req.Follow || banyan.IsKind(err, banyan.NotFound):
		return nil
	}
	return err
}

// recorded sends what of the result's output was not sent while it ran, and
// the result.
func (f *following) recorded(ctx context.Context, r *banyanv1.TaskResult) error {
	if err := f.restart(r); err != nil {
		return err
	}
	for _, s := range []struct {
		out    *banyanv1.Output
		stderr bool
	}{{r.Stdout, false}, {r.Stderr, true}} {
		if !f.wants(s.stderr) {
			continue
		}
		if err := f.output(ctx, s.out, s.stderr); err != nil {
			return err
		}
	}
	return f.out(&banyanv1.LogsResponse{Ended: true, Result: r, Attempt: r.Attempt, Node: r.Node})
}

func (f *following) output(ctx context.Context, o *banyanv1.Output, stderr bool) error {
	skip := f.sent[0]
	if stderr {
		skip = f.sent[1]
	}
	send := func(data []byte) error {
		n := min(skip, int64(len(data)))
		skip -= n
		for data = data[n:]; len(data) > 0; {
			n := min(len(data), logPiece)
			if err := f.piece(data[:n], stderr); err != nil {
				return err
			}
			data = data[n:]
		}
		return nil
	}
	if err := send(o.GetInline()); err != nil {
		return err
	}
	for _, raw := range o.GetChunks() {
		h, err := toHash(raw)
		if err != nil {
			return err
		}
		data, err := f.blobs.Get(ctx, h)
		if err != nil {
			return fmt.Errorf("output of task %d: %w", uint64(f.req.Task)+1, err)
		}
		if err := send(data); err != nil {
			return err
		}
	}
	return nil
}
