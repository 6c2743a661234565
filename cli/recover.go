package cli

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/node/server"
)

// recoverFlags are the flags of recover.
type recoverFlags struct {
	dir, survey, yes string
	lost             []string
	with             []string
	create           string
}

func (a *app) recoverCommand() *cobra.Command {
	f := &recoverFlags{}
	cmd := &cobra.Command{
		Use:   "recover --dir DIR --lost NODE,...",
		Short: "Go on after a majority of a shard's voters is lost for good",
		Long: `Go on after a majority of a shard's voters is lost for good, with what the nodes
that are left have. Writes that only lost nodes had are gone, and nobody can say
how many those are. Do this only when the lost nodes cannot come back: if one
does, it is refused for ever.

It works on the directory of a stopped node. Without --yes it changes nothing
and shows what would be kept. If several nodes are left, each must be looked at,
so that every shard goes on from the longest log: on each, write its survey with
--survey FILE; bring all files to each, and give the others' with --with FILE.
Shards that have a majority are not touched. What was done is shown by 'banyan
status' ever after.`,
		Example: "  banyan recover --dir DIR --lost n2,n3\n  banyan recover --dir DIR --lost n2,n3 --yes CLUSTER\n  banyan recover --dir DIR --survey n1.json",
		Args:    exactly(),
		RunE:    func(*cobra.Command, []string) error { return a.recover(f) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.StringVar(&f.dir, "dir", "", "the `DIR` of a stopped node that is left (default as of 'banyan up')")
	fs.StringSliceVar(&f.lost, "lost", nil, "these `NODES` are lost for good, such as n2,n3")
	fs.StringArrayVar(&f.with, "with", nil, "the survey of another node that is left (`FILE`, more than once if there are more)")
	fs.StringVar(&f.survey, "survey", "", "write this node's survey to `FILE` ('-': standard output), and change nothing")
	fs.StringVar(&f.create, "create-empty", "", "let shards of which nothing is left begin anew, empty, on this `NODE`; give it on all that are left")
	fs.StringVar(&f.yes, "yes", "", "do it; the cluster's id (`CLUSTER`) says that you mean this one")
	return cmd
}

func (a *app) recover(f *recoverFlags) error {
	if f.dir == "" {
		state, err := a.homes().state()
		if err != nil {
			return err
		}
		f.dir = filepath.Join(state, "node")
	}
	c := server.Config{Dir: f.dir}
	own, err := server.SurveyNode(c)
	if err != nil {
		return err
	}
	if f.survey != "" {
		text, err := json.MarshalIndent(own, "", "  ")
		if err != nil {
			return err
		}
		text = append(text, '\n')
		if f.survey == "-" {
			_, err = a.Out.Write(text)
			return err
		}
		if err := os.WriteFile(f.survey, text, 0o600); err != nil {
			return err
		}
		_, err = fmt.Fprintf(a.Out, "the survey of %v is in %s\n", own.Node, f.survey)
		return err
	}
	lost, err := f.lostNodes()
	if err != nil {
		return err
	}
	plan, err := f.plan(own, lost, a.now())
	if banyan.IsKind(err, banyan.Conflict) {
		if at, err := server.RecoveredBefore(c, lost); err != nil || !at.IsZero() {
			return cmp.Or(err, banyan.Errorf(banyan.Conflict, "this was done here at %s already: do it on every other node that is left, then start them all: banyan up --dir %s", at.UTC().Format(time.RFC3339), f.dir))
		}
	}
	if err != nil {
		return err
	}
	if err := a.printRecovery(own, plan); err != nil {
		return err
	}
	switch f.yes {
	case "":
		_, err = fmt.Fprintf(a.Out, "\nNothing was changed. If %s cannot come back, give the same command with --yes %s.\n", strings.Join(f.lost, ", "), own.Cluster)
		return err
	case own.Cluster:
	default:
		return usage("--yes %s: this node is of cluster %s; nothing was changed", f.yes, own.Cluster)
	}
	if err := server.Recover(c, plan); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Out, "\nDone. Do the same on every other node that is left, then start them all: banyan up --dir %s\n", f.dir)
	return err
}

func (f *recoverFlags) lostNodes() (lost []banyan.NodeID, err error) {
	if len(f.lost) == 0 {
		return nil, usage("--lost is missing: say which nodes cannot come back, such as --lost n2,n3")
	}
	slices.Sort(f.lost)
	f.lost = slices.Compact(f.lost)
	for _, text := range f.lost {
		id, err := banyan.ParseNodeID(text)
		if err != nil {
			return nil, err
		}
		lost = append(lost, id)
	}
	return lost, nil
}

func (f *recoverFlags) plan(own *server.Survey, lost []banyan.NodeID, now time.Time) (*server.Recovery, error) {
	var others []*server.Survey
	for _, path := range f.with {
		text, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		s := &server.Survey{}
		if err := json.Unmarshal(text, s); err != nil {
			return nil, banyan.Errorf(banyan.Invalid, "%s is no survey (%w): 'banyan recover --dir DIR --survey FILE' writes one", path, err)
		}
		others = append(others, s)
	}
	plan, err := server.PlanRecovery(own, others, lost, now)
	if err != nil || f.create == "" {
		return plan, err
	}
	on, err := banyan.ParseNodeID(f.create)
	if err != nil {
		return nil, err
	}
	left := func(s *server.Survey) bool { return s.Node == on }
	if !left(own) && !slices.ContainsFunc(others, left) {
		return nil, usage("--create-empty %v: this node is not among those that are left", on)
	}
	plan.CreateOn = on
	return plan, nil
}

func (a *app) printRecovery(own *server.Survey, r *server.Recovery) error {
	fmt.Fprintf(a.Out, "Node %v of cluster %s. %d of %d shards have lost the majority of their voters:\n\n", own.Node, own.Cluster, len(r.Shards), len(own.Shards))
	t := newTable("SHARD", "VOTERS", "GOES ON FROM", "ENTRY", "TERM", "COMMITTED", "LAST WRITE").numbers(0, 3, 4, 5)
	for _, s := range r.Shards {
		var voters []string
		for _, v := range s.Voters {
			voters = append(voters, v.String())
		}
		from, last := s.Keep.String(), "-"
		if s.LastWriteMs != 0 {
			last = time.UnixMilli(s.LastWriteMs).UTC().Format(time.RFC3339)
		}
		switch {
		case s.Keep == 0 && r.CreateOn != 0:
			from = "nothing: empty on " + r.CreateOn.String()
		case s.Keep == 0:
			from = "nothing is left"
		}
		t.add(fmt.Sprint(s.Shard), strings.Join(voters, ","), from, fmt.Sprint(s.LastIndex), fmt.Sprint(s.LastTerm), fmt.Sprint(s.Commit), last)
	}
	if err := t.print(a.Out); err != nil {
		return err
	}
	if gone := r.Gone(); len(gone) > 0 && r.CreateOn == 0 {
		fmt.Fprintf(a.Out, "\nNothing is left of shards %v. Bring back a node that has them; if none can, say with\n--create-empty NODE where they begin anew, empty.\n", gone)
	}
	_, err := fmt.Fprintln(a.Out, "\nEntries beyond COMMITTED may or may not have been acknowledged; they are kept. What\nonly lost nodes had after ENTRY is gone; nobody can say how much that is.")
	return err
}
