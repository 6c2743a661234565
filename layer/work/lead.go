package work

import (
	"context"
	"errors"
	"slices"
	"time"

	"banyan"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// Pauses between tries, doubled from the first to the last.
const (
	retryMin = 5 * time.Millisecond
	retryMax = 500 * time.Millisecond
)

// loadPatience is how long a worker's message waits for the rows of a shard
// that has just been taken over: what it says about them would be lost.
const loadPatience = 200 * time.Millisecond

// errReload asks for the shard's rows to be read anew.
var errReload = errors.New("the rows are not what this controller believed")

// lead is a shard led here.
type lead struct {
	shard  banyan.ShardID
	term   uint64
	since  int64
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{}
	loaded chan struct{} // closed once the core has the shard's jobs
	remove chan struct{} // a job is to be removed
	ready  bool          // loaded is closed
	bounds *bounds       // nil until the rows are read: what the core has of the shard
}

// Lead starts the controller of a shard that this node leads in a term. It
// ends with Unlead, with another Lead of the shard, or with ctx. It does not
// block.
func (s *Service) Lead(ctx context.Context, shard banyan.ShardID, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlead(shard)
	if s.closed {
		return
	}
	l := &lead{shard: shard, term: term, since: s.now() - HelloGraceMs, wake: make(chan struct{}, 1), loaded: make(chan struct{}), remove: make(chan struct{}, 1)}
	l.ctx, l.cancel = context.WithCancel(ctx)
	stop := context.AfterFunc(s.ctx, l.cancel)
	s.leads[shard] = l
	s.wg.Go(func() {
		defer stop()
		s.control(l)
	})
	s.wg.Go(func() { s.removals(l) })
}

// Unlead ends the controller of a shard. It does not block.
func (s *Service) Unlead(shard banyan.ShardID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unlead(shard)
}

func (s *Service) unlead(shard banyan.ShardID) {
	if l := s.leads[shard]; l != nil {
		l.cancel()
		delete(s.leads, shard)
		s.lose(shard)
	}
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

// control is one shard's controller: it reads the rows, then commits what the
// core has for it, until leadership ends.
func (s *Service) control(l *lead) {
	for wait := retryMin; l.ctx.Err() == nil; wait = min(wait*2, retryMax) {
		err := s.load(l)
		if err == nil {
			wait = retryMin
			err = s.commits(l)
		}
		if l.ctx.Err() != nil {
			break
		}
		if banyan.IsKind(err, banyan.Stale) {
			s.input(func() { s.lose(l.shard) })
			<-l.ctx.Done()
			break
		}
		if !banyan.IsKind(err, banyan.Moved) { // else the shard was split: what is left of it is read
			s.cfg.Logger.Warn("reading the jobs of a shard again", "shard", l.shard, "term", l.term, "error", err)
		}
		sleep(l.ctx, wait)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leads[l.shard] == l {
		s.unlead(l.shard)
	}
}

// load gives the core the shard's unfinished jobs as its rows say.
func (s *Service) load(l *lead) error {
	s.NodesChanged()
	jobs, err := Load(l.ctx, s.cfg.Reader, l.shard)
	if err != nil {
		return err
	}
	in := &bounds{} // read after the rows: a shard only loses some
	if in.lo, in.hi, err = s.cfg.Reader.Bounds(l.ctx, l.shard); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leads[l.shard] != l {
		return l.ctx.Err()
	}
	s.give(l, in)
	jobs = slices.DeleteFunc(jobs, func(j Loaded) bool { return !in.has([]byte(j.Run.id)) })
	runs := make([]*Run, len(jobs))
	for i, j := range jobs {
		runs[i] = j.Run
		s.keep(l.shard, j)
	}
	s.core.Lead(s.now(), l.shard, l.term, l.since, runs, s.holds)
	s.act()
	if !l.ready {
		l.ready = true
		close(l.loaded)
	}
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
	var loading []*lead
	s.mu.Lock()
	for _, l := range s.leads {
		if !l.ready {
			loading = append(loading, l)
		}
	}
	s.mu.Unlock()
	if len(loading) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, loadPatience)
	defer cancel()
	for _, l := range loading {
		select {
		case <-l.loaded:
		case <-l.ctx.Done():
		case <-ctx.Done():
		}
	}
}

// commits carries out the core's commands for a shard, one at a time: while
// one is on its way the next gathers.
func (s *Service) commits(l *lead) error {
	for {
		s.mu.Lock()
		b := s.core.NextBatch(s.now(), s.wall(), l.shard)
		recs := s.recordsOf(b)
		s.act()
		s.mu.Unlock()
		if b == nil {
			select {
			case <-l.wake:
				continue
			case <-l.ctx.Done():
				return l.ctx.Err()
			}
		}
		s.attachInputs(l.ctx, b, recs)
		res, err := s.commit(l, b.Cmd)
		for wait := retryMin; err == nil && b.Stale(res) && l.ctx.Err() == nil; wait = min(wait*2, retryMax) {
			if terr := s.retouch(l.ctx, l, b); terr != nil {
				s.cfg.Logger.Warn("results wait until what they refer to can be looked at", "shard", l.shard, "error", terr)
				sleep(l.ctx, wait)
				continue
			}
			res, err = s.commit(l, b.Cmd)
		}
		ok := true
		switch {
		case err == nil:
			s.input(func() {
				s.submitted(b, res)
				ok = s.core.Committed(s.now(), b, res)
			})
		case banyan.IsKind(err, banyan.Stale), banyan.IsKind(err, banyan.Moved), l.ctx.Err() != nil:
			return err
		default:
			s.cfg.Logger.Error("a command of a controller was refused", "shard", l.shard, "error", err)
			s.input(func() { ok = s.core.Refused(b, err) })
		}
		if !ok {
			return errReload
		}
	}
}

// commit commits one command of a controller, asking under the same request
// id until it is clear what became of it.
func (s *Service) commit(l *lead, cmd *mvcc.Command) (mvcc.Result, error) {
	cmd.Request = banyan.NewRequestID()
	for wait := retryMin; ; wait = min(wait*2, retryMax) {
		own := *cmd
		res, err := s.cfg.Committer.Commit(l.ctx, l.shard, &own)
		switch {
		case err == nil && !res.Stale:
			return res, nil
		case err == nil:
			return res, banyan.Errorf(banyan.Stale, "shard %d: term %d is over", l.shard, l.term)
		}
		switch banyan.KindOf(err) {
		case banyan.Stale, banyan.Invalid, banyan.Moved:
			return res, err
		}
		if wait < retryMax && 2*wait >= retryMax { // once
			s.cfg.Logger.Warn("a shard does not commit; trying again", "shard", l.shard, "term", l.term, "error", err)
		}
		if sleep(l.ctx, wait); l.ctx.Err() != nil {
			return mvcc.Result{}, l.ctx.Err()
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

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// restore brings an ended job back into memory for OpResume.
func (s *Service) restore(ctx context.Context, shard banyan.ShardID, id banyan.JobID) error {
	header, mod, err := readHeader(ctx, s.cfg.Reader, shard, id)
	if err != nil {
		return err
	}
	l, err := load(ctx, s.cfg.Reader, shard, header, mod)
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
