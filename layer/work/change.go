package work

import (
	"context"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// Hold stops a job's attempts and starts no more of it. A job that is held
// stays held.
func (s *Service) Hold(ctx context.Context, req *banyanv1.HoldRequest) (*banyanv1.HoldResponse, error) {
	j, err := s.change(ctx, req.JobId, OpHold, false)
	return &banyanv1.HoldResponse{Job: j}, err
}

// Resume goes on with what is not done, and with what failed if asked to. A
// job that is active or has succeeded needs nothing.
func (s *Service) Resume(ctx context.Context, req *banyanv1.ResumeRequest) (*banyanv1.ResumeResponse, error) {
	j, err := s.change(ctx, req.JobId, OpResume, req.RetryFailed)
	return &banyanv1.ResumeResponse{Job: j}, err
}

// Cancel ends a job; what runs is stopped, results that come later do not
// count. A canceled job stays canceled.
func (s *Service) Cancel(ctx context.Context, req *banyanv1.CancelRequest) (*banyanv1.CancelResponse, error) {
	j, err := s.change(ctx, req.JobId, OpCancel, false)
	return &banyanv1.CancelResponse{Job: j}, err
}

func (s *Service) change(ctx context.Context, jobID string, kind OpKind, retry bool) (*banyanv1.Job, error) {
	id, shard, err := s.led(ctx, jobID)
	if err != nil {
		return nil, err
	}
	if s.record(id) == nil {
		header, _, err := readHeader(ctx, s.cfg.Led, shard, id)
		if err != nil {
			return nil, err
		}
		if enough, err := needless(header, kind, retry); enough || err != nil {
			return s.placed(header, shard), err
		}
		if err := s.restore(ctx, shard, id); err != nil {
			return nil, err
		}
	}
	if kind == OpResume {
		s.touch(id)
	}
	a, err := s.do(ctx, &Op{Kind: kind, Shard: shard, Job: id, Retry: retry})
	s.tidy(id)
	if err != nil {
		if banyan.IsKind(err, banyan.NotFound) { // it has ended meanwhile
			header, _, err := readHeader(ctx, s.cfg.Led, shard, id)
			if err != nil {
				return nil, err
			}
			if _, err = needless(header, kind, retry); err != nil {
				return nil, err
			}
			return s.placed(header, shard), nil
		}
		return nil, err
	}
	a.Job.Leader = uint64(s.cfg.Node)
	return a.Job, nil
}

// needless says what asking for a change of an ended job comes to: enough is
// true if there is nothing to do.
func needless(header *banyanv1.Job, kind OpKind, retry bool) (enough bool, err error) {
	state := header.State
	switch {
	case !job.Ended(state):
		return false, nil
	case kind == OpCancel && state == banyanv1.JobState_JOB_STATE_CANCELED,
		kind == OpResume && state == banyanv1.JobState_JOB_STATE_SUCCEEDED:
		return true, nil
	case kind == OpResume && state == banyanv1.JobState_JOB_STATE_FAILED && retry:
		return false, nil
	}
	return false, conflict(banyan.JobID(header.Id), state, kind)
}

// tidy drops what was noted of a job that is not unfinished after all.
func (s *Service) tidy(id banyan.JobID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.records[id] != nil && s.core.Run(id) == nil {
		delete(s.records, id)
	}
	if s.records[id] == nil {
		delete(s.touched, id)
	}
}
