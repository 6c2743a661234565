package cli

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// fileJSON is what 'debug profile -o json' prints.
type fileJSON struct {
	File  string `json:"file"`
	Bytes int    `json:"bytes"`
}

func (a *app) debugProfileCommand() *cobra.Command {
	var f format
	var node nodeFlag
	var seconds int
	var heap bool
	var file string
	cmd := &cobra.Command{
		Use:   "profile",
		Short: "Take a profile of a node's CPU or memory",
		Long: `Take a profile of what a node spends its CPU time on, or with --heap of what its
memory holds, and write it into a file for 'go tool pprof'.`,
		Example: "  banyan debug profile --node n2 --seconds 30\n  go tool pprof -top n2.cpu.pprof",
		Args:    exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if seconds < 1 || seconds > banyan.ProfileSecondsMax {
				return usage("bad --seconds %d: give 1 to %d", seconds, banyan.ProfileSecondsMax)
			}
			kind, suffix := banyanv1.DumpKind_DUMP_KIND_CPU, "cpu"
			if heap {
				kind, suffix, seconds = banyanv1.DumpKind_DUMP_KIND_HEAP, "heap", 0
			}
			return a.look(cmd.Context(), f, &node, func(ctx context.Context, s *session) error {
				data, err := s.Debug().Dump(ctx, kind, node.id, seconds)
				if err != nil {
					return err
				}
				if file == "-" {
					_, err = a.Out.Write(data)
					return err
				}
				if file == "" {
					name := "node"
					if node.id != 0 {
						name = node.id.String()
					}
					file = name + "." + suffix + ".pprof"
				}
				if err := os.WriteFile(file, data, 0o600); err != nil {
					return err
				}
				if f.json() {
					return writeJSON(a.Out, fileJSON{file, len(data)})
				}
				_, err = fmt.Fprintf(a.Out, "%s: %s; look at it with: go tool pprof -top %s\n", file, size(int64(len(data))), file)
				return err
			})
		},
	}
	node.add(cmd.Flags())
	cmd.Flags().IntVar(&seconds, "seconds", 10, "for so many `SECONDS`")
	cmd.Flags().BoolVar(&heap, "heap", false, "of the memory in use")
	cmd.Flags().StringVarP(&file, "file", "f", "", "write it into this `FILE`, '-': to standard output (default n1.cpu.pprof or n1.heap.pprof of node n1, node.… without --node)")
	f.add(cmd.Flags())
	return cmd
}
