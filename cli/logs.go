package cli

import (
	"context"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func (a *app) logsCommand() *cobra.Command {
	var follow, onlyOut, onlyErr, tag bool
	cmd := &cobra.Command{
		Use:   "logs JOB [TASK|then]",
		Short: "Show the output of a job's tasks",
		Long: `Show what tasks printed: of one TASK (its number from 1, or then for the --then
step), finished or running, or of all finished tasks in the order of their
inputs. With -f the output of a running task is shown as it comes.`,
		Args: atMost(1, "JOB", "TASK"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if follow && len(args) < 2 {
				return usage("-f wants a TASK to follow: 'banyan job show %s' lists those that run", args[0])
			}
			return a.withJob(cmd.Context(), args[0], func(ctx context.Context, s *session, id banyan.JobID) error {
				w := streams{a.Out, a.Err}
				if onlyOut && !onlyErr {
					w.err = io.Discard
				}
				if onlyErr && !onlyOut {
					w.out = io.Discard
				}
				if len(args) < 2 {
					return allLogs(ctx, s, id, w, tag)
				}
				task, err := taskIndex(ctx, s, id, args[1])
				if err != nil {
					return err
				}
				return taskLog(ctx, s, &banyanv1.LogsRequest{JobId: string(id), Task: task, Follow: follow, StdoutOnly: onlyOut && !onlyErr, StderrOnly: onlyErr && !onlyOut}, w)
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&follow, "follow", "f", false, "wait for more output until the task has ended")
	fs.BoolVar(&onlyOut, "stdout", false, "standard output only")
	fs.BoolVar(&onlyErr, "stderr", false, "standard error only")
	fs.BoolVar(&tag, "tag", false, "print the input and a tab before every line (of all tasks)")
	return cmd
}

type streams struct{ out, err io.Writer }

// taskIndex reads the number of a task of a job, or "then".
func taskIndex(ctx context.Context, s *session, id banyan.JobID, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if text != "then" && (err != nil || n == 0) {
		return 0, usage("bad task %q: give its number from 1, or then", text)
	}
	j, err := s.Jobs().Get(ctx, id)
	if err != nil {
		return 0, err
	}
	tasks := j.GetTasks()
	switch {
	case text == "then" && j.GetSpec().GetThen() == nil:
		return 0, banyan.Errorf(banyan.NotFound, "job %s has no --then step: give the number of a task, 1 to %d", id, tasks)
	case text == "then":
		return tasks, nil
	case n > uint64(tasks):
		return 0, banyan.Errorf(banyan.NotFound, "job %s has no task %d: it has %d tasks", id, n, tasks)
	}
	return uint32(n - 1), nil
}

// taskLog copies one task's output.
func taskLog(ctx context.Context, s *session, req *banyanv1.LogsRequest, w streams) error {
	return s.Jobs().Logs(ctx, req, func(m *banyanv1.LogsResponse) error {
		to := w.out
		if m.Stderr {
			to = w.err
		}
		_, err := to.Write(m.Data)
		return err
	})
}

// allLogs prints the output of all finished tasks, and of the then step.
func allLogs(ctx context.Context, s *session, id banyan.JobID, w streams, tag bool) error {
	p := &printer{out: w.out, err: w.err, tag: tag, chunks: s.Blobs().Download}
	err := s.eachResult(ctx, &banyanv1.TasksRequest{JobId: string(id)}, func(r *banyanv1.TaskResult) error {
		return p.result(ctx, r, false)
	})
	if err != nil {
		return err
	}
	j, err := s.Jobs().Get(ctx, id)
	if err != nil || j.GetThenResult() == nil {
		return err
	}
	return p.result(ctx, j.ThenResult, true)
}
