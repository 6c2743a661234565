// Package shards changes the shard map: it decides that a shard is split, and
// sees beside the root shard's leader that each split that was decided is carried
// out.
//
// A split goes in three steps. Its decision is written into the map: the parent,
// where the child begins, the child's number. The parent's leader forks the shard,
// in one entry of its log. The child is written into the map. The second step can
// be asked for again and again, with the same numbers; so whoever leads the root
// shard goes on where the one before has ended, and a split that was decided does
// happen. One is under way at a time.
package shards

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/route"
)

// DB changes and reads rows of the root shard, and asks leaders of others.
// *route.Router is one.
type DB interface {
	Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error)
	Read(ctx context.Context, shard banyan.ShardID, q route.ReadQuery) (route.ReadResult, error)
	// Split forks a shard, if that was not done, and gives its revision then.
	Split(ctx context.Context, shard banyan.ShardID, at []byte, child banyan.ShardID) (banyan.Revision, error)
	// Counts tells how many rows a shard holds.
	Counts(ctx context.Context, shard banyan.ShardID) ([]mvcc.Count, error)
}

var _ DB = (*route.Router)(nil)

// Config is what a Service is made of.
type Config struct {
	DB     DB
	Row    []byte // the map's
	Logger *slog.Logger
}

// Service splits shards. It is safe for concurrent use.
type Service struct {
	cfg  Config
	wake chan struct{}

	mu   sync.Mutex
	stop context.CancelFunc // of the controller; nil: none runs
	wg   sync.WaitGroup
}

// New makes a Service that leads nothing. End it with Unlead.
func New(cfg Config) *Service { return &Service{cfg: cfg, wake: make(chan struct{}, 1)} }

// read gives the map as it is now, and the revision of its row.
func (s *Service) read(ctx context.Context) (*shardmap.Map, banyan.Revision, error) {
	res, err := s.cfg.DB.Read(ctx, banyan.RootShard, route.ReadQuery{Key: s.cfg.Row})
	if err != nil {
		return nil, 0, err
	}
	if len(res.Rows) == 0 {
		return nil, 0, banyan.Errorf(banyan.Unavailable, "the cluster has no shard map yet: it is being made; try again")
	}
	m, err := shardmap.Decode(res.Rows[0].Value)
	return m, res.Rows[0].Mod, err
}

// write replaces the map of a revision. ok is false if it has changed since.
// term, if not 0, is that in which this node leads the root shard.
func (s *Service) write(ctx context.Context, m *shardmap.Map, was banyan.Revision, term uint64) (ok bool, err error) {
	cmd := &mvcc.Command{
		Term:  term,
		Conds: []mvcc.Cond{{Key: s.cfg.Row, Test: mvcc.ModEquals, Number: uint64(was)}},
		Muts:  []mvcc.Mutation{{Op: mvcc.Put, Key: s.cfg.Row, Value: m.Encode()}},
	}
	if term != 0 {
		cmd.Request = banyan.NewRequestID()
	}
	res, err := s.cfg.DB.Commit(ctx, banyan.RootShard, cmd)
	return res.OK, err
}

// Decided is a split as it was decided.
type Decided struct {
	shardmap.Split
	Epoch uint64 // of the map that tells of it
}

// Decide writes down that a shard is to be split before a slot, or without one
// (less than 0) where half of its bytes lie on either side. epoch is that of the
// map that the caller knows: a map that has changed since is Conflict, unless by
// this very decision, whose answer was lost.
func (s *Service) Decide(ctx context.Context, parent banyan.ShardID, slot int, epoch uint64) (Decided, error) {
	for {
		m, was, err := s.read(ctx)
		if err != nil {
			return Decided{}, err
		}
		if p := m.Pending; m.Epoch == epoch+1 && p != nil && p.Parent == parent && (slot < 0 || string(p.At) == string(banyan.SlotKey(slot))) {
			return Decided{*p, m.Epoch}, nil
		}
		if m.Epoch != epoch {
			return Decided{}, banyan.Errorf(banyan.Conflict, "the shards have changed meanwhile (map %d, now %d): look at 'banyan status', the split may have been made", epoch, m.Epoch)
		}
		at, err := s.place(ctx, m, parent, slot)
		if err != nil {
			return Decided{}, err
		}
		next, err := m.Decide(parent, at)
		if err != nil {
			return Decided{}, err
		}
		if ok, err := s.write(ctx, next, was, 0); err != nil || ok {
			s.Wake()
			return Decided{*next.Pending, next.Epoch}, err
		}
	}
}

