package cli

import (
	"context"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// jobShowJSON is what 'job show -o json' prints.
type jobShowJSON struct {
	jobJSON
	Results []resultJSON `json:"results"` // failed ones first
}

func (a *app) jobCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "job",
		Short: "Look at one job, or remove it",
		Args:  exactly(),
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.jobShowCommand(), a.jobRemoveCommand())
	return cmd
}

func (a *app) jobShowCommand() *cobra.Command {
	var f format
	var limit int
	var failed bool
	cmd := &cobra.Command{
		Use:               "show JOB",
		Short:             "Show a job: counts, rate, nodes, and its tasks, failures first",
		Args:              exactly("JOB"),
		ValidArgsFunction: arguments(a.jobs(anyState)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.check(); err != nil {
				return err
			}
			if limit < 0 {
				return usage("bad --limit %d: give 0 or more", limit)
			}
			return a.withJob(cmd.Context(), args[0], func(ctx context.Context, s *session, id banyan.JobID) error {
				return a.showJob(ctx, s, id, f, limit, failed)
			})
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 20, "show at most `N` tasks")
	cmd.Flags().BoolVar(&failed, "failed", false, "show failed tasks only")
	f.add(cmd.Flags())
	return cmd
}

func (a *app) showJob(ctx context.Context, s *session, id banyan.JobID, f format, limit int, failedOnly bool) error {
	j, err := s.Jobs().Get(ctx, id)
	if err != nil {
		return err
	}
	s.idle(j)
	results, err := failuresFirst(ctx, s, id, limit, failedOnly)
	if err != nil {
		return err
	}
	if f.json() {
		out := jobShowJSON{jobJSON: newJobJSON(j), Results: []resultJSON{}}
		for _, r := range results {
			out.Results = append(out.Results, newResultJSON(r))
		}
		return writeJSON(a.Out, out)
	}
	return a.printJob(j, results, s.hint)
}

// failuresFirst gives up to limit results: failed ones, then running, then others.
func failuresFirst(ctx context.Context, s *session, id banyan.JobID, limit int, failedOnly bool) ([]*banyanv1.TaskResult, error) {
	var all []*banyanv1.TaskResult
	page := func(req *banyanv1.TasksRequest) error {
		req.JobId = string(id)
		req.Limit = uint32(min(limit, math.MaxUint32))
		r, err := s.Jobs().Tasks(ctx, req)
		all = append(all, r.GetResults()...)
		return err
	}
	if limit == 0 {
		return nil, nil
	}
	if err := page(&banyanv1.TasksRequest{FailedOnly: true}); err != nil {
		return nil, err
	}
	failed := len(all)
	if !failedOnly && failed < limit {
		if err := page(&banyanv1.TasksRequest{WithRunning: true}); err != nil {
			return nil, err
		}
		rest := slices.DeleteFunc(all[failed:], func(r *banyanv1.TaskResult) bool { return rank(r) == 0 })
		slices.SortStableFunc(rest, func(a, b *banyanv1.TaskResult) int { return rank(a) - rank(b) })
		all = all[:failed+len(rest)]
	}
	return all[:min(limit, len(all))], nil
}

func rank(r *banyanv1.TaskResult) int {
	switch r.State {
	case banyanv1.TaskState_TASK_STATE_FAILED, banyanv1.TaskState_TASK_STATE_TIMED_OUT, banyanv1.TaskState_TASK_STATE_CANCELED:
		return 0
	case banyanv1.TaskState_TASK_STATE_RUNNING:
		return 1
	}
	return 2
}

func (a *app) printJob(j *banyanv1.Job, results []*banyanv1.TaskResult, hint string) error {
	p := j.GetProgress()
	w := a.Out
	fmt.Fprintln(w, inLine(strings.TrimSpace("Job        "+j.Id+"  "+j.GetSpec().GetName())))
	fmt.Fprintf(w, "Command    %s\n", abbreviate(commandText(j), 100))
	fmt.Fprintf(w, "State      %s\n", jobState(j.State))
	fmt.Fprintf(w, "Submitted  %s\n", when(j.SubmitMs, a.now()))
	if j.EndMs > 0 {
		fmt.Fprintf(w, "Took       %s\n", duration(time.Duration(j.EndMs-j.SubmitMs)*time.Millisecond))
	}
	open := fmt.Sprintf("%d running, %d pending", p.GetRunning(), p.GetPending())
	if ended(j.State) {
		open = fmt.Sprintf("%d not done", p.GetRunning()+p.GetPending())
	}
	sofar := ""
	if j.Open {
		sofar = " so far, and more may come"
	}
	fmt.Fprintf(w, "Tasks      %d%s: %d succeeded, %d failed, %s\n", j.Tasks, sofar, p.GetSucceeded(), p.GetFailed(), open)
	if j.Trimmed > 0 {
		fmt.Fprintf(w, "Trimmed    up to task %d, but for those that failed: they were printed\n", j.Trimmed)
	}
	fmt.Fprintf(w, "Attempts   %d tried again after a failure, %d repeated for a lost node\n", p.GetRetried(), p.GetRepeated())
	if p.GetRatePerS() > 0 && !ended(j.State) {
		fmt.Fprintf(w, "Rate       %.*f/s\n", rateDigits(p.RatePerS), p.RatePerS)
	}
	if j.ThenResult != nil {
		fmt.Fprintf(w, "Then       %s, exit code %d, took %s\n", taskState(j.ThenResult.State), j.ThenResult.ExitCode, duration(time.Duration(j.ThenResult.DurationUs)*time.Microsecond))
	}
	if j.Leader != 0 {
		fmt.Fprintf(w, "Led by     %v (shard %d)\n", banyan.NodeID(j.Leader), j.Shard)
	}
	if len(p.GetNodes()) > 0 {
		fmt.Fprintln(w)
		t := newTable("NODE", "NAME", "STATE", "RUNNING", "DONE").numbers(3, 4)
		for _, n := range p.GetNodes() {
			t.add(banyan.NodeID(n.Node).String(), n.Name, n.State, fmt.Sprint(n.Running), fmt.Sprint(n.Done))
		}
		if err := t.print(w); err != nil {
			return err
		}
	}
	return printTasks(w, j.Id, results, hint)
}

func printTasks(w io.Writer, job string, results []*banyanv1.TaskResult, hint string) error {
	if len(results) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	t := newTable("TASK", "STATE", "EXIT", "NODE", "TRY", "TOOK", "INPUT").numbers(0, 2, 4, 5)
	failed := uint32(0)
	for _, r := range results {
		code := fmt.Sprint(r.ExitCode)
		if r.Signal != "" {
			code = r.Signal
		}
		if r.State == banyanv1.TaskState_TASK_STATE_RUNNING {
			code = "-"
		}
		if rank(r) == 0 && failed == 0 {
			failed = r.Task + 1
		}
		input := abbreviate(columns(r.Input), 50)
		if r.Error != "" {
			input += "  (" + oneLine(r.Error) + ")"
		}
		t.add(fmt.Sprint(r.Task+1), taskState(r.State), code, banyan.NodeID(r.Node).String(), fmt.Sprint(r.Attempt),
			duration(time.Duration(r.DurationUs)*time.Microsecond), input)
	}
	if err := t.print(w); err != nil {
		return err
	}
	if failed > 0 {
		fmt.Fprintf(w, "\n'banyan logs%s %s %d' shows the output of the first failed task.\n", hint, job, failed)
	}
	return nil
}
