package cli

import (
	"bufio"
	"bytes"
	"context"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// lineJSON is a line of 'debug log -o json'.
type lineJSON struct {
	Line string `json:"line"`
}

func (a *app) debugLogCommand() *cobra.Command {
	var f format
	var node nodeFlag
	cmd := &cobra.Command{
		Use:   "log",
		Short: "Print the last lines of a node's log",
		Long: `Print the last lines of a node's log that are in its memory: those of level info
and above, whatever --log-level it was started with.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), f, &node, func(ctx context.Context, s *session) error {
				text, err := s.Debug().Dump(ctx, banyanv1.DumpKind_DUMP_KIND_LOG, node.id, 0)
				if err != nil || !f.json() {
					_, werr := a.Out.Write(text)
					return firstOf(err, werr)
				}
				for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan() && err == nil; {
					err = writeJSON(a.Out, lineJSON{lines.Text()})
				}
				return err
			})
		},
	}
	node.add(cmd.Flags())
	f.add(cmd.Flags())
	return cmd
}

func firstOf(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