// place gives the first row key of the child.
func (s *Service) place(ctx context.Context, m *shardmap.Map, parent banyan.ShardID, slot int) ([]byte, error) {
	from, until := m.SlotsOf(parent)
	switch {
	case m.Pending != nil: // no kind that a client would ask again for
		return nil, banyan.Errorf(banyan.Conflict, "shard %d is being split, and one split is made at a time: try again when that is done", m.Pending.Parent)
	case parent == banyan.RootShard, !m.Has(parent):
		_, err := m.Decide(parent, nil) // says why not
		return nil, err
	case until-from < 2:
		return nil, banyan.Errorf(banyan.Invalid, "shard %d holds slot %d alone: a shard of one slot cannot be split", parent, from)
	case slot >= 0 && (slot <= from || slot >= until):
		return nil, banyan.Errorf(banyan.Invalid, "shard %d holds the slots %d to %d: split it at %d to %d", parent, from, until-1, from+1, until-1)
	case slot >= 0:
		return banyan.SlotKey(slot), nil
	}
	counts, err := s.cfg.DB.Counts(ctx, parent)
	if err != nil {
		return nil, err
	}
	weight := map[int]int64{}
	for _, c := range counts {
		weight[c.Slot] += c.Bytes
	}
	at, ok := m.Middle(parent, func(slot int) int64 { return weight[slot] })
	if !ok {
		return nil, banyan.Errorf(banyan.Internal, "shard %d has no middle", parent)
	}
	return at, nil
}

// Wake has the controller look at the map again.
func (s *Service) Wake() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Lead starts the controller: this node leads the root shard in a term. It does
// not block.
func (s *Service) Lead(ctx context.Context, term uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
	}
	ctx, s.stop = context.WithCancel(ctx)
	s.wg.Go(func() { s.control(ctx, term) })
}

// Unlead ends the controller, and waits until it has.
func (s *Service) Unlead() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stop != nil {
		s.stop()
		s.stop = nil
	}
	s.wg.Wait()
}

const (
	lookEvery = 5 * time.Second // at the map, when nothing announces a change
	retryMin  = 20 * time.Millisecond
	retryMax  = time.Second
	stepMax   = 10 * time.Second // for one step
)

// control carries out what is decided, until leadership ends.
func (s *Service) control(ctx context.Context, term uint64) {
	for wait := retryMin; ctx.Err() == nil; {
		more, err := s.step(ctx, term)
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			s.cfg.Logger.Warn("a split does not go on; trying again", "error", err)
			s.rest(ctx, wait)
			wait = min(2*wait, retryMax)
		case !more:
			s.rest(ctx, lookEvery)
			wait = retryMin
		}
	}
}

func (s *Service) rest(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-s.wake:
	case <-t.C:
	case <-ctx.Done():
	}
}

// step carries out the split that is decided. more is false if there is none.
func (s *Service) step(ctx context.Context, term uint64) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepMax)
	defer cancel()
	m, was, err := s.read(ctx)
	if banyan.IsKind(err, banyan.Unavailable) && m == nil {
		return false, nil // there is no map, or no majority to read it from: nothing is lost by looking later
	}
	if err != nil || m.Pending == nil {
		return false, err
	}
	p := m.Pending
	forked, err := s.cfg.DB.Split(ctx, p.Parent, p.At, p.Child)
	next := m.Finish(forked)
	switch {
	case banyan.IsKind(err, banyan.Invalid): // and so never will
		s.cfg.Logger.Error("a split is given up: the shard's leader refuses it", "shard", p.Parent, "child", p.Child, "error", err)
		next = m.GiveUp()
	case err != nil:
		return true, err
	}
	ok, err := s.write(ctx, next, was, term)
	if ok && next.Has(p.Child) {
		s.cfg.Logger.Info("a shard was split", "shard", p.Parent, "child", p.Child, "at", p.At, "revision", forked, "epoch", next.Epoch)
	}
	return true, err
}
