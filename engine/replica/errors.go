package replica

import (
	"context"
	"errors"
	"fmt"

	"banyan"
)

// errUncertain marks the loss of leadership while a command was in the log.
var errUncertain = errors.New("it may or may not take effect")

// IsUncertain says whether a failed proposal may still be applied. Sent again
// with the same request id it is applied at most once.
func IsUncertain(err error) bool { return errors.Is(err, errUncertain) }

func uncertain(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.Unavailable, "leadership of shard %d moved while the command was being replicated: %w; send it again with the same request id", shard, errUncertain)
}

// errStopping answers whoever waits when the node stops.
var errStopping = banyan.Errorf(banyan.Unavailable, "this node is stopping: %w; ask another node", errUncertain)

func errNotLeader(shard banyan.ShardID, leader banyan.NodeID) error {
	advice := "it knows no leader: try again in a moment"
	if leader != 0 {
		advice = fmt.Sprintf("ask %v", leader)
	}
	return &banyan.Error{Kind: banyan.NotLeader, Leader: leader, Msg: fmt.Sprintf("this node does not lead shard %d: %s", shard, advice)}
}

func errNoReplica(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.NotLeader, "this node has no replica of shard %d: ask another node", shard)
}

func errStale(shard banyan.ShardID, term, now uint64) error {
	return banyan.Errorf(banyan.Stale, "shard %d: the command was made in term %d and it is term %d: make it anew", shard, term, now)
}

func errMoved(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.Moved, "shard %d does not hold these rows any more: ask the shard that holds them", shard)
}

func errForgotten(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.Forgotten, "the request may or may not have been carried out before: it was first sent so long ago that shard %d does not remember: read the key, or list what it would have made, before you send it again", shard)
}

func errCrowded(shard banyan.ShardID) error {
	return banyan.Errorf(banyan.Exhausted, "shard %d has as many requests waiting as it takes (docs/limits.md: ProposalsMax, ProposalBytesMax, ReadsMax): send fewer at once, or wait and try again", shard)
}

// contextError is why ctx ended, as an error of ours.
func contextError(ctx context.Context, format string, args ...any) error {
	kind := banyan.Canceled
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		kind = banyan.Timeout
	}
	return banyan.Errorf(kind, "%s: %w", fmt.Sprintf(format, args...), context.Cause(ctx))
}
