package mvcc

import (
	"encoding/binary"

	"banyan"
)

// Machine applies commands to the rows of one shard. It keeps in memory only
// its counters, where recent requests lie, and a filter of the keys there are;
// rows are the state. It is not safe for concurrent use.
type Machine struct {
	revision banyan.Revision
	horizon  banyan.Revision
	notes    uint64 // since the latest revision
	window   window
	unread   place // where the window begins in the rows, until it is read
	dirty    bool  // the meta row is behind
	known    known
	time     banyan.Timestamp // of the latest command that left a record or note
	history  uint64           // bytes: see meta
	bounds   span
	counts   counts
	counted  banyan.Revision // when counts were written
	forked   banyan.Revision // see meta

	// Kept from one Apply to the next only to spare allocations.
	plan     plan
	key, val []byte
	events   []Event
}

// Open takes the state up from its rows. No rows at all are an empty shard.
// It reads one row; what requests there were is read by the first Apply, so
// that a node opens fast however many shards it holds.
func Open(r Reader) (*Machine, error) {
	return OpenWindow(r, banyan.DedupWindowMax)
}

// OpenWindow is Open with another number of requests that are remembered. All
// replicas of a shard must agree on it, for ever: it is there for tests.
func OpenWindow(r Reader, windowMax int) (*Machine, error) {
	mt, err := readMeta(r)
	if err != nil {
		return nil, err
	}
	return &Machine{
		revision: mt.revision, horizon: mt.horizon,
		window: window{max: windowMax}, unread: mt.front,
		known: known{learning: mt.revision > 0, where: toLearn(&mt)},
		time:  mt.time, history: mt.history, bounds: mt.bounds, counted: mt.counted, forked: mt.forked,
	}, nil
}

// remind fills from the rows what the machine knows by heart, if that was not
// done yet.
func (m *Machine) remind(r Reader) error {
	if err := m.readWindow(r); err != nil {
		return err
	}
	if m.counts.of == nil {
		return m.counts.read(r, m.counted)
	}
	return nil
}

// readWindow fills the window from the rows, if that was not done yet.
func (m *Machine) readWindow(r Reader) error {
	if m.unread == (place{}) {
		return nil
	}
	m.window.expect(uint64(m.revision-m.unread.rev) + 1) // most make a revision each
	var err error
	scanErr := r.Scan(appendPlaceKey(nil, m.unread), []byte{recordPrefix + 1}, func(k, v []byte) bool {
		err = m.recollect(k, v)
		return err == nil
	})
	if err == nil {
		err = scanErr
	}
	if front := m.window.front(); err == nil && front != m.unread {
		err = banyan.Errorf(banyan.Corrupt, "mvcc: the oldest remembered request should lie at %v, but lies at %v", m.unread, front)
	}
	if err != nil {
		return err
	}
	if back := m.window.back(); back.rev == m.revision {
		m.notes = back.n
	}
	m.unread = place{}
	return nil
}

// recollect puts one record or note back into the window.
func (m *Machine) recollect(k, v []byte) error {
	at, err := parsePlaceKey(k)
	if err != nil {
		return err
	}
	id, err := decodeRequest(v)
	if err != nil || id == (banyan.RequestID{}) {
		return err
	}
	if _, full := m.window.push(remembered{id, at}); full || at.rev > m.revision {
		return banyan.Errorf(banyan.Corrupt, "mvcc: the record at %v is beyond what the meta row allows", at)
	}
	return nil
}

// Revision is the latest revision.
func (m *Machine) Revision() banyan.Revision { return m.revision }

// Horizon is the oldest revision that can still be read, if there is one.
func (m *Machine) Horizon() banyan.Revision { return m.horizon }

// HistoryBytes is how much the versions that ended, and the change records of
// the revisions above the horizon, take.
func (m *Machine) HistoryBytes() uint64 { return m.history }

