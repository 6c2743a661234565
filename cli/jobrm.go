package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// removal is what 'job rm' was asked for.
type removal struct {
	format format
	force  bool
	ended  bool
	older  string
}

func (a *app) jobRemoveCommand() *cobra.Command {
	var r removal
	cmd := &cobra.Command{
		Use:   "rm {JOB… | --ended | --older TIME}",
		Short: "Remove jobs that have ended, with their results and outputs",
		Long: `Remove jobs that have ended: their results, their outputs and what they were
sent. When the command has returned nobody sees them any more; their space is
freed in the background. Files that 'run' has written stay.

A job that has not ended is refused, unless --force cancels it first. --ended
removes every job that has ended, --older those that ended so long ago.`,
		Example: "  banyan job rm j0abcdefghijkl\n  banyan job rm --older 7d",
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
			return a.jobs(anyState)(cmd, args, typed)
		},
		Args: func(_ *cobra.Command, args []string) error {
			many := r.ended || r.older != ""
			switch {
			case len(args) == 0 && !many:
				return usage("no job is named: give JOB, --ended or --older TIME; 'banyan jobs' lists them")
			case len(args) > 0 && many:
				return usage("JOB excludes --ended and --older: give one of them")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := r.format.check(); err != nil {
				return err
			}
			if len(args) == 0 {
				return a.removeEnded(cmd.Context(), &r)
			}
			var errs []error
			for _, arg := range args {
				errs = append(errs, a.withJob(cmd.Context(), arg, func(ctx context.Context, s *session, id banyan.JobID) error {
					return a.removeJob(ctx, s, id, &r)
				}))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().BoolVar(&r.force, "force", false, "cancel jobs that have not ended, then remove them")
	cmd.Flags().BoolVar(&r.ended, "ended", false, "remove every job that has ended")
	cmd.Flags().StringVar(&r.older, "older", "", "remove every job that ended this `TIME` ago, such as 7d or 12h")
	r.format.add(cmd.Flags())
	return cmd
}

func (a *app) removeJob(ctx context.Context, s *session, id banyan.JobID, r *removal) error {
	j, err := s.Jobs().Remove(ctx, id, r.force)
	if s.lane != nil && (err == nil || banyan.IsKind(err, banyan.NotFound)) {
		s.lane.forget(id)
	}
	if err != nil {
		return err
	}
	if r.format.json() {
		return writeJSON(a.Out, newJobJSON(j))
	}
	fmt.Fprintf(a.Err, "banyan: job %s is removed\n", id)
	return nil
}

// removeEnded removes every job that has ended, long enough ago.
func (a *app) removeEnded(ctx context.Context, r *removal) error {
	olderMs := int64(0)
	if r.older != "" {
		var err error
		if olderMs, err = parseSpan("--older", r.older); err != nil {
			return err
		}
	}
	until := a.now().Add(-time.Duration(olderMs) * time.Millisecond).UnixMilli()
	removed := 0
	err := a.everywhere(ctx, func(ctx context.Context, s *session) error {
		return eachJob(ctx, s, func(j *banyanv1.Job) error {
			if !ended(j.State) || j.EndMs > until {
				return nil
			}
			err := a.removeJob(ctx, s, banyan.JobID(j.Id), r)
			if banyan.IsKind(err, banyan.NotFound) || banyan.IsKind(err, banyan.Conflict) && !r.force { // removed or resumed meanwhile
				return nil
			}
			if err == nil {
				removed++
			}
			return err
		})
	})
	if err == nil && removed == 0 && !r.format.json() {
		fmt.Fprintln(a.Err, "banyan: there is no such job")
	}
	return err
}

// eachJob calls fn with every job, the newest first.
func eachJob(ctx context.Context, s *session, fn func(*banyanv1.Job) error) error {
	for before, more := banyan.JobID(""), true; more; {
		jobs, m, err := s.Jobs().ListBefore(ctx, before, jobsPage)
		if err != nil {
			return err
		}
		for _, j := range jobs {
			before = banyan.JobID(j.Id)
			if err := fn(j); err != nil {
				return err
			}
		}
		more = m && len(jobs) > 0
	}
	return nil
}

// jobsPage is how many jobs are asked for at once.
const jobsPage = 500

// parseSpan reads a time as --timeout does; it must be one.
func parseSpan(flag, s string) (ms int64, err error) {
	ms, err = parseTimeout(s)
	if err != nil || ms <= 0 {
		return 0, usage("bad %s %q: give a time such as 90s, 12h or 7d", flag, s)
	}
	return ms, nil
}
