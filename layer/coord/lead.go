package coord

import (
	"context"
	"sync"
	"time"

	"banyan"
	"banyan/core/mvcc"
)

// Pauses between tries, doubled from the first to the last.
const (
	retryMin = 5 * time.Millisecond
	retryMax = 500 * time.Millisecond
)

// lead is a shard led here.
type lead struct {
	shard  banyan.ShardID
	term   uint64
	ctx    context.Context
	cancel context.CancelFunc
	wake   chan struct{} // the core has something to commit, or another deadline
	loaded chan struct{} // closed once there is a core

	mu     sync.Mutex
	core   *Core
	calls  map[uint64]chan Answer // each has room for one
	lastOp uint64

	flight []*command // of the core, in order; only for control
}

// command is one on its way.
type command struct {
	*mvcc.Command
	became chan fate // has room for one
}

type fate struct {
	res mvcc.Result
	err error // it was not committed
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
	l := &lead{shard: shard, term: term, wake: make(chan struct{}, 1), loaded: make(chan struct{}), calls: map[uint64]chan Answer{}}
	l.ctx, l.cancel = context.WithCancel(ctx)
	s.leads[shard] = l
	s.wg.Go(func() { s.control(l) })
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
	}
}

// control is one shard's controller: it reads the rows, then commits what the
// core decides, until leadership ends.
func (s *Service) control(l *lead) {
	defer func() {
		l.cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.leads[l.shard] == l {
			delete(s.leads, l.shard)
		}
	}()
	for wait := retryMin; ; wait = min(wait*2, retryMax) {
		err := s.load(l)
		if err == nil {
			wait = retryMin
			l.flight = nil
			err = s.commits(l)
		}
		if l.ctx.Err() != nil || banyan.IsKind(err, banyan.Stale) {
			return
		}
		s.cfg.Logger.Warn("reading the locks of a shard again", "shard", l.shard, "term", l.term, "error", err)
		sleep(l.ctx, wait)
	}
}

// load makes the core of what the rows say. Those who wait for answers of an
// earlier one ask again.
func (s *Service) load(l *lead) error {
	var rows []mvcc.Row
	for q := All(); ; {
		page, more, err := s.cfg.Replicas.Range(l.ctx, l.shard, q)
		if err != nil {
			return err
		}
		rows = append(rows, page...)
		if !more {
			break
		}
		last := page[len(page)-1].Key[slotBytes:]
		q.Lo = append(last[:len(last):len(last)], 0)
	}
	core, err := Open(s.now(), l.term, s.lives.Add(1), rows)
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	first := l.core == nil
	l.core = core
	for op, ch := range l.calls {
		ch <- Answer{Op: op, Err: banyan.Errorf(banyan.Unavailable, "the locks of shard %d were read anew: ask again", l.shard)}
	}
	clear(l.calls)
	if first {
		close(l.loaded)
	}
	return nil
}

// commits carries out what the core decides: while some commands are on their
// way the next gathers. After one has failed it waits for the rest.
func (s *Service) commits(l *lead) error {
	var failed error
	for {
		l.mu.Lock()
		failed = l.settle(failed)
		var fresh []*command
		if failed == nil {
			l.core.Tick(s.now())
			for cmd := l.core.Next(); cmd != nil; cmd = l.core.Next() {
				fresh = append(fresh, &command{cmd, make(chan fate, 1)})
			}
		}
		at, timed := l.core.Deadline()
		l.answer()
		l.mu.Unlock()
		l.flight = append(l.flight, fresh...)
		for _, c := range fresh {
			c.Request = banyan.NewRequestID()
			c.Time = banyan.TimestampOf(s.cfg.Now().UnixMilli())
			s.commit(l, c, retryMin)
		}
		if failed != nil && (len(l.flight) == 0 || banyan.IsKind(failed, banyan.Stale)) {
			return failed
		}
		if err := l.rest(timed && failed == nil, time.Duration(at-s.now())*time.Millisecond); err != nil {
			return err
		}
	}
}

