package store

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"banyan/obs/metric"
)

// TestTheDiskIsBlamedForItself: a write that took long is the disk's fault if
// the process ran meanwhile.
func TestTheDiskIsBlamedForItself(t *testing.T) {
	const took = 2600 * time.Millisecond
	for name, c := range map[string]struct {
		ran   bool
		waits string
		sum   string
	}{
		"the process ran":        {true, "this node's disk", "banyan_fsync_seconds_sum 2.6\n"},
		"the process was paused": {false, "this process: paused, or without CPU", "banyan_fsync_seconds_sum 0.13\n"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				set := metric.NewSet()
				m := newMeter(set)
				set.Beat(time.Now())
				for began := time.Now(); time.Since(began) < took; {
					time.Sleep(metric.BeatEvery)
					if c.ran {
						set.Beat(time.Now())
					}
				}
				m.synced(took)
				ops := set.SlowOps()
				if len(ops) != 1 || ops[0].What != "fsync" || len(ops[0].Waits) != 1 || ops[0].Waits[0].For != c.waits {
					t.Errorf("the slow log has %v", ops)
				}
				var out strings.Builder
				if err := set.WriteText(&out); err != nil || !strings.Contains(out.String(), c.sum) {
					t.Errorf("%q is not in the metrics: %v\n%s", c.sum, err, out.String())
				}
			})
		})
	}
}
