package coord

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/shardmap"
	"banyan/engine/route"
	"banyan/engine/seam"
)

// fakeShards is the replicated machine of a few shards in memory: real
// commands on real rows, with terms that the test moves.
type fakeShards struct {
	mu      sync.Mutex
	shards  []*disk       // from shard 1
	changed chan struct{} // closed and replaced by every command
	// refuse is asked before each command; if it gives an error that is the
	// answer, after applying the command if applied is true.
	refuse func(*mvcc.Command) (applied bool, err error)
	// hold keeps commands in held, in the order in which they were proposed.
	hold bool
	held []func(lost error)
	// prove is what ReadIndex answers; nil: that the node leads.
	prove func() error
	gave  bool // the rows are other shards' by now
}

var (
	_ seam.Led = (*fakeShards)(nil)
	_ Rows     = (*fakeShards)(nil)
	_ Shards   = (*fakeShards)(nil)
)

func newFakeShards(t *testing.T, n int) *fakeShards {
	t.Helper()
	f := &fakeShards{changed: make(chan struct{})}
	for range n {
		f.shards = append(f.shards, newDisk(t))
	}
	return f
}

// service makes a service that leads every shard in term 1.
func (f *fakeShards) service(t *testing.T) *Service {
	t.Helper()
	s := f.start(t)
	f.lead(t, s, 1)
	return s
}

// start makes a service that leads nothing.
func (f *fakeShards) start(t *testing.T) *Service {
	t.Helper()
	s := New(Config{Led: f, Rows: f, Shards: f, Logger: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Run(ctx)
	}()
	t.Cleanup(func() { cancel(); <-done })
	return s
}

// lead lets a service lead every shard in a term.
func (f *fakeShards) lead(t *testing.T, s *Service, term uint64) {
	t.Helper()
	f.mu.Lock()
	for _, d := range f.shards {
		d.term = term
	}
	f.mu.Unlock()
	for _, id := range f.DataShards() {
		s.Lead(id, term)
	}
}

func (f *fakeShards) ShardOf(partition []byte) banyan.ShardID {
	return shardmap.New(len(f.shards)).OfSlot(banyan.SlotOf(partition))
}

func (f *fakeShards) ShardOfSlot(slot int) banyan.ShardID {
	return shardmap.New(len(f.shards)).OfSlot(slot)
}

func (f *fakeShards) Spans() (out []route.Span) {
	m := shardmap.New(len(f.shards))
	for _, id := range m.Data() {
		from, until := m.SlotsOf(id)
		out = append(out, route.Span{Shard: id, From: from, Until: until})
	}
	return out
}

// Holds says no for everything once the shards were split (gave).
func (f *fakeShards) Holds(shard banyan.ShardID, _ []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gave {
		return banyan.Errorf(banyan.Moved, "shard %d does not hold the row", shard)
	}
	return nil
}

func (f *fakeShards) Bounds(context.Context, banyan.ShardID) (lo, hi []byte, err error) {
	return nil, nil, nil
}

func (f *fakeShards) DataShards() (ids []banyan.ShardID) {
	for i := range f.shards {
		ids = append(ids, banyan.ShardID(i+1))
	}
	return ids
}

func (f *fakeShards) Commit(_ context.Context, shard banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	f.mu.Lock()
	hold := f.hold
	if hold {
		f.held = append(f.held, func(lost error) {
			if lost != nil {
				done(mvcc.Result{}, lost)
				return
			}
			done(f.commit(shard, cmd))
		})
	}
	f.mu.Unlock()
	if !hold {
		done(f.commit(shard, cmd))
	}
}

// free lets the oldest command that is held go on, or loses it.
func (f *fakeShards) free(t *testing.T, lost error) {
	t.Helper()
	f.mu.Lock()
	if len(f.held) == 0 {
		t.Fatal("no command is held")
	}
	next := f.held[0]
	f.held = f.held[1:]
	f.mu.Unlock()
	next(lost)
	synctest.Wait()
}

func (f *fakeShards) commit(shard banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lost error
	if f.refuse != nil {
		applied, err := f.refuse(cmd)
		if err != nil && !applied {
			return mvcc.Result{}, err
		}
		lost = err
	}
	res, err := f.shards[shard-1].apply(cmd)
	close(f.changed)
	f.changed = make(chan struct{})
	if err == nil && lost != nil {
		return mvcc.Result{}, lost
	}
	return res, err
}

func (f *fakeShards) Range(_ context.Context, shard banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mvcc.Range(f.shards[shard-1].rows, q)
}

func (f *fakeShards) ReadIndex(context.Context, banyan.ShardID) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.prove != nil {
		return f.prove()
	}
	return nil
}

func (f *fakeShards) Read(_ context.Context, shard banyan.ShardID, q route.ReadQuery) (res route.ReadResult, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	d := f.shards[shard-1]
	res.Revision = d.machine.Revision()
	res.Rows, res.More, err = mvcc.Range(d.rows, mvcc.Query{Lo: q.Key, Hi: q.End, At: q.At, EachSlot: q.EachSlot, FromSlot: q.FromSlot, UntilSlot: q.UntilSlot, Limit: 3}) // small pages
	res.UntilSlot = q.UntilSlot
	return res, err
}

func (f *fakeShards) Watch(ctx context.Context, shard banyan.ShardID, lo, hi []byte, after banyan.Revision, fn func([]mvcc.Event, banyan.Revision) error) error {
	for {
		f.mu.Lock()
		evs, upTo, err := mvcc.EventsSince(f.shards[shard-1].rows, after, lo, hi, 0)
		changed := f.changed
		f.mu.Unlock()
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
