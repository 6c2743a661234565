package server

import (
	"math"
	"sync"
	"time"

	"banyan"
)

// Snapshots of shards that take writes share snapshotBytesPerSecond, those
// that a node sends and those that it takes in: on both machines clients'
// calls go on meanwhile. Others are not held up.
const (
	snapshotBytesPerSecond = 8 << 20
	paceWaitMax            = 2 * time.Second        // so that none stands still
	snapshotLook           = 200 * time.Millisecond // between looks at a shard
)

// pace lets so many bytes a second through, of all that share it.
type pace struct {
	mu  sync.Mutex
	due time.Time // when what came so far has had its time
}

// wait counts a message and says how long its sender must wait before the next
// one. size is the message's length in bytes, counted those of them that the pace
// limits. All senders together may bring snapshotBytesPerSecond; how far they are
// behind that is one time for all, and a sender waits the part of it that is
// counted/size: one whose bytes do not count does not wait for the others'.
func (p *pace) wait(now time.Time, counted, size int) time.Duration {
	if counted <= 0 || size <= 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.due.Before(now) {
		p.due = now
	}
	behind := min(p.due.Sub(now)+time.Duration(counted)*time.Second/snapshotBytesPerSecond, paceWaitMax)
	p.due = now.Add(behind)
	return time.Duration(float64(behind) * min(float64(counted)/float64(size), 1))
}

// tempo says how much of a snapshot counts against the paces: nothing while
// its shard takes no writes; otherwise the less, the fuller the tail of the log
// is that is kept for the receiver: a large shard under many writes would
// never arrive before it must be truncated.
type tempo struct {
	revision func() banyan.Revision
	tail     func() float64 // how full, 1 when it is truncated
	known    banyan.Revision
	looked   time.Time
	share    float64
}

// haste is by how many powers of two less counts at a full tail: at a quarter
// of it snapshots go 16 times as fast.
const haste = 16

func (t *tempo) counted(now time.Time, size int) int {
	if now.Sub(t.looked) >= snapshotLook {
		t.share = 0
		if rev := t.revision(); rev != t.known {
			t.share, t.known = math.Exp2(-haste*t.tail()), rev
		}
		t.looked = now
	}
	return int(float64(size) * t.share)
}
