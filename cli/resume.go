package cli

import (
	"context"
	"fmt"

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
	seen, err := recorded(ctx, s, j, retryFailed)
	if err != nil {
		return err
	}
	if j.GetOpen() { // who read its inputs is gone, or is told so
		if _, err := s.Jobs().Feed(ctx, &banyanv1.FeedRequest{JobId: string(id), First: j.Tasks, Close: true}); err != nil {
			return err
		}
		fmt.Fprintf(a.Err, "banyan: job %s has the %s that were read, and no more\n", id, count(j.Tasks, "input"))
		if j, err = s.Jobs().Get(ctx, id); err != nil {
			return err
		}
	}
	if !j.GetStreamed() || !ended(j.State) || retryFailed { // closing it may have ended it
		if _, err := s.Jobs().Resume(ctx, id, retryFailed); err != nil {
			return err
		}
	}
	cancel()
	return a.follow(ctx, sig, s, follow{job: id, show: show, seen: seen, streamed: j.GetStreamed(), back: asked{banyanv1.Strings(j.GetSpec().GetReturn()), int(j.GetTasks()), nil, false}, then: j.GetSpec().GetThen() != nil})
}

// recorded gives the tasks that have a result, without those that are to be
// tried again.
func recorded(ctx context.Context, s *session, j *banyanv1.Job, retryFailed bool) (bitmap, error) {
	var seen bitmap
	if !retryFailed {
		seen.fill(j.Trimmed)
	}
	next := uint32(0) // behind the last of those that are trimmed and have a row
	err := s.eachResult(ctx, &banyanv1.TasksRequest{JobId: j.Id}, func(r *banyanv1.TaskResult) error {
		if retryFailed && r.Task < j.Trimmed { // of these the failed ones have rows, and those that were tried again
			for ; next < r.Task; next++ {
				seen.set(next)
			}
			next = r.Task + 1
		}
		if r.State == banyanv1.TaskState_TASK_STATE_SUCCEEDED || !retryFailed {
			seen.set(r.Task)
		}
		return nil
	})
	for ; retryFailed && next < j.Trimmed; next++ {
		seen.set(next)
	}
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
