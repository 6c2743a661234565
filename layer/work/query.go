package work

import (
	"cmp"
	"context"
	"errors"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// listDefault is the length of a list when the caller does not say.
const listDefault = 100

// Get describes a job.
func (s *Service) Get(ctx context.Context, req *banyanv1.GetJobRequest) (*banyanv1.GetJobResponse, error) {
	id, shard, err := s.led(ctx, req.JobId)
	if err != nil {
		return nil, err
	}
	j, err := s.describe(ctx, shard, id)
	return &banyanv1.GetJobResponse{Job: j}, err
}

// describe gives a job with its then step's result.
func (s *Service) describe(ctx context.Context, shard banyan.ShardID, id banyan.JobID) (*banyanv1.Job, error) {
	j := s.snapshot(id)
	if j == nil {
		header, _, err := readHeader(ctx, s.cfg.Led, shard, id)
		if err != nil {
			return nil, err
		}
		j = s.placed(header, shard)
	}
	var err error
	if j.Spec.Then != nil {
		if j.ThenResult, err = s.result(ctx, shard, id, banyan.TaskIndex(j.Tasks)); err == nil {
			err = s.whole(ctx, shard, id)
		}
	}
	return j, err
}

// snapshot describes an unfinished job led here, nil if it is none.
func (s *Service) snapshot(id banyan.JobID) *banyanv1.Job {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.core.Run(id)
	if r == nil {
		return nil
	}
	j := s.core.Snapshot(s.now(), r)
	j.Leader = uint64(s.cfg.Node)
	return j
}

func (s *Service) placed(header *banyanv1.Job, shard banyan.ShardID) *banyanv1.Job {
	header.Shard, header.Leader = uint32(shard), uint64(s.cfg.Node)
	return header
}

// result reads one recorded result, nil if there is none.
func (s *Service) result(ctx context.Context, shard banyan.ShardID, id banyan.JobID, task banyan.TaskIndex) (*banyanv1.TaskResult, error) {
	row, err := get(ctx, s.cfg.Led, shard, job.ResultKey(id, task))
	if err != nil || row == nil {
		return nil, err
	}
	return resultOf(*row)
}

func resultOf(row mvcc.Row) (*banyanv1.TaskResult, error) {
	r, err := job.DecodeResult(row.Value)
	if err == nil {
		r.Revision = uint64(row.Mod)
	}
	return r, err
}

// List gives the jobs of the shards led here, newest first.
func (s *Service) List(ctx context.Context, req *banyanv1.ListJobsRequest) (*banyanv1.ListJobsResponse, error) {
	limit := bound(req.Limit, listDefault)
	var before banyan.JobID
	if req.Before != "" {
		var err error
		if before, err = banyan.ParseJobID(req.Before); err != nil {
			return nil, err
		}
	}
	s.mu.Lock()
	var shards []banyan.ShardID
	for id := range s.leads {
		shards = append(shards, id)
	}
	s.mu.Unlock()
	slices.Sort(shards)
	out := &banyanv1.ListJobsResponse{}
	floor := ""
	for _, shard := range shards {
		var l latestJobs
		more, err := s.latest(ctx, shard, before, limit, &l)
		if err != nil {
			return nil, err
		}
		out.Jobs, floor = append(out.Jobs, l.jobs...), max(floor, l.floor)
		out.More = out.More || more
		in := &bounds{} // read after the rows: a shard only loses some
		if in.lo, in.hi, err = s.cfg.Led.Bounds(ctx, shard); err != nil {
			return nil, err
		}
		from, until := in.slots()
		out.Spans = append(out.Spans, &banyanv1.SlotSpan{From: from, Until: until})
	}
	slices.SortFunc(out.Jobs, func(a, b *banyanv1.Job) int { return cmp.Compare(b.Id, a.Id) })
	out.Jobs = slices.DeleteFunc(out.Jobs, func(j *banyanv1.Job) bool { return j.Id < floor })
	out.More = out.More || floor != ""
	if len(out.Jobs) > limit {
		out.Jobs, out.More = out.Jobs[:limit], true
	}
	for i, j := range out.Jobs {
		if now := s.snapshot(banyan.JobID(j.Id)); now != nil {
			out.Jobs[i] = now
		}
	}
	if n := fits(out.Jobs); n < len(out.Jobs) {
		out.Jobs, out.More = out.Jobs[:n], true
	}
	return out, nil
}

// latest appends the newest jobs of one shard whose ids are below one.
func (s *Service) latest(ctx context.Context, shard banyan.ShardID, before banyan.JobID, limit int, jobs *latestJobs) (more bool, err error) {
	keys, more, err := newest(ctx, s.cfg.Led, shard, before, limit, s.wall())
	if err != nil || len(keys) == 0 {
		return false, err
	}
	_, hi := job.HeaderRange()
	if before != "" {
		hi = job.AfterSlot(job.HeaderKey(before))
	}
	err = scan(ctx, s.cfg.Led, shard, mvcc.Query{Lo: keys[0], Hi: hi, EachSlot: true}, func(row mvcc.Row) error {
		header, err := job.DecodeHeader(row.Value)
		if err == nil {
			jobs.add(s.placed(header, shard))
		}
		return err
	})
	return more, err
}

// newest gives the keys, behind the slot, of the headers of the newest jobs whose
// ids are below one, and whether there are more. Ids sort by the time they
// were drawn, and rows are read upwards only: it looks at the latest minute,
// then at spans that are longer and longer, until there are enough. So it costs
// what is listed, not what there is.
func newest(ctx context.Context, r Reader, shard banyan.ShardID, before banyan.JobID, limit int, nowMs int64) (keys [][]byte, more bool, err error) {
	lo, hi := job.HeaderRange()
	end := nowMs
	if before != "" {
		hi, end = job.AfterSlot(job.HeaderKey(before)), before.TimeMs()
	}
	enough := errors.New("enough")
	few := end + 1 // from here on there are too few
	for span := int64(newestSpanMs); ; {
		from := max(0, few-span)
		keys = keys[:0]
		q := mvcc.Query{Lo: job.AfterSlot(job.HeaderKey(banyan.NewJobID(from, 0))), Hi: hi, KeysOnly: true, EachSlot: true, Limit: newestRows + limit}
		if from == 0 {
			q.Lo = lo
		}
		err := scan(ctx, r, shard, q, func(row mvcc.Row) error {
			if keys = append(keys, job.AfterSlot(row.Key)); span > 1 && len(keys) > newestRows+limit {
				return enough
			}
			return nil
		})
		switch {
		case errors.Is(err, enough):
			span = max(1, span/4)
		case err != nil:
			return nil, false, err
		case len(keys) > limit:
			return keys[len(keys)-limit:], true, nil
		case from == 0:
			return keys, false, nil
		default:
			few, span = from, span*8
		}
	}
}

// newestSpanMs is the first span that newest looks at; in one that holds
// newestRows more than are wanted it looks for less.
const (
	newestSpanMs = 60_000
	newestRows   = 2000
)

func bound(asked uint32, otherwise int) int {
	if asked == 0 {
		return otherwise
	}
	return int(min(asked, banyan.ListRowsMax))
}

// Tasks pages through results by task. Asked from the number of tasks on, it
// gives the then step.
func (s *Service) Tasks(ctx context.Context, req *banyanv1.TasksRequest) (*banyanv1.TasksResponse, error) {
	id, shard, err := s.led(ctx, req.JobId)
	if err != nil {
		return nil, err
	}
	p := &taskPage{s: s, id: id, shard: shard, from: req.From, limit: bound(req.Limit, banyan.ListRowsMax), out: &banyanv1.TasksResponse{}}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	if req.FailedOnly {
		err = p.failures(ctx)
	} else {
		err = p.results(ctx)
	}
	if err == nil && req.WithRunning {
		p.running()
	}
	if err == nil {
		err = p.close(ctx)
	}
	if gone := s.whole(ctx, shard, id); gone != nil {
		return nil, gone
	}
	return p.out, err
}

// taskPage is one page of Tasks under construction.
type taskPage struct {
	s     *Service
	id    banyan.JobID
	shard banyan.ShardID
	from  uint32
	end   uint32 // exclusive
	limit int
	tasks uint32
	rec   *record // or one made up, of a job that has ended
	out   *banyanv1.TasksResponse
}

func (p *taskPage) open(ctx context.Context) (err error) {
	rec := p.s.record(p.id)
	if rec != nil {
		p.tasks = p.s.view(rec).tasks
	} else {
		header, _, err := readHeader(ctx, p.s.cfg.Led, p.shard, p.id)
		if err != nil {
			return err
		}
		rec = &record{id: p.id, shard: p.shard, tasks: header.Tasks, streamed: header.Streamed}
		p.tasks = header.Tasks
		if rec.chunks, err = readChunkList(ctx, p.s.cfg.Led, p.shard, p.id); err != nil {
			return err
		}
	}
	p.rec = rec
	if p.end = p.tasks; p.from >= p.tasks {
		p.end = p.tasks + 1
	}
	return nil
}

// results takes one page of rows.
func (p *taskPage) results(ctx context.Context) error {
	q := mvcc.Query{
		Lo: job.ResultKey(p.id, banyan.TaskIndex(p.from)), Hi: job.ResultKey(p.id, banyan.TaskIndex(p.end)), Limit: p.limit,
	}
	rows, more, err := p.s.cfg.Led.Range(ctx, p.shard, q)
	if err != nil {
		return err
	}
	p.out.More = more
	for _, row := range rows {
		if err := p.add(row); err != nil {
			return err
		}
	}
	return nil
}

// failures takes the results of the tasks whose failure is final.
func (p *taskPage) failures(ctx context.Context) error {
	lo := job.FailureKey(p.id, banyan.TaskIndex(p.from))
	hi := job.FailureKey(p.id, banyan.TaskIndex(p.end))
	bytes := 0
	full := banyan.Errorf(banyan.Exhausted, "the page is full")
	err := scan(ctx, p.s.cfg.Led, p.shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
		f, err := job.DecodeFailure(row.Value)
		if err != nil || !f.Final {
			return err
		}
		if len(p.out.Results) >= p.limit || bytes >= banyan.ListBytesMax {
			return full
		}
		task, err := job.Number(row.Key)
		if err != nil {
			return err
		}
		result, err := get(ctx, p.s.cfg.Led, p.shard, job.ResultKey(p.id, task))
		if err != nil || result == nil {
			return err
		}
		bytes += len(result.Value)
		return p.add(*result)
	})
	if errors.Is(err, full) {
		p.out.More, err = true, nil
	}
	return err
}

