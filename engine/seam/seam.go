// Package seam is what the controller of a layer stands on. Led is the rows of
// the shards that this node leads, and Controller is what the layer does beside
// them by itself. From anywhere else rows are reached through package route.
//
// Office is a Controller that a layer fills with seats: it gives each shard led
// here a seat and a harness (package core/harness), and is the shell of
// goroutines around them. The shell decides nothing; package sim has another
// one, of events, around the same harness.
package seam

import (
	"context"

	"banyan"
	"banyan/core/mvcc"
)

// Led is the rows of the shards that this node leads.
type Led interface {
	// Commit proposes a command, whose Term is set, here or not at all, behind
	// those proposed before. done is called once, from a goroutine that must not
	// be held up. Unless it is told that nothing happened, try again.
	Commit(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error))
	// Range reads what is applied here.
	Range(ctx context.Context, shard banyan.ShardID, q mvcc.Query) (rows []mvcc.Row, more bool, err error)
	// ReadIndex returns once a majority has said, after the call, that this
	// node leads the shard, and what it had committed by then is applied here.
	ReadIndex(ctx context.Context, shard banyan.ShardID) error
	// Holds gives Moved if another shard holds a row by now.
	Holds(shard banyan.ShardID, row []byte) error
	// Bounds gives the row keys that the shard holds; an empty one is the end.
	Bounds(ctx context.Context, shard banyan.ShardID) (lo, hi []byte, err error)
}

// Controller is what a layer does by itself beside the leader of a shard.
// Neither method blocks.
type Controller interface {
	// Lead says that this node leads a shard in a term. Said again in the same
	// term, it means that the shard was split: the controller begins anew with
	// the rows that are left.
	Lead(shard banyan.ShardID, term uint64)
	// Unlead says that this node leads the shard no more.
	Unlead(shard banyan.ShardID)
}
