// Package work is the life of a job beside the leader of its rows: it takes
// jobs in, gives their tasks to workers, records each result once, and tells
// those who follow.
//
// Core is the pure part: it holds what the unfinished jobs of the shards led
// here still need, takes what happened and answers with what to send and what
// to commit. Service drives it: one lock around the core, a seat and a harness
// for each led shard (package seam), one goroutine for each worker's stream that
// sends.
//
// What is durable are the rows of package job. A controller of a new term
// rebuilds everything else from them and from what the workers say they hold.
package work

import (
	"context"
	"log/slog"
	"time"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/seam"
	"banyan/obs/metric"
)

// Times, in milliseconds.
const (
	// HelloWindowMs is how long after a node's last contact a new controller
	// waits for it to say what it runs, and how long the attempts of a node
	// that is alive outlive its stream.
	HelloWindowMs = 1000
	// HelloGraceMs is the least a new controller waits for a live node whose
	// last contact is old.
	HelloGraceMs = 300
	// LossPatienceMs is how long a dead node may take to come back and say what
	// became of a suspect that it ran.
	LossPatienceMs = 10_000
	// tickMs is how often time-outs are looked at.
	tickMs = 50
	// calmMs is the same when there is none.
	calmMs = 1000
	// nodesEveryMs is how often the list of members is read without being told
	// to, or each calmMs.
	nodesEveryMs = 250
)

// resultsPerCommand leaves room for a second condition with every result: the
// header of a job that it ends.
const resultsPerCommand = banyan.ResultBatchMax / 2

// commandBytes is the size at which a command takes no more. A row is at most
// banyan.ValueBytesMax, so the whole stays below banyan.CommandBytesMax.
const commandBytes = 2 << 20

// NodeInfo is what a controller needs to know of a member of the cluster.
type NodeInfo struct {
	ID       banyan.NodeID
	Name     string
	State    string // as people read it: alive, suspect, dead, draining
	Alive    bool   // or suspect; false: its attempts are given to others
	Draining bool
	Slots    int
	Silent   time.Duration // since it was last heard of
}

// Reader reads the rows of a shard that this node leads, in a state that holds
// at least everything this node knows to be committed.
type Reader interface {
	Range(ctx context.Context, shard banyan.ShardID, q mvcc.Query) (rows []mvcc.Row, more bool, err error)
}

// Config is what a Service is made of.
type Config struct {
	Node    banyan.NodeID
	ShardOf func(partition []byte) banyan.ShardID
	Led     seam.Led
	// Committer commits what needs no term.
	Committer Committer
	// Nodes lists the members of the cluster as known now.
	Nodes func() []NodeInfo
	// Caller gives the node whose certificate a stream has; nil: believe Hello.
	Caller func(ctx context.Context) banyan.NodeID
	// HoldUnfinished holds the jobs that are found unfinished and were neither
	// submitted nor resumed in this process (the embedded node).
	HoldUnfinished bool
	Now            func() time.Time // the wall clock, which may jump; nil: time.Now
	Logger         *slog.Logger
	Metrics        *metric.Set // nil: none
	// Chunks is the blob store that rows refer to; nil: what they refer to is never
	// removed.
	Chunks Chunks
	// Room refuses new jobs of a shard while disks are low (Exhausted); nil: never.
	Room func(banyan.ShardID) error
}
