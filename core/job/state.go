package job

import (
	banyanv1 "banyan/api/banyan/v1"
)

// JobMove is one legal change of a job's state.
type JobMove struct {
	From, To banyanv1.JobState
	When     string
}

// TaskMove is one legal change of a task's state. A task without a recorded
// result is pending or running; which of them, only the controller knows.
type TaskMove struct {
	From, To banyanv1.TaskState
	When     string
}

// AttemptState is where one try at a task stands, as its controller sees it.
type AttemptState uint8

// The states of an attempt.
const (
	AttemptSent     AttemptState = iota // on its worker, waiting or running
	AttemptFinished                     // its result has arrived and waits to be recorded
	AttemptRecorded                     // its result, or that it failed, is durable
	AttemptLost                         // its node is gone; it may still report
	AttemptReturned                     // handed back unstarted, killed by its worker's end, or stopped
)

// AttemptMove is one legal change of an attempt's state.
type AttemptMove struct {
	From, To AttemptState
	When     string
}

// The table of legal changes: whatever is not here does not happen.
var (
	JobMoves = [...]JobMove{
		{banyanv1.JobState_JOB_STATE_UNSPECIFIED, banyanv1.JobState_JOB_STATE_ACTIVE, "submitted"},
		{banyanv1.JobState_JOB_STATE_ACTIVE, banyanv1.JobState_JOB_STATE_HELD, "held"},
		{banyanv1.JobState_JOB_STATE_ACTIVE, banyanv1.JobState_JOB_STATE_SUCCEEDED, "every task and the then step succeeded"},
		{banyanv1.JobState_JOB_STATE_ACTIVE, banyanv1.JobState_JOB_STATE_FAILED, "every task has a result and one of them failed"},
		{banyanv1.JobState_JOB_STATE_ACTIVE, banyanv1.JobState_JOB_STATE_CANCELED, "canceled"},
		{banyanv1.JobState_JOB_STATE_HELD, banyanv1.JobState_JOB_STATE_ACTIVE, "resumed"},
		{banyanv1.JobState_JOB_STATE_HELD, banyanv1.JobState_JOB_STATE_SUCCEEDED, "the last results came in while it was held"},
		{banyanv1.JobState_JOB_STATE_HELD, banyanv1.JobState_JOB_STATE_FAILED, "the last results came in while it was held"},
		{banyanv1.JobState_JOB_STATE_HELD, banyanv1.JobState_JOB_STATE_CANCELED, "canceled"},
		{banyanv1.JobState_JOB_STATE_FAILED, banyanv1.JobState_JOB_STATE_ACTIVE, "resumed to retry what failed"},
	}
	TaskMoves = [...]TaskMove{
		{banyanv1.TaskState_TASK_STATE_PENDING, banyanv1.TaskState_TASK_STATE_RUNNING, "an attempt was sent or claimed"},
		{banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_PENDING, "the attempt was lost, handed back, stopped, or failed with tries left"},
		{banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_SUCCEEDED, "recorded"},
		{banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_FAILED, "recorded, no tries left"},
		{banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_TIMED_OUT, "recorded, no tries left"},
		{banyanv1.TaskState_TASK_STATE_PENDING, banyanv1.TaskState_TASK_STATE_SUCCEEDED, "an attempt believed lost reported after all"},
		{banyanv1.TaskState_TASK_STATE_PENDING, banyanv1.TaskState_TASK_STATE_FAILED, "an attempt believed lost reported after all"},
		{banyanv1.TaskState_TASK_STATE_PENDING, banyanv1.TaskState_TASK_STATE_TIMED_OUT, "an attempt believed lost reported after all"},
		{banyanv1.TaskState_TASK_STATE_PENDING, banyanv1.TaskState_TASK_STATE_CANCELED, "the job was canceled"},
		{banyanv1.TaskState_TASK_STATE_RUNNING, banyanv1.TaskState_TASK_STATE_CANCELED, "the job was canceled"},
		{banyanv1.TaskState_TASK_STATE_FAILED, banyanv1.TaskState_TASK_STATE_PENDING, "the job was resumed to retry what failed"},
		{banyanv1.TaskState_TASK_STATE_TIMED_OUT, banyanv1.TaskState_TASK_STATE_PENDING, "the job was resumed to retry what failed"},
	}
	AttemptMoves = [...]AttemptMove{
		{AttemptSent, AttemptFinished, "it reported, and its task has no result yet"},
		{AttemptSent, AttemptLost, "its node died, or nobody claimed it"},
		{AttemptSent, AttemptReturned, "rejected, stopped or killed"},
		{AttemptLost, AttemptFinished, "it was its task's second loss, which is the task's result"},
		{AttemptReturned, AttemptFinished, "it had ended before it could be stopped"},
		{AttemptFinished, AttemptRecorded, "committed"},
		{AttemptFinished, AttemptSent, "leadership moved before it was committed; its worker still has it"},
	}
)

// JobMay says whether a job may go from one state to another.
func JobMay(from, to banyanv1.JobState) bool {
	for _, m := range JobMoves {
		if m.From == from && m.To == to {
			return true
		}
	}
	return false
}

// TaskMay says whether a task may go from one state to another.
func TaskMay(from, to banyanv1.TaskState) bool {
	for _, m := range TaskMoves {
		if m.From == from && m.To == to {
			return true
		}
	}
	return false
}

// AttemptMay says whether an attempt may go from one state to another.
func AttemptMay(from, to AttemptState) bool {
	for _, m := range AttemptMoves {
		if m.From == from && m.To == to {
			return true
		}
	}
	return false
}

// Ended says whether a job in this state is over: nothing of it runs or waits.
func Ended(s banyanv1.JobState) bool {
	switch s {
	case banyanv1.JobState_JOB_STATE_SUCCEEDED, banyanv1.JobState_JOB_STATE_FAILED, banyanv1.JobState_JOB_STATE_CANCELED:
		return true
	}
	return false
}

// Word is a job state as people read it: "active", "held", "succeeded" …
func Word(s banyanv1.JobState) string {
	switch s {
	case banyanv1.JobState_JOB_STATE_ACTIVE:
		return "active"
	case banyanv1.JobState_JOB_STATE_HELD:
		return "held"
	case banyanv1.JobState_JOB_STATE_SUCCEEDED:
		return "succeeded"
	case banyanv1.JobState_JOB_STATE_FAILED:
		return "failed"
	case banyanv1.JobState_JOB_STATE_CANCELED:
		return "canceled"
	}
	return "unknown"
}
