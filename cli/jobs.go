package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// jobJSON is a job as -o json prints it.
type jobJSON struct {
	ID        string      `json:"id"`
	Name      string      `json:"name"`
	Command   []string    `json:"command"`
	Base64    []string    `json:"command_base64,omitempty"` // the same, when an argument is not UTF-8
	Shell     bool        `json:"shell"`
	State     string      `json:"state"`
	Tasks     uint32      `json:"tasks"`
	Open      bool        `json:"open"`    // more tasks may come
	Trimmed   uint32      `json:"trimmed"` // of tasks up to this one only the results of those that failed are kept
	Pending   uint32      `json:"pending"`
	Running   uint32      `json:"running"`
	Succeeded uint32      `json:"succeeded"`
	Failed    uint32      `json:"failed"`
	Retried   uint32      `json:"retried"`
	Repeated  uint32      `json:"repeated"`
	RatePerS  float64     `json:"rate_per_s"`
	SubmitMs  int64       `json:"submit_ms"`
	EndMs     int64       `json:"end_ms,omitempty"`
	Shard     uint32      `json:"shard"`
	Leader    string      `json:"leader,omitempty"`
	Then      *resultJSON `json:"then,omitempty"`
	Nodes     []jobNode   `json:"nodes,omitempty"`
}

// jobNode is what one node does for a job.
type jobNode struct {
	Node    string `json:"node"`
	Name    string `json:"name"`
	State   string `json:"state"`
	Running uint32 `json:"running"`
	Done    uint32 `json:"done"`
	Slots   uint32 `json:"slots"`
}

func newJobJSON(j *banyanv1.Job) jobJSON {
	p := j.GetProgress()
	out := jobJSON{
		ID: j.Id, Name: j.GetSpec().GetName(), Command: banyanv1.Strings(j.GetSpec().GetCommand().GetArgs()), Shell: j.GetSpec().GetCommand().GetShell(),
		State: jobState(j.State), Tasks: j.Tasks, Open: j.Open, Trimmed: j.Trimmed, Pending: p.GetPending(), Running: p.GetRunning(), Succeeded: p.GetSucceeded(),
		Failed: p.GetFailed(), Retried: p.GetRetried(), Repeated: p.GetRepeated(), RatePerS: p.GetRatePerS(),
		SubmitMs: j.SubmitMs, EndMs: j.EndMs, Shard: j.Shard,
	}
	out.Base64 = base64All(out.Command)
	if j.Leader != 0 {
		out.Leader = banyan.NodeID(j.Leader).String()
	}
	if j.ThenResult != nil {
		r := newResultJSON(j.ThenResult)
		r.Then = true
		out.Then = &r
	}
	for _, n := range p.GetNodes() {
		out.Nodes = append(out.Nodes, jobNode{banyan.NodeID(n.Node).String(), n.Name, n.State, n.Running, n.Done, n.Slots})
	}
	return out
}

func (a *app) jobsCommand() *cobra.Command {
	var f format
	var limit int
	cmd := &cobra.Command{
		Use:   "jobs",
		Short: "List jobs, newest first",
		Args:  exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if limit < 0 {
				return usage("bad --limit %d: give 0 or more", limit)
			}
			jobs, more, err := a.listJobs(cmd.Context(), limit)
			if err != nil {
				return err
			}
			return a.printJobs(f, jobs, more)
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "list at most `N` jobs")
	f.add(cmd.Flags())
	return cmd
}

// listJobs lists the jobs of the cluster, or of all lanes.
func (a *app) listJobs(ctx context.Context, limit int) (jobs []*banyanv1.Job, more bool, err error) {
	list := func(ctx context.Context, s *session) error {
		js, m, err := s.Jobs().List(ctx, limit)
		for _, j := range js {
			s.idle(j)
		}
		jobs, more = append(jobs, js...), more || m
		return err
	}
	if err := a.everywhere(ctx, list); err != nil {
		return nil, false, err
	}
	slices.SortFunc(jobs, func(a, b *banyanv1.Job) int { return strings.Compare(b.Id, a.Id) })
	if limit > 0 && len(jobs) > limit {
		jobs, more = jobs[:limit], true
	}
	return jobs, more, nil
}

// everywhere calls fn with the cluster, or with each lane in turn.
func (a *app) everywhere(ctx context.Context, fn func(ctx context.Context, s *session) error) error {
	local, err := a.meansLocal()
	if err != nil {
		return err
	}
	if !local {
		return a.with(ctx, need{}, fn)
	}
	l, err := a.lanes()
	if err != nil {
		return err
	}
	for _, n := range l.used() {
		s, err := a.openLane(ctx, l, n, 1, "")
		if errors.Is(err, errBusy) {
			fmt.Fprintf(a.Err, "banyan: the jobs in %s are left out: another banyan command is using it and cannot be asked\n", l.path(n))
			continue
		}
		if banyan.IsKind(err, banyan.Corrupt) || banyan.IsKind(err, banyan.TooNew) {
			fmt.Fprintf(a.Err, "banyan: the jobs in %s are left out: %v\n", l.path(n), err)
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(fn(ctx, s), s.close()); err != nil {
			return err
		}
	}
	return nil
}

// idle says of a job on a node of this command's own what is so in a moment:
// the command that ran it is gone, and it is held.
func (s *session) idle(j *banyanv1.Job) {
	if s.local && !s.shared && j.State == banyanv1.JobState_JOB_STATE_ACTIVE && j.GetProgress().GetRunning() == 0 {
		j.State = banyanv1.JobState_JOB_STATE_HELD
	}
}

func (a *app) printJobs(f format, jobs []*banyanv1.Job, more bool) error {
	if f.json() {
		for _, j := range jobs {
			if err := writeJSON(a.Out, newJobJSON(j)); err != nil {
				return err
			}
		}
		return nil
	}
	t := newTable("JOB", "STATE", "DONE", "TASKS", "FAILED", "SUBMITTED", "NAME").numbers(2, 3, 4)
	for _, j := range jobs {
		p := j.GetProgress()
		t.add(j.Id, jobState(j.State), fmt.Sprint(p.GetSucceeded()+p.GetFailed()), fmt.Sprint(j.Tasks), fmt.Sprint(p.GetFailed()), when(j.SubmitMs, a.now()), jobName(j))
	}
	if more {
		fmt.Fprintln(a.Err, "banyan: there are more jobs: -n lists more of them")
	}
	return t.print(a.Out)
}

// commandText is a job's command with its arguments, as bytes.
func commandText(j *banyanv1.Job) string {
	return string(bytes.Join(j.GetSpec().GetCommand().GetArgs(), []byte(" ")))
}

// jobName is a job's name, or else its command.
func jobName(j *banyanv1.Job) string {
	if n := j.GetSpec().GetName(); n != "" {
		return abbreviate(n, 40)
	}
	return abbreviate(commandText(j), 40)
}
