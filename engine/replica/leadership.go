package replica

import (
	"cmp"
	"context"
	"slices"
	"sync"

	"banyan"
)

// LeadershipFeed tells one listener which shards this node leads. If it does
// not keep up it gets the latest of each shard; a leadership that was lost and
// won again meanwhile shows as a new term.
type LeadershipFeed struct {
	board   *board
	pending map[banyan.ShardID]Leadership
	wake    chan struct{}
}

// board knows what is announced, and who listens.
type board struct {
	mu    sync.Mutex
	now   map[banyan.ShardID]Leadership
	feeds map[*LeadershipFeed]struct{}
}

func newBoard() *board {
	return &board{now: map[banyan.ShardID]Leadership{}, feeds: map[*LeadershipFeed]struct{}{}}
}

func (b *board) post(changes []Leadership) {
	if len(changes) == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, l := range changes {
		b.now[l.Shard] = l
		for f := range b.feeds {
			f.pending[l.Shard] = l
			f.signal()
		}
	}
}

func (b *board) subscribe() *LeadershipFeed {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := &LeadershipFeed{board: b, pending: map[banyan.ShardID]Leadership{}, wake: make(chan struct{}, 1)}
	for shard, l := range b.now {
		if l.Leading {
			f.pending[shard] = l
		}
	}
	if len(f.pending) > 0 {
		f.signal()
	}
	b.feeds[f] = struct{}{}
	return f
}

func (f *LeadershipFeed) signal() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Next waits for changes and returns them by shard, first those shards that
// are led already. It fails only if ctx ends (Canceled or Timeout).
func (f *LeadershipFeed) Next(ctx context.Context) ([]Leadership, error) {
	for {
		if out := f.take(); len(out) > 0 {
			return out, nil
		}
		select {
		case <-f.wake:
		case <-ctx.Done():
			return nil, contextError(ctx, "waiting for leadership")
		}
	}
}

func (f *LeadershipFeed) take() []Leadership {
	f.board.mu.Lock()
	defer f.board.mu.Unlock()
	out := make([]Leadership, 0, len(f.pending))
	for _, l := range f.pending {
		out = append(out, l)
	}
	clear(f.pending)
	slices.SortFunc(out, func(a, b Leadership) int { return cmp.Compare(a.Shard, b.Shard) })
	return out
}

// Close ends the subscription.
func (f *LeadershipFeed) Close() {
	f.board.mu.Lock()
	defer f.board.mu.Unlock()
	delete(f.board.feeds, f)
}
