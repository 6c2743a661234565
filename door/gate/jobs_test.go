package gate

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/engine/blob"

	"connectrpc.com/connect"
)

// jobIn draws ids until one lives in a shard.
func (n *fakeNet) jobIn(shard banyan.ShardID) string {
	for i := uint32(0); ; i++ {
		if id := banyan.NewJobID(1, i); n.ShardOf([]byte(id)) == shard {
			return string(id)
		}
	}
}

func submit(ctx context.Context, c banyanv1connect.JobsClient, id string, messages int) (*banyanv1.SubmitResponse, error) {
	s := c.Submit(ctx)
	for i := range messages {
		m := &banyanv1.SubmitRequest{Inputs: []*banyanv1.Input{{}, {}}}
		if i == 0 {
			m.JobId, m.Spec = id, &banyanv1.JobSpec{Name: "job"}
		}
		s.Send(m) // the answer says why it failed
	}
	res, err := s.CloseAndReceive()
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// Any node answers for any job, whoever leads it.
func TestAnyNodeAnswers(t *testing.T) {
	n := newNet(t, 3)
	n.lead(2, 2)
	n.lead(3, 3)
	ctx := t.Context()
	ids := map[banyan.ShardID]string{}
	for shard := range banyan.ShardID(3) {
		ids[shard+1] = n.jobIn(shard + 1)
	}
	asked := banyan.NodeID(1)
	for shard, id := range ids {
		asked = asked%3 + 1
		c := banyanv1connect.NewJobsClient(n.user(t), n.nodes[asked].url, decoded)
		res, err := submit(ctx, c, id, 3)
		if err != nil || res.Tasks != 6 {
			t.Fatalf("submit for shard %d at %v: %v, %v", shard, asked, res, err)
		}
		for asked := range n.nodes {
			c := banyanv1connect.NewJobsClient(n.user(t), n.nodes[asked].url, decoded)
			got, err := c.Get(ctx, connect.NewRequest(&banyanv1.GetJobRequest{JobId: id}))
			if leader, _ := n.Leader(shard); err != nil || got.Msg.Job.Leader != uint64(leader) {
				t.Errorf("get for shard %d at %v: %v, %v", shard, asked, got, err)
			}
			if _, err = c.Hold(ctx, connect.NewRequest(&banyanv1.HoldRequest{JobId: id})); err != nil {
				t.Errorf("hold at %v: %v", asked, err)
			}
			if _, err = c.Cancel(ctx, connect.NewRequest(&banyanv1.CancelRequest{JobId: id})); err != nil {
				t.Errorf("cancel at %v: %v", asked, err)
			}
			if res, err := c.Remove(ctx, connect.NewRequest(&banyanv1.RemoveJobRequest{JobId: id})); err != nil || res.Msg.Job.Id != id {
				t.Errorf("remove at %v: %v", asked, err)
			}
		}
	}
	list, err := banyanv1connect.NewJobsClient(n.user(t), n.nodes[2].url, decoded).List(ctx, connect.NewRequest(&banyanv1.ListJobsRequest{}))
	if err != nil || len(list.Msg.Jobs) != 3 || list.Msg.Jobs[0].Id < list.Msg.Jobs[2].Id {
		t.Errorf("list: %v, %v", list, err)
	}
	list, err = banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded).List(ctx, connect.NewRequest(&banyanv1.ListJobsRequest{Limit: 2}))
	if err != nil || len(list.Msg.Jobs) != 2 || !list.Msg.More {
		t.Errorf("list of two: %v, %v", list, err)
	}
}

func TestErrorsOfTheLeaderComeThrough(t *testing.T) {
	n := newNet(t, 2)
	n.lead(2, n.DataShards()...)
	c := banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded)
	_, err := c.Get(t.Context(), connect.NewRequest(&banyanv1.GetJobRequest{JobId: n.jobIn(1)}))
	wantError(t, "a job that is not there", err, banyan.NotFound, "no job j")
	_, err = c.Get(t.Context(), connect.NewRequest(&banyanv1.GetJobRequest{JobId: "nonsense"}))
	wantError(t, "a bad id", err, banyan.Invalid, "banyan jobs")
	_, err = c.Resume(t.Context(), connect.NewRequest(&banyanv1.ResumeRequest{JobId: n.jobIn(1)}))
	wantError(t, "a leader that panics", err, banyan.Internal, "ref=")
	_, err = submit(t.Context(), c, "", 0)
	wantError(t, "an empty submission", err, banyan.Invalid, "empty")
}