// History says how long the history of a shard is.
type History struct {
	Horizon, Revision banyan.Revision
	Bytes             uint64 // see Machine.HistoryBytes
}

// HistoryOf gives that of the shard that r reads.
func HistoryOf(r Reader) (History, error) {
	mt, err := readMeta(r)
	return History{mt.horizon, mt.revision, mt.history}, err
}

// Target is the horizon to compact to, so that the history has no more than so
// many revisions and about so many bytes; 0 if it is not much longer than that.
// Bytes are taken to be spread evenly: ask again once it is reached.
func (h History) Target(revisionsMax banyan.Revision, bytesMax uint64) (to banyan.Revision) {
	kept := h.Revision - h.Horizon
	if kept > revisionsMax+revisionsMax/10 {
		to = h.Revision - revisionsMax
	}
	if h.Bytes > bytesMax+bytesMax/10 {
		part := float64(h.Bytes-bytesMax) / float64(h.Bytes)
		to = max(to, h.Horizon+min(kept, banyan.Revision(part*float64(kept))+1))
	}
	return to
}

// Time is the timestamp of the latest command that left a trace.
func (m *Machine) Time() banyan.Timestamp { return m.time }

// meta is what the machine's row says.
func (m *Machine) meta() meta {
	front := m.unread
	if front == (place{}) {
		front = m.window.front()
	}
	return meta{
		revision: m.revision, horizon: m.horizon, front: front,
		time: m.time, history: m.history, counted: m.counted, forked: m.forked, bounds: m.bounds,
	}
}

// stamp gives a command its timestamp: the leader's clock, or what follows the
// one before.
func (m *Machine) stamp(t banyan.Timestamp) banyan.Timestamp {
	m.time = max(m.time+1, t)
	return m.time
}

// Flush writes the machine's meta row, if it is behind. It must be called
// once in each batch, after the last Apply: the batch is whole only then.
func (m *Machine) Flush(w Writer) {
	if !m.dirty {
		return
	}
	mt := m.meta()
	m.val = mt.encode(m.val[:0])
	w.Set([]byte(metaKey), m.val)
	m.dirty = false
}

// Apply carries a command out. entryTerm is the term of the log entry that
// brought it. Refusals are results; an error means that the state cannot be
// read, and the machine must not be used again. Nothing is written then.
//
// The events, in the order in which the command first touched their keys, hold
// until the next Apply; their slices may be parts of the command. rw must be the same
// state that the machine was opened on, with all that it did since.
func (m *Machine) Apply(rw ReadWriter, entryTerm uint64, cmd *Command) (Result, []Event, error) {
	if err := m.remind(rw); err != nil {
		return Result{}, nil, err
	}
	if at, ok := m.window.find(cmd.Request); ok {
		res, err := m.recall(rw, at)
		return res, nil, err
	}
	if !m.bounds.all() && !m.bounds.holds(cmd) {
		return Result{Moved: true, Revision: m.revision}, nil, nil
	}
	if cmd.Term != 0 && cmd.Term != entryTerm {
		return Result{Stale: true, Revision: m.revision}, nil, nil
	}
	if e := cmd.Earliest; e > m.revision+1 || e != 0 && !m.window.reaches(e) {
		m.part(rw, cmd)
		return Result{Forgotten: true, Revision: m.revision}, nil, nil
	}
	if err := m.known.learn(rw); err != nil {
		return Result{}, nil, err
	}
	p := &m.plan
	defer m.tidy()
	p.begin(rw, &m.known, m.revision+1)
	if err := p.run(cmd); err != nil {
		return Result{}, nil, err
	}
	res := p.res
	if !p.refused && p.compactTo > 0 {
		more, err := p.planCompact(m)
		if err != nil {
			return Result{}, nil, err
		}
		res.More = res.More || more
	}
	var events []Event
	if !p.refused && p.effect() {
		res.Revision, res.Time = m.revision+1, m.stamp(cmd.Time)
		events = m.commit(rw, cmd, &res)
	} else {
		res.Revision = m.revision
		m.note(rw, cmd, &res)
	}
	if m.revision >= m.counted+countsEvery || m.horizon > m.counted { // else records that it needs could go
		m.counts.write(rw)
		m.counted, m.dirty = m.revision, true
	}
	return res, events, nil
}

