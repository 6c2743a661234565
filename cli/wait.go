package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"banyan"
)

func (a *app) waitCommand() *cobra.Command {
	var show showFlags
	cmd := &cobra.Command{
		Use:   "wait JOB",
		Short: "Wait until a job has ended; exit as 'run' would",
		Long: `Wait until a job has ended, showing its progress but not its output, and exit
with the code that 'banyan run' would. A signal ends the waiting, not the job.`,
		Args:              exactly("JOB"),
		ValidArgsFunction: arguments(a.jobs(unended)),
		Annotations:       map[string]string{countsFailures: ""},
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := show.check(); err != nil {
				return err
			}
			id, err := banyan.ParseJobID(args[0])
			if err != nil {
				return err
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			s, err := a.opens(ctx, need{embedded: true, job: id})
			if err != nil {
				return err
			}
			defer s.close()
			end := a.watch(ctx, s, follow{job: id, show: show, mute: true})
			var e *exit
			if !show.format.json() || end != nil && !errors.As(end, &e) {
				return end
			}
			j, err := s.Jobs().Get(ctx, id)
			if err == nil {
				err = writeJSON(a.Out, newJobJSON(j))
			}
			if err != nil {
				return err
			}
			return end
		},
	}
	show.format.add(cmd.Flags())
	cmd.Flags().StringVar(&show.progress, "progress", "auto", "`HOW` to show progress: auto, bar, plain or none")
	return cmd
}
