package replica

import (
	"fmt"
	"time"

	"banyan"
	"banyan/obs/metric"
)

// meter is what a Host counts and times.
type meter struct {
	set *metric.Set

	proposal, read, apply, snapshot metric.Timer

	logged, applied                         metric.Counter
	crowdedProposals, crowdedReads, dropped metric.Counter
	leaders, won                            metric.Counter
	sent, unsent, received                  metric.Counter
}

func newMeter(s *metric.Set) meter {
	const snapshots, snapshotsHelp = "banyan_snapshots_total", "Snapshots of shards, by what became of them."
	return meter{
		set:      s,
		proposal: s.Timer("banyan_proposal_seconds", "From a write reaching the shard's leader to its result."),
		read:     s.Timer("banyan_read_index_seconds", "The proof that this node still leads, which a linearizable read waits for."),
		apply:    s.Timer("banyan_apply_seconds", "Applying one batch of committed entries."),
		snapshot: s.Timer("banyan_snapshot_send_seconds", "Sending one snapshot of a shard."),
		logged:   s.Counter("banyan_log_entries_total", "Entries written to raft logs; divided by fsyncs, how many share one."),
		applied:  s.Counter("banyan_applied_entries_total", "Committed entries applied."),

		crowdedProposals: s.Crowded("proposals"),
		crowdedReads:     s.Crowded("reads"),
		dropped:          s.Crowded("raft inbox"),

		leaders:  s.Counter("banyan_leader_changes_total", "Changes of a shard's leader as seen by its replica here."),
		won:      s.Counter("banyan_leaderships_total", "Terms of leadership that began on this node."),
		sent:     s.Counter(snapshots, snapshotsHelp, "what", "sent"),
		unsent:   s.Counter(snapshots, snapshotsHelp, "what", "not sent"),
		received: s.Counter(snapshots, snapshotsHelp, "what", "received"),
	}
}

// read tells how much waits.
func (h *Host) readMeter(r *metric.Reading) {
	var proposals, bytes, reads int64
	leaderless, quiet := 0, 0
	h.mu.RLock()
	for _, s := range h.slots {
		proposals += s.proposals.Load()
		bytes += s.bytes.Load()
		reads += s.reads.Load()
		v := s.view.Load()
		if v.Leader == 0 {
			leaderless++
		}
		if v.Quiet {
			quiet++
		}
	}
	replicas := len(h.slots)
	h.mu.RUnlock()
	const queue, queueHelp = "banyan_queue_length", "How many wait, by what they wait for."
	r.Gauge(queue, queueHelp, float64(proposals), "queue", "proposals")
	r.Gauge(queue, queueHelp, float64(reads), "queue", "reads")
	r.Gauge(queue, queueHelp, float64(h.appends.length()), "queue", "log writes")
	r.Gauge(queue, queueHelp, float64(h.applies.length()), "queue", "applies")
	r.Gauge(queue, queueHelp, float64(h.sends.length()), "queue", "snapshots")
	r.Gauge("banyan_proposals_bytes", "Bytes of the proposals that wait.", float64(bytes))
	r.Gauge("banyan_watchers", "Watches of keys served by this node.", float64(h.hub.Watching()))
	r.Gauge("banyan_replicas", "Replicas of shards on this node.", float64(replicas))
	r.Gauge("banyan_replicas_at_rest", "Replicas here of shards in which nothing happens: they take no heartbeats.", float64(quiet))
	r.Gauge("banyan_replicas_without_leader", "Replicas here that know of no leader.", float64(leaderless))
}

// proposed times a proposal; one that was slow is explained.
func (m *meter) proposed(w *waiter, began, ended time.Duration, err error) {
	took := ended - began
	m.proposal.Observe(took)
	if took < metric.SlowAfter {
		return
	}
	op := metric.Slow{What: "proposal", Shard: int(w.slot.shard), Took: took, Failed: failure(err)}
	select {
	case <-w.ready: // nobody writes to it any more
		op.Waits = w.waits(began, ended)
	default:
		op.Waits = []metric.Wait{{For: "a result that had not come when the caller gave up", Took: took}}
	}
	m.set.Slow(op)
}

// waits tells where a proposal was how long.
func (w *waiter) waits(began, ended time.Duration) []metric.Wait {
	switch {
	case w.loggedAt == 0:
		return []metric.Wait{{For: "its place in the log", Took: ended - began}}
	case w.committedAt == 0:
		return []metric.Wait{{For: "its place in the log", Took: w.loggedAt - began}, {For: "a majority to write it, in vain", Took: ended - w.loggedAt}}
	}
	return []metric.Wait{
		{For: "its place in the log", Took: max(w.loggedAt-began, 0)},
		{For: "a majority to write it", Took: w.committedAt - w.loggedAt},
		{For: "being applied", Took: ended - w.committedAt},
	}
}

// proved times a proof of leadership.
func (m *meter) proved(shard banyan.ShardID, took time.Duration, err error) {
	m.read.Observe(took)
	if took >= metric.SlowAfter {
		m.set.Slow(metric.Slow{What: "read", Shard: int(shard), Took: took, Failed: failure(err),
			Waits: []metric.Wait{{For: "the proof that this node still leads", Took: took}}})
	}
}

// appliedBatch times the application of a batch.
func (m *meter) appliedBatch(applies []*Apply, took time.Duration) {
	n := 0
	for _, a := range applies {
		n += len(a.Entries)
	}
	m.applied.Add(n)
	m.apply.Observe(took)
	if took >= metric.SlowAfter {
		m.set.Slow(metric.Slow{What: fmt.Sprintf("apply of %d entries", n), Shard: -1, Took: took,
			Waits: []metric.Wait{{For: "the state machine and memory tables of the store", Took: took}}})
	}
}

func (m *meter) snapshotSent(took time.Duration, err error) {
	if err != nil {
		m.unsent.Inc()
		return
	}
	m.sent.Inc()
	m.snapshot.Observe(took)
}

func (m *meter) wrote(appends []*Append) {
	n := 0
	for _, a := range appends {
		n += len(a.Entries)
	}
	m.logged.Add(n)
}

func failure(err error) string {
	if err == nil {
		return ""
	}
	return banyan.KindOf(err).String()
}

// note counts and logs what changed about leadership: after an election many
// shards at once, in one line.
func (h *Host) note(changes []Leadership) {
	var won, lost []banyan.ShardID
	for _, l := range changes {
		if l.Leading {
			h.meter.won.Inc()
			won = append(won, l.Shard)
		} else {
			lost = append(lost, l.Shard)
		}
	}
	if len(won) > 0 {
		h.cfg.Logger.Info("this node leads", "shards", won)
	}
	if len(lost) > 0 {
		h.cfg.Logger.Info("this node leads no more", "shards", lost)
	}
}
