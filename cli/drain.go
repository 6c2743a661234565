package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banyan"
)

func (a *app) drainCommand() *cobra.Command {
	var f format
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move leaders and work off a node, before it is stopped",
		Long: `Move leaders and work off a node: it hands over what it leads, finishes the tasks
it runs and takes no more. With --undo it takes them again.`,
		Example: "  banyan drain n2\n  banyan drain --undo n2",
		Args:    exactly("NODE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				id, err := findNode(ctx, s, args[0])
				if err != nil {
					return err
				}
				n, err := s.Cluster().Drain(ctx, id, undo)
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, newNodeJSON(n))
				}
				_, err = fmt.Fprintf(a.Out, "%v (%s) is %s: it leads %d shards and runs %d tasks\n", id, n.GetName(), n.GetState(), n.GetLeaders(), n.GetRunning())
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node lead and work again")
	f.add(cmd.Flags())
	return cmd
}

// findNode finds a node by its id, or by a name that only one has.
func findNode(ctx context.Context, s *session, text string) (banyan.NodeID, error) {
	nodes, err := s.Cluster().Nodes(ctx)
	if err != nil {
		return 0, err
	}
	var named []banyan.NodeID
	for _, n := range nodes {
		if id := banyan.NodeID(n.Id); id.String() == text {
			return id, nil
		} else if n.Name == text {
			named = append(named, id)
		}
	}
	switch len(named) {
	case 1:
		return named[0], nil
	case 0:
		return 0, banyan.Errorf(banyan.NotFound, "there is no node %q: 'banyan nodes' lists those there are", text)
	}
	return 0, banyan.Errorf(banyan.Invalid, "%d nodes are called %q: give the id, such as %v", len(named), text, named[0])
}
