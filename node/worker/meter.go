package worker

import (
	banyanv1 "banyan/api/banyan/v1"
	"banyan/obs/metric"
)

// meter is what a worker counts.
type meter struct {
	ended      map[banyanv1.TaskState]metric.Counter
	handedBack metric.Counter
}

func newMeter(s *metric.Set) meter {
	const name, help = "banyan_attempts_total", "Attempts that ran on this node, by how they ended."
	return meter{
		ended: map[banyanv1.TaskState]metric.Counter{
			banyanv1.TaskState_TASK_STATE_SUCCEEDED: s.Counter(name, help, "result", "succeeded"),
			banyanv1.TaskState_TASK_STATE_FAILED:    s.Counter(name, help, "result", "failed"),
			banyanv1.TaskState_TASK_STATE_CANCELED:  s.Counter(name, help, "result", "canceled"),
		},
		handedBack: s.Counter(name, help, "result", "handed back"),
	}
}

// attempted counts an attempt; without a result it was handed back.
func (m *meter) attempted(result *banyanv1.TaskResult) {
	if result == nil {
		m.handedBack.Inc()
		return
	}
	m.ended[result.State].Inc()
}

func (w *Worker) readMeter(r *metric.Reading) {
	w.mu.Lock()
	waiting, results := len(w.core.waiting), len(w.core.results)
	w.mu.Unlock()
	r.Gauge("banyan_slots", "Attempts that this node runs at once.", float64(w.cfg.Slots))
	r.Gauge("banyan_attempts_running", "Attempts that run on this node.", float64(w.Running()))
	r.Gauge("banyan_attempts_waiting", "Attempts on this node that wait for a slot.", float64(waiting))
	r.Gauge("banyan_results_waiting", "Results on this node that are not known to be recorded.", float64(results))
}
