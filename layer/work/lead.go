package work

import (
	"context"
	"slices"
	"time"

	"banyan"
	"banyan/core/harness"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/core/retry"
	"banyan/engine/seam"
)

// loadPatience is how long a worker's message waits for the rows of a shard
// that has just been taken over: what it says about them would be lost.
const loadPatience = 200 * time.Millisecond

// lead is a shard led here.
type lead struct {
	*seam.Chair
	s      *Service
	seat   *Seat
	since  int64
	remove chan struct{} // a job is to be removed
	bounds *bounds       // nil until the rows are read: what the core has of the shard

	touchAt int64 // when to touch again what a batch refers to that the fence refused
	wait    retry.Wait
}

var _ seam.Seat = (*lead)(nil)

// open makes the seat of a shard.
func (s *Service) open(c *seam.Chair) seam.Seat {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := &lead{Chair: c, s: s, seat: NewSeat(s.core, c.Shard), since: s.now() - HelloGraceMs, remove: make(chan struct{}, 1)}
	s.leads[c.Shard] = l
	if !s.closed {
		s.wg.Go(func() { s.removals(l) })
	}
	return l
}

// Close implements seam.Seat.
func (l *lead) Close() {
	s := l.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leads[l.Shard] == l {
		delete(s.leads, l.Shard)
		s.lose(l.Shard)
	}
}

// Tick implements harness.Seat.
func (l *lead) Tick(harness.Time) {}

// Deadline implements harness.Seat.
func (l *lead) Deadline() (at int64, ok bool) { return l.touchAt, l.seat.Untouched() != nil }

// Next implements harness.Seat.
func (l *lead) Next(t harness.Time) *mvcc.Command {
	s := l.s
	if b := l.seat.Untouched(); b != nil && !l.touch(t, b) {
		return nil
	}
	s.mu.Lock()
	if s.leads[l.Shard] != l { // another term's lead has the shard's part of the core
		s.mu.Unlock()
		return nil
	}
	cmd := l.seat.Next(t)
	if cmd == nil {
		s.act()
		s.mu.Unlock()
		return nil
	}
	b := l.seat.batch
	recs := s.recordsOf(b)
	s.act()
	s.mu.Unlock()
	s.attachInputs(l.Ctx, b, recs)
	return cmd
}

// Committed implements harness.Seat.
func (l *lead) Committed(t harness.Time, res mvcc.Result) (err error) {
	l.s.input(func() {
		if l.s.leads[l.Shard] != l {
			return
		}
		if l.touchAt = t.Now; !l.seat.batch.Stale(res) {
			l.s.submitted(l.seat.batch, res)
		}
		err = l.seat.Committed(t, res)
	})
	return err
}

// touch touches what a batch refers to that the fence refused.
func (l *lead) touch(t harness.Time, b *Batch) (done bool) {
	if t.Now < l.touchAt {
		return false
	}
	if err := l.s.retouch(l.Ctx, l, b); err != nil {
		l.s.cfg.Logger.Warn("results wait until what they refer to can be looked at", "shard", l.Shard, "error", err)
		l.touchAt = t.Now + l.wait.Next()
		return false
	}
	l.seat.Touched()
	l.wait.Reset()
	return true
}

// Refused implements harness.Seat.
func (l *lead) Refused(t harness.Time, cause error) (err error) {
	l.s.input(func() { err = l.seat.Refused(t, cause) })
	return err
}

// lose forgets the jobs of a shard; those who follow them are told.
func (s *Service) lose(shard banyan.ShardID) {
	s.core.Lose(shard)
	for id, rec := range s.records {
		if rec.shard == shard {
			rec.lost = true
			rec.wake()
			delete(s.records, id)
		}
	}
	s.act()
}

