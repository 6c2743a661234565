package cli

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// clusterJSON is what 'cluster show -o json' prints.
type clusterJSON struct {
	Voters      uint32 `json:"voters"`
	DeadAfterMs int64  `json:"dead_after_ms"`
	KeepMs      int64  `json:"keep_ms"` // of the three -1 is for ever
	KeepJobs    int64  `json:"keep_jobs"`
	KeepBytes   int64  `json:"keep_bytes"`
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

// settingFlags are the flags of 'cluster set'.
type settingFlags struct {
	voters           uint32
	deadAfter        time.Duration
	keep, jobs, room string
}

func (a *app) clusterSetCommand() *cobra.Command {
	var f format
	var set settingFlags
	cmd := &cobra.Command{
		Use:   "set [--voters N] [--dead-after TIME] [--keep TIME] …",
		Short: "Change settings of the whole cluster",
		Long: `Change settings of the whole cluster; they hold at once and are kept.

--voters is how many nodes have each shard's data and must agree by majority on
every write: 3 survive the loss of one, 5 of two. With fewer nodes it is as many
as there can be. --dead-after is how long a node is silent before its replicas
are rebuilt on others.

--keep, --keep-jobs and --keep-bytes bound what is kept of jobs that have ended:
how long after their end, how many, and how many bytes of outputs and files. The
oldest go first; for an hour after its end a job goes by time alone. No bound is
"forever". 'banyan run --keep' says it for one job, and 'banyan job rm' removes
jobs at once.`,
		Example: "  banyan cluster set --voters 5\n  banyan cluster set --keep 90d --keep-bytes 500G",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			want, err := set.settings(cmd.Flags().Changed)
			if err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				_, err := s.Cluster().ChangeSettings(ctx, want)
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
	fs := cmd.Flags()
	fs.Uint32Var(&set.voters, "voters", 0, "have `N` voters of each shard when there are nodes enough (1, 3, 5 or 7)")
	fs.DurationVar(&set.deadAfter, "dead-after", 0, "rebuild the replicas of a node that is silent for this `TIME`")
	fs.StringVar(&set.keep, "keep", "", "keep jobs for this `TIME` after their end, such as 14d")
	fs.StringVar(&set.jobs, "keep-jobs", "", "keep the newest `N` jobs that have ended")
	fs.StringVar(&set.room, "keep-bytes", "", "keep up to this `SIZE` of outputs and files of jobs that have ended, such as 64G")
	f.add(fs)
	return cmd
}

// settings gives what is to be changed.
func (f *settingFlags) settings(given func(flag string) bool) (*banyanv1.Settings, error) {
	out := &banyanv1.Settings{Voters: f.voters, DeadAfterMs: f.deadAfter.Milliseconds()}
	switch {
	case !slices.ContainsFunc([]string{"voters", "dead-after", "keep", "keep-jobs", "keep-bytes"}, given):
		return nil, usage("nothing to set: give --voters, --dead-after, --keep, --keep-jobs or --keep-bytes; 'banyan cluster show' shows what is set")
	case given("voters") && f.voters == 0:
		return nil, usage("--voters 0: give 1, 3, 5 or 7")
	case given("dead-after") && f.deadAfter < time.Millisecond:
		return nil, usage("--dead-after %v: give a time such as 30s or 10m", f.deadAfter)
	}
	for _, c := range []struct {
		flag, text string
		to         *int64
		parse      func(flag, s string) (int64, error)
	}{
		{"keep", f.keep, &out.KeepMs, parseSpan},
		{"keep-jobs", f.jobs, &out.KeepJobs, parseCount},
		{"keep-bytes", f.room, &out.KeepBytes, func(flag, s string) (int64, error) { return parseSize(flag, s, math.MaxInt64/2) }},
	} {
		if !given(c.flag) {
			continue
		}
		if c.text == forever {
			*c.to = -1
			continue
		}
		var err error
		if *c.to, err = c.parse("--"+c.flag, c.text); err == nil && *c.to <= 0 {
			err = usage("--%s is empty: give a bound, or %q for none", c.flag, forever)
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (a *app) printCluster(f format, m *banyanv1.SettingsResponse) error {
	s := m.GetSettings()
	if f.json() {
		return writeJSON(a.Out, clusterJSON{s.GetVoters(), s.GetDeadAfterMs(), s.GetKeepMs(), s.GetKeepJobs(), s.GetKeepBytes(), m.Protocol, m.ProtocolMax})
	}
	t := newTable("SETTING", "VALUE")
	t.add("voters", fmt.Sprint(s.GetVoters()))
	t.add("dead-after", (time.Duration(s.GetDeadAfterMs()) * time.Millisecond).String())
	t.add("keep", bound(s.GetKeepMs(), days))
	t.add("keep-jobs", bound(s.GetKeepJobs(), func(n int64) string { return fmt.Sprint(n) }))
	t.add("keep-bytes", bound(s.GetKeepBytes(), size))
	t.add("protocol", fmt.Sprint(m.Protocol))
	return t.print(a.Out)
}
