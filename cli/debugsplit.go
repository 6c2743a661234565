package cli

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// splitJSON is 'debug split -o json'.
type splitJSON struct {
	Shard  uint32 `json:"shard"`
	Child  uint32 `json:"child"`
	At     uint32 `json:"at"` // the child's first slot
	Epoch  uint64 `json:"epoch"`
	Leader string `json:"leader"` // of the child
}

func (a *app) debugSplitCommand() *cobra.Command {
	var f format
	var at int
	cmd := &cobra.Command{
		Use:   "split SHARD",
		Short: "Split a shard in two",
		Long: `Split a shard in two: its slots from one on become a shard of their own, on
the same nodes. Nothing is copied; clients, locks, jobs and watches go on.
Without --at that slot is where half of the shard's bytes lie on either side.

The command waits until the child is there. Interrupted, it does not undo the
split: one that was begun is carried out. A shard cannot be put together again.
'banyan status --shards' shows the shards, their slots and how much they hold.`,
		Example:           "  banyan debug split 3\n  banyan debug split 3 --at 320",
		Args:              exactly("SHARD"),
		ValidArgsFunction: arguments(a.shards()),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 32)
			switch {
			case err != nil:
				return usage("bad shard %q: give a number, such as 3", args[0])
			case !cmd.Flags().Changed("at"):
				at = -1
			case at < 1 || at >= banyan.Slots:
				return usage("bad --at %d: give a slot from 1 to %d", at, banyan.Slots-1)
			}
			return a.look(cmd.Context(), f, &nodeFlag{}, func(ctx context.Context, s *session) error {
				return a.split(ctx, s, f, banyan.ShardID(id), at)
			})
		},
	}
	cmd.Flags().IntVar(&at, "at", 0, "the child's first `SLOT` (default: the middle by bytes)")
	f.add(cmd.Flags())
	return cmd
}

// splitPoll is how often the map is looked at for the child.
const splitPoll = 100 * time.Millisecond

func (a *app) split(ctx context.Context, s *session, f format, shard banyan.ShardID, at int) error {
	m, err := s.Cluster().Map(ctx)
	if err != nil {
		return err
	}
	d, err := s.Debug().Split(ctx, shard, at, m.Epoch)
	if err != nil {
		return err
	}
	if !f.json() {
		fmt.Fprintf(a.Err, "shard %d is being split at slot %d: shard %d takes the slots from there on\n", shard, d.At, d.Child)
	}
	leader, said := "", false
	for leader == "" {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(splitPoll):
		}
		if m, err = s.Cluster().Map(ctx); err != nil {
			return err
		}
		if m.Epoch <= d.Epoch { // a node that is behind says less
			continue
		}
		if d.At >= uint32(len(m.Slots)) || m.Slots[d.At] != d.Child && !hasShard(m, d.Child) {
			return banyan.Errorf(banyan.Conflict, "shard %d was not split: its leader refused it, and its log says why", shard)
		}
		if !said && !f.json() {
			said = true
			fmt.Fprintf(a.Err, "shard %d is there\n", d.Child)
		}
		leader = leaderIn(m, d.Child)
	}
	if f.json() {
		return writeJSON(a.Out, splitJSON{Shard: uint32(shard), Child: d.Child, At: d.At, Epoch: m.Epoch, Leader: leader})
	}
	_, err = fmt.Fprintf(a.Out, "shard %d was split at slot %d: shard %d is led by %s\n", shard, d.At, d.Child, leader)
	return err
}

func hasShard(m *banyanv1.MapResponse, id uint32) bool {
	for _, s := range m.Shards {
		if s.Id == id {
			return true
		}
	}
	return false
}

// leaderIn names who leads a shard, "" if that is not known.
func leaderIn(m *banyanv1.MapResponse, id uint32) string {
	for _, s := range m.Shards {
		if s.Id == id {
			return nodeName(s.Leader)
		}
	}
	return ""
}