// A call that meets a node which lost the lead goes to the one it names.
func TestCallsFollowTheLead(t *testing.T) {
	n := newNet(t, 3)
	id := n.jobIn(1)
	n.lead(3, 1)
	if _, err := submit(t.Context(), banyanv1connect.NewJobsClient(n.user(t), n.nodes[3].url, decoded), id, 1); err != nil {
		t.Fatal(err)
	}
	stale := &staleLeaders{fakeNet: n, says: 2}
	at := func(to banyan.NodeID) (banyanv1connect.JobsClient, error) {
		return banyanv1connect.NewJobsClient(n.nodes[1].client, n.nodes[to].url, decoded), nil
	}
	a := &anywhere{finder[banyanv1connect.JobsClient]{1, stale, at}, n.nodes[1].jobs}
	if _, err := a.Get(t.Context(), &banyanv1.GetJobRequest{JobId: id}); err != nil {
		t.Error(err)
	}
	stale.says = 0
	time.AfterFunc(20*time.Millisecond, func() { stale.set(3) })
	if _, err := a.Get(t.Context(), &banyanv1.GetJobRequest{JobId: id}); err != nil {
		t.Errorf("with no leader for a moment: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	stale.set(0)
	_, err := a.Get(ctx, &banyanv1.GetJobRequest{JobId: id})
	wantError(t, "no leader", err, banyan.Unavailable, "no leader")
}

type staleLeaders struct {
	*fakeNet
	says banyan.NodeID
}

func (s *staleLeaders) set(n banyan.NodeID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.says = n
}

func (s *staleLeaders) Leader(banyan.ShardID) (banyan.NodeID, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.says, s.says != 0
}

// What a node passed on goes no further, and users cannot pretend to be nodes.
func TestCallsArePassedOnOnce(t *testing.T) {
	n := newNet(t, 2)
	id := n.jobIn(1) // led by node 1
	get := func(c banyanv1connect.JobsClient) error {
		req := connect.NewRequest(&banyanv1.GetJobRequest{JobId: id})
		req.Header().Set(hopHeader, "1")
		_, err := c.Get(t.Context(), req)
		return err
	}
	err := get(banyanv1connect.NewJobsClient(n.nodes[1].client, n.nodes[2].url, decoded))
	wantError(t, "passed on to the wrong node", err, banyan.NotLeader, "")
	err = get(banyanv1connect.NewJobsClient(n.user(t), n.nodes[2].url, decoded))
	wantError(t, "a user with the header", err, banyan.NotFound, "no job")
}

func TestFollowIsStreamedAndNotRepeated(t *testing.T) {
	n := newNet(t, 2)
	id := n.jobIn(1)
	if _, err := submit(t.Context(), banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded), id, 1); err != nil {
		t.Fatal(err)
	}
	for asked := range n.nodes {
		s, err := banyanv1connect.NewJobsClient(n.user(t), n.nodes[asked].url, decoded).Follow(t.Context(), connect.NewRequest(&banyanv1.FollowRequest{JobId: id, AfterRevision: 1}))
		if err != nil {
			t.Fatal(err)
		}
		var got []uint64
		for s.Receive() {
			got = append(got, s.Msg().Revision)
		}
		if fmt.Sprint(got) != "[2 3]" {
			t.Errorf("at %v: %v", asked, got)
		}
		wantError(t, "a stream that broke off", s.Err(), banyan.Unavailable, "lost the lead")
		s.Close()
	}
}

// output collects what Logs sends.
type output struct {
	out, err strings.Builder
	notes    []string
	last     *banyanv1.LogsResponse
}

func logsAt(t *testing.T, n *fakeNet, node banyan.NodeID, req *banyanv1.LogsRequest, each func(*output)) (*output, error) {
	t.Helper()
	s, err := banyanv1connect.NewJobsClient(n.user(t), n.nodes[node].url, decoded).Logs(t.Context(), connect.NewRequest(req))
	if err != nil {
		return nil, err
	}
	defer s.Close()
	o := &output{}
	for s.Receive() {
		o.last = s.Msg()
		if o.last.Note != "" {
			o.notes = append(o.notes, o.last.Note)
		}
		if o.last.Stderr {
			o.err.Write(o.last.Data)
		} else {
			o.out.Write(o.last.Data)
		}
		if each != nil && o.last.Note == "" {
			each(o)
		}
	}
	return o, s.Err()
}

func TestLogs(t *testing.T) {
	n := newNet(t, 3)
	id := n.jobIn(1)
	if _, err := submit(t.Context(), banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded), id, 2); err != nil {
		t.Fatal(err)
	}
	chunk := []byte("from a blob")
	h := blob.Sum(chunk)
	if err := n.nodes[3].blobs.Put(t.Context(), h, chunk); err != nil {
		t.Fatal(err)
	}
	done := &banyanv1.TaskResult{
		Task: 0, Attempt: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED,
		Stdout: &banyanv1.Output{Inline: []byte("small")}, Stderr: &banyanv1.Output{Chunks: [][]byte{h[:]}},
	}
	running := &banyanv1.TaskResult{Task: 1, Attempt: 1, State: banyanv1.TaskState_TASK_STATE_RUNNING, Node: 2}
	n.nodes[1].jobs.set(id, done, running)
	ends := make(chan struct{})
	n.nodes[2].tail.text, n.nodes[2].tail.ends = "so far", ends

	o, err := logsAt(t, n, 3, &banyanv1.LogsRequest{JobId: id}, nil)
	if err != nil || o.out.String() != "small" || o.err.String() != "from a blob" || !o.last.Ended || o.last.Result.GetAttempt() != 1 {
		t.Errorf("finished: %v %q %q %v", err, &o.out, &o.err, o.last)
	}
	o, err = logsAt(t, n, 3, &banyanv1.LogsRequest{JobId: id, StderrOnly: true}, nil)
	if err != nil || o.out.String() != "" || o.err.String() != "from a blob" {
		t.Errorf("stderr only: %v %q %q", err, &o.out, &o.err)
	}
	o, err = logsAt(t, n, 3, &banyanv1.LogsRequest{JobId: id, Task: 1}, nil)
	if err != nil || o.out.String() != "so far" || o.last.Ended {
		t.Errorf("running: %v %q", err, &o.out)
	}
	finish := func(o *output) {
		if o.out.String() == "so far" {
			n.nodes[1].jobs.set(id, done, &banyanv1.TaskResult{
				Task: 1, Attempt: 1, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED, Stdout: &banyanv1.Output{Inline: []byte("so far and the rest")},
			})
			close(ends)
		}
	}
	o, err = logsAt(t, n, 3, &banyanv1.LogsRequest{JobId: id, Task: 1, Follow: true}, finish)
	if err != nil || o.out.String() != "so far and the rest" || !o.last.Ended {
		t.Errorf("followed to its end: %v %q", err, &o.out)
	}
	_, err = logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, Task: 4}, nil)
	wantError(t, "a task that is not there", err, banyan.NotFound, "no task 5")
	_, err = logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, StdoutOnly: true, StderrOnly: true}, nil)
	wantError(t, "neither output", err, banyan.Invalid, "exclude")

	job, err := n.nodes[1].jobs.find(id)
	if err != nil {
		t.Fatal(err)
	}
	job.Trimmed = 1
	n.nodes[1].jobs.set(id)
	_, err = logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, Follow: true}, nil)
	wantError(t, "a task that is trimmed", err, banyan.NotFound, "is not kept")
}

