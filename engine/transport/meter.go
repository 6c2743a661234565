package transport

import "banyan/obs/metric"

// meter is what a node's port counts.
type meter struct{ raftDropped, packetsDropped, tooMany, strangers metric.Counter }

func newMeter(s *metric.Set) meter {
	return meter{
		raftDropped:    s.Crowded("raft outbox"),
		packetsDropped: s.Crowded("gossip outbox"),
		tooMany:        s.Crowded("connections"),
		strangers:      s.Counter("banyan_strangers_total", "Connections and calls of those who have no certificate of the cluster: refused at the connection or the call, or let through to Join.", "at", "connection"),
	}
}

func (t *Transport) readMeter(r *metric.Reading) {
	t.mu.Lock()
	open := [classes]int{}
	for i := range t.rooms {
		open[i] = t.rooms[i].conns.Len()
	}
	peers := make([]*peer, 0, len(t.peers))
	for _, p := range t.peers {
		peers = append(peers, p)
	}
	t.mu.Unlock()
	bytes, connected := 0, 0
	for _, p := range peers {
		bytes += p.queue.length()
		if p.boot.Load() != 0 {
			connected++
		}
	}
	for i, of := range []string{"arriving", "stranger", "user", "node"} {
		r.Gauge("banyan_connections", "Connections accepted and open, by whom they are from.", float64(open[i]), "of", of)
	}
	r.Gauge("banyan_peers_connected", "Other nodes that this node has a connection to.", float64(connected))
	r.Gauge("banyan_outbox_bytes", "Bytes that wait to be sent to other nodes.", float64(bytes))
}

func (q *queue) length() (bytes int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, b := range q.bytes {
		bytes += b
	}
	return bytes
}
