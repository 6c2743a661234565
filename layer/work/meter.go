package work

import (
	banyanv1 "banyan/api/banyan/v1"
	"banyan/obs/metric"
)

// meter is what the controllers of a node count.
type meter struct {
	tasks map[banyanv1.TaskState]metric.Counter
	jobs  map[banyanv1.JobState]metric.Counter
	full  metric.Counter
}

func newMeter(s *metric.Set) meter {
	const tasks, tasksHelp = "banyan_tasks_total", "Tasks whose result was recorded by a controller here."
	const jobs, jobsHelp = "banyan_jobs_total", "Jobs that ended in a shard led here."
	return meter{
		tasks: map[banyanv1.TaskState]metric.Counter{
			banyanv1.TaskState_TASK_STATE_SUCCEEDED: s.Counter(tasks, tasksHelp, "result", "succeeded"),
			banyanv1.TaskState_TASK_STATE_FAILED:    s.Counter(tasks, tasksHelp, "result", "failed"),
			banyanv1.TaskState_TASK_STATE_CANCELED:  s.Counter(tasks, tasksHelp, "result", "canceled"),
		},
		jobs: map[banyanv1.JobState]metric.Counter{
			banyanv1.JobState_JOB_STATE_SUCCEEDED: s.Counter(jobs, jobsHelp, "result", "succeeded"),
			banyanv1.JobState_JOB_STATE_FAILED:    s.Counter(jobs, jobsHelp, "result", "failed"),
			banyanv1.JobState_JOB_STATE_CANCELED:  s.Counter(jobs, jobsHelp, "result", "canceled"),
		},
		full: s.Crowded("jobs"),
	}
}

// readMeter tells what there is to do.
func (s *Service) readMeter(r *metric.Reading) {
	s.mu.Lock()
	pending, running := s.core.Load()
	jobs, workers := len(s.records), len(s.sessions)
	s.mu.Unlock()
	r.Gauge("banyan_jobs_active", "Jobs that have not ended, in the shards led here.", float64(jobs))
	r.Gauge("banyan_tasks_pending", "Tasks of those jobs that no worker has.", float64(pending))
	r.Gauge("banyan_tasks_running", "Tasks of those jobs that a worker has.", float64(running))
	r.Gauge("banyan_workers", "Workers connected to the controllers here.", float64(workers))
}

// Load counts the tasks of all jobs that no worker has, and those that one has.
func (c *Core) Load() (pending, running int) {
	for _, r := range c.jobs {
		pending += r.pending
		running += r.active
	}
	return pending, running
}