// recall gives an earlier request's result.
func (m *Machine) recall(r Reader, at place) (Result, error) {
	m.key = appendPlaceKey(m.key[:0], at)
	b, err := r.Get(m.key)
	if err != nil {
		return Result{}, err
	}
	if b == nil {
		return Result{}, banyan.Errorf(banyan.Corrupt, "mvcc: the record at %v is gone, though its request is remembered", at)
	}
	rec, err := decodeRecord(b)
	if err != nil {
		return Result{}, err
	}
	rec.result.Duplicate = true
	return rec.result, nil
}

// note records the result of a request that made no revision, so that a late
// copy of it does not act on a state it was never meant for. Requests without
// id leave nothing.
func (m *Machine) note(rw ReadWriter, cmd *Command, res *Result) {
	m.reclaim(rw)
	if cmd.Request == (banyan.RequestID{}) {
		return
	}
	m.notes++
	res.Time = m.stamp(cmd.Time)
	at := place{m.revision, m.notes}
	m.key = appendPlaceKey(m.key[:0], at)
	m.val = append(appendRecord(m.val[:0], cmd, res, 0), 0, 0)
	rw.Set(m.key, m.val)
	m.remember(rw, remembered{cmd.Request, at})
	m.part(rw, cmd)
}

// part makes a revision without changes once the notes behind the latest
// revision fill half of the window.
//
// The window remembers requests by place. A client that asks for the revision
// now is told R, and sends a command with Earliest R+1. If enough notes followed
// R to push R itself out of the window, the machine could no longer tell whether
// that command is a copy, and would refuse it as forgotten although it is new.
// The empty revision moves R forward before that can happen. Only commands with
// Earliest need this, so only they cause it.
func (m *Machine) part(rw ReadWriter, cmd *Command) {
	if cmd.Earliest == 0 || m.notes < uint64(m.window.max/2) {
		return
	}
	m.revision, m.notes, m.dirty = m.revision+1, 0, true
	m.key = appendPlaceKey(m.key[:0], place{rev: m.revision})
	m.val = append(appendRecord(m.val[:0], &Command{}, &Result{OK: true, Revision: m.revision, Time: m.stamp(cmd.Time)}, 0), 0, 0)
	rw.Set(m.key, m.val)
	m.history += uint64(len(m.key) + len(m.val))
}

// remember adds a request to the window. A record that leaves it stays for
// readers of history if it is above the horizon; a note serves nobody else.
func (m *Machine) remember(w Writer, r remembered) {
	m.dirty = true
	out, full := m.window.push(r)
	if full && (out.at.n > 0 || out.at.rev <= m.horizon) {
		m.key = appendPlaceKey(m.key[:0], out.at)
		w.Delete(m.key)
	}
}

// commit writes what the plan says.
func (m *Machine) commit(rw ReadWriter, cmd *Command, res *Result) []Event {
	p := &m.plan
	changes := p.pin()
	events := m.trim(rw, m.events[:0])
	displaced := uint64(0)
	for i := range p.touched {
		if t := &p.touched[i]; t.changed {
			displaced += uint64(m.write(rw, t))
			if t.visible() {
				events = append(events, t.event(p.revision))
			}
		}
	}
	for i, prefix := range p.counted.keys {
		m.key = appendCounterKey(m.key[:0], prefix)
		m.val = appendCounter(m.val[:0], p.counts[i])
		rw.Set(m.key, m.val)
	}
	m.val = appendTrims(appendRecord(m.val[:0], cmd, res, displaced), p.trims)
	m.val = binary.AppendUvarint(m.val, uint64(changes))
	for i := range p.touched {
		if t := &p.touched[i]; t.changed && t.visible() {
			c := change{key: t.row.Key, deleted: !t.exists, displaced: t.displaced(), fresh: t.before == nil, bytes: t.grown()}
			m.counts.add(countedAs(c.key), c.rows(), c.bytes)
			m.val = appendChange(m.val, c)
		}
	}
	m.key = appendPlaceKey(m.key[:0], place{rev: p.revision})
	rw.Set(m.key, m.val)
	m.history += uint64(len(m.key)+len(m.val)) + displaced
	m.reclaim(rw)
	m.revision, m.notes, m.dirty = p.revision, 0, true
	if cmd.Request != (banyan.RequestID{}) {
		m.remember(rw, remembered{cmd.Request, place{rev: p.revision}})
	}
	if cap(events) <= keysKept {
		m.events = events
	}
	return events
}

