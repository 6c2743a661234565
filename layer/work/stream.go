package work

import (
	"context"
	"log/slog"
	"time"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/proto"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/internal/pause"
	"banyan/obs"
)

// Stream is a conversation with one worker. Receive gives io.EOF at its end;
// the messages it gives belong to the receiver. Both methods may block, and
// are each called by one goroutine at a time. Receive must return soon after
// the handler that owns the stream has returned; the handler waits for Send,
// which must return soon after the worker has ended the stream or is gone.
type Stream interface {
	Receive() (*peerv1.WorkerMessage, error)
	Send(*peerv1.ControllerMessage) error
}

var _ Stream = (*connect.BidiStream[peerv1.WorkerMessage, peerv1.ControllerMessage])(nil)

// unsentPause keeps a start that cannot be prepared from being tried in a tight loop.
const unsentPause = 100 * time.Millisecond

// sessionGoroutines are those of one session, which Serve starts: receive and send.
const sessionGoroutines = 2

// session is one worker's stream.
type session struct {
	id     Session
	stream Stream
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	jobs   map[banyan.JobID]struct{} // whose specification was sent and is kept there; at most banyan.WorkerJobsMax
}

// Work is the handler of the peer service's method of that name.
func (s *Service) Work(ctx context.Context, stream *connect.BidiStream[peerv1.WorkerMessage, peerv1.ControllerMessage]) error {
	return s.Serve(ctx, stream)
}

// Serve talks with one worker until its stream or ctx ends, the worker opens
// another one, or its node is declared dead.
func (s *Service) Serve(ctx context.Context, stream Stream) error {
	first, err := stream.Receive()
	if err != nil {
		return err
	}
	x, err := s.connect(ctx, stream, first)
	if err != nil {
		return err
	}
	ended, sent := make(chan error, 2), make(chan struct{})
	// An answer may not be written to once its handler has returned: net/http
	// panics then, and the node with it.
	defer func() { s.disconnect(x); <-sent }()
	go func() {
		defer s.wg.Done()
		ended <- s.receive(x, first)
	}()
	go func() {
		defer s.wg.Done()
		defer close(sent)
		ended <- s.send(x)
	}()
	select {
	case err = <-ended:
		return err
	case <-x.ctx.Done():
		return banyan.Errorf(banyan.Unavailable, "this stream was replaced or is no longer wanted: open a new one")
	}
}

func (s *Service) connect(ctx context.Context, stream Stream, first *peerv1.WorkerMessage) (*session, error) {
	h := first.Hello
	switch {
	case h == nil || h.Node == 0:
		return nil, banyan.Errorf(banyan.Invalid, "a worker's first message must say hello")
	case h.Protocol < banyan.ProtocolMin || h.Protocol > banyan.ProtocolVersion:
		return nil, banyan.Errorf(banyan.TooNew, "the worker speaks protocol %d, this node %d to %d: run releases that are closer", h.Protocol, banyan.ProtocolMin, banyan.ProtocolVersion)
	}
	node := banyan.NodeID(h.Node)
	if s.cfg.Caller != nil {
		if who := s.cfg.Caller(ctx); who != node {
			return nil, banyan.Errorf(banyan.PermissionDenied, "node %s says it is %s", who, node)
		}
	}
	x := &session{stream: stream, wake: make(chan struct{}, 1), jobs: map[banyan.JobID]struct{}{}}
	x.ctx, x.cancel = context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		x.cancel()
		return nil, banyan.Errorf(banyan.Unavailable, "this node is stopping")
	}
	if old := s.sessions[node]; old != nil {
		old.cancel()
	}
	s.lastID++
	x.id = Session{node, s.lastID}
	s.sessions[node] = x
	s.wg.Add(sessionGoroutines) // before Run, which sets closed under this lock, may wait
	stop := context.AfterFunc(s.ctx, x.cancel)
	context.AfterFunc(x.ctx, func() { stop() })
	s.core.Connect(s.now(), x.id)
	s.act()
	return x, nil
}

func (s *Service) disconnect(x *session) {
	x.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[x.id.Node] == x {
		delete(s.sessions, x.id.Node)
	}
	s.core.Disconnect(s.now(), x.id)
	s.act()
}

// receive takes the worker's messages, the first of which is given.
func (s *Service) receive(x *session, m *peerv1.WorkerMessage) error {
	for {
		s.waitLoaded(x.ctx)
		s.input(func() { s.core.Receive(s.now(), x.id, m) })
		var err error
		if m, err = x.stream.Receive(); err != nil {
			return err
		}
	}
}

// send tells the worker what there is to tell.
func (s *Service) send(x *session) error {
	for {
		select {
		case <-x.ctx.Done():
			return nil
		case <-x.wake:
		}
		s.mu.Lock()
		m, ok := s.core.Take(x.id)
		starts := make([]start, len(m.Start))
		for i, st := range m.Start {
			starts[i] = s.starts(st)
		}
		s.mu.Unlock()
		if !ok {
			return nil
		}
		msg := &peerv1.ControllerMessage{
			Stop: protoKeys(m.Stop), Recorded: protoKeys(m.Recorded), Unknown: protoKeys(m.Unknown),
			Demand: DemandProto(m.Demand), SayHello: m.SayHello, Begin: protoKeys(m.Begin),
		}
		failed, err := s.start(x, msg, starts)
		if err != nil {
			return err
		}
		if len(failed) > 0 {
			_ = pause.For(x.ctx, unsentPause)
			s.input(func() { s.core.Unsent(s.now(), x.id, failed) })
		}
	}
}

