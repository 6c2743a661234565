package cli

import (
	"cmp"
	"context"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/node/pki"
)

// The shell waits for completion: what does not come in time is left out.
const (
	completeMax      = 500 * time.Millisecond
	candidatesMax    = 100
	candidateTextMax = 60 // characters of what is said of a candidate
)

// candidates are words that begin with what is typed, each with a tab and what
// is said of it.
type candidates struct {
	typed string
	words []string
}

// add adds a word if it goes on from what is typed, and says whether there is
// room for more. A word that a shell would have to quote is left out: shells
// insert what several have in common as it is, and names are given by others.
func (c *candidates) add(word string, about ...string) bool {
	quoted := func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:@%+=", r)
	}
	if word != "" && strings.HasPrefix(word, c.typed) && !strings.ContainsFunc(word, quoted) {
		about = slices.DeleteFunc(about, func(s string) bool { return s == "" })
		c.words = append(c.words, cobra.CompletionWithDesc(word, abbreviate(strings.Join(about, ", "), candidateTextMax)))
	}
	return len(c.words) < candidatesMax
}

// finder finds candidates for the argument after args, the likeliest first. What
// goes wrong is told by nobody: there are fewer candidates.
type finder func(ctx context.Context, args []string, c *candidates)

func (find finder) complete(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(cmd.Context(), completeMax)
	defer cancel()
	c := candidates{typed: typed}
	find(ctx, args, &c)
	return c.words, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// Files and directories are the shell's to find.
var (
	files = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault)
	dirs  = cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs)
)

func oneOf(words ...string) cobra.CompletionFunc {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

// inTurn completes the first argument by the first of fns and so on, and those
// after them as rest says.
func inTurn(rest cobra.ShellCompDirective, fns ...cobra.CompletionFunc) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
		if len(args) < len(fns) {
			return fns[len(args)](cmd, args, typed)
		}
		return nil, rest
	}
}

// arguments is inTurn for a command that takes no more of them.
func arguments(fns ...cobra.CompletionFunc) cobra.CompletionFunc {
	return inTurn(cobra.ShellCompDirectiveNoFileComp, fns...)
}

// completeFlags has the flags of cmd and of those below it complete by the word
// that their help has for the value.
func (a *app) completeFlags(cmd *cobra.Command) {
	fns := map[string]cobra.CompletionFunc{
		"COMMAND": files, "FILE": files, "DIR": dirs,
		"FORMAT": oneOf("text", "json"), "HOW": oneOf("auto", "bar", "plain", "none"), "LEVEL": oneOf("debug", "info", "warn", "error"),
		"NODE": a.nodes(nil), "NODES": a.nodeList,
	}
	register := func(f *pflag.Flag) {
		word, _ := pflag.UnquoteUsage(f)
		fn := fns[word]
		switch f.Name {
		case "context":
			fn = a.contexts()
		case "create-empty": // knows no names
			fn = a.nodeIDs
		}
		if fn == nil {
			return
		}
		if err := cmd.RegisterFlagCompletionFunc(f.Name, fn); err != nil {
			panic(err) // it is a flag of cmd, and new
		}
	}
	cmd.LocalFlags().VisitAll(register)
	for _, sub := range cmd.Commands() {
		a.completeFlags(sub)
	}
}

// asking is a finder that asks the cluster, if there is one: it starts no node.
func (a *app) asking(ask func(ctx context.Context, s *session, args []string, c *candidates)) finder {
	return func(ctx context.Context, args []string, c *candidates) {
		if a.target.local {
			return
		}
		s, err := a.opens(ctx, need{})
		if err != nil {
			return
		}
		defer s.close()
		ask(ctx, s, args, c)
	}
}

// nodes completes a node, of those in one of the states if that is given, by its
// id or by the name that was begun.
func (a *app) nodes(states func() []string) cobra.CompletionFunc {
	return a.asking(func(ctx context.Context, s *session, _ []string, c *candidates) {
		m, err := s.Cluster().Map(ctx)
		if err != nil {
			return
		}
		for _, n := range m.Nodes {
			if states != nil && !slices.Contains(states(), n.State) || n.State == "left" {
				continue
			}
			id := banyan.NodeID(n.Id).String()
			if c.add(id, n.State, n.Address, n.Name); c.typed != "" && n.Name != id {
				c.add(n.Name, id, n.State, n.Address)
			}
			if len(c.words) >= candidatesMax {
				return
			}
		}
	}).complete
}

// nodeIDs completes a node where names are not known.
func (a *app) nodeIDs(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	words, directive := a.nodes(nil)(cmd, args, typed)
	return slices.DeleteFunc(words, func(w string) bool {
		id, _, _ := strings.Cut(w, "\t")
		_, err := banyan.ParseNodeID(id)
		return err != nil
	}), directive
}

