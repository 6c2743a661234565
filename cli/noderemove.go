package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banyan"
)

// removePoll is how often the cluster is asked whether a node can go.
const removePoll = 500 * time.Millisecond

// removeJSON is what 'node remove -o json' prints.
type removeJSON struct {
	Node    string `json:"node"`
	Removed bool   `json:"removed"`
	Waiting string `json:"waiting"`
}

func (a *app) nodeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "node",
		Short: "Take a node out of the cluster",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.nodeRemoveCommand())
	return cmd
}

func (a *app) nodeRemoveCommand() *cobra.Command {
	var f format
	var wait time.Duration
	cmd := &cobra.Command{
		Use:     "remove NODE",
		Aliases: []string{"decommission"},
		Short:   "Take a node out of the cluster for good",
		Long: `Take a node out of the cluster for good. It is drained, other nodes take over
its replicas and blobs, and then it is removed: its process ends, its
certificate is not accepted any more, and its id is never used again. A node
that is gone already is removed in the same way once its replicas are rebuilt
elsewhere.

The command waits; interrupted, it can be given again and goes on. Until the
node is removed, 'banyan drain --undo NODE' keeps it.`,
		Example:           "  banyan node remove n4",
		Args:              exactly("NODE"),
		ValidArgsFunction: arguments(a.nodes(nil)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if cmd.Flags().Changed("wait") && wait <= 0 {
				return usage("bad --wait %v: give a time such as 30s or 10m", wait)
			}
			ctx, stop := a.interruptible(cmd.Context())
			defer stop()
			return a.with(ctx, need{}, func(ctx context.Context, s *session) error {
				id, err := findNode(ctx, s, args[0])
				if err != nil {
					return err
				}
				out, err := a.removeNode(ctx, s, id, wait, f.json())
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, out)
				}
				_, err = fmt.Fprintf(a.Out, "%v is removed: its directory can be deleted\n", id)
				return err
			})
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 0, "give up after this `TIME` (default: never); the node stays leaving")
	f.add(cmd.Flags())
	return cmd
}

// removeNode asks until the node is removed, and says on standard error what is
// waited for whenever that changes.
func (a *app) removeNode(ctx context.Context, s *session, id banyan.NodeID, wait time.Duration, quiet bool) (removeJSON, error) {
	end := a.now().Add(wait)
	said := ""
	for {
		r, err := s.Cluster().RemoveNode(ctx, id)
		if err != nil {
			return removeJSON{}, err
		}
		if r.Removed {
			nodes, err := s.Cluster().Nodes(ctx)
			if err == nil {
				err = s.remember(nodes) // the address that was known may have been this one
			}
			return removeJSON{Node: id.String(), Removed: true}, err
		}
		if r.Waiting != said && !quiet {
			said = r.Waiting
			fmt.Fprintf(a.Err, "%v is leaving; waiting %s\n", id, r.Waiting)
		}
		if wait > 0 && !a.now().Before(end) {
			return removeJSON{}, banyan.Errorf(banyan.Timeout, "%v is still leaving after %v; waiting %s: give the command again to go on, or keep the node with 'banyan drain --undo %v'", id, wait, r.Waiting, id)
		}
		select {
		case <-ctx.Done():
			return removeJSON{}, ctx.Err()
		case <-time.After(removePoll):
		}
	}
}