// start is an attempt to send and what is known of its job.
type start struct {
	Start
	rec    *record
	tasks  uint32 // as the worker is told
	then   bool
	chunks []banyan.TaskIndex
}

// starts completes an attempt with what its record says now. A worker keeps what
// it was told of a job, so of one that streams it is told the most tasks that
// there can be. The lock is held.
func (s *Service) starts(st Start) start {
	rec := s.records[st.Key.Job]
	if rec == nil {
		return start{Start: st}
	}
	x := start{Start: st, rec: rec, tasks: rec.tasks, then: st.Key.Task == rec.tasks && !rec.source, chunks: rec.chunks}
	if rec.streamed {
		x.tasks = banyan.StreamTasksMax
	}
	return x
}

// start completes the attempts with what the rows say and sends them, msg first,
// in as many messages as their size takes. Those it cannot complete are given back.
func (s *Service) start(x *session, msg *peerv1.ControllerMessage, starts []start) (failed []Key, err error) {
	if len(x.jobs)+len(starts) > banyan.WorkerJobsMax && len(x.jobs) > 0 {
		clear(x.jobs)
		msg.ForgetJobs = true
	}
	out := &outgoing{x: x, msg: msg}
	for _, st := range starts {
		a, err := s.attempt(x.ctx, st)
		if err != nil {
			if x.ctx.Err() == nil {
				s.cfg.Logger.Warn("a task cannot be started", "job", st.Key.Job, "task", st.Key.Task, "error", err)
			}
			failed = append(failed, st.Key)
			continue
		}
		if a == nil {
			continue
		}
		var header *peerv1.JobHeader
		if _, known := x.jobs[st.Key.Job]; !known {
			if len(x.jobs) >= banyan.WorkerJobsMax {
				failed = append(failed, st.Key) // next time
				continue
			}
			x.jobs[st.Key.Job] = struct{}{}
			header = &peerv1.JobHeader{JobId: string(st.Key.Job), Spec: st.rec.spec, Tasks: st.tasks}
		}
		if err := out.add(s, header, a); err != nil {
			return nil, err
		}
	}
	return failed, out.flush(s)
}

// attempt makes the message that starts an attempt; nil if it was answered
// otherwise.
func (s *Service) attempt(ctx context.Context, st start) (*peerv1.Attempt, error) {
	rec := st.rec
	if rec == nil {
		return nil, banyan.Errorf(banyan.NotFound, "job %s has ended", st.Key.Job)
	}
	a := &peerv1.Attempt{Key: protoKey(st.Key), Try: st.Try, Suspect: st.Suspect, Traceparent: rec.spec.Traceparent}
	if a.Traceparent != "" {
		spanCtx, span := obs.Start(obs.WithTraceparent(ctx, a.Traceparent), "dispatch",
			slog.String("job", string(rec.id)), slog.Int("task", int(st.Key.Task)))
		a.Traceparent = obs.Traceparent(spanCtx)
		defer span.End(nil)
	}
	var err error
	if a.Then = st.then; !st.then {
		a.Input, err = s.inputs.get(ctx, rec.shard, rec.id, st.chunks, banyan.TaskIndex(st.Key.Task))
		return a, err
	}
	var tooMany bool
	if a.InputsFromTasks, a.ListsFromTasks, tooMany, err = s.returned(ctx, rec); tooMany {
		s.failThen(st.Key)
		return nil, nil
	}
	return a, err
}

// returned lists every file that the tasks of a job returned, by task, and where
// the lists of those are that returned many.
func (s *Service) returned(ctx context.Context, rec *record) (files []*banyanv1.FileRef, lists []*banyanv1.FileList, tooMany bool, err error) {
	if len(rec.spec.Return) == 0 {
		return nil, nil, false, nil
	}
	bytes := 0
	lo, _ := job.ResultRange(rec.id, 0)
	hi := job.ResultKey(rec.id, banyan.TaskIndex(s.view(rec).tasks))
	err = scan(ctx, s.cfg.Led, rec.shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		r, err := job.DecodeResult(row.Value)
		if err != nil {
			return err
		}
		for _, f := range r.Returned {
			if bytes += proto.Size(f); bytes > banyan.ThenFilesBytesMax {
				tooMany = true
				return banyan.Errorf(banyan.Exhausted, "too many files")
			}
			files = append(files, f)
		}
		if l := r.ReturnedList; l != nil {
			if bytes += int(min(l.Size, banyan.ThenFilesBytesMax)) + proto.Size(l); bytes > banyan.ThenFilesBytesMax {
				tooMany = true
				return banyan.Errorf(banyan.Exhausted, "too many files")
			}
			lists = append(lists, l)
		}
		return nil
	})
	return files, lists, tooMany, err
}

// failThen ends a then step that cannot be given its files.
func (s *Service) failThen(k Key) {
	s.input(func() {
		s.core.Fail(s.now(), k, "the list of files returned by all tasks has more than 64 MiB (ThenFilesBytesMax): return fewer, larger files")
	})
}

func protoKey(k Key) *peerv1.AttemptKey {
	return &peerv1.AttemptKey{JobId: string(k.Job), Task: k.Task, Attempt: k.Attempt}
}

func protoKeys(keys []Key) []*peerv1.AttemptKey {
	out := make([]*peerv1.AttemptKey, len(keys))
	for i, k := range keys {
		out[i] = protoKey(k)
	}
	return out
}
