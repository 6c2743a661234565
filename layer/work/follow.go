package work

import (
	"context"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
	"banyan/engine/seam"
)

const (
	// progressEvery is how often a follower hears how far the job is.
	progressEvery = 200 * time.Millisecond
	// gatherFor is how long results of a running job gather before they are sent.
	gatherFor = 10 * time.Millisecond
	// followRows and followBytes are where a message takes no more. It holds
	// whole revisions, each of one command, so that whoever breaks off can go
	// on behind the last one and gets nothing twice.
	followRows  = 1000
	followBytes = 1 << 20
)

// follower is one call of Follow. What it has not sent yet is either in queue,
// which then begins right behind what it has sent, or has to be read from rows.
type follower struct {
	rec   *record
	at    int // place in the journal: everything before it has been sent
	live  bool
	queue []*banyanv1.TaskResult
	wake  chan struct{}
}

// recorded passes results on to those who follow. The lock is held.
func (rec *record) recorded(r Recorded) {
	n := 0
	for _, res := range r.Results {
		if res.Task < rec.tasks {
			rec.journal.add(r.Revision, res.Task)
			n++
		}
	}
	for f := range rec.followers {
		if f.live = f.live && len(f.queue)+n <= banyan.FollowQueueMax; f.live {
			f.queue = append(f.queue, r.Results[:n]...)
		} else {
			f.queue = nil
		}
	}
	rec.wake()
}

func (rec *record) wake() {
	for f := range rec.followers {
		poke(f.wake)
	}
}

// Follow sends every result of a job once, in the order of recording, from
// behind a revision on, and about five times a second the job's progress. It
// returns nil after a last message with the state in which the job has ended.
// send keeps nothing of the message.
func (s *Service) Follow(ctx context.Context, req *banyanv1.FollowRequest, send func(*banyanv1.FollowResponse) error) error {
	id, shard, err := s.led(ctx, req.JobId)
	if err != nil {
		return err
	}
	f, err := s.follow(ctx, shard, id, banyan.Revision(req.AfterRevision))
	if err != nil {
		return err
	}
	defer s.unfollow(f)
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for due := true; ; {
		m, over, err := s.followed(ctx, f, due)
		if err != nil {
			return err
		}
		if m != nil {
			if err := send(m); err != nil {
				return err
			}
			due = false
		}
		if over {
			return nil
		}
		if m != nil && len(m.Results) > 0 {
			s.gather(ctx, f)
		}
		if !s.quiet(f) {
			continue
		}
		select {
		case <-f.wake:
		case <-tick.C:
			due = true
		case <-ctx.Done():
			return banyan.Errorf(banyan.Canceled, "following job %s: %w", id, ctx.Err())
		}
	}
}

// follow begins: with the record of an unfinished job, or one made up for a job
// that has ended.
func (s *Service) follow(ctx context.Context, shard banyan.ShardID, id banyan.JobID, after banyan.Revision) (*follower, error) {
	f := &follower{wake: make(chan struct{}, 1)}
	if s.enlist(f, id, after) {
		return f, nil
	}
	header, _, err := readHeader(ctx, s.cfg.Led, shard, id)
	if err != nil {
		return nil, err
	}
	if !job.Ended(header.State) {
		return nil, banyan.Errorf(banyan.Unavailable, "job %s is being read: ask again", id)
	}
	rec := &record{id: id, shard: shard, tasks: header.Tasks, spec: header.Spec, ended: header, streamed: header.Streamed}
	if rec.journal, err = readJournal(ctx, s.cfg.Led, shard, header); err != nil {
		return nil, err
	}
	if rec.chunks, err = readChunkList(ctx, s.cfg.Led, shard, id); err == nil {
		err = s.whole(ctx, shard, id)
	}
	if err != nil {
		return nil, err
	}
	f.rec, f.at = rec, rec.journal.after(after)
	return f, nil
}

func (s *Service) enlist(f *follower, id banyan.JobID, after banyan.Revision) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.records[id]
	if rec == nil {
		return false
	}
	f.rec, f.at = rec, rec.journal.after(after)
	f.live = f.at == rec.journal.len()
	rec.followers[f] = struct{}{}
	return true
}

func (s *Service) unfollow(f *follower) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(f.rec.followers, f)
}

