package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func (a *app) drainCommand() *cobra.Command {
	var f format
	var undo bool
	cmd := &cobra.Command{
		Use:   "drain NODE",
		Short: "Move leaders and work off a node, before it is stopped",
		Long: `Move leaders and work off a node: it hands over what it leads, finishes the
tasks it runs and takes no more. The command waits until that is done;
interrupted, it leaves the node draining. It fails if shards would have no
majority without the node. With --undo the node takes leaders and work again.`,
		Example: "  banyan drain n2\n  banyan drain --undo n2",
		Args:    exactly("NODE"),
		ValidArgsFunction: arguments(a.nodes(func() []string {
			if undo {
				return []string{"draining", "leaving"}
			}
			return []string{"alive", "suspect"}
		})),
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
				if !undo {
					n, err = a.waitDrained(ctx, s, id, f.json())
				}
				if err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, newNodeJSON(n))
				}
				what := "leads no shard and runs no task: it can be stopped"
				if undo {
					what = "takes leaders and work again"
				}
				_, err = fmt.Fprintf(a.Out, "%v (%s) %s\n", id, inLine(n.GetName()), what)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&undo, "undo", false, "let the node lead and work again")
	f.add(cmd.Flags())
	return cmd
}

const (
	drainPoll = 200 * time.Millisecond // between two questions how far a node is
	drainLate = 25                     // answers in a row that may be of a moment: a node asked has not heard, or does not hear
)

// waitDrained waits until a node leads and runs nothing, and says on standard
// error what is waited for whenever that changes.
func (a *app) waitDrained(ctx context.Context, s *session, id banyan.NodeID, quiet bool) (*banyanv1.Node, error) {
	said := ""
	for late := drainLate; ; {
		m, err := s.Cluster().Status(ctx)
		if err != nil {
			return nil, err
		}
		n, passes, err := draining(m, id)
		switch {
		case err == nil && n.Leaders == 0 && n.Running == 0 && n.Version != "": // it has said so itself
			return n, stoppable(m, id)
		case err == nil:
			late = drainLate
		case !passes || late == 0:
			return nil, err
		default:
			late--
		}
		if what := fmt.Sprintf("it leads %s and runs %s", count(n.GetLeaders(), "shard"), count(n.GetRunning(), "task")); err == nil && what != said && !quiet {
			said = what
			fmt.Fprintf(a.Err, "%v is draining: %s\n", id, what)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(drainPoll):
		}
	}
}

// draining gives a node that drains, or why it does not and whether that may pass.
func draining(m *banyanv1.StatusResponse, id banyan.NodeID) (n *banyanv1.Node, passes bool, err error) {
	others, silent, alone := 0, 0, uint32(0)
	for _, sh := range m.Shards {
		if len(sh.Voters) == 1 && sh.Voters[0] == uint64(id) {
			alone++
		}
	}
	for _, o := range m.Nodes {
		switch {
		case banyan.NodeID(o.Id) == id:
			n = o
		case o.State == "alive":
			others++
		case o.State == "suspect" || o.State == "dead":
			silent++
		}
	}
	switch {
	case n.GetState() != "draining" && n.GetState() != "leaving":
		// Dead, removed or taken back by somebody else meanwhile.
		return n, true, banyan.Errorf(banyan.Conflict, "node %v is no longer draining, it is %s: 'banyan nodes' shows the nodes", id, cmp.Or(n.GetState(), "gone"))
	case n.Leaders > 0 && others == 0:
		return n, silent > 0, banyan.Errorf(banyan.Unavailable, "node %v is draining, but there is no other node to take over the %s it leads: let another one join, or keep this one with 'banyan drain --undo %v'", id, count(n.Leaders, "shard"), id)
	case n.Leaders > 0 && alone > 0 && others < 2: // else it will have company
		return n, true, banyan.Errorf(banyan.Unavailable, "node %v is draining, but nobody can take over %s of which it has the only voter: let more nodes join, so that there are three, or keep this one with 'banyan drain --undo %v'; 'banyan node remove %v' moves what it has, for good", id, count(alone, "shard"), id, id)
	}
	return n, false, nil
}

// stoppable says why a node that leads and runs nothing must not be stopped now.
func stoppable(m *banyanv1.StatusResponse, id banyan.NodeID) error {
	up := map[uint64]bool{}
	for _, n := range m.Nodes {
		up[n.Id] = n.State == "alive" || n.State == "draining" || n.State == "leaving"
	}
	stops := 0
	away := map[uint64]bool{}
	for _, sh := range m.Shards {
		down := slices.DeleteFunc(slices.Clone(sh.Voters), func(v uint64) bool { return v == uint64(id) || up[v] })
		left := len(sh.Voters) - len(down) - 1
		if !slices.Contains(sh.Voters, uint64(id)) || len(down) == 0 || left > len(sh.Voters)/2 {
			continue
		}
		stops++
		for _, v := range down {
			away[v] = true
		}
	}
	if stops == 0 {
		return nil
	}
	return banyan.Errorf(banyan.Conflict, "node %v leads no shard and runs no task, but do not stop it now: %s would have no majority without it, as %s cannot be reached; bring that back first", id, count(stops, "shard"), strings.Join(nodeNames(slices.Sorted(maps.Keys(away))), ", "))
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
		if id, err := banyan.ParseNodeID(text); err == nil { // the node that answered may not have heard of it
			return id, nil
		}
		return 0, banyan.Errorf(banyan.NotFound, "there is no node %q: 'banyan nodes' lists those there are", text)
	}
	return 0, banyan.Errorf(banyan.Invalid, "%d nodes are called %q: give the id, such as %v", len(named), text, named[0])
}
