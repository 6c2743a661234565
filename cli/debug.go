package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func (a *app) debugCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "debug",
		Short: "Look into nodes: raft, slow log, log, profiles; split shards",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q: 'banyan help debug' lists the commands", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.debugShardCommand(), a.debugSplitCommand(), a.debugSlowCommand(), a.debugSweepCommand(), a.debugLogCommand(), a.debugGoroutinesCommand(), a.debugProfileCommand(), a.debugBundleCommand())
	return cmd
}

// nodeFlag is --node of the commands that look into one node.
type nodeFlag struct {
	text string
	id   banyan.NodeID // 0: whichever answers, or all
}

func (n *nodeFlag) add(fs *pflag.FlagSet) {
	fs.StringVar(&n.text, "node", "", "of this `NODE` (default the one that answers)")
}

// look opens the cluster and finds the node that is meant.
func (a *app) look(ctx context.Context, f format, node *nodeFlag, fn func(context.Context, *session) error) error {
	if err := f.check(); err != nil {
		return err
	}
	return a.with(ctx, need{}, func(ctx context.Context, s *session) (err error) {
		if node.text != "" {
			if node.id, err = findNode(ctx, s, node.text); err != nil {
				return err
			}
		}
		return fn(ctx, s)
	})
}

// unanswered says which nodes are missing from an answer.
func (a *app) unanswered(failed []*banyanv1.NodeError) {
	for _, e := range failed {
		fmt.Fprintf(a.Err, "banyan: node %v did not answer: %s\n", banyan.NodeID(e.Node), oneLine(e.Error))
	}
}
