package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// sweepJSON is a line of 'debug sweep -o json': the latest sweep of a node.
type sweepJSON struct {
	Node       string `json:"node"`
	Epoch      uint64 `json:"epoch"` // 0: none since the node began
	EndMs      int64  `json:"end_ms"`
	Chunks     uint64 `json:"chunks"`
	Condemned  uint64 `json:"condemned"`
	Removed    uint64 `json:"removed"`
	FreedBytes int64  `json:"freed_bytes"`
	Error      string `json:"error"`
}

func (a *app) debugSweepCommand() *cobra.Command {
	var f format
	var begin bool
	cmd := &cobra.Command{
		Use:   "sweep",
		Short: "Show when nodes last removed chunks that nothing refers to",
		Long: `Show when each node last looked for chunks of outputs and files that nothing
refers to, and what it removed. Every six hours an epoch begins, and each node
looks once in it. What nothing refers to is condemned, and goes two epochs later
if nothing has referred to it by then. --begin begins an epoch now.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), f, &nodeFlag{}, func(ctx context.Context, s *session) error {
				m, err := s.Debug().Sweep(ctx, begin)
				if err != nil {
					return err
				}
				a.unanswered(m.Errors)
				return a.printSweeps(f, m)
			})
		},
	}
	cmd.Flags().BoolVar(&begin, "begin", false, "begin an epoch now")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printSweeps(f format, m *banyanv1.SweepResponse) error {
	if f.json() {
		for _, n := range m.Nodes {
			line := sweepJSON{banyan.NodeID(n.Node).String(), n.Epoch, n.EndMs, n.Chunks, n.Condemned, n.Removed, n.FreedBytes, n.Error}
			if err := writeJSON(a.Out, line); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable("NODE", "EPOCH", "SWEPT", "CHUNKS", "CONDEMNED", "REMOVED", "FREED").numbers(1, 3, 4, 5, 6)
	for _, n := range m.Nodes {
		if n.Error != "" {
			fmt.Fprintf(a.Err, "banyan: node %v could not sweep, and tries again: %s\n", banyan.NodeID(n.Node), oneLine(n.Error))
		}
		if n.Epoch == 0 {
			t.add(banyan.NodeID(n.Node).String(), "-", "not since it began", "-", "-", "-", "-")
			continue
		}
		t.add(banyan.NodeID(n.Node).String(), num(n.Epoch), when(n.EndMs, a.now()), num(n.Chunks), num(n.Condemned), num(n.Removed), size(n.FreedBytes))
	}
	return t.print(a.Out)
}
