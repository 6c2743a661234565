package store

import (
	"time"

	"github.com/cockroachdb/pebble/v2"

	"banyan/obs/metric"
)

// meter is what a node's disk tells of itself.
type meter struct {
	set    *metric.Set
	fsync  metric.Timer
	stalls metric.Counter
}

func newMeter(s *metric.Set) meter {
	return meter{
		set:    s,
		fsync:  s.Timer("banyan_fsync_seconds", "Writing one batch to the store and waiting for the disk, pauses of the process apart."),
		stalls: s.Counter("banyan_store_stalls_total", "Times the store held writes back until it had flushed or compacted."),
	}
}

// synced times a write that waited for the disk. A pause of the process is not
// the disk's.
func (m *meter) synced(took time.Duration) {
	m.fsync.Observe(took - m.set.Paused(took))
	if took >= metric.SlowAfter {
		m.set.Slow(metric.Slow{What: "fsync", Shard: -1, Took: took, Waits: []metric.Wait{{For: "this node's disk", Took: took}}})
	}
}

// readMeter tells how the engine is. A store that has stopped is not asked: it
// might never answer.
func (k *pebbleKV) readMeter(r *metric.Reading) {
	failed := 0.0
	select {
	case <-k.stopped:
		failed = 1
	default:
		k.closing.RLock()
		if !k.closed {
			readEngine(r, k.db.Metrics())
		}
		k.closing.RUnlock()
	}
	r.Gauge("banyan_disk_failed", "1 once a write or an fsync has failed; the node then ends.", failed)
}

func readEngine(r *metric.Reading, m *pebble.Metrics) {
	r.Gauge("banyan_store_bytes", "Size of the store on disk.", float64(m.DiskSpaceUsage()))
	r.Gauge("banyan_compaction_debt_bytes", "Bytes that the store still has to compact.", float64(m.Compact.EstimatedDebt))
	r.Gauge("banyan_compactions", "Compactions under way.", float64(m.Compact.NumInProgress))
	r.Gauge("banyan_read_amplification", "Tables a read may have to look into.", float64(m.ReadAmp()))
	r.Gauge("banyan_memtable_bytes", "Size of the store's tables in memory.", float64(m.MemTable.Size))
	r.Counter("banyan_block_cache_hits_total", "Reads of blocks found in memory.", float64(m.BlockCache.Hits))
	r.Counter("banyan_block_cache_misses_total", "Reads of blocks that went to the disk.", float64(m.BlockCache.Misses))
}