// trim removes the planned ranges, before keys in them are written again.
func (m *Machine) trim(w Writer, events []Event) []Event {
	p := &m.plan
	for i := range p.trims {
		t := &p.trims[i]
		w.DeleteRange(Bounds(unversionedPrefix, t.lo, t.hi))
		for _, n := range t.spaces {
			m.counts.add(counted{countedAs(t.lo).slot, n.space}, -n.rows, -n.bytes)
		}
		events = append(events, Event{Deleted: true, Row: Row{Key: t.lo, Mod: p.revision}, End: t.hi})
	}
	for _, k := range p.detached {
		w.Delete(k)
	}
	return events
}

// write moves one key from its version before the command to the one after, and
// says how many bytes of history that makes.
func (m *Machine) write(w Writer, t *touch) (displaced int) {
	rev := m.plan.revision
	if t.displaced() {
		m.key = appendHistoryKey(m.key[:0], t.row.Key, rev)
		w.Set(m.key, t.before)
		displaced = len(m.key) + len(t.before)
	}
	leaseAfter := uint64(0)
	m.key = appendCurrentKey(m.key[:0], t.row.Key)
	if t.exists {
		leaseAfter = t.row.Lease
		m.val = appendVersion(m.val[:0], &t.row)
		w.Set(m.key, m.val)
		m.know(t)
	} else if t.before != nil {
		w.Delete(m.key)
	}
	if t.leaseBefore == leaseAfter {
		return displaced
	}
	if t.leaseBefore != 0 {
		m.key = appendLeaseKey(m.key[:0], t.row.Key, t.leaseBefore)
		w.Delete(m.key)
	}
	if leaseAfter != 0 {
		m.key = appendLeaseKey(m.key[:0], t.row.Key, leaseAfter)
		w.Set(m.key, nil)
	}
	return displaced
}

// know notes that a key has a current row. One that had one is known already,
// or will be learned.
func (m *Machine) know(t *touch) {
	switch {
	case t.lacked:
		m.known.addNew(t.hash)
	case t.before == nil:
		m.known.add(keyHash(t.row.Key))
	}
}

// reclaim carries out the planned compaction.
func (m *Machine) reclaim(w Writer) {
	p := &m.plan
	if p.horizon == 0 {
		return
	}
	for _, k := range p.dead {
		w.Delete(k)
	}
	lo, hi := place{rev: m.horizon + 1}, place{rev: p.keepFrom}
	if lo.rev < hi.rev {
		w.DeleteRange(appendPlaceKey(nil, lo), appendPlaceKey(nil, hi))
	}
	m.horizon, m.dirty = p.horizon, true
	m.history -= min(m.history, p.reclaimed)
}

// scratchBytesMax is how much memory a quiet machine keeps for its next Apply.
const scratchBytesMax = 64 << 10

// tidy lets go of what the last command referred to.
func (m *Machine) tidy() {
	m.plan.end()
	if cap(m.key) > scratchBytesMax {
		m.key = nil
	}
	if cap(m.val) > scratchBytesMax {
		m.val = nil
	}
}
