package cli

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// goroutinesJSON is a line of 'debug goroutines -o json': so many goroutines
// with the same stack, the innermost function first.
type goroutinesJSON struct {
	Count int      `json:"count"`
	Stack []string `json:"stack"`
}

func (a *app) debugGoroutinesCommand() *cobra.Command {
	var f format
	var node nodeFlag
	cmd := &cobra.Command{
		Use:   "goroutines",
		Short: "Print what the goroutines of a node are doing",
		Long:  "Print the stacks of a node's goroutines, each once with the number of those that\nhave it, the most frequent first.",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), f, &node, func(ctx context.Context, s *session) error {
				text, err := s.Debug().Dump(ctx, banyanv1.DumpKind_DUMP_KIND_GOROUTINES, node.id, 0)
				if err != nil || !f.json() {
					_, werr := a.Out.Write(text)
					return firstOf(err, werr)
				}
				for _, g := range parseGoroutines(string(text)) {
					if err := writeJSON(a.Out, g); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
	node.add(cmd.Flags())
	f.add(cmd.Flags())
	return cmd
}

var (
	stackHead  = regexp.MustCompile(`^(\d+) @`)
	stackFrame = regexp.MustCompile(`^#\t0x[0-9a-f]+\t(\S+?)\+0x[0-9a-f]+\s+(\S+)$`)
)

// parseGoroutines reads the text form of Go's goroutine profile.
func parseGoroutines(text string) []goroutinesJSON {
	var out []goroutinesJSON
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		if m := stackHead.FindStringSubmatch(line); m != nil {
			n, _ := strconv.Atoi(m[1]) // all digits
			out = append(out, goroutinesJSON{Count: n, Stack: []string{}})
		} else if m := stackFrame.FindStringSubmatch(line); m != nil && len(out) > 0 {
			last := &out[len(out)-1]
			last.Stack = append(last.Stack, m[1]+" "+m[2])
		}
	}
	return out
}
