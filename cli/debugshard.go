package cli

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// replicaJSON is a line of 'debug shard -o json'.
type replicaJSON struct {
	Node      string         `json:"node"`
	Role      string         `json:"role"`
	Term      uint64         `json:"term"`
	Leader    string         `json:"leader"` // empty: not known
	Vote      string         `json:"vote"`
	Voters    []string       `json:"voters"`
	Learners  []string       `json:"learners"`
	Joint     bool           `json:"joint"`
	Revision  uint64         `json:"revision"`
	First     uint64         `json:"first_index"`
	Last      uint64         `json:"last_index"`
	Commit    uint64         `json:"commit_index"`
	Applied   uint64         `json:"applied_index"`
	LogBytes  int64          `json:"log_bytes"`
	AgeMs     int64          `json:"age_ms"` // -1: not known
	Proposals uint32         `json:"proposals"`
	Snapshot  string         `json:"snapshot"`
	Progress  []progressJSON `json:"progress"` // of the leader only
}

type progressJSON struct {
	Node     string `json:"node"`
	Learner  bool   `json:"learner"`
	State    string `json:"state"`
	Match    uint64 `json:"match_index"`
	Next     uint64 `json:"next_index"`
	InFlight uint32 `json:"in_flight"`
	Paused   bool   `json:"paused"`
	Active   bool   `json:"active"`
	Snapshot uint64 `json:"snapshot_index"`
}

func newReplicaJSON(r *banyanv1.ShardReplica) replicaJSON {
	out := replicaJSON{
		Node: banyan.NodeID(r.Node).String(), Role: r.Role, Term: r.Term, Leader: nodeName(r.Leader), Vote: nodeName(r.Vote),
		Voters: nodeNames(r.Voters), Learners: nodeNames(r.Learners), Joint: r.Joint, Revision: r.Revision,
		First: r.FirstIndex, Last: r.LastIndex, Commit: r.CommitIndex, Applied: r.AppliedIndex,
		LogBytes: r.LogBytes, AgeMs: r.AgeMs, Proposals: r.Proposals, Snapshot: r.Snapshot, Progress: []progressJSON{},
	}
	for _, p := range r.Progress {
		out.Progress = append(out.Progress, progressJSON{
			Node: banyan.NodeID(p.Node).String(), Learner: p.Learner, State: p.State, Match: p.MatchIndex, Next: p.NextIndex,
			InFlight: p.InFlight, Paused: p.Paused, Active: p.Active, Snapshot: p.SnapshotIndex,
		})
	}
	return out
}

// nodeName is empty for no node.
func nodeName(id uint64) string {
	if id == 0 {
		return ""
	}
	return banyan.NodeID(id).String()
}

func (a *app) debugShardCommand() *cobra.Command {
	var f format
	cmd := &cobra.Command{
		Use:   "shard ID",
		Short: "Show how raft is on every replica of a shard",
		Long: `Show how raft is on every replica of a shard: who leads in which term, how far
each log is written, committed and applied, how old at most what it would answer
to a stale read is, and what the leader knows of the others. Shard 0 is the root
shard; 'banyan status -o json' lists all.`,
		Args:              exactly("ID"),
		ValidArgsFunction: arguments(a.shards()),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := strconv.ParseUint(args[0], 10, 32)
			if err != nil {
				return usage("bad shard %q: give a number, such as 0", args[0])
			}
			return a.look(cmd.Context(), f, &nodeFlag{}, func(ctx context.Context, s *session) error {
				m, err := s.Debug().Shard(ctx, banyan.ShardID(id))
				if err != nil {
					return err
				}
				a.unanswered(m.Errors)
				return a.printReplicas(f, m.Replicas)
			})
		},
	}
	f.add(cmd.Flags())
	return cmd
}

func (a *app) printReplicas(f format, replicas []*banyanv1.ShardReplica) error {
	t := newTable("NODE", "ROLE", "TERM", "LEADER", "VOTED FOR", "FIRST", "LAST", "COMMITTED", "APPLIED", "REVISION", "LOG", "AGE", "WAITING", "SNAPSHOT").numbers(2, 5, 6, 7, 8, 9, 10, 11, 12)
	for _, r := range replicas {
		j := newReplicaJSON(r)
		if f.json() {
			if err := writeJSON(a.Out, j); err != nil {
				return err
			}
			continue
		}
		age := "-"
		if j.AgeMs >= 0 {
			age = fmt.Sprintf("%d ms", j.AgeMs)
		}
		t.add(j.Node, j.Role, num(j.Term), dash(j.Leader), dash(j.Vote), num(j.First), num(j.Last), num(j.Commit), num(j.Applied), num(j.Revision),
			size(j.LogBytes), age, num(uint64(j.Proposals)), dash(j.Snapshot))
	}
	if f.json() {
		return nil
	}
	if err := t.print(a.Out); err != nil {
		return err
	}
	for _, r := range replicas {
		if len(r.Progress) > 0 {
			if err := a.printProgress(newReplicaJSON(r)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) printProgress(r replicaJSON) error {
	moving := ""
	if r.Joint {
		moving = ", a change of voters is under way"
	}
	fmt.Fprintf(a.Out, "\nAs its leader %s sees it: voters %s, learners %s%s\n", r.Node, strings.Join(r.Voters, " "), dash(strings.Join(r.Learners, " ")), moving)
	t := newTable("NODE", "STATE", "HAS", "BEHIND", "NEXT", "IN FLIGHT", "PAUSED", "ACTIVE", "SNAPSHOT").numbers(2, 3, 4, 5, 8)
	for _, p := range r.Progress {
		t.add(p.Node, p.State, num(p.Match), num(r.Last-min(p.Match, r.Last)), num(p.Next), num(uint64(p.InFlight)), yes(p.Paused), yes(p.Active), num(p.Snapshot))
	}
	return t.print(a.Out)
}

func num(n uint64) string { return strconv.FormatUint(n, 10) }

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