// When the node that runs the task dies, its next attempt is shown from the
// front, on the node that has it.
func TestLogsGoOnWithTheNextAttempt(t *testing.T) {
	n := newNet(t, 3)
	id := n.jobIn(1)
	if _, err := submit(t.Context(), banyanv1connect.NewJobsClient(n.user(t), n.nodes[1].url, decoded), id, 1); err != nil {
		t.Fatal(err)
	}
	at := func(node uint64, attempt uint32) {
		n.nodes[1].jobs.set(id, &banyanv1.TaskResult{Attempt: attempt, Lost: attempt - 1, State: banyanv1.TaskState_TASK_STATE_RUNNING, Node: node})
	}
	first := make(chan struct{})
	n.nodes[2].tail.text, n.nodes[2].tail.ends = "first try", first
	n.nodes[3].tail.text, n.nodes[3].tail.ends = "second", make(chan struct{})
	at(2, 1)
	o, err := logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, Follow: true}, func(o *output) {
		switch o.out.String() {
		case "first try":
			at(3, 2)
			close(first)
		case "first trysecond":
			n.nodes[1].jobs.set(id, &banyanv1.TaskResult{Attempt: 2, State: banyanv1.TaskState_TASK_STATE_FAILED, Stdout: &banyanv1.Output{Inline: []byte("second try")}})
			close(n.nodes[3].tail.ends)
		}
	})
	if err != nil || o.out.String() != "first trysecond try" {
		t.Errorf("%v %q", err, &o.out)
	}
	if len(o.notes) != 1 || !strings.HasPrefix(o.notes[0], "attempt 1 on n2 was lost with its node; attempt 2 began on n3") {
		t.Errorf("told %q", o.notes)
	}
	if o, err = logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, Attempt: 2}, nil); err != nil || o.out.String() != "second try" || o.last.Attempt != 2 {
		t.Errorf("attempt 2: %v %q", err, &o.out)
	}
	for _, gone := range []uint32{1, 3} {
		_, err = logsAt(t, n, 1, &banyanv1.LogsRequest{JobId: id, Attempt: gone, Follow: true}, nil)
		wantError(t, "an attempt that is not there", err, banyan.NotFound, "is at attempt 2")
	}
}
