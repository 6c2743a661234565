package coord

import (
	"slices"

	"banyan"
	"banyan/core/harness"
	"banyan/core/mvcc"
)

// Seat is the core of one shard as its harness drives it, with those who wait
// for answers. It is not safe for concurrent use.
type Seat struct {
	core   *Core // nil until the rows have been read
	calls  map[uint64]func(Answer, error)
	lastOp uint64
}

var _ harness.Seat = (*Seat)(nil)

// Open makes the core from the rows, as the function Open does. Those who wait
// for answers of an earlier core are told to ask again.
func (s *Seat) Open(shard banyan.ShardID, now int64, term, life uint64, rows []mvcc.Row) error {
	core, err := Open(now, term, life, rows)
	if err != nil {
		return err
	}
	s.core = core
	s.Refuse(banyan.Errorf(banyan.Unavailable, "the locks of shard %d were read anew: ask again", shard))
	return nil
}

// Core gives the core, nil until the rows have been read.
func (s *Seat) Core() *Core { return s.core }

// Ask puts a question to the core. reply is called once with its answer, or
// with why there will be none.
func (s *Seat) Ask(question func(c *Core, op uint64), reply func(Answer, error)) (op uint64) {
	if s.calls == nil {
		s.calls = map[uint64]func(Answer, error){}
	}
	s.lastOp++
	op = s.lastOp
	s.calls[op] = reply
	question(s.core, op)
	s.answer()
	return op
}

// Drop says that nobody waits for an answer any more. It is not ok if the
// answer has been given.
func (s *Seat) Drop(op uint64) (ok bool) {
	_, ok = s.calls[op]
	delete(s.calls, op)
	return ok
}

// Refuse answers everybody who waits.
func (s *Seat) Refuse(err error) {
	ops := make([]uint64, 0, len(s.calls))
	for op := range s.calls { // sorted below
		ops = append(ops, op)
	}
	slices.Sort(ops)
	for _, op := range ops {
		reply := s.calls[op]
		delete(s.calls, op)
		reply(Answer{Op: op}, err)
	}
}

// answer passes on the core's answers.
func (s *Seat) answer() {
	for _, a := range s.core.Answers() {
		if reply := s.calls[a.Op]; reply != nil {
			delete(s.calls, a.Op)
			reply(a, nil)
		}
	}
}

// Tick implements harness.Seat.
func (s *Seat) Tick(t harness.Time) {
	s.core.Tick(t.Now)
	s.answer()
}

// Deadline implements harness.Seat.
func (s *Seat) Deadline() (at int64, ok bool) { return s.core.Deadline() }

// Next implements harness.Seat.
func (s *Seat) Next(harness.Time) *mvcc.Command {
	cmd := s.core.Next()
	s.answer()
	return cmd
}

// Committed implements harness.Seat. A command whose condition did not hold
// stood behind one that was lost.
func (s *Seat) Committed(_ harness.Time, res mvcc.Result) error {
	if !res.OK {
		return banyan.Errorf(banyan.Unavailable, "a command of locks was not committed, so that those behind it were refused")
	}
	s.core.Committed(res.Revision)
	s.answer()
	return nil
}

// Refused implements harness.Seat.
func (s *Seat) Refused(_ harness.Time, err error) error { return err }
