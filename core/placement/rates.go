package placement

import "banyan"

// Rates measures how fast the revisions of shards grow, as a mean over about so
// long, in which what is new counts little by little: work that wanders from shard
// to shard in less than that looks alike everywhere. Every node that holds a replica
// measures it, so that a shard's load is known at once to who leads it next.
type Rates struct {
	overMs int64
	shards map[banyan.ShardID]rate
}

type rate struct {
	revision banyan.Revision
	atMs     int64
	mean     float64 // changes a second
}

// RateNoise is how many changes a second are as good as none.
const RateNoise = 20

// samples is how many times in the span of the mean a revision is looked at, at most.
const samples = 16

// NewRates measures over overMs.
func NewRates(overMs int64) *Rates {
	return &Rates{overMs: overMs, shards: map[banyan.ShardID]rate{}}
}

// Note takes in a shard's revision at a time and gives its rate so far.
func (r *Rates) Note(shard banyan.ShardID, rev banyan.Revision, nowMs int64) uint64 {
	have, ok := r.shards[shard]
	passed := nowMs - have.atMs
	switch {
	case !ok || rev < have.revision:
		have = rate{revision: rev, atMs: nowMs}
	case passed*samples >= r.overMs:
		now := float64(rev-have.revision) * 1000 / float64(passed)
		have.mean += (now - have.mean) * float64(passed) / float64(passed+r.overMs)
		have.revision, have.atMs = rev, nowMs
	}
	r.shards[shard] = have
	if have.mean < RateNoise {
		return 0
	}
	return uint64(have.mean)
}
