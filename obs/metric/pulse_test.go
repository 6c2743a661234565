package metric

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAPauseIsNotTheDisks has an operation end at 10 s, and beats come on time
// or late before.
func TestAPauseIsNotTheDisks(t *testing.T) {
	const ms = time.Millisecond
	disk := func(took time.Duration) []Wait { return []Wait{{"disk", took}} }
	three := []Wait{{"log", 500 * ms}, {"majority", 4000 * ms}, {"apply", 1500 * ms}}
	for name, c := range map[string]struct {
		beats []time.Duration
		waits []Wait
		took  time.Duration
		want  string
	}{
		"a slow disk":                     {beats(0, 130*ms, 10000*ms), disk(900 * ms), 900 * ms, "disk 900ms"},
		"beats a little late":             {beats(0, 149*ms, 10000*ms), disk(900 * ms), 900 * ms, "disk 900ms"},
		"no beats":                        {nil, disk(900 * ms), 900 * ms, "disk 900ms"},
		"paused before":                   {beats(2000*ms, 130*ms, 10000*ms), disk(900 * ms), 900 * ms, "disk 900ms"},
		"paused":                          {append(beats(0, 130*ms, 7900*ms), 9980*ms), disk(2100 * ms), 2100 * ms, "paused 2.05s"},
		"paused, and no beat since":       {beats(0, 130*ms, 7900*ms), disk(2100 * ms), 2100 * ms, "paused 2.07s"},
		"paused, of unknown waits":        {append(beats(0, 130*ms, 7900*ms), 9980*ms), nil, 2100 * ms, "paused 2.05s"},
		"paused, the disk slow after":     {beats(2130*ms, 130*ms, 10000*ms), disk(9000 * ms), 9000 * ms, "paused 1.13s, disk 7.87s"},
		"paused in the second of waits":   {append(beats(0, 130*ms, 5000*ms), beats(7130*ms, 130*ms, 10000*ms)...), three, 6000 * ms, "paused 2.06s, log 500ms, majority 1.94s, apply 1.5s"},
		"a CPU now and then, and no more": {beats(0, 155*ms, 10000*ms), disk(900 * ms), 900 * ms, "paused 150ms"},
	} {
		t.Run(name, func(t *testing.T) {
			s, start := NewSet(), time.Now()
			for i, at := range c.beats {
				if i == 0 {
					s.Beat(start)
				}
				s.Beat(start.Add(at))
			}
			s.slowAt(start.Add(10*time.Second), Slow{What: "op", Took: c.took, Waits: c.waits})
			ops := s.SlowOps()
			var got []string
			for _, w := range ops[len(ops)-1].Waits {
				got = append(got, fmt.Sprint(strings.Replace(w.For, pausedWait, "paused", 1), " ", w.Took))
			}
			if text := strings.Join(got, ", "); text != c.want {
				t.Errorf("got %q, want %q", text, c.want)
			}
		})
	}
}

// beats come at first, then each step until end.
func beats(first, step, end time.Duration) (out []time.Duration) {
	for at := first; at <= end; at += step {
		out = append(out, at)
	}
	return out
}

func TestAPauseIsCountedAndLogged(t *testing.T) {
	s, now := NewSet(), time.Now()
	beat := func(after time.Duration) {
		now = now.Add(after)
		s.Beat(now)
	}
	beat(0)
	beat(BeatEvery)
	if ops := s.SlowOps(); len(ops) > 0 || s.pausedAt(now, time.Minute) != 0 {
		t.Errorf("without a pause: %v", ops)
	}
	beat(BeatEvery + SlowAfter/2)
	beat(BeatEvery + 2*time.Second)
	beat(BeatEvery)
	ops := s.SlowOps()
	if len(ops) != 1 || ops[0].What != "pause" || ops[0].Shard != -1 || ops[0].Took != 2*time.Second || len(ops[0].Waits) != 1 || ops[0].Waits[0] != (Wait{pausedWait, 2 * time.Second}) {
		t.Errorf("in the slow log: %v", ops)
	}
	for _, want := range []string{"banyan_pause_seconds_sum 2.1\n", "banyan_pause_seconds_count 2\n", "banyan_pause_seconds_bucket{le=\"1\"} 1\n"} {
		if out := text(t, s); !strings.Contains(out, want) {
			t.Errorf("%q is missing in:\n%s", want, out)
		}
	}
	for d, want := range map[time.Duration]time.Duration{time.Minute: 2100 * time.Millisecond, time.Second: time.Second - BeatEvery, BeatEvery: 0} {
		if got := s.pausedAt(now, d); got != want {
			t.Errorf("of the last %v: %v, want %v", d, got, want)
		}
	}
}

// TestPausesAreForgotten: what is kept of them is bounded.
func TestPausesAreForgotten(t *testing.T) {
	s, now := NewSet(), time.Now()
	for range pausesKept + 10 {
		s.Beat(now)
		now = now.Add(BeatEvery + pauseMin)
	}
	s.Beat(now)
	if got := s.pausedAt(now, time.Hour); got != pausesKept*pauseMin {
		t.Errorf("%v, want %v", got, pausesKept*pauseMin)
	}
}
