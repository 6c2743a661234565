package work

import (
	"context"
	"slices"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// trimEarly is the size of the inputs of a job that streams from which on
// whatever can be trimmed is.
const trimEarly = banyan.JobInputBytesMax / 4

// Feed appends inputs to a job whose source is open, trims what its caller has
// taken note of, and closes the source. A call that is repeated does nothing.
func (s *Service) Feed(ctx context.Context, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	id, shard, err := s.led(ctx, req.JobId)
	if err != nil {
		return nil, err
	}
	if len(req.Inputs) > banyan.FeedInputsMax {
		return nil, banyan.Errorf(banyan.Exhausted, "%d inputs in one call, the most are %d (FeedInputsMax): make several", len(req.Inputs), banyan.FeedInputsMax)
	}
	if uint64(req.First)+uint64(len(req.Inputs)) > banyan.StreamTasksMax {
		return nil, banyan.Errorf(banyan.Exhausted, "job %s would have more than %d tasks (StreamTasksMax): submit another one", id, banyan.StreamTasksMax)
	}
	rec := s.record(id)
	if rec == nil {
		return s.fedBefore(ctx, shard, id, req)
	}
	if !rec.streamed {
		return nil, banyan.Errorf(banyan.Conflict, "job %s was not submitted open: it has all its inputs", id)
	}
	op := &Op{Kind: OpFeed, Shard: shard, Job: id, first: req.First, count: uint32(len(req.Inputs)), done: req.Done}
	size, err := cutFeed(op, rec.spec, req.Inputs)
	if err != nil {
		return nil, err
	}
	if s.cfg.Room != nil && op.count > 0 {
		if err := s.cfg.Room(shard); err != nil {
			return nil, err
		}
	}
	if err := s.makeRoom(ctx, rec, op, size); err != nil {
		return nil, err
	}
	j := &banyanv1.Job{}
	if op.count > 0 || op.done > 0 || !req.Close {
		if j, err = s.feed(ctx, rec, op); err != nil {
			return nil, err
		}
	}
	if req.Close {
		closing := &Op{Kind: OpFeed, Shard: shard, Job: id, first: req.First + op.count, closing: true}
		if j, err = s.feed(ctx, rec, closing); banyan.IsKind(err, banyan.NotFound) {
			return s.fedBefore(ctx, shard, id, req) // it ended meanwhile, so its source was closed
		} else if err != nil {
			return nil, err
		}
	}
	return &banyanv1.FeedResponse{Tasks: j.Tasks, Trimmed: j.Trimmed, Open: j.Open}, nil
}

// cutFeed makes the chunks of an OpFeed and gives their size.
func cutFeed(op *Op, spec *banyanv1.JobSpec, inputs []*banyanv1.Input) (size int64, err error) {
	cut := job.NewChunker(banyan.TaskIndex(op.first))
	add := func(c job.Chunk) {
		op.inputs = append(op.inputs, c)
		size += int64(len(c.Value))
	}
	for i, in := range inputs {
		if err := job.ValidateInput(spec, in); err != nil {
			return 0, banyan.Errorf(banyan.KindOf(err), "input %d: %w", uint64(op.first)+uint64(i)+1, err)
		}
		if c, full := cut.Add(in); full {
			add(c)
		}
	}
	if c, some := cut.Close(); some {
		add(c)
	}
	return size, nil
}

// makeRoom refuses inputs beyond what may be kept, having trimmed what can be.
func (s *Service) makeRoom(ctx context.Context, rec *record, op *Op, size int64) error {
	kept := s.inputBytes(rec)
	op.full = kept > trimEarly
	if op.count == 0 || kept+size <= banyan.JobInputBytesMax {
		return nil
	}
	if op.done > 0 {
		trim := &Op{Kind: OpFeed, Shard: op.Shard, Job: op.Job, first: op.first, done: op.done, full: true}
		if _, err := s.feed(ctx, rec, trim); err != nil {
			return err
		}
		kept = s.inputBytes(rec)
	}
	if kept+size > banyan.JobInputBytesMax {
		return banyan.Errorf(banyan.Exhausted, "job %s has %d bytes of inputs of tasks that are not done, or whose results are kept; the most are %d (JobInputBytesMax): append more when there are fewer", rec.id, kept, banyan.JobInputBytesMax)
	}
	return nil
}

func (s *Service) inputBytes(rec *record) (n int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, size := range rec.sizes {
		n += int64(size)
	}
	return n
}

func (s *Service) feed(ctx context.Context, rec *record, op *Op) (*banyanv1.Job, error) {
	s.mu.Lock()
	op.starts = rec.chunks
	s.mu.Unlock()
	a, err := s.do(ctx, op)
	return a.Job, err
}

// fedBefore answers for a job that is not in memory: what is there already is
// not appended again, and more cannot be.
func (s *Service) fedBefore(ctx context.Context, shard banyan.ShardID, id banyan.JobID, req *banyanv1.FeedRequest) (*banyanv1.FeedResponse, error) {
	header, _, err := readHeader(ctx, s.cfg.Led, shard, id)
	if err != nil {
		return nil, err
	}
	if !job.Ended(header.State) {
		return nil, banyan.Errorf(banyan.Unavailable, "job %s is being read: ask again", id)
	}
	if header.State == banyanv1.JobState_JOB_STATE_CANCELED || req.First+uint32(len(req.Inputs)) > header.Tasks {
		return nil, banyan.Errorf(banyan.Conflict, "job %s has ended (%s), with %d tasks: nothing can be appended", id, job.Word(header.State), header.Tasks)
	}
	return &banyanv1.FeedResponse{Tasks: header.Tasks, Trimmed: header.Trimmed}, nil
}

// fed changes the record of a job that was fed, just before the core may send
// its new tasks. The lock is held.
func (s *Service) fed(b *Batch, res mvcc.Result) {
	if b.op == nil || b.op.Kind != OpFeed || !res.OK {
		return
	}
	rec := s.records[b.op.Job]
	if rec == nil {
		return
	}
	if len(b.gone) > 0 {
		var chunks []banyan.TaskIndex
		var sizes []uint32
		for i, start := range rec.chunks {
			if _, gone := slices.BinarySearch(b.gone, start); !gone {
				chunks, sizes = append(chunks, start), append(sizes, rec.sizes[i])
			}
		}
		rec.chunks, rec.sizes = chunks, sizes
	}
	if b.trim != nil {
		rec.journal.forget(b.trim.Tasks)
		for f := range rec.followers {
			f.skip()
		}
	}
	for _, c := range b.op.inputs {
		rec.chunks, rec.sizes = append(rec.chunks, c.First), append(rec.sizes, uint32(len(c.Value)))
	}
	rec.tasks += b.op.count
	rec.source = rec.source && b.header == nil
}

// skip passes over what is forgotten.
func (f *follower) skip() {
	if gone := f.rec.journal.gone - f.at; gone > 0 {
		f.at += gone
		if f.live {
			f.queue = f.queue[min(gone, len(f.queue)):]
		}
	}
}

// view is what changes of a record while its source is open.
type view struct {
	tasks    uint32
	chunks   []banyan.TaskIndex
	streamed bool
}

func (s *Service) view(rec *record) view {
	s.mu.Lock()
	defer s.mu.Unlock()
	return view{rec.tasks, rec.chunks, rec.streamed}
}

// input gives a task's input. One that is trimmed is nil: its result was
// trimmed, too, after it was read.
func (s *Service) inputOf(ctx context.Context, rec *record, task uint32) (*banyanv1.Input, error) {
	v := s.view(rec)
	in, err := s.inputs.get(ctx, rec.shard, rec.id, v.chunks, banyan.TaskIndex(task))
	if err != nil && v.streamed && banyan.IsKind(err, banyan.Corrupt) {
		return nil, nil
	}
	return in, err
}

// trimRow is a job's trim with the revision that wrote it.
type trimRow struct {
	job.Trim
	mod banyan.Revision
}

// stream reads what there is of a job whose inputs stream: the chunks, and so
// how many tasks there are, and what is trimmed.
func (l *Loaded) stream(ctx context.Context, r Reader, shard banyan.ShardID, header *banyanv1.Job) (*banyanv1.Job, trimRow, error) {
	id := banyan.JobID(header.Id)
	var t trimRow
	row, err := get(ctx, r, shard, job.TrimKey(id))
	if err == nil && row != nil {
		t.mod = row.Mod
		t.Trim, err = job.DecodeTrim(row.Value)
	}
	if err != nil {
		return nil, t, err
	}
	tasks := max(t.Tasks, header.Tasks)
	lo, hi := job.InputRange(id)
	err = scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		first, err := job.Number(row.Key)
		if err != nil {
			return err
		}
		in, err := job.OpenInputs(row.Value)
		if err != nil {
			return err
		}
		l.chunks, l.sizes = append(l.chunks, first), append(l.sizes, uint32(len(row.Value)))
		tasks = max(tasks, uint32(first)+uint32(in.Len()))
		return nil
	})
	if header.Open && tasks != header.Tasks {
		header = proto.CloneOf(header)
		header.Tasks = tasks
	}
	return header, t, err
}

// trimmed takes up what is gone.
func (l *Loaded) trimmed(ctx context.Context, r Reader, shard banyan.ShardID, t trimRow) error {
	if t.mod == 0 {
		return nil
	}
	l.Run.trimmed(t.Trim)
	lo, hi := job.KeptRange(l.Run.id)
	return scan(ctx, r, shard, mvcc.Query{Lo: lo, Hi: hi, KeysOnly: true}, func(row mvcc.Row) error {
		task, err := job.Number(row.Key)
		l.Run.kept(uint32(task))
		return err
	})
}