func (p *taskPage) add(row mvcc.Row) error {
	r, err := resultOf(row)
	if err == nil {
		p.out.Results = append(p.out.Results, r)
	}
	return err
}

// running puts what runs now between the results of the page.
func (p *taskPage) running() {
	until := p.end
	if n := len(p.out.Results); p.out.More && n > 0 {
		until = p.out.Results[n-1].Task
	}
	p.s.mu.Lock()
	defer p.s.mu.Unlock()
	r := p.s.core.Run(p.id)
	if r == nil {
		return
	}
	for _, task := range r.openTasks() {
		node, _, startMs, ok := p.s.core.Locate(p.id, task)
		if !ok || task < p.from || task >= until {
			continue
		}
		p.out.Results = append(p.out.Results, &banyanv1.TaskResult{
			Task: task, Attempt: r.open[task].number, AttemptId: r.open[task].key.Attempt, Lost: r.losses[task].Count, State: banyanv1.TaskState_TASK_STATE_RUNNING,
			Node: uint64(node), StartMs: p.s.wall() - (p.s.now() - startMs),
		})
	}
	slices.SortStableFunc(p.out.Results, func(a, b *banyanv1.TaskResult) int { return cmp.Compare(a.Task, b.Task) })
	p.out.Results = slices.CompactFunc(p.out.Results, func(a, b *banyanv1.TaskResult) bool { return a.Task == b.Task })
	if len(p.out.Results) > p.limit {
		p.out.Results, p.out.More = p.out.Results[:p.limit], true
	}
}

// close adds the inputs and says where to go on.
func (p *taskPage) close(ctx context.Context) error {
	p.out.Next = p.end
	for _, r := range p.out.Results {
		if r.Task >= p.tasks {
			continue
		}
		in, err := p.s.inputOf(ctx, p.rec, r.Task)
		if err != nil {
			return err
		}
		r.Input = in
	}
	if n := fits(p.out.Results); n < len(p.out.Results) {
		p.out.Results, p.out.More = p.out.Results[:n], true
	}
	if n := len(p.out.Results); p.out.More && n > 0 {
		p.out.Next = p.out.Results[n-1].Task + 1
	}
	return nil
}

func (s *Service) record(id banyan.JobID) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.records[id]
}
