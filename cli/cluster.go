package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// clusterJSON is what 'cluster show -o json' prints.
type clusterJSON struct {
	Voters      uint32 `json:"voters"`
	DeadAfterMs int64  `json:"dead_after_ms"`
	Protocol    uint32 `json:"protocol"`
	ProtocolMax uint32 `json:"protocol_max"`
}

func (a *app) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cluster",
		Short: "Show and change what holds for the whole cluster",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.clusterShowCommand(), a.clusterSetCommand())
	return cmd
}

func (a *app) clusterShowCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the settings of the cluster, and the protocol it acts at",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				m, err := s.Cluster().Settings(ctx)
				if err != nil {
					return err
				}
				return a.printCluster(f, m)
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) clusterSetCommand() *cobra.Command {
	var f format
	var voters uint32
	var deadAfter time.Duration
	cmd := &cobra.Command{
		Use:   "set [--voters N] [--dead-after TIME]",
		Short: "Change settings of the whole cluster",
		Long: `Change settings of the whole cluster; they hold at once and are kept. --voters
is how many nodes have each shard's data and must agree by majority on every
write: 3 survive the loss of one, 5 of two. With fewer nodes it is as many as
there can be. --dead-after is how long a node is silent before its replicas are
rebuilt on others.`,
		Example: "  banyan cluster set --voters 5\n  banyan cluster set --dead-after 10m",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if !cmd.Flags().Changed("voters") && !cmd.Flags().Changed("dead-after") {
				return usage("nothing to set: give --voters or --dead-after; 'banyan cluster show' shows what is set")
			}
			if cmd.Flags().Changed("voters") && voters == 0 {
				return usage("--voters 0: give 1, 3, 5 or 7")
			}
			if cmd.Flags().Changed("dead-after") && deadAfter < time.Millisecond {
				return usage("--dead-after %v: give a time such as 30s or 10m", deadAfter)
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				_, err := s.Cluster().ChangeSettings(ctx, &banyanv1.Settings{Voters: voters, DeadAfterMs: deadAfter.Milliseconds()})
				if err != nil {
					return err
				}
				m, err := s.Cluster().Settings(ctx)
				if err != nil {
					return err
				}
				return a.printCluster(f, m)
			})
		},
	}
	cmd.Flags().Uint32Var(&voters, "voters", 0, "have `N` voters of each shard when there are nodes enough (1, 3, 5 or 7)")
	cmd.Flags().DurationVar(&deadAfter, "dead-after", 0, "rebuild the replicas of a node that is silent for this `TIME`")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printCluster(f format, m *banyanv1.SettingsResponse) error {
	s := m.GetSettings()
	if f.json() {
		return writeJSON(a.Out, clusterJSON{s.GetVoters(), s.GetDeadAfterMs(), m.Protocol, m.ProtocolMax})
	}
	t := newTable("SETTING", "VALUE")
	t.add("voters", fmt.Sprint(s.GetVoters()))
	t.add("dead-after", (time.Duration(s.GetDeadAfterMs()) * time.Millisecond).String())
	t.add("protocol", fmt.Sprint(m.Protocol))
	return t.print(a.Out)
}