// nodeList completes the last of several ids with commas between them. After a
// comma nothing is said of a node: cobra's script for bash would not find it.
func (a *app) nodeList(cmd *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	before := typed[:strings.LastIndex(typed, ",")+1]
	nodes, directive := a.nodeIDs(cmd, args, strings.TrimPrefix(typed, before))
	var words []string
	for _, w := range nodes {
		id, _, _ := strings.Cut(w, "\t")
		if slices.Contains(strings.Split(before, ","), id) {
			continue // given already
		}
		if before != "" {
			w = before + id
		}
		words = append(words, w)
	}
	return words, directive
}

func (a *app) shards() cobra.CompletionFunc {
	return a.asking(func(ctx context.Context, s *session, _ []string, c *candidates) {
		m, _ := s.Cluster().Map(ctx)
		for _, sh := range m.GetShards() {
			about := "no leader is known"
			if sh.Leader != 0 {
				about = "led by " + nodeName(sh.Leader)
			}
			if !c.add(num(uint64(sh.Id)), about) {
				return
			}
		}
	}).complete
}

// jobs completes a job that is in a state which is wanted, and those run here
// without a cluster, of which only the ids can be had.
func (a *app) jobs(wanted func(banyanv1.JobState) bool) cobra.CompletionFunc {
	cluster := a.asking(func(ctx context.Context, s *session, _ []string, c *candidates) {
		jobs, _, _ := s.Jobs().List(ctx, candidatesMax)
		for _, j := range jobs {
			if wanted(j.State) && !c.add(j.Id, jobState(j.State), jobName(j)) {
				return
			}
		}
	})
	return finder(func(ctx context.Context, args []string, c *candidates) {
		cluster(ctx, args, c)
		if cmp.Or(a.target.context, a.Env("BANYAN_CONTEXT")) != "" && !a.target.local {
			return
		}
		l, err := a.lanes()
		if err != nil {
			return
		}
		here, _ := os.ReadDir(l.jobs())
		for _, e := range slices.Backward(here) { // newest first
			if !c.add(e.Name(), "run here, without a cluster") {
				return
			}
		}
	}).complete
}

func anyState(banyanv1.JobState) bool { return true }

func unended(s banyanv1.JobState) bool { return !ended(s) }

func unsucceeded(s banyanv1.JobState) bool { return s != banyanv1.JobState_JOB_STATE_SUCCEEDED }

// tasks completes a task of the job before it, failed ones first.
func (a *app) tasks() cobra.CompletionFunc {
	return a.asking(func(ctx context.Context, s *session, args []string, c *candidates) {
		id, err := banyan.ParseJobID(args[0])
		if err != nil {
			return
		}
		results, _ := failuresFirst(ctx, s, id, candidatesMax, false)
		for _, r := range results {
			if !c.add(num(uint64(r.Task)+1), taskState(r.State), columns(r.Input)) {
				return
			}
		}
		if j, err := s.Jobs().Get(ctx, id); err == nil && j.GetSpec().GetThen() != nil {
			c.add("then", "the --then step")
		}
	}).complete
}

// locks completes a lock or an election that somebody takes part in.
func (a *app) locks() cobra.CompletionFunc {
	return a.asking(func(ctx context.Context, s *session, _ []string, c *candidates) {
		for l, err := range s.Locks().List(ctx, c.typed) {
			if err != nil {
				return
			}
			about := "nobody holds it"
			if len(l.Holders) > 0 {
				about = "held by " + dash(l.Holders[0].Owner)
			}
			waiting := ""
			if l.Waiting > 0 {
				waiting = num(uint64(l.Waiting)) + " waiting"
			}
			if !c.add(l.Name, about, waiting) {
				return
			}
		}
	}).complete
}

// keys completes a key.
func (a *app) keys() cobra.CompletionFunc {
	return a.asking(func(ctx context.Context, s *session, _ []string, c *candidates) {
		page, _ := s.KV().ListPage(ctx, &banyanv1.ListRequest{Prefix: []byte(c.typed), Limit: candidatesMax, KeysOnly: true, Stale: true})
		for _, kv := range page.GetKvs() {
			c.add(string(kv.Key))
		}
	}).complete
}

// contexts completes the name of a context.
func (a *app) contexts() cobra.CompletionFunc {
	return finder(func(_ context.Context, _ []string, c *candidates) {
		dir, err := a.configDir()
		if err != nil {
			return
		}
		names, _ := pki.ListContexts(dir)
		current, _ := pki.CurrentContext(dir)
		for _, name := range names {
			about := ""
			if name == current {
				about = "current"
			}
			if !c.add(name, about) {
				return
			}
		}
	}).complete
}
