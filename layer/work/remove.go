package work

import (
	"context"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// A job is removed in steps. The first is one command: it deletes the header, so
// that nobody sees the job any more, and puts a row that says that the rest is to
// go. The steps behind it delete the rest within the bounds of a command, and
// that row last. Whoever leads the shard finds the row, so what one leader began
// the next one ends.

// removeEvery is how often a shard's controller looks for jobs that somebody
// else began to remove.
const removeEvery = time.Minute

// Forget is the first step of the removal of a job whose header was written at a
// revision and says that it has ended.
func Forget(id banyan.JobID, mod banyan.Revision) *mvcc.Command {
	return &mvcc.Command{
		Conds: []mvcc.Cond{{Key: job.HeaderKey(id), Test: mvcc.ModEquals, Number: uint64(mod)}},
		Muts: []mvcc.Mutation{
			{Op: mvcc.Delete, Key: job.HeaderKey(id)},
			{Op: mvcc.Delete, Key: job.EndedKey(id)},
			{Op: mvcc.Put, Key: job.RemovedKey(id)},
		},
	}
}

// NextRemoval gives the next step of the removals under way in a shard, nil if
// there is none.
func NextRemoval(ctx context.Context, r Reader, shard banyan.ShardID) (*mvcc.Command, error) {
	lo, hi := job.RemovedRange()
	rows, _, err := r.Range(ctx, shard, mvcc.Query{Lo: lo, Hi: hi, EachSlot: true, Limit: 1, KeysOnly: true})
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	id, err := job.RemovedOf(rows[0].Key)
	if err != nil {
		return nil, err
	}
	cmd := &mvcc.Command{
		Conds: []mvcc.Cond{{Key: rows[0].Key, Test: mvcc.Exists}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Delete, Key: rows[0].Key}},
	}
	for _, part := range [...]func() (lo, hi []byte){
		func() ([]byte, []byte) { return job.Range(id) },
		func() ([]byte, []byte) { return job.ResultRange(id, 0) },
	} {
		lo, hi := part()
		rows, _, err := r.Range(ctx, shard, mvcc.Query{Lo: lo, Hi: hi, Limit: 1, KeysOnly: true})
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			cmd.Muts = []mvcc.Mutation{{Op: mvcc.DeleteRange, Key: lo, End: hi}}
			break
		}
	}
	return cmd, nil
}

// removals ends the removals of a shard led here, until leadership ends.
func (s *Service) removals(l *lead) {
	tick := time.NewTicker(removeEvery)
	defer tick.Stop()
	select {
	case <-l.Loaded:
	case <-l.Ctx.Done():
		return
	}
	for l.Ctx.Err() == nil {
		more, err := s.removeStep(l)
		if err != nil && l.Ctx.Err() == nil {
			s.cfg.Logger.Debug("a job that is being removed waits", "shard", l.Shard, "error", err)
		}
		if more {
			continue
		}
		select {
		case <-l.remove:
		case <-tick.C:
		case <-l.Ctx.Done():
		}
	}
}

func (s *Service) removeStep(l *lead) (more bool, err error) {
	cmd, err := NextRemoval(l.Ctx, s.cfg.Led, l.Shard)
	if err != nil || cmd == nil {
		return false, err
	}
	_, err = s.do(l.Ctx, &Op{Kind: OpWrite, Shard: l.Shard, Cmd: cmd})
	return err == nil, err
}

// Remove forgets a job that has ended: when it returns, nobody sees the job any
// more, and its rows go in steps. One that has not ended is refused, or canceled
// first if it is forced.
func (s *Service) Remove(ctx context.Context, req *banyanv1.RemoveJobRequest) (*banyanv1.RemoveJobResponse, error) {
	id, shard, err := s.led(ctx, req.JobId)
	if err != nil {
		return nil, err
	}
	for {
		header, mod, err := readHeader(ctx, s.cfg.Led, shard, id)
		if banyan.IsKind(err, banyan.NotFound) {
			if row, _ := get(ctx, s.cfg.Led, shard, job.RemovedKey(id)); row != nil { // asked again: the first answer was lost
				return &banyanv1.RemoveJobResponse{Job: &banyanv1.Job{Id: string(id)}}, nil
			}
		}
		if err != nil {
			return nil, err
		}
		if !job.Ended(header.State) {
			if !req.Force {
				return nil, banyan.Errorf(banyan.Conflict, "job %s is %s: wait for its end, 'banyan cancel' it, or remove it with --force", id, job.Word(header.State))
			}
			_, err := s.Cancel(ctx, &banyanv1.CancelRequest{JobId: req.JobId})
			if err != nil && !banyan.IsKind(err, banyan.Conflict) { // that it has ended meanwhile is as well
				return nil, err
			}
			continue
		}
		a, err := s.do(ctx, &Op{Kind: OpWrite, Shard: shard, Job: id, Cmd: Forget(id, mod)})
		if err != nil {
			return nil, err
		}
		if !a.Result.OK {
			continue // it was resumed, or removed by somebody else
		}
		s.mu.Lock()
		if l := s.leads[shard]; l != nil {
			poke(l.remove)
		}
		s.removed = s.removed || header.StoredBytes > 0
		s.mu.Unlock()
		return &banyanv1.RemoveJobResponse{Job: s.placed(header, shard)}, nil
	}
}

// removing refuses the id of a job that is being removed.
func removing(id banyan.JobID) error {
	return banyan.Errorf(banyan.Conflict, "job %s is being removed: submit under another id", id)
}

// whole says whether a job whose rows were read was there to the end: not, if it
// was removed meanwhile.
func (s *Service) whole(ctx context.Context, shard banyan.ShardID, id banyan.JobID) error {
	if s.record(id) != nil {
		return nil
	}
	key := job.HeaderKey(id)
	rows, _, err := s.cfg.Led.Range(ctx, shard, mvcc.Query{Lo: key, Hi: append(key[:len(key):len(key)], 0), Limit: 1, KeysOnly: true})
	if err == nil && len(rows) == 0 {
		err = noJob(id)
	}
	return err
}

// Removed says whether a job was removed here that took up space beside the rows.
func (s *Service) Removed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removed
}
