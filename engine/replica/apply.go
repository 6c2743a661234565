package replica

import (
	"cmp"
	"fmt"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store"
)

// Applier runs committed entries through the machines of all shards: one
// batch, written without an fsync of its own, because after a crash the log
// has the entries again. One goroutine uses it.
type Applier struct {
	store  *store.Store
	batch  *store.Batch
	hub    *Hub
	window int
	shards map[banyan.ShardID]*machine
	used   []*machine // in the present batch

	// Kept from one batch to the next only to spare allocations.
	cmd      mvcc.Command
	outcomes []outcome
	forked   []banyan.ShardID // in the present batch
}

// How many events' memory a shard keeps from batch to batch, and how many
// outcomes' the applier.
const (
	eventsKept   = 256
	outcomesKept = 1024
)

// machine is one shard's state between batches.
type machine struct {
	shard   banyan.ShardID
	mvcc    *mvcc.Machine
	conf    *raftpb.ConfState
	applied uint64
	term    uint64
	used    bool
	events  []mvcc.Event // of the present batch
	cut     []byte       // where the present batch has cut it; nil: it has not
}

// outcome is what one proposal will be told when the batch is committed.
type outcome struct {
	p   *Proposal
	res mvcc.Result
}

// NewApplier makes an Applier that tells its events to hub. A window that is
// not 0 stands for banyan.DedupWindowMax; all replicas must have the same.
func NewApplier(st *store.Store, hub *Hub, window int) *Applier {
	window = cmp.Or(window, banyan.DedupWindowMax)
	return &Applier{store: st, batch: st.NewBatch(), hub: hub, window: window, shards: map[banyan.ShardID]*machine{}}
}

// Apply applies tasks in order and commits them together; then watchers hear
// the events, and proposers their results. An error is final: the process must
// end. The caller then owes Core.Applied for each task.
func (a *Applier) Apply(tasks []*Apply) error {
	outcomes := a.outcomes[:0]
	for _, t := range tasks {
		var err error
		if outcomes, err = a.task(t, outcomes); err != nil {
			return fmt.Errorf("shard %d: %w", t.Shard, err)
		}
	}
	for _, m := range a.used {
		rows := a.batch.State(m.shard)
		m.mvcc.Flush(rows)
		a.batch.SetApplied(m.shard, m.applied, m.term)
	}
	a.publishCuts()
	if err := a.batch.Commit(false); err != nil {
		return err
	}
	if err := a.publishForks(); err != nil {
		return err
	}
	for _, m := range a.used {
		a.hub.Publish(m.shard, m.events, m.mvcc.Revision())
		m.used = false
		if clear(m.events); cap(m.events) > eventsKept {
			m.events = nil
		}
		m.events = m.events[:0]
	}
	clear(a.used)
	a.used = a.used[:0]
	for _, o := range outcomes {
		o.p.Done(o.res, nil)
	}
	if clear(outcomes); cap(outcomes) > outcomesKept {
		outcomes = nil
	}
	a.outcomes = outcomes
	return nil
}

func (a *Applier) task(t *Apply, outcomes []outcome) ([]outcome, error) {
	if t.drop {
		delete(a.shards, t.Shard)
		a.hub.Drop(t.Shard)
		return outcomes, nil
	}
	if t.reload {
		delete(a.shards, t.Shard)
	}
	m, err := a.machine(t.Shard)
	if err != nil {
		return nil, err
	}
	if t.reload {
		return outcomes, a.hub.Reset(t.Shard, a.store.Shard(t.Shard).Latest())
	}
	if !m.used {
		m.used = true
		a.used = append(a.used, m)
	}
	rows := a.batch.State(t.Shard)
	for i, e := range t.Entries {
		if e.GetIndex() != m.applied+1 {
			return nil, fmt.Errorf("entry %d follows %d", e.GetIndex(), m.applied)
		}
		var proposed pack
		if t.proposals != nil {
			proposed = t.proposals[i]
		}
		if s, ok := splitOf(e); ok {
			if err := a.split(t, m, s, e.GetTerm()); err != nil {
				return nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
			}
			rows = a.batch.State(t.Shard) // fewer than before
			m.applied, m.term = e.GetIndex(), e.GetTerm()
			continue
		}
		var err error
		if outcomes, err = a.entry(t, m, rows, e, proposed, outcomes); err != nil {
			return nil, fmt.Errorf("entry %d: %w", e.GetIndex(), err)
		}
		m.applied, m.term = e.GetIndex(), e.GetTerm()
	}
	t.proposals = nil
	return outcomes, nil
}

// entry applies one entry; proposed is what it was made of here, if it was.
func (a *Applier) entry(t *Apply, m *machine, rows mvcc.ReadWriter, e *raftpb.Entry, proposed pack, outcomes []outcome) ([]outcome, error) {
	if e.GetType() != raftpb.EntryNormal {
		return outcomes, a.configure(t, m, e)
	}
	commands, err := Commands(e.GetData())
	if err != nil {
		return nil, err
	}
	for i, data := range commands {
		if err := a.cmd.Decode(data); err != nil {
			return nil, err
		}
		res, events, err := m.mvcc.Apply(rows, e.GetTerm(), &a.cmd)
		if err != nil {
			return nil, err
		}
		m.events = append(m.events, events...)
		if proposed != nil {
			outcomes = append(outcomes, outcome{proposed[i], res})
		}
	}
	return outcomes, nil
}

// configure takes a configuration change into the state, and notes it for
// raft, which learns of it from Core.Applied.
func (a *Applier) configure(t *Apply, m *machine, e *raftpb.Entry) error {
	cc := &raftpb.ConfChangeV2{}
	if e.GetType() != raftpb.EntryConfChangeV2 {
		return banyan.Errorf(banyan.TooNew, "an entry of type %v, which this version does not write", e.GetType())
	}
	if err := proto.Unmarshal(e.GetData(), cc); err != nil {
		return banyan.Errorf(banyan.Corrupt, "configuration change: %w", err)
	}
	conf, err := confAfter(m.conf, cc)
	if err != nil {
		return nil //nolint:nilerr // it does not fit, on any replica: passed over
	}
	m.conf = conf
	t.confs, t.confsAt, t.conf = append(t.confs, cc), append(t.confsAt, e.GetIndex()), conf
	a.batch.SetConfState(m.shard, conf)
	return nil
}

func (a *Applier) machine(shard banyan.ShardID) (*machine, error) {
	if m := a.shards[shard]; m != nil {
		return m, nil
	}
	st := a.store.Shard(shard)
	mv, err := mvcc.OpenWindow(st.Latest(), a.window)
	if err != nil {
		return nil, err
	}
	m := &machine{shard: shard, mvcc: mv, conf: st.ConfState()}
	m.applied, m.term = st.Applied()
	a.shards[shard] = m
	return m, nil
}

// Load tells the hub where the shards on the disk stand. Call it once, first.
func (a *Applier) Load() error {
	for _, shard := range a.store.Shards() {
		if err := a.hub.Reset(shard, a.store.Shard(shard).Latest()); err != nil {
			return fmt.Errorf("shard %d: %w", shard, err)
		}
	}
	return nil
}
