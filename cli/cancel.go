package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banyan"
)

func (a *app) cancelCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "cancel JOB",
		Short: "End a job for good: kill what runs, start nothing more",
		Long: `End a job for good: what runs is killed, what waits is never started. Recorded
results stay. A canceled job cannot be resumed; Ctrl-C of 'run' only holds it.`,
		Args:              exactly("JOB"),
		ValidArgsFunction: arguments(a.jobs(unended)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.withJob(cmd.Context(), args[0], func(ctx context.Context, s *session, id banyan.JobID) error {
				j, err := s.Jobs().Cancel(ctx, id)
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, newJobJSON(j))
				}
				p := j.GetProgress()
				fmt.Fprintf(a.Err, "banyan: job %s is %s, %d of %d tasks done\n", id, jobState(j.GetState()), p.GetSucceeded()+p.GetFailed(), j.GetTasks())
				return nil
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}
