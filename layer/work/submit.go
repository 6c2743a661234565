package work

import (
	"context"
	"errors"
	"io"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// submitBytes is how much of a job's inputs is gathered before it is committed.
const submitBytes = 1 << 20

// submission is a job on its way in. Its inputs are committed as they come, the
// header last and only if they are all there: the job exists with its header.
type submission struct {
	s      *Service
	id     banyan.JobID
	nonce  uint64 // of the caller, repeated with each copy; 0: none
	shard  banyan.ShardID
	spec   *banyanv1.JobSpec
	open   bool // more inputs come by Feed
	cut    job.Chunker
	chunks []banyan.TaskIndex
	sizes  []uint32
	muts   []mvcc.Mutation
	bytes  int
	wrote  bool        // or may have written
	sent   []mvcc.Cond // one for each command so far: its rows are still there, as it wrote them
}

// Submit stores a job. next gives the messages and then io.EOF; the first must
// carry the specification and the job's id. The same submission repeated, which
// its nonce tells, changes nothing and gives the same answer; another one of an
// id that exists is refused. Nothing of a refused job is kept.
func (s *Service) Submit(ctx context.Context, next func() (*banyanv1.SubmitRequest, error)) (*banyanv1.SubmitResponse, error) {
	m, err := next()
	if errors.Is(err, io.EOF) {
		return nil, banyan.Errorf(banyan.Invalid, "an empty submission: the first message carries the job's specification")
	}
	if err != nil {
		return nil, err
	}
	id, shard, err := s.led(ctx, m.JobId)
	if err != nil {
		return nil, err
	}
	if err := job.Validate(m.Spec); err != nil {
		return nil, err
	}
	if m.Open && job.CountsAll(m.Spec) {
		return nil, banyan.Errorf(banyan.Invalid, "the job's source is open, so that {##} and {0#}, for which all tasks are counted, are not known: submit it with all inputs, or without them")
	}
	x := &submission{s: s, id: id, nonce: m.Nonce, shard: shard, spec: m.Spec, open: m.Open}
	done, err := x.exists(ctx)
	if done != nil || err != nil {
		return done, err
	}
	if s.cfg.Room != nil {
		if err := s.cfg.Room(shard); err != nil {
			return nil, err
		}
	}
	for ; err == nil; m, err = next() {
		if err = x.add(ctx, m.Inputs); err != nil {
			break
		}
	}
	if errors.Is(err, io.EOF) {
		done, err = x.finish(ctx)
	}
	if err != nil && x.wrote {
		x.abandon()
	}
	return done, err
}

// exists answers a submission of a job that is there already: as before, if it
// is the same submission. Ids are drawn, so another one may have the same.
func (x *submission) exists(ctx context.Context) (*banyanv1.SubmitResponse, error) {
	header, _, err := readHeader(ctx, x.s.cfg.Led, x.shard, x.id)
	if banyan.IsKind(err, banyan.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if header.Nonce != x.nonce || x.nonce == 0 {
		return nil, banyan.Errorf(banyan.AlreadyExists, "job %s is there already, from another submission: draw another id", x.id)
	}
	return &banyanv1.SubmitResponse{JobId: string(x.id), Tasks: header.Tasks}, nil
}

func (x *submission) add(ctx context.Context, inputs []*banyanv1.Input) error {
	for _, in := range inputs {
		if err := job.ValidateInput(x.spec, in); err != nil {
			return banyan.Errorf(banyan.KindOf(err), "input %d: %w", x.cut.Tasks()+1, err)
		}
		if x.cut.Tasks() >= banyan.JobTasksMax {
			return banyan.Errorf(banyan.Exhausted, "the job has more than %d tasks (JobTasksMax): submit it in parts", banyan.JobTasksMax)
		}
		chunk, full := x.cut.Add(in)
		if x.cut.Bytes() > banyan.JobInputBytesMax {
			return banyan.Errorf(banyan.Exhausted, "the job's inputs have more than 64 MiB (JobInputBytesMax): put them into files, or submit it in parts")
		}
		if full {
			if err := x.put(ctx, chunk); err != nil {
				return err
			}
		}
	}
	return nil
}

func (x *submission) put(ctx context.Context, c job.Chunk) error {
	x.chunks = append(x.chunks, c.First)
	if x.open {
		x.sizes = append(x.sizes, uint32(len(c.Value)))
	}
	x.muts = append(x.muts, mvcc.Mutation{Op: mvcc.Put, Key: job.InputKey(x.id, c.First), Value: c.Value})
	if x.bytes += len(c.Value); x.bytes < submitBytes {
		return nil
	}
	return x.flush(ctx)
}

// flush commits what was gathered, ahead of the header.
func (x *submission) flush(ctx context.Context) error {
	muts := x.muts
	x.muts, x.bytes, x.wrote = nil, 0, true
	cmd := &mvcc.Command{Conds: []mvcc.Cond{{Key: job.HeaderKey(x.id), Test: mvcc.Missing}, {Key: job.RemovedKey(x.id), Test: mvcc.Missing}}, Muts: muts}
	a, err := x.s.do(ctx, &Op{Kind: OpWrite, Shard: x.shard, Job: x.id, Cmd: cmd})
	if err == nil && !a.Result.OK {
		if err = removing(x.id); a.Result.FailedCond == 0 {
			err = banyan.Errorf(banyan.Conflict, "job %s was submitted by somebody else meanwhile", x.id)
		}
	}
	if err == nil {
		x.sent = append(x.sent, mvcc.Cond{Key: muts[0].Key, Test: mvcc.ModEquals, Number: uint64(a.Result.Revision)})
	}
	return err
}

// finish commits the rest with the header, which makes the job.
func (x *submission) finish(ctx context.Context) (*banyanv1.SubmitResponse, error) {
	if c, some := x.cut.Close(); some {
		if err := x.put(ctx, c); err != nil {
			return nil, err
		}
	}
	if x.cut.Tasks() == 0 {
		return nil, banyan.Errorf(banyan.Invalid, "no inputs: a job has a task for each; give some after ':::', with -a FILE or on standard input")
	}
	for n, piece := range job.EncodeSend(x.spec.Send) {
		x.muts = append(x.muts, mvcc.Mutation{Op: mvcc.Put, Key: job.SendKey(x.id, n), Value: piece})
		if x.bytes += len(piece); x.bytes >= submitBytes {
			if err := x.flush(ctx); err != nil {
				return nil, err
			}
		}
	}
	header := &banyanv1.Job{
		Id: string(x.id), Spec: job.TrimSpec(x.spec), State: banyanv1.JobState_JOB_STATE_ACTIVE,
		Tasks: uint32(x.cut.Tasks()), SubmitMs: x.s.wall(), Nonce: x.nonce, StoredBytes: job.FilesBytes(x.spec.Send), Open: x.open, Streamed: x.open,
	}
	x.s.touch(x.id)
	defer x.s.tidy(x.id)
	for {
		a, err := x.commit(ctx, header)
		switch {
		case errors.Is(err, errFenced):
			continue // an epoch began meanwhile, or two
		case err != nil:
			return nil, err
		case a.Result.OK:
			return &banyanv1.SubmitResponse{JobId: string(x.id), Tasks: header.Tasks}, nil
		case a.Result.FailedCond == 0:
			return x.exists(ctx)
		case a.Result.FailedCond == 1:
			return nil, removing(x.id)
		}
		return nil, banyan.Errorf(banyan.Conflict, "job %s was submitted twice at once and neither is complete: submit it again", x.id)
	}
}

// commit commits the header with what was not committed ahead of it.
func (x *submission) commit(ctx context.Context, header *banyanv1.Job) (Answer, error) {
	conds := append([]mvcc.Cond{
		{Key: job.HeaderKey(x.id), Test: mvcc.Missing}, {Key: job.RemovedKey(x.id), Test: mvcc.Missing},
	}, x.sent...)
	fence := -1
	if len(x.spec.Send) > 0 && x.s.cfg.Chunks != nil {
		epoch, err := x.sends(ctx)
		if err != nil {
			return Answer{}, err
		}
		fence, conds = len(conds), append(conds, fresh(epoch))
	}
	a, err := x.s.do(ctx, &Op{
		Kind: OpSubmit, Shard: x.shard, Job: x.id, Cmd: &mvcc.Command{Conds: conds, Muts: append(x.muts[:len(x.muts):len(x.muts)], Header(header)...)},
		Run: NewRun(header, 0), spec: x.spec, chunks: x.chunks, sizes: x.sizes,
	})
	if err == nil && !a.Result.OK && a.Result.FailedCond == fence {
		err = errFenced
	}
	return a, err
}

// abandon removes the inputs of a job that does not come to be. Should another
// submission of the same job be under way, its header will find them missing.
func (x *submission) abandon() {
	lo, hi := job.Range(x.id)
	cmd := &mvcc.Command{
		Conds: []mvcc.Cond{{Key: job.HeaderKey(x.id), Test: mvcc.Missing}},
		Muts:  []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: lo, End: hi}},
	}
	x.s.input(func() { x.s.core.Do(&Op{Kind: OpWrite, Shard: x.shard, Job: x.id, Cmd: cmd}) })
}

// touch notes that somebody in this process wants the job to run.
func (s *Service) touch(id banyan.JobID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.touched[id] = struct{}{}
}
