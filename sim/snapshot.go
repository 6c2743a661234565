package sim

import (
	"bytes"
	"errors"
	"time"

	"go.etcd.io/raft/v3/raftpb"

	"banyan/core/placement"
	"banyan/engine/replica"
	"banyan/engine/store"
)

// stream is one snapshot on its way, in the order of Host.sendSnapshot at one
// end and Host.ReceiveSnapshot at the other.
type stream struct {
	w     *world
	from  *process
	to    *process // once it arrives
	e     replica.Envelope
	m     *raftpb.Message
	view  *store.View
	stage *store.Stage
	rows  [][2][]byte
	over  bool // for the sender
}

func (p *process) sendSnapshots() {
	for p.sending < replica.SnapshotSendsMax && len(p.snapshots) > 0 {
		e := p.snapshots[0]
		p.snapshots = p.snapshots[1:]
		p.sending++
		p.snapshotTo[e.To] = p.w.now
		s := &stream{w: p.w, from: p, e: e}
		p.after(p.work(2*time.Millisecond), s.begin)
	}
}

func (s *stream) begin() {
	view, err := s.from.store.View(s.e.Shard)
	if err != nil {
		s.from.unread(err)
		s.report(false)
		return
	}
	s.view = view
	if s.m, err = replica.SnapshotMessage(s.e.Message, view); err != nil {
		s.w.reach("snapshot of a later term not sent")
		s.report(false)
		return
	}
	if err := view.Scan(nil, nil, func(k, v []byte) bool {
		s.rows = append(s.rows, [2][]byte{bytes.Clone(k), bytes.Clone(v)})
		return true
	}); err != nil {
		s.from.unread(err)
		s.report(false)
		return
	}
	s.w.after(s.w.latency(), s.arrive)
}

// broken says whether the connection is gone.
func (s *stream) broken() bool {
	a, b := s.from.n, s.w.node(s.e.To)
	return s.over || s.from.dead || b.proc == nil || s.to != nil && s.to != b.proc || s.w.net.isCut(a.id, b.id) || s.w.net.isCut(b.id, a.id)
}

func (s *stream) arrive() {
	if s.broken() || s.w.node(s.e.To).proc.receiving[s.e.Shard] || s.w.node(s.e.To).level != placement.DiskWell {
		s.report(false)
		return
	}
	s.to = s.w.node(s.e.To).proc
	if applied, _ := s.to.store.Shard(s.e.Shard).Applied(); applied >= s.m.GetSnapshot().GetMetadata().GetIndex() {
		s.w.after(s.w.latency(), func() { s.report(true) })
		return
	}
	stage, err := s.to.store.Stage(s.e.Shard)
	if err != nil {
		s.report(false)
		return
	}
	s.to.receiving[s.e.Shard] = true
	s.stage = stage
	s.to.after(s.to.work(10*time.Millisecond), func() { s.put(s.rows[:len(s.rows)/2], s.more) })
	s.watchReceiver()
}

// watchReceiver tells the sender when the receiver goes away.
func (s *stream) watchReceiver() {
	s.from.after(200*time.Millisecond, func() {
		switch {
		case s.over:
		case s.to.dead:
			s.report(false)
		default:
			s.watchReceiver()
		}
	})
}

func (s *stream) more() {
	s.to.after(s.to.work(10*time.Millisecond), func() { s.put(s.rows[len(s.rows)/2:], s.step) })
}

func (s *stream) put(rows [][2][]byte, then func()) {
	if s.broken() {
		s.w.reach("snapshot broken off")
		s.end(errors.New("the connection is gone"))
		return
	}
	for _, r := range rows {
		if err := s.stage.Put(r[0], r[1]); err != nil {
			s.to.diskFailed("snapshot", err)
			return
		}
	}
	then()
}

// step gives the whole to the core. From here on the sender is not needed.
func (s *stream) step() {
	s.to.input(func(c *replica.Core) { c.StepSnapshot(s.e.Shard, s.m, s.stage, s.end) })
}

// end answers the sender.
func (s *stream) end(err error) {
	if err != nil {
		s.stage.Abort()
	}
	delete(s.to.receiving, s.e.Shard)
	ok := err == nil || errors.Is(err, replica.ErrNotTaken)
	s.w.note("snapshot", uint64(s.e.To), uint64(s.e.Shard), bit(err == nil), bit(ok))
	if err == nil {
		s.w.reach("snapshot installed")
	}
	s.w.after(s.w.latency(), func() { s.report(ok) })
}

func (s *stream) report(ok bool) {
	if s.over || s.from.dead {
		return
	}
	s.over = true
	if s.view != nil {
		s.view.Close()
	}
	p := s.from
	p.sending--
	p.snapshotTo[s.e.To] = p.w.now
	p.input(func(c *replica.Core) { c.ReportSnapshot(s.e.Shard, s.e.To, ok) })
	p.sendSnapshots()
}
