package work

import (
	"banyan"
	"banyan/core/harness"
	"banyan/core/mvcc"
)

// errReload asks for the shard's rows to be read anew.
var errReload = banyan.Errorf(banyan.Unavailable, "the rows are not what this controller believed")

// Seat is one shard of a core as its harness drives it. The core's time passes
// for all shards together (Core.Tick), so the seat wants none. It is not safe
// for concurrent use.
type Seat struct {
	core  *Core
	shard banyan.ShardID
	batch *Batch // under way
	touch bool   // it was refused by the fence: what it refers to is to be touched
	again bool   // that is done: its command is to be given again
}

var _ harness.Seat = (*Seat)(nil)

// NewSeat makes the seat of a shard, which is to be loaded (Core.Lead) before
// anything else is asked of it.
func NewSeat(core *Core, shard banyan.ShardID) *Seat { return &Seat{core: core, shard: shard} }

// Tick implements harness.Seat.
func (s *Seat) Tick(harness.Time) {}

// Deadline implements harness.Seat.
func (s *Seat) Deadline() (at int64, ok bool) { return 0, false }

// Reset forgets the command under way, because the core is loaded anew.
func (s *Seat) Reset() { s.batch, s.touch, s.again = nil, false, false }

// Untouched gives the batch that was refused because what it refers to was
// touched too long ago (Batch.Stale), nil if there is none. Nothing else of the
// shard is committed until Touched is called.
func (s *Seat) Untouched() *Batch {
	if !s.touch {
		return nil
	}
	return s.batch
}

// Touched says that what the batch refers to was touched (Batch.Touched): its
// command is given again.
func (s *Seat) Touched() { s.touch, s.again = false, true }

// Next implements harness.Seat: one command is under way at a time.
func (s *Seat) Next(t harness.Time) *mvcc.Command {
	if s.again {
		s.again = false
		return s.batch.Cmd
	}
	b := s.core.NextBatch(t.Now, t.Wall, s.shard)
	if b == nil {
		return nil
	}
	s.batch = b
	return b.Cmd
}

// Committed implements harness.Seat.
func (s *Seat) Committed(t harness.Time, res mvcc.Result) error {
	if s.batch.Stale(res) {
		s.touch = true
		return nil
	}
	if !s.core.Committed(t.Now, s.batch, res) {
		return errReload
	}
	return nil
}

// Refused implements harness.Seat.
func (s *Seat) Refused(_ harness.Time, err error) error {
	if !s.core.Refused(s.batch, err) {
		return errReload
	}
	return nil
}