// gather waits a moment for more results to send together, unless some wait
// already or the job is over.
func (s *Service) gather(ctx context.Context, f *follower) {
	timer := time.NewTimer(gatherFor)
	defer timer.Stop()
	for s.gathering(f) {
		select {
		case <-f.wake:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func (s *Service) gathering(f *follower) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.rec.ended == nil && !f.rec.lost && f.at+len(f.queue) == f.rec.journal.len() && len(f.queue) < followRows
}

// quiet says whether there is nothing to send.
func (s *Service) quiet(f *follower) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return f.rec.ended == nil && !f.rec.lost && f.at == f.rec.journal.len()
}

// followed makes the next message, nil if there is nothing to say.
func (s *Service) followed(ctx context.Context, f *follower, due bool) (m *banyanv1.FollowResponse, over bool, err error) {
	s.mu.Lock()
	rec, at := f.rec, f.at
	results := f.takeQueue()
	var unread []entry
	if results == nil {
		unread = rec.journal.entries(f.at, followRows)
	}
	ended, lost := rec.ended, rec.lost
	s.mu.Unlock()
	if lost {
		return nil, true, seam.NotLed(rec.shard)
	}
	if len(unread) > 0 {
		read := 0
		results, read, err = s.readResults(ctx, rec, unread)
		if ended != nil {
			if gone := s.whole(ctx, rec.shard, rec.id); gone != nil { // what was read may lack what is removed
				return nil, false, gone
			}
		}
		if err != nil {
			return nil, false, err
		}
		s.mu.Lock()
		f.at = max(f.at, at+read) // it may have passed over what was trimmed meanwhile
		s.mu.Unlock()
	}
	s.mu.Lock()
	rest := rec.journal.len() - f.at
	if rest == 0 && !f.live {
		f.live, f.queue = true, nil
	}
	revision := rec.journal.complete(f.at)
	s.mu.Unlock()
	over = ended != nil && rest == 0
	if len(results) == 0 && !due && !over {
		return nil, false, nil
	}
	m = &banyanv1.FollowResponse{Results: results, Revision: uint64(revision), State: banyanv1.JobState_JOB_STATE_ACTIVE}
	return m, over, s.describeTo(ctx, rec, m, ended, over, due)
}

// takeQueue gives what is queued: whole revisions, until they fill a message.
func (f *follower) takeQueue() []*banyanv1.TaskResult {
	if !f.live || len(f.queue) == 0 {
		return nil
	}
	n, bytes := 0, 0
	for ; n < len(f.queue); n++ {
		if (n >= followRows || bytes >= followBytes) && f.queue[n].Revision != f.queue[n-1].Revision {
			break
		}
		bytes += proto.Size(f.queue[n])
	}
	out := f.queue[:n:n]
	f.queue = f.queue[n:]
	f.at += n
	return out
}

// describeTo adds state and progress to a message.
func (s *Service) describeTo(ctx context.Context, rec *record, m *banyanv1.FollowResponse, ended *banyanv1.Job, over, due bool) error {
	switch {
	case over:
		m.State, m.Progress = ended.State, ended.Progress
		if rec.spec.Then == nil {
			return nil
		}
		var err error
		m.ThenResult, err = s.result(ctx, rec.shard, rec.id, banyan.TaskIndex(s.view(rec).tasks))
		return err
	case ended != nil:
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.core.Run(rec.id); r != nil {
		m.State = r.header.State
		if due {
			m.Progress = s.core.Progress(s.now(), r)
		}
	}
	return nil
}

// readResults reads results in the order given, as many as fit into one
// message, and says of how many it has taken care. One that was taken back
// since, or recorded anew at a later revision, is left out.
func (s *Service) readResults(ctx context.Context, rec *record, want []entry) (results []*banyanv1.TaskResult, read int, err error) {
	found := make(map[uint32]*banyanv1.TaskResult, len(want))
	bytes := 0
	for _, r := range ranges(want) {
		lo, hi := job.ResultKey(rec.id, banyan.TaskIndex(r.from)), job.ResultKey(rec.id, banyan.TaskIndex(r.to+1))
		err := scan(ctx, s.cfg.Led, rec.shard, mvcc.Query{Lo: lo, Hi: hi}, func(row mvcc.Row) error {
			bytes += len(row.Value)
			res, err := resultOf(row)
			if err == nil {
				found[res.Task] = res
			}
			return err
		})
		if err != nil {
			return nil, 0, err
		}
		if fewer := wholeRevisions(want, len(want)/2); bytes > followBytes && fewer < len(want) {
			return s.readResults(ctx, rec, want[:fewer])
		}
	}
	for _, e := range want {
		res := found[e.task]
		if res == nil || res.Revision != uint64(e.rev) {
			continue
		}
		if res.Input, err = s.inputOf(ctx, rec, e.task); err != nil {
			return nil, 0, err
		}
		results = append(results, res)
	}
	return results, len(want), nil
}

// wholeRevisions gives the first place from n on where a revision ends, and not
// the beginning.
func wholeRevisions(want []entry, n int) int {
	for n = max(n, 1); n < len(want) && want[n].rev == want[n-1].rev; n++ {
	}
	return n
}

type taskRange struct{ from, to uint32 }

// ranges covers tasks with few ranges that hold little else.
func ranges(want []entry) []taskRange {
	const gapMax = 8
	sorted := make([]uint32, len(want))
	for i, e := range want {
		sorted[i] = e.task
	}
	slices.Sort(sorted)
	out := []taskRange{{sorted[0], sorted[0]}}
	for _, t := range sorted[1:] {
		if last := &out[len(out)-1]; t-last.to <= gapMax {
			last.to = t
		} else {
			out = append(out, taskRange{t, t})
		}
	}
	return out
}
