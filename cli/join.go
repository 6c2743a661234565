package cli

import (
	"github.com/spf13/cobra"

	"banyan/node/server"
)

func (a *app) joinCommand() *cobra.Command {
	f := &nodeFlags{}
	var token string
	cmd := &cobra.Command{
		Use:   "join HOST:PORT --token TOKEN",
		Short: "Let this machine join a cluster, and start its node",
		Long: `Let this machine join the cluster that answers at HOST:PORT, and start its node.
The token comes from 'banyan token' on a member; BANYAN_TOKEN may hold it
instead, where command lines are seen by others. Later 'banyan up' with the same
--dir starts the node again.`,
		Args: exactly("HOST:PORT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if token == "" {
				token = a.Env("BANYAN_TOKEN")
			}
			if token == "" {
				return usage("--token is missing: 'banyan token' on a member of the cluster makes one")
			}
			c, err := a.nodeConfig(f)
			if err != nil {
				return err
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			if err := server.Join(ctx, c, args[0], token); err != nil {
				return err
			}
			return a.serve(ctx, c)
		},
	}
	f.add(cmd.Flags())
	cmd.Flags().StringVar(&token, "token", "", "the `TOKEN` that lets this machine in")
	return cmd
}