// settle tells the core, in order, of commands that are committed, until one
// has failed, and gives the error of the first that has. The lock is held.
func (l *lead) settle(failed error) error {
	for len(l.flight) > 0 {
		select {
		case o := <-l.flight[0].became:
			l.flight = l.flight[1:]
			if failed == nil && o.err == nil {
				l.core.Committed(o.res.Revision)
			} else if failed == nil {
				failed = o.err
			}
		default:
			return failed
		}
	}
	return failed
}

// rest waits until there is something to do, for d at most if timed.
func (l *lead) rest(timed bool, d time.Duration) error {
	var over <-chan time.Time
	if timed {
		t := time.NewTimer(max(d, time.Millisecond))
		defer t.Stop()
		over = t.C
	}
	select {
	case <-l.wake:
	case <-over:
	case <-l.ctx.Done():
		return l.ctx.Err()
	}
	return nil
}

// commit commits one command, asking under the same request id until it is
// clear what became of it.
func (s *Service) commit(l *lead, c *command, wait time.Duration) {
	own := *c.Command
	s.cfg.Replicas.Commit(l.ctx, l.shard, &own, func(res mvcc.Result, err error) {
		switch {
		case err == nil && res.Stale, banyan.IsKind(err, banyan.Stale):
			err = banyan.Errorf(banyan.Stale, "shard %d: term %d is over", l.shard, l.term)
		case err == nil && !res.OK && len(own.Conds) > 0:
			err = banyan.Errorf(banyan.Unavailable, "a command of locks was not committed, so that those behind it were refused")
		case err == nil && !res.OK:
			err = banyan.Errorf(banyan.Internal, "a command of locks was refused: %+v", res)
		case err != nil && !banyan.IsKind(err, banyan.Invalid) && !banyan.IsKind(err, banyan.Moved): // Moved: the shard was split, and is read anew
			if wait < retryMax && 2*wait >= retryMax { // once
				s.cfg.Logger.Warn("a shard does not commit; trying again", "shard", l.shard, "term", l.term, "error", err)
			}
			time.AfterFunc(wait, func() {
				if l.ctx.Err() == nil {
					s.commit(l, c, min(wait*2, retryMax))
				}
			})
			return
		}
		c.became <- fate{res, err}
		poke(l.wake)
	})
}

// answer passes on the core's answers. The lock is held.
func (l *lead) answer() {
	for _, a := range l.core.Answers() {
		if ch := l.calls[a.Op]; ch != nil {
			delete(l.calls, a.Op)
			ch <- a
		}
	}
}

// ask puts a question to the core and waits for the answer, which has Op 0 if
// none came within wait (0: however long it takes). forget tells the core then.
func (l *lead) ask(ctx context.Context, wait time.Duration, question, forget func(op uint64)) (Answer, error) {
	ch := make(chan Answer, 1)
	l.mu.Lock()
	l.lastOp++
	op := l.lastOp
	l.calls[op] = ch
	question(op)
	l.answer()
	l.mu.Unlock()
	poke(l.wake)
	var over <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	var err error
	select {
	case a := <-ch:
		return a, nil
	case <-over:
	case <-l.ctx.Done():
		err = notLed(l.shard)
	case <-ctx.Done():
		err = banyan.Errorf(banyan.Timeout, "gave up waiting for shard %d; it may still happen: %w", l.shard, ctx.Err())
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.calls, op)
	if forget != nil {
		forget(op)
	}
	select {
	case a := <-ch: // it came after all
		return a, nil
	default:
	}
	return Answer{}, err
}

// led gives the controller of a shard once it has read the rows, NotLeader
// where the shard is not led.
func (s *Service) led(ctx context.Context, shard banyan.ShardID) (*lead, error) {
	s.mu.Lock()
	l := s.leads[shard]
	s.mu.Unlock()
	if l == nil {
		return nil, notLed(shard)
	}
	select {
	case <-l.loaded:
		return l, nil
	case <-l.ctx.Done():
		return nil, notLed(shard)
	case <-ctx.Done():
		return nil, banyan.Errorf(banyan.Timeout, "the locks of shard %d are still being read: ask again", shard)
	}
}

func notLed(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.NotLeader, "shard %d is not led by this node: ask its leader", shard)
}

// poke wakes whoever waits on a channel of one place.
func poke(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
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
