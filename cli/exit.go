package cli

import (
	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// The exit codes. Those of the commands that wait for a job are GNU parallel's.
const (
	exitError       = 1
	exitUsage       = 2
	exitFailedMax   = 100 // up to here: that many tasks failed
	exitFailedMore  = 101
	exitInterrupted = 130
	exitFiles       = 102 // tasks succeeded, and not every file came back
	exitOther       = 255 // of a command that counts failed tasks
)

// countsFailures marks the commands whose exit code is a number of failed tasks.
const countsFailures = "banyan/counts-failures"

func counts(cmd *cobra.Command) bool {
	_, ok := cmd.Annotations[countsFailures]
	return ok
}

// outcome gives the error that makes the process exit as the job ended; nil if
// every task succeeded.
func outcome(state banyanv1.JobState, failed int, then *banyanv1.TaskResult) error {
	switch {
	case state == banyanv1.JobState_JOB_STATE_SUCCEEDED:
		return nil
	case failed > exitFailedMax:
		return &exit{code: exitFailedMore}
	case failed > 0:
		return &exit{code: failed}
	case then != nil && then.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED:
		return &exit{code: 1}
	}
	return &exit{code: exitOther}
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes.

'run', 'resume' and 'wait', as GNU parallel:
  0        every task succeeded, and so did --then
  1–100    that many tasks failed (1 also: only the --then step failed)
  101      more than 100 tasks failed
  102      no task failed, but not every file came back; a line says why
  130      interrupted; the job is held, 'banyan resume JOB' goes on
  255      another error, or the job was canceled; nothing is known of the tasks

'lock' and 'elect' exit as the command they run (128 and more: it was ended by a
signal), and:
  124      the lock was not to be had in time
  125      the lock was lost, the cluster did not answer, or another error
  126, 127 the command cannot be run, or is not there

Every other command:
  0        done
  1        an error; one line on standard error says what to do
  2        the command line is wrong
  130      interrupted

'kv get' exits with 1 if there is no such key, 'kv txn' if a condition did not
hold, 'status' if something is unhealthy.`,
	}
}
