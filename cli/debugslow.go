package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// slowJSON is a line of 'debug slow -o json'.
type slowJSON struct {
	EndMs      int64      `json:"end_ms"`
	Node       string     `json:"node"`
	What       string     `json:"what"`
	Shard      int32      `json:"shard"` // -1: of none
	DurationUs int64      `json:"duration_us"`
	Waits      []waitJSON `json:"waits"`
	Failed     string     `json:"failed"` // the kind of its error
}

type waitJSON struct {
	For        string `json:"for"`
	DurationUs int64  `json:"duration_us"`
}

func newSlowJSON(o *banyanv1.SlowOperation) slowJSON {
	out := slowJSON{EndMs: o.EndMs, Node: banyan.NodeID(o.Node).String(), What: o.What, Shard: o.Shard, DurationUs: o.DurationUs, Waits: []waitJSON{}, Failed: o.Failed}
	for _, w := range o.Waits {
		out.Waits = append(out.Waits, waitJSON{w.For, w.DurationUs})
	}
	return out
}

func (a *app) debugSlowCommand() *cobra.Command {
	var f format
	var node nodeFlag
	cmd := &cobra.Command{
		Use:   "slow",
		Short: "Show operations that took long lately, and what they waited for",
		Long: `Show the operations that took longer than 200 ms lately, of all nodes, the
newest last, and what each is known to have waited for. A call at a door
(KV.Put) and the proposal or read that it led to, maybe on another node, are
lines of their own. So is a pause: the node's process was stopped or had no CPU;
what that cost an operation is not put down to the disk or to other nodes.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.look(cmd.Context(), f, &node, func(ctx context.Context, s *session) error {
				m, err := s.Debug().Slow(ctx, node.id)
				if err != nil {
					return err
				}
				if node.id != 0 && len(m.Errors) > 0 {
					return banyan.Errorf(banyan.Unavailable, "node %v did not answer: %s", node.id, m.Errors[0].Error)
				}
				a.unanswered(m.Errors)
				return a.printSlow(f, m.Operations)
			})
		},
	}
	node.add(cmd.Flags())
	cmd.Flags().Lookup("node").Usage = "only of this `NODE`"
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printSlow(f format, ops []*banyanv1.SlowOperation) error {
	t := newTable("ENDED", "NODE", "WHAT", "SHARD", "TOOK", "FAILED", "WAITED FOR").numbers(3, 4)
	for _, o := range ops {
		j := newSlowJSON(o)
		if f.json() {
			if err := writeJSON(a.Out, j); err != nil {
				return err
			}
			continue
		}
		shard := "-"
		if j.Shard >= 0 {
			shard = strconv.Itoa(int(j.Shard))
		}
		t.add(time.UnixMilli(j.EndMs).Format("2006-01-02 15:04:05.000"), j.Node, j.What, shard, millis(j.DurationUs), dash(j.Failed), waits(j.Waits))
	}
	if f.json() {
		return nil
	}
	return t.print(a.Out)
}

// waits prints what an operation waited for, without what took no time.
func waits(all []waitJSON) string {
	var out []string
	for _, w := range all {
		if w.DurationUs >= 500 {
			out = append(out, w.For+" "+millis(w.DurationUs))
		}
	}
	return dash(strings.Join(out, ", "))
}

func millis(us int64) string { return fmt.Sprintf("%d ms", (us+500)/1000) }
