package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func (a *app) resumeCommand() *cobra.Command {
	var show showFlags
	var retryFailed bool
	cmd := &cobra.Command{
		Use:   "resume JOB",
		Short: "Go on with a held or interrupted job",
		Long: `Go on with a job after Ctrl-C or a crash: what has a result is not run again.

Prints the results of what runs now ('banyan logs JOB' shows the others), and
brings back the returned files that are not there yet.`,
		Example:           "  banyan resume j06f8m2k1q7zs4\n  banyan resume --retry-failed j06f8m2k1q7zs4",
		Args:              exactly("JOB"),
		ValidArgsFunction: arguments(a.jobs(unsucceeded)),
		Annotations:       map[string]string{countsFailures: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := show.check(); err != nil {
				return err
			}
			return a.resume(cmd.Context(), args[0], show, retryFailed)
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().BoolVar(&retryFailed, "retry-failed", false, "try failed tasks again, too")
	show.add(cmd.Flags())
	return cmd
}

func (a *app) resume(ctx context.Context, text string, show showFlags, retryFailed bool) error {
	id, err := banyan.ParseJobID(text)
	if err != nil {
		return err
	}
	sig := a.listen()
	defer sig.stop()
	ctx, cancel := sig.untilFirst(ctx)
	defer cancel()
	s, err := a.opens(ctx, need{embedded: true, job: id, runs: true})
	if err != nil {
		return err
	}
	defer s.close()
	j, err := s.Jobs().Get(ctx, id)
	if err != nil {
		return err
	}
	seen, err := recorded(ctx, s, id, retryFailed)
	if err != nil {
		return err
	}
	if _, err := s.Jobs().Resume(ctx, id, retryFailed); err != nil {
		return err
	}
	cancel()
	return a.follow(ctx, sig, s, follow{job: id, show: show, seen: seen, back: asked{banyanv1.Strings(j.GetSpec().GetReturn()), int(j.GetTasks()), nil}, then: j.GetSpec().GetThen() != nil})
}

// recorded gives the tasks that have a result, without those that are to be
// tried again.
func recorded(ctx context.Context, s *session, id banyan.JobID, retryFailed bool) (bitmap, error) {
	var seen bitmap
	err := s.eachResult(ctx, &banyanv1.TasksRequest{JobId: string(id)}, func(r *banyanv1.TaskResult) error {
		if r.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED || !retryFailed {
			seen.set(r.Task)
		}
		return nil
	})
	return seen, err
}

// eachResult pages through a job's results.
func (s *session) eachResult(ctx context.Context, req *banyanv1.TasksRequest, fn func(*banyanv1.TaskResult) error) error {
	for {
		r, err := s.Jobs().Tasks(ctx, req)
		if err != nil {
			return err
		}
		for _, t := range r.Results {
			if err := fn(t); err != nil {
				return err
			}
		}
		if !r.More || r.Next <= req.From {
			return nil
		}
		req.From = r.Next
	}
}
