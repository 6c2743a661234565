package kv

import (
	"context"
	"sync"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
	"banyan/core/shardmap"
	"banyan/engine/route"
)

// fake is a DB of several shards in memory, on the real machine.
type fake struct {
	shards []*fakeShard // from shard 1
}

type fakeShard struct {
	mu      sync.Mutex
	changed chan struct{} // closed and replaced by every command
	rows    *memrows.Rows
	m       *mvcc.Machine
}

func newFake(shards int) *fake { return newFakeWindow(shards, banyan.DedupWindowMax) }

// newFakeWindow has shards that remember so many requests.
func newFakeWindow(shards, window int) *fake {
	f := &fake{}
	for range shards {
		rows := memrows.New()
		m, err := mvcc.OpenWindow(rows, window)
		if err != nil {
			panic(err)
		}
		f.shards = append(f.shards, &fakeShard{rows: rows, m: m, changed: make(chan struct{})})
	}
	return f
}

func (f *fake) ShardOf(partition []byte) banyan.ShardID {
	return shardmap.New(len(f.shards)).OfSlot(banyan.SlotOf(partition))
}

func (f *fake) ShardOfSlot(slot int) banyan.ShardID { return f.shardMap().OfSlot(slot) }

func (f *fake) shardMap() *shardmap.Map { return shardmap.New(len(f.shards)) }

func (f *fake) Spans() (out []route.Span) {
	m := f.shardMap()
	for _, id := range m.Data() {
		from, until := m.SlotsOf(id)
		out = append(out, route.Span{Shard: id, From: from, Until: until})
	}
	return out
}

func (f *fake) Judge(shard, of banyan.ShardID, known banyan.Revision) error {
	if of == 0 || f.shardMap().Shares(of, known, shard) {
		return nil
	}
	return banyan.Errorf(banyan.Moved, "shard %d, not %d", shard, of)
}

func (f *fake) CommitThen(ctx context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	done(f.Commit(ctx, shard, cmd))
}

func (f *fake) Commit(_ context.Context, shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	s := f.shards[shard-1]
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := cmd.Validate(); err != nil {
		return mvcc.Result{}, err
	}
	res, _, err := s.m.Apply(s.rows, 1, cmd)
	s.m.Flush(s.rows)
	if err == nil && res.Forgotten { // as replica does
		err = banyan.Errorf(banyan.Forgotten, "too late")
	}
	close(s.changed)
	s.changed = make(chan struct{})
	return res, err
}

func (f *fake) ReadThen(ctx context.Context, shard banyan.ShardID, q route.ReadQuery, done func(route.ReadResult, error)) {
	done(f.Read(ctx, shard, q))
}

func (f *fake) Read(_ context.Context, shard banyan.ShardID, q route.ReadQuery) (res route.ReadResult, err error) {
	s := f.shards[shard-1]
	s.mu.Lock()
	defer s.mu.Unlock()
	res.Revision = s.m.Revision()
	if q.End == nil {
		row, err := mvcc.Get(s.rows, q.Key, q.At)
		if row != nil {
			res.Rows = []mvcc.Row{*row}
		}
		return res, err
	}
	res.Rows, res.More, err = mvcc.Range(s.rows, mvcc.Query{Lo: q.Key, Hi: q.End, At: q.At, EachSlot: q.EachSlot, FromSlot: q.FromSlot, UntilSlot: q.UntilSlot, Limit: q.Limit, KeysOnly: q.KeysOnly})
	res.UntilSlot = q.UntilSlot
	return res, err
}

func (f *fake) Watch(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func([]mvcc.Event, banyan.Revision) error) error {
	s := f.shards[shard-1]
	for {
		s.mu.Lock()
		evs, upTo, err := mvcc.EventsSince(s.rows, after, lo, hi, 0)
		changed := s.changed
		s.mu.Unlock()
		if err != nil {
			return err
		}
		if upTo > after {
			after = upTo
			if err := fn(evs, upTo); err != nil {
				return err
			}
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
