package route

import (
	"fmt"
	"time"

	"banyan"
	"banyan/obs/metric"
)

// meter is what a Router counts.
type meter struct {
	set     *metric.Set
	retries metric.Counter
}

func newMeter(s *metric.Set) meter {
	return meter{s, s.Counter("banyan_route_retries_total", "Times a shard's leader was asked again, for there was none or it had moved.")}
}

// settled notes a call whose first try, at failed, did not reach a leader.
func (m *meter) settled(shard banyan.ShardID, failed time.Time, tries int, err error) {
	took := time.Since(failed)
	if took < metric.SlowAfter {
		return
	}
	op := metric.Slow{What: "route", Shard: int(shard), Took: took,
		Waits: []metric.Wait{{For: fmt.Sprintf("a leader of the shard, asked %d times", tries+1), Took: took}}}
	if err != nil {
		op.Failed = banyan.KindOf(err).String()
	}
	m.set.Slow(op)
}