// Load gives the core the shard's unfinished jobs as its rows say.
func (l *lead) Load(ctx context.Context) error {
	s := l.s
	s.NodesChanged()
	jobs, err := Load(ctx, s.cfg.Led, l.Shard)
	if err != nil {
		return err
	}
	in := &bounds{} // read after the rows: a shard only loses some
	if in.lo, in.hi, err = s.cfg.Led.Bounds(ctx, l.Shard); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leads[l.Shard] != l {
		return l.Ctx.Err()
	}
	l.seat.Reset()
	s.give(l, in)
	jobs = slices.DeleteFunc(jobs, func(j Loaded) bool { return !in.has([]byte(j.Run.id)) })
	runs := make([]*Run, len(jobs))
	for i, j := range jobs {
		runs[i] = j.Run
		s.keep(l.Shard, j)
	}
	s.core.Lead(s.now(), l.Shard, l.Term, l.since, runs, s.holds)
	s.act()
	return nil
}

// holds says whether a job found unfinished is to be held. The lock is held.
func (s *Service) holds(id banyan.JobID) bool {
	_, touched := s.touched[id]
	return s.cfg.HoldUnfinished && !touched
}

// keep makes the record of a loaded job. The lock is held.
func (s *Service) keep(shard banyan.ShardID, j Loaded) {
	s.records[j.Run.id] = &record{
		id: j.Run.id, shard: shard, tasks: j.Run.tasks, spec: j.spec, journal: j.journal, chunks: j.chunks, sizes: j.sizes,
		streamed: j.Run.header.Streamed, source: j.Run.source,
		followers: map[*follower]struct{}{},
	}
}

// waitLoaded waits a moment for the shards that are being read.
func (s *Service) waitLoaded(ctx context.Context) {
	var cancel context.CancelFunc
	for _, c := range s.Chairs() {
		select {
		case <-c.Loaded:
			continue
		default:
		}
		if cancel == nil {
			ctx, cancel = context.WithTimeout(ctx, loadPatience)
			defer cancel()
		}
		select {
		case <-c.Loaded:
		case <-c.Ctx.Done():
		case <-ctx.Done():
		}
	}
}

// submitted makes the record of a job just before the core may send its tasks.
// The lock is held.
func (s *Service) submitted(b *Batch, res mvcc.Result) {
	s.fed(b, res)
	if b.op == nil || b.op.Kind != OpSubmit || !res.OK {
		return
	}
	s.keep(b.Shard, Loaded{Run: b.op.Run, spec: b.op.spec, journal: &journal{}, chunks: b.op.chunks, sizes: b.op.sizes})
}

// recordsOf lists the records of the jobs whose results a batch holds, in the
// order of its reports. The lock is held.
func (s *Service) recordsOf(b *Batch) []*record {
	if b == nil {
		return nil
	}
	recs := make([]*record, len(b.reports))
	for i, rep := range b.reports {
		recs[i] = s.records[rep.run.id]
	}
	return recs
}

// attachInputs gives results their inputs, for those who follow the jobs.
func (s *Service) attachInputs(ctx context.Context, b *Batch, recs []*record) {
	for i, rep := range b.reports {
		if rec := recs[i]; rep.final && rec != nil && rep.at.key.Task < rec.tasks {
			in, err := s.inputs.get(ctx, rec.shard, rec.id, rec.chunks, banyan.TaskIndex(rep.at.key.Task))
			if err == nil {
				rep.result.Input = in
			} // else a follower misses it, no more
		}
	}
}

// restore brings an ended job back into memory for OpResume.
func (s *Service) restore(ctx context.Context, shard banyan.ShardID, id banyan.JobID) error {
	header, mod, err := readHeader(ctx, s.cfg.Led, shard, id)
	if err != nil {
		return err
	}
	l, err := load(ctx, s.cfg.Led, shard, header, mod)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[id] != nil || s.leads[shard] == nil || !job.Ended(header.State) {
		return nil
	}
	s.keep(shard, l)
	s.core.Restore(l.Run)
	return nil
}
