package work

import (
	"context"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/harness"
	"banyan/core/job"
	"banyan/engine/seam"
)

// Service drives the core: it runs a controller for each shard led here, talks
// with the workers, and answers the door. Its methods are safe for concurrent use.
type Service struct {
	*seam.Office
	cfg    Config
	began  time.Time
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	inputs inputs
	meter  meter

	members sync.Mutex // orders readings of cfg.Nodes

	mu       sync.Mutex
	core     *Core
	closed   bool
	leads    map[banyan.ShardID]*lead
	records  map[banyan.JobID]*record
	sessions map[banyan.NodeID]*session
	answers  map[uint64]chan Answer
	lastID   uint64
	touched  map[banyan.JobID]struct{} // submitted or resumed in this process, not ended
	calm     bool                      // the next tick is far
	lively   chan struct{}             // it no longer should be
	removed  bool                      // see Removed
}

// record is what the driver keeps of an unfinished job beside the core's Run.
type record struct {
	id        banyan.JobID
	shard     banyan.ShardID
	spec      *banyanv1.JobSpec // with the list of sent files
	journal   *journal
	tasks     uint32             // so far; with chunks and sizes it changes while a source is open: see inputsOf
	chunks    []banyan.TaskIndex // never changed, only replaced or appended to
	sizes     []uint32           // of chunks, in bytes, of a job that streams
	streamed  bool
	source    bool // is open
	followers map[*follower]struct{}
	ended     *banyanv1.Job // the last header
	lost      bool          // led elsewhere, or nowhere
}

// New makes a Service that leads nothing. Close it by ending Run's context.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{
		cfg:      cfg,
		began:    time.Now(),
		inputs:   newInputs(cfg.Led),
		leads:    map[banyan.ShardID]*lead{},
		records:  map[banyan.JobID]*record{},
		sessions: map[banyan.NodeID]*session{},
		answers:  map[uint64]chan Answer{},
		touched:  map[banyan.JobID]struct{}{},
		lively:   make(chan struct{}, 1),
		meter:    newMeter(cfg.Metrics),
	}
	s.core = NewCore(s.shardOf)
	s.core.Fenced = cfg.Chunks != nil
	s.Office = seam.New("jobs", cfg.Led, s.open, func() harness.Time { return harness.Time{Now: s.now(), Wall: s.wall()} }, cfg.Logger)
	cfg.Metrics.Read(s.readMeter)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s
}

// Run lets time pass until ctx ends; then it ends every controller and stream
// and waits for them.
func (s *Service) Run(ctx context.Context) error {
	every := tickMs
	tick := time.NewTicker(tickMs * time.Millisecond)
	defer tick.Stop()
	var read int64
	for {
		if now := s.now(); now-read >= nodesEveryMs || every == calmMs {
			read = now
			s.NodesChanged()
		}
		select {
		case <-tick.C:
			s.input(func() { s.core.Tick(s.now()) })
		case <-s.lively:
		case <-ctx.Done():
			s.mu.Lock()
			s.closed = true
			s.mu.Unlock()
			s.cancel()
			s.Close()
			s.wg.Wait()
			return nil
		}
		if d := s.tickIn(); d != every {
			every = d
			tick.Reset(time.Duration(d) * time.Millisecond)
		}
	}
}

// tickIn is how many milliseconds may pass until the next tick. act says when
// that is no longer so.
func (s *Service) tickIn() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.calm = s.core.Calm(); s.calm {
		return calmMs
	}
	return tickMs
}

// NodesChanged reads the list of members anew. Call it when a node dies or
// comes back, so that its attempts are given to others at once.
func (s *Service) NodesChanged() {
	if s.cfg.Nodes == nil {
		return
	}
	s.members.Lock()
	defer s.members.Unlock()
	nodes := s.cfg.Nodes()
	s.input(func() { s.core.Members(s.now(), nodes) })
}

// Active counts the unfinished jobs led here.
func (s *Service) Active() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.records)
}

// Locate gives the attempt that runs a task now.
func (s *Service) Locate(id banyan.JobID, task banyan.TaskIndex) (node banyan.NodeID, attempt uint64, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	node, key, _, ok := s.core.Locate(id, uint32(task))
	return node, key.Attempt, ok
}

// now is milliseconds on a clock that does not go back, whatever is done to the
// wall clock; it is never 0.
func (s *Service) now() int64 { return 1 + time.Since(s.began).Milliseconds() }

// wall is the time of day in milliseconds since 1970, for people.
func (s *Service) wall() int64 { return s.cfg.Now().UnixMilli() }

// input gives the core something under the lock and does what it then wants.
func (s *Service) input(fn func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	fn()
	s.act()
}

// act does what the core wants. Nothing in it blocks. The lock is held.
func (s *Service) act() {
	if s.calm && !s.core.Calm() {
		s.calm = false
		poke(s.lively)
	}
	e := s.core.Effects()
	for _, r := range e.Results {
		for _, res := range r.Results {
			s.meter.tasks[res.State].Inc()
		}
		if rec := s.records[r.Job]; rec != nil {
			rec.recorded(r)
		}
	}
	for _, c := range e.Changes {
		s.changed(c)
	}
	for _, a := range e.Answers {
		if ch := s.answers[a.Op]; ch != nil {
			delete(s.answers, a.Op)
			ch <- a // has room for one
		}
	}
	for _, c := range e.Close {
		if x := s.sessions[c.Node]; x != nil && x.id.ID == c.ID {
			x.cancel()
		}
	}
	for _, w := range e.Wake {
		if x := s.sessions[w.Node]; x != nil && x.id.ID == w.ID {
			poke(x.wake)
		}
	}
	for _, id := range e.Commits {
		if l := s.leads[id]; l != nil {
			l.Wake()
		}
	}
}

func (s *Service) changed(c Change) {
	rec := s.records[c.Job]
	if rec == nil {
		return
	}
	if job.Ended(c.Header.State) {
		s.meter.jobs[c.Header.State].Inc()
		rec.ended = c.Header
		delete(s.records, c.Job)
		delete(s.touched, c.Job)
	}
	rec.wake()
}

// poke wakes whoever waits on a channel of one place.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// do gives the core an operation and waits for its answer. When ctx ends
// first, the operation may still happen.
func (s *Service) do(ctx context.Context, op *Op) (Answer, error) {
	ch := make(chan Answer, 1)
	s.input(func() {
		s.lastID++
		op.ID = s.lastID
		s.answers[op.ID] = ch
		s.core.Do(op)
	})
	select {
	case a := <-ch:
		return a, a.Err
	case <-ctx.Done():
		s.mu.Lock()
		delete(s.answers, op.ID)
		s.mu.Unlock()
		return Answer{}, banyan.Errorf(banyan.Timeout, "job %s: gave up waiting; it may still happen: %w", op.Job, ctx.Err())
	}
}

// led parses a job id and waits until its shard's controller has read its
// rows. It is NotLeader where the shard is not led.
func (s *Service) led(ctx context.Context, jobID string) (banyan.JobID, banyan.ShardID, error) {
	id, err := banyan.ParseJobID(jobID)
	if err != nil {
		return "", 0, err
	}
	s.mu.Lock()
	shard := s.shardOf([]byte(id))
	l := s.leads[shard]
	s.mu.Unlock()
	switch {
	case l == nil && shard == banyan.RootShard:
		return id, shard, banyan.Errorf(banyan.Moved, "job %s is in a shard that was split off one that is led here: ask again", id)
	case l == nil:
		return id, shard, seam.NotLed(shard)
	}
	_, err = s.Await(ctx, shard)
	return id, shard, err
}
