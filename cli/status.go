package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// statusJSON is what 'status -o json' prints.
type statusJSON struct {
	Cluster     string        `json:"cluster"`
	Node        string        `json:"node"` // that answered
	Version     string        `json:"version"`
	Healthy     bool          `json:"healthy"`
	Problems    []problemJSON `json:"problems"`
	Nodes       []nodeJSON    `json:"nodes"`
	Shards      []shardJSON   `json:"shards"`
	JobsActive  uint32        `json:"jobs_active"`
	Replication uint32        `json:"replication"`
	Protocol    uint32        `json:"protocol"`
	Notices     []noticeJSON  `json:"notices"`
}

type noticeJSON struct {
	TimeMs int64  `json:"time_ms"`
	Node   string `json:"node"`
	Text   string `json:"text"`
}

type problemJSON struct {
	What     string `json:"what"`
	Remedy   string `json:"remedy"`
	Critical bool   `json:"critical"`
}

type shardJSON struct {
	ID       uint32   `json:"id"`
	Leader   string   `json:"leader"` // empty: none
	Term     uint64   `json:"term"`
	Voters   []string `json:"voters"`
	Learners []string `json:"learners"`
	Revision uint64   `json:"revision"`
	Applied  uint64   `json:"applied_index"`
	From     uint32   `json:"from_slot"`
	Until    uint32   `json:"until_slot"` // behind the last; the root shard has no slots
	Rows     int64    `json:"rows"`
	Bytes    int64    `json:"bytes"` // of keys and values, without history
}

func newStatusJSON(m *banyanv1.StatusResponse) statusJSON {
	out := statusJSON{
		Cluster: m.ClusterId, Node: banyan.NodeID(m.Node).String(), Version: m.Version, Healthy: len(m.Problems) == 0,
		Problems: []problemJSON{}, Nodes: []nodeJSON{}, Shards: []shardJSON{}, JobsActive: m.JobsActive, Replication: m.Replication,
		Protocol: m.Protocol, Notices: []noticeJSON{},
	}
	for _, n := range m.Notices {
		out.Notices = append(out.Notices, noticeJSON{n.TimeMs, banyan.NodeID(n.Node).String(), n.Text})
	}
	for _, p := range m.Problems {
		out.Problems = append(out.Problems, problemJSON{p.What, p.Remedy, p.Critical})
	}
	for _, n := range m.Nodes {
		out.Nodes = append(out.Nodes, newNodeJSON(n))
	}
	for _, s := range m.Shards {
		j := shardJSON{ID: s.Id, Term: s.Term, Voters: nodeNames(s.Voters), Learners: nodeNames(s.Learners), Revision: s.Revision, Applied: s.AppliedIndex,
			From: s.FromSlot, Until: s.UntilSlot, Rows: s.Rows, Bytes: s.Bytes}
		if s.Leader != 0 {
			j.Leader = banyan.NodeID(s.Leader).String()
		}
		out.Shards = append(out.Shards, j)
	}
	return out
}

func nodeNames(ids []uint64) []string {
	out := []string{}
	for _, id := range ids {
		out = append(out, banyan.NodeID(id).String())
	}
	return out
}

func (a *app) statusCommand() *cobra.Command {
	var f format
	var shards bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say what is unhealthy in the cluster, and what to do about it",
		Long:  "Say what is unhealthy in the cluster, and what to do about it. Exits with 1 if\nanything is.",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			return a.with(cmd.Context(), need{}, func(ctx context.Context, s *session) error {
				m, err := s.Cluster().Status(ctx)
				if err != nil {
					return err
				}
				if f.json() {
					err = writeJSON(a.Out, newStatusJSON(m))
				} else {
					err = a.printStatus(m)
				}
				if shards && !f.json() && err == nil {
					err = a.printShards(m)
				}
				err = errors.Join(err, s.remember(m.Nodes))
				if err == nil && len(m.Problems) > 0 {
					err = &exit{code: exitError}
				}
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&shards, "shards", false, "list the shards too: their slots, rows and bytes, leaders and voters")
	f.add(cmd.Flags())
	return cmd
}

// printShards lists the shards in the order of their slots, the root shard last.
func (a *app) printShards(m *banyanv1.StatusResponse) error {
	fmt.Fprintln(a.Out)
	t := newTable("SHARD", "SLOTS", "ROWS", "BYTES", "REVISION", "LEADER", "VOTERS").numbers(0, 2, 3, 4)
	shards := slices.Clone(m.Shards) // the root shard begins behind all slots
	slices.SortStableFunc(shards, func(x, y *banyanv1.Shard) int {
		return cmp.Compare(x.FromSlot, y.FromSlot)
	})
	for _, s := range shards {
		slots := "root"
		if s.FromSlot < s.UntilSlot {
			slots = fmt.Sprintf("%d-%d", s.FromSlot, s.UntilSlot-1)
		}
		t.add(num(uint64(s.Id)), slots, num(uint64(s.Rows)), size(s.Bytes), num(s.Revision), dash(nodeName(s.Leader)), strings.Join(nodeNames(s.Voters), " "))
	}
	return t.print(a.Out)
}

func (a *app) printStatus(m *banyanv1.StatusResponse) error {
	alive, led := 0, 0
	for _, n := range m.Nodes {
		switch n.State {
		case "alive", "draining", "leaving":
			alive++
		}
	}
	for _, s := range m.Shards {
		if s.Leader != 0 {
			led++
		}
	}
	fmt.Fprintf(a.Out, "Cluster %s, answered by %v, version %s\n", m.ClusterId, banyan.NodeID(m.Node), m.Version)
	fmt.Fprintf(a.Out, "%d of %s alive, %d of %s led, %s a shard, %s active\n", alive, count(len(m.Nodes), "node"), led, count(len(m.Shards), "shard"), count(m.Replication, "voter"), count(m.JobsActive, "job"))
	for _, n := range m.Notices {
		fmt.Fprintf(a.Out, "remember: %s on %v: %s\n", time.UnixMilli(n.TimeMs).UTC().Format(time.RFC3339), banyan.NodeID(n.Node), inLine(n.Text))
	}
	if len(m.Problems) == 0 {
		_, err := fmt.Fprintln(a.Out, "All is well.")
		return err
	}
	for _, p := range m.Problems {
		mark := "warning"
		if p.Critical {
			mark = "CRITICAL"
		}
		if _, err := fmt.Fprintf(a.Out, "%s: %s: %s\n", mark, inLine(p.What), inLine(p.Remedy)); err != nil {
			return err
		}
	}
	return nil
}
