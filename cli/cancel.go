package cli

import (
	"context"
	"fmt"

	"connectrpc.com/connect"
	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func (a *app) cancelCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "cancel JOB",
		Short: "End a job for good: kill what runs, start nothing more",
		Long: `End a job for good: what runs is killed, what waits is never started. Recorded
results stay. A canceled job cannot be resumed; Ctrl-C of 'run' only holds it.`,
		Args: exactly("JOB"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withJob(cmd.Context(), args[0], func(ctx context.Context, s *session, id banyan.JobID) error {
				r, err := s.jobs.Cancel(ctx, connect.NewRequest(&banyanv1.CancelRequest{JobId: string(id)}))
				if err != nil {
					return err
				}
				p := r.Msg.Job.GetProgress()
				fmt.Fprintf(a.Err, "banyan: job %s is %s, %d of %d tasks done\n", id, jobState(r.Msg.Job.GetState()), p.GetSucceeded()+p.GetFailed(), r.Msg.Job.GetTasks())
				return nil
			})
		},
	}
}
