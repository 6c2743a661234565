package coord

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/harness"
	"banyan/core/mvcc"
	"banyan/engine/route"
	"banyan/engine/seam"
)

// Rows reads and watches rows of any shard, wherever it is led.
type Rows interface {
	Read(ctx context.Context, shard banyan.ShardID, q route.ReadQuery) (route.ReadResult, error)
	Watch(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func(evs []mvcc.Event, upTo banyan.Revision) error) error
}

// Shards says where locks live.
type Shards interface {
	ShardOf(partition []byte) banyan.ShardID
	ShardOfSlot(slot int) banyan.ShardID
	Spans() []route.Span
}

var (
	_ Rows   = (*route.Router)(nil)
	_ Shards = (*route.Router)(nil)
)

// Config is what a Service is made of.
type Config struct {
	Led    seam.Led
	Rows   Rows
	Shards Shards
	Logger *slog.Logger
	Now    func() time.Time // with a monotonic part; nil: time.Now
}

// Service answers banyan.v1.Coord, whose definition is the contract of its
// methods. Acquire, Release and KeepAlive are answered for shards led here, and
// with NotLeader for others. Its methods are safe for concurrent use.
type Service struct {
	*seam.Office
	cfg   Config
	start time.Time
	lives atomic.Uint64
}

// New makes a Service that leads nothing. Close it by ending Run's context.
func New(cfg Config) *Service {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Service{cfg: cfg, start: cfg.Now()}
	s.Office = seam.New("locks", cfg.Led, s.open, s.time, cfg.Logger)
	return s
}

// Run waits until ctx ends; then it ends every controller and waits for them.
func (s *Service) Run(ctx context.Context) error {
	<-ctx.Done()
	s.Close()
	return nil
}

// Counts says how many leases there are in the shards led here, and how many
// locks are held or waited for.
func (s *Service) Counts() (leases, locks int) {
	for _, c := range s.Chairs() {
		l := c.Seat().(*lead)
		l.mu.Lock()
		if core := l.seat.core; core != nil {
			a, b := core.Counts()
			leases, locks = leases+a, locks+b
		}
		l.mu.Unlock()
	}
	return leases, locks
}

// now is milliseconds on the monotonic clock.
func (s *Service) now() int64 { return s.cfg.Now().Sub(s.start).Milliseconds() }

func (s *Service) time() harness.Time {
	return harness.Time{Now: s.now(), Wall: s.cfg.Now().UnixMilli()}
}

func (s *Service) shardOf(name string) banyan.ShardID {
	return s.cfg.Shards.ShardOf(banyan.Partition([]byte(name)))
}

// nameRow is the first row key of the partition of a name.
func nameRow(name string) []byte {
	return banyan.SlotKey(banyan.SlotOf(banyan.Partition([]byte(name))))
}

// ledFor gives the controller of the locks of a partition. The map here may be
// behind a split: the shard says itself whether it holds the name.
func (s *Service) ledFor(ctx context.Context, name string) (*lead, error) {
	shard := s.shardOf(name)
	l, err := s.leadOf(ctx, shard)
	if err == nil {
		err = s.cfg.Led.Holds(shard, nameRow(name))
	}
	return l, err
}

// Acquire claims a lock.
func (s *Service) Acquire(ctx context.Context, req *banyanv1.AcquireRequest) (*banyanv1.AcquireResponse, error) {
	if err := checkAcquire(req); err != nil {
		return nil, err
	}
	l, err := s.ledFor(ctx, req.Name)
	if err != nil {
		return nil, err
	}
	wall := s.cfg.Now().UnixMilli()
	wait := time.Duration(min(req.WaitMs, waitMaxMs)) * time.Millisecond
	a, err := l.ask(ctx, wait, func(c *Core, op uint64) {
		c.Acquire(s.now(), op, req, wall, wait > 0)
	}, func(c *Core, op uint64) { c.Forget(op, req.Lease, req.Name) })
	if err == nil && a.Op == 0 { // it waited long enough: how does it stand?
		still := &banyanv1.AcquireRequest{Name: req.Name, Lease: req.Lease, Shared: req.Shared, Permits: req.Permits}
		a, err = l.ask(ctx, 0, func(c *Core, op uint64) { c.Acquire(s.now(), op, still, wall, false) }, nil)
	}
	if err = s.confirmed(ctx, l, req.Name, a, err); err != nil {
		return nil, err
	}
	return &banyanv1.AcquireResponse{Claim: a.Claim, Holder: a.Holder}, nil
}

