package server

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"time"

	"banyan"
	"banyan/engine/replica"
	"banyan/internal/pause"
	"banyan/obs/metric"
)

const (
	readTimeout = time.Second            // for the replicas to say how they are
	clockAsks   = 3                      // nodes whose clocks are compared with this one's
	clockWait   = 300 * time.Millisecond // for all of them
	pauseLong   = time.Second            // of this process: worth a line in the log
)

// watchPauses notes when this process was paused, or had no CPU. The one that
// beats does not log: it would be late where the log is slow.
func (n *Server) watchPauses(ctx context.Context) error {
	long := make(chan time.Duration, 1)
	go func() {
		defer close(long)
		for ctx.Err() == nil {
			if paused := n.metrics.Beat(time.Now()); paused >= pauseLong {
				select {
				case long <- paused:
				default: // a line about an earlier one is not written yet
				}
			}
			_ = pause.For(ctx, metric.BeatEvery)
		}
	}()
	for paused := range long {
		n.log.Warn("this process was paused, or had no CPU", "for", paused.Round(time.Millisecond))
	}
	return nil
}

// readMetrics tells what is the case on this node when the metrics are read.
// Each is said by one node: of a shard by its leader.
func (n *Server) readMetrics(r *metric.Reading) {
	ctx, cancel := context.WithTimeout(context.Background(), readTimeout)
	defer cancel()
	r.Gauge("banyan_info", "1; the labels say which node of which cluster runs what.", 1,
		"cluster", n.file.Cluster, "node", n.file.Node.String(), "version", banyan.Version)
	r.Gauge("banyan_ready", "1 once the node answers requests.", boolean(isClosed(n.ready)))
	space := n.disks.state()
	r.Gauge("banyan_disk_free_bytes", "Free space on the fullest disk of the node's directory.", float64(space.free))
	r.Gauge("banyan_disk_total_bytes", "Size of that disk.", float64(space.total))
	r.Gauge("banyan_disk_mark_bytes", "Its first low-water mark; the second is half of it.", float64(space.mark))
	r.Gauge("banyan_disk_level", "0 while there is room; 1 below the first low-water mark, 2 below the second.", float64(space.level))
	if n.keeper != nil {
		const name, help = "banyan_certificate_expiry_timestamp_seconds", "When a certificate expires, in seconds since 1970."
		r.Gauge(name, help, float64(n.keeper.Certificate().NotAfter.Unix()), "of", "node")
		r.Gauge(name, help, float64(n.keeper.CA().NotAfter().Unix()), "of", "authority")
	}
	n.readNodes(r)
	n.readShards(ctx, r)
	for _, l := range n.layers {
		if l.read != nil {
			l.read(r)
		}
	}
	if offset, ok := n.clockOffset(ctx); ok {
		r.Gauge("banyan_clock_offset_seconds", "How far this node's clock is ahead of the others', the median of a few.", offset.Seconds())
	}
}

// readNodes tells how the nodes look from here.
func (n *Server) readNodes(r *metric.Reading) {
	count := map[string]int{"alive": 0, "suspect": 0, "dead": 0, "left": 0}
	for _, row := range n.nodes.list() {
		count[n.stateOf(row.ID)]++
	}
	for state, c := range count {
		r.Gauge("banyan_nodes", "Members of the cluster, by the state in which gossip has them here.", float64(c), "state", state)
	}
}

// readShards tells how safe the shards are that this node leads.
func (n *Server) readShards(ctx context.Context, r *metric.Reading) {
	r.Gauge("banyan_shards", "Shards of the cluster, the root shard included.", float64(len(n.shards.get().All())))
	statuses, err := n.host.Statuses(ctx)
	if err != nil {
		return // the engine is stopping, or hangs: that these are missing says so
	}
	led, thin, moving, lone := 0, 0, 0, 0
	for i := range statuses {
		st := &statuses[i]
		if !st.Leading {
			continue
		}
		led++
		live := n.liveVoters(st)
		if live < n.voters() {
			thin++
		}
		if n.alone(st) {
			lone++
		}
		if st.Joint || len(st.Learners) > 0 {
			moving++
		}
		shard := strconv.Itoa(int(st.Shard))
		r.Gauge("banyan_shard_voters", "Voters of a shard that this node leads.", float64(len(st.Voters)), "shard", shard)
		r.Gauge("banyan_shard_voters_live", "Those of them that are alive and hold all but the last of its log.", float64(live), "shard", shard)
	}
	r.Gauge("banyan_shards_led", "Shards that this node leads.", float64(led))
	r.Gauge("banyan_shards_under_replicated", "Shards led here with fewer live voters than there are meant to be.", float64(thin))
	r.Gauge("banyan_shards_on_one_disk", "Shards led here of which only this node has all that was written.", float64(lone))
	r.Gauge("banyan_shards_moving", "Shards led here whose replicas are being changed.", float64(moving))
	r.Gauge("banyan_voters_wanted", "Voters a shard is meant to have, when there are nodes enough.", float64(n.voters()))
}

// behindMax is by how many entries a live voter may be behind.
const behindMax = 1000

func (n *Server) liveVoters(st *replica.Status) (live int) {
	for _, v := range st.Voters {
		if n.stateOf(v) == "alive" && st.Match[v]+behindMax >= st.Commit {
			live++
		}
	}
	return live
}

// alone says whether a shard led here is on this disk only.
func (n *Server) alone(st *replica.Status) bool {
	return len(st.Voters) == 1 && !slices.ContainsFunc(st.Learners, func(id banyan.NodeID) bool {
		return n.stateOf(id) != "dead" && st.Match[id]+behindMax >= st.Commit
	})
}

// clockOffset compares this node's clock with those of a few live ones.
func (n *Server) clockOffset(ctx context.Context) (time.Duration, bool) {
	ctx, cancel := context.WithTimeout(ctx, clockWait)
	defer cancel()
	var (
		mu   sync.Mutex
		wg   sync.WaitGroup
		seen []time.Duration
	)
	others := slices.DeleteFunc(n.alive(), func(id banyan.NodeID) bool { return id == n.file.Node })
	for _, id := range others[:min(len(others), clockAsks)] {
		wg.Go(func() {
			info, err := n.askInfo(ctx, id)
			if err != nil {
				return // its own metrics are for saying how it is
			}
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, -info.offset)
		})
	}
	wg.Wait()
	if len(seen) == 0 {
		return 0, false
	}
	slices.Sort(seen)
	return seen[len(seen)/2], true
}

func boolean(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
