package work

import (
	"context"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// fakeShards is the replicated machine of a few shards in memory: real
// commands on real rows, with a term that the test moves.
type fakeShards struct {
	mu     sync.Mutex
	shards map[banyan.ShardID]*fakeShard
	// before is asked before each command; an error is returned instead, after
	// applying it if applied is true (the answer was lost).
	before  func(banyan.ShardID, *mvcc.Command) (applied bool, err error)
	commits int
}

type fakeShard struct {
	term    uint64
	rows    *memrows.Rows
	machine *mvcc.Machine
}

// bound gives an empty shard bounds.
func (f *fakeShards) bound(id banyan.ShardID, lo, hi []byte) {
	rows := memrows.New()
	if err := mvcc.SetBounds(rows, lo, hi); err != nil {
		panic(err)
	}
	m, err := mvcc.Open(rows)
	if err != nil {
		panic(err)
	}
	f.shards[id] = &fakeShard{rows: rows, machine: m, term: f.shards[id].term}
}

// split makes the rows of a shard from at on those of a child.
func (f *fakeShards) split(parent, child banyan.ShardID, at []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.shards[parent]
	p.machine.Flush(p.rows)
	rows := p.rows.Clone()
	m, err := mvcc.Open(rows)
	lo, hi := p.machine.Bounds()
	if err == nil {
		err = m.Cut(rows, at, hi)
	}
	if err == nil {
		err = p.machine.Cut(p.rows, lo, at)
	}
	if err != nil {
		panic(err)
	}
	m.Flush(rows)
	p.machine.Flush(p.rows)
	for _, class := range mvcc.Classes() { // as the store shows them
		from, to := mvcc.Bounds(class, at, hi)
		p.rows.DeleteRange(from, to)
		from, to = mvcc.Bounds(class, lo, at)
		rows.DeleteRange(from, to)
	}
	f.shards[child] = &fakeShard{rows: rows, machine: m}
}

func newFakeShards(ids ...banyan.ShardID) *fakeShards {
	f := &fakeShards{shards: map[banyan.ShardID]*fakeShard{}}
	for _, id := range ids {
		rows := memrows.New()
		m, err := mvcc.Open(rows)
		if err != nil {
			panic(err)
		}
		f.shards[id] = &fakeShard{rows: rows, machine: m}
	}
	return f
}

func (f *fakeShards) setTerm(id banyan.ShardID, term uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.shards[id].term = term
}

func (f *fakeShards) Commit(_ context.Context, id banyan.ShardID, cmd *mvcc.Command, done func(mvcc.Result, error)) {
	done(f.commit(id, cmd))
}

func (f *fakeShards) ReadIndex(context.Context, banyan.ShardID) error { return nil }

func (f *fakeShards) commit(id banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var lost error
	if f.before != nil {
		applied, err := f.before(id, cmd)
		if err != nil && !applied {
			return mvcc.Result{}, err
		}
		lost = err
	}
	s := f.shards[id]
	again, err := mvcc.Decode(cmd.Encode(nil))
	if err == nil {
		err = again.Validate()
	}
	if err != nil {
		return mvcc.Result{}, err
	}
	f.commits++
	res, _, err := s.machine.Apply(s.rows, s.term, again)
	s.machine.Flush(s.rows)
	if err == nil && res.Moved {
		return res, banyan.Errorf(banyan.Moved, "shard %d does not hold the rows", id)
	}
	if err == nil && res.Stale {
		return res, banyan.Errorf(banyan.Stale, "term %d is over", cmd.Term)
	}
	if err == nil {
		err = lost
	}
	return res, err
}

func (f *fakeShards) Holds(banyan.ShardID, []byte) error { return nil }

func (f *fakeShards) Bounds(_ context.Context, id banyan.ShardID) (lo, hi []byte, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mvcc.BoundsOf(f.shards[id].rows)
}

func (f *fakeShards) Range(_ context.Context, id banyan.ShardID, q mvcc.Query) ([]mvcc.Row, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return mvcc.Range(f.shards[id].rows, q)
}

// anywhere is the shards as those see them who wait.
type anywhere struct{ *fakeShards }

func (f anywhere) Commit(_ context.Context, id banyan.ShardID, cmd *mvcc.Command) (mvcc.Result, error) {
	return f.commit(id, cmd)
}

// put writes rows as if they had been committed before.
func (f *fakeShards) put(id banyan.ShardID, pairs ...[]byte) banyan.Revision {
	cmd := &mvcc.Command{Term: f.shards[id].term}
	for i := 0; i < len(pairs); i += 2 {
		cmd.Muts = append(cmd.Muts, mvcc.Mutation{Op: mvcc.Put, Key: pairs[i], Value: pairs[i+1]})
	}
	res, err := f.commit(id, cmd)
	if err != nil {
		panic(err)
	}
	return res.Revision
}

// header makes the header of an active job.
func header(id banyan.JobID, tasks int, change func(*banyanv1.JobSpec)) *banyanv1.Job {
	spec := &banyanv1.JobSpec{Command: banyanv1.NewCommand("true")}
	if change != nil {
		change(spec)
	}
	return &banyanv1.Job{Id: string(id), Spec: spec, Tasks: uint32(tasks), State: banyanv1.JobState_JOB_STATE_ACTIVE}
}

func submitCommand(h *banyanv1.Job) *mvcc.Command {
	muts := Header(h)
	return &mvcc.Command{Conds: []mvcc.Cond{{Key: muts[0].Key, Test: mvcc.Missing}}, Muts: muts}
}

func clock() time.Time { return time.Now() }