// Release gives up a claim or a lease.
func (s *Service) Release(ctx context.Context, req *banyanv1.ReleaseRequest) (*banyanv1.ReleaseResponse, error) {
	of := req.Name
	if of == "" {
		of = req.Partition
	}
	if err := checkName(of); err != nil {
		return nil, err
	}
	if err := checkLease(req.Lease); err != nil {
		return nil, err
	}
	l, err := s.ledFor(ctx, of)
	if err != nil {
		return nil, err
	}
	a, err := l.ask(ctx, 0, func(c *Core, op uint64) { c.Release(s.now(), op, req.Lease, req.Name) }, nil)
	if err = s.confirmed(ctx, l, of, a, err); err != nil {
		return nil, err
	}
	return &banyanv1.ReleaseResponse{Released: a.Released}, nil
}

// confirmed gives an answer's error, having made sure that the answer was
// this node's to give, and about the locks of this shard. In between the shard
// may have been split, and the child's leader have given the lock to another.
func (s *Service) confirmed(ctx context.Context, l *lead, name string, a Answer, err error) error {
	if err == nil && a.Confirm {
		if err = s.cfg.Led.ReadIndex(ctx, l.Shard); err == nil {
			err = s.cfg.Led.Holds(l.Shard, nameRow(name))
		}
	}
	if err != nil {
		return err
	}
	return a.Err
}

// KeepAlive lets leases last longer. Of those whose shards are led elsewhere
// it says nothing.
func (s *Service) KeepAlive(ctx context.Context, req *banyanv1.KeepAliveRequest) (*banyanv1.KeepAliveResponse, error) {
	if err := checkKeepAlive(req); err != nil {
		return nil, err
	}
	shards := map[banyan.ShardID][]*banyanv1.LeaseRef{}
	for _, ref := range req.Leases {
		shard := s.shardOf(ref.Partition)
		shards[shard] = append(shards[shard], ref)
	}
	out := &banyanv1.KeepAliveResponse{}
	var mu sync.Mutex // of out and failed
	var failed error
	var wg sync.WaitGroup
	for shard, refs := range shards {
		wg.Go(func() {
			kept, ended, err := s.keepAlive(ctx, shard, refs)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed = err
				return
			}
			out.Kept, out.Ended = append(out.Kept, kept...), append(out.Ended, ended...)
		})
	}
	wg.Wait()
	if len(out.Kept)+len(out.Ended) > 0 {
		failed = nil
	}
	return out, failed
}

// keepAlive lets leases of one shard last longer.
func (s *Service) keepAlive(ctx context.Context, shard banyan.ShardID, refs []*banyanv1.LeaseRef) (kept, ended []uint64, err error) {
	l, err := s.leadOf(ctx, shard)
	if err != nil {
		return nil, nil, err
	}
	ids := make([]uint64, len(refs))
	for i, ref := range refs {
		ids[i] = ref.Lease
	}
	l.mu.Lock()
	ended = l.seat.core.KeepAlive(s.now(), ids)
	l.mu.Unlock()
	if err := s.cfg.Led.ReadIndex(ctx, shard); err != nil {
		return nil, nil, err
	}
	gone := map[uint64]bool{}
	for _, id := range ended {
		gone[id] = true
	}
	for _, ref := range refs {
		if err := s.cfg.Led.Holds(shard, nameRow(ref.Partition)); err != nil {
			return nil, nil, err // the shard was split: what it does not know may be the child's
		}
		if gone[ref.Lease] {
			continue
		}
		row := LeaseRow(partitionOf(ref.Partition), ref.Lease)
		rows, _, err := s.cfg.Led.Range(ctx, shard, mvcc.Query{Lo: row, Hi: append(row[:len(row):len(row)], 0), Limit: 1, KeysOnly: true})
		switch {
		case err != nil:
			return nil, nil, err
		case len(rows) == 0:
			ended = append(ended, ref.Lease)
		default:
			kept = append(kept, ref.Lease)
		}
	}
	return kept, ended, nil
}
