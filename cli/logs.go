package cli

import (
	"context"
	"fmt"
	"io"
	"strconv"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// logsFlags are the flags of logs.
type logsFlags struct {
	format   format
	follow   bool
	out, err bool // only standard output, only standard error; both: both
	tag      bool
	attempt  uint32
}

func (a *app) logsCommand() *cobra.Command {
	f := &logsFlags{}
	cmd := &cobra.Command{
		Use:   "logs JOB [TASK|then]",
		Short: "Show the output of a job's tasks",
		Long: `Show what tasks printed: of one TASK (its number from 1, or then for the --then
step), finished or running, or of all finished tasks in the order of their
inputs. With -f the output of a running task is shown as it comes. When its
node is lost a line says so, and the output of the next attempt begins at its
front. --attempt shows that of one attempt only, or says that it is gone.`,
		Args:              atMost(1, "JOB", "TASK"),
		ValidArgsFunction: arguments(a.jobs(anyState), a.tasks()),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := f.format.check(); err != nil {
				return err
			}
			if f.attempt > 0 && len(args) < 2 {
				return usage("--attempt wants a TASK: 'banyan job show %s' lists them", args[0])
			}
			if f.follow && len(args) < 2 {
				return usage("-f wants a TASK to follow: 'banyan job show %s' lists those that run", args[0])
			}
			return a.withJob(cmd.Context(), args[0], func(ctx context.Context, s *session, id banyan.JobID) error {
				if len(args) < 2 {
					return a.allLogs(ctx, s, id, f)
				}
				task, err := taskIndex(ctx, s, id, args[1])
				if err != nil {
					return err
				}
				return a.taskLog(ctx, s, id, task, f)
			})
		},
	}
	fs := cmd.Flags()
	fs.BoolVarP(&f.follow, "follow", "f", false, "wait for more output until the task has ended")
	fs.BoolVar(&f.out, "stdout", false, "standard output only")
	fs.BoolVar(&f.err, "stderr", false, "standard error only")
	fs.Uint32Var(&f.attempt, "attempt", 0, "only the output of attempt `N`, from 1")
	fs.BoolVar(&f.tag, "tag", false, "print the input and a tab before every line (of all tasks)")
	f.format.add(fs)
	return cmd
}

// logJSON is a piece of output as 'logs -o json' prints it.
type logJSON struct {
	Seq        uint32 `json:"seq"`    // of the task, from 1
	Stream     string `json:"stream"` // stdout or stderr
	Data       string `json:"data"`
	DataBase64 string `json:"data_base64,omitempty"` // the same, when it is not UTF-8
}

// logWriter writes every piece of one stream of a task as a line of JSON.
type logWriter struct {
	w      io.Writer
	seq    uint32
	stream string
}

func (l logWriter) Write(b []byte) (int, error) {
	j := logJSON{Seq: l.seq, Stream: l.stream, Data: string(b), DataBase64: base64Of(string(b))}
	return len(b), writeJSON(l.w, j)
}

// writers gives where a task's two streams go.
func (a *app) writers(task uint32, f *logsFlags) (out, errs io.Writer) {
	out, errs = a.Out, a.Err
	if f.format.json() {
		out, errs = logWriter{a.Out, task + 1, "stdout"}, logWriter{a.Out, task + 1, "stderr"}
	}
	if f.out && !f.err {
		errs = io.Discard
	}
	if f.err && !f.out {
		out = io.Discard
	}
	return out, errs
}

// taskIndex reads the number of a task of a job, or "then".
func taskIndex(ctx context.Context, s *session, id banyan.JobID, text string) (uint32, error) {
	n, err := strconv.ParseUint(text, 10, 32)
	if text != "then" && (err != nil || n == 0) {
		return 0, usage("bad task %q: give its number from 1, or then", text)
	}
	j, err := s.Jobs().Get(ctx, id)
	if err != nil {
		return 0, err
	}
	tasks := j.GetTasks()
	switch {
	case text == "then" && j.GetSpec().GetThen() == nil:
		return 0, banyan.Errorf(banyan.NotFound, "job %s has no --then step: give the number of a task, 1 to %d", id, tasks)
	case text == "then":
		return tasks, nil
	case n > uint64(tasks):
		return 0, banyan.Errorf(banyan.NotFound, "job %s has no task %d: it has %s", id, n, count(tasks, "task"))
	}
	return uint32(n - 1), nil
}

// taskLog copies one task's output.
func (a *app) taskLog(ctx context.Context, s *session, id banyan.JobID, task uint32, f *logsFlags) error {
	out, errs := a.writers(task, f)
	req := &banyanv1.LogsRequest{JobId: string(id), Task: task, Follow: f.follow, Attempt: f.attempt, StdoutOnly: f.out && !f.err, StderrOnly: f.err && !f.out}
	return s.Jobs().Logs(ctx, req, func(m *banyanv1.LogsResponse) error {
		to := out
		if m.Stderr {
			to = errs
		}
		if m.Note != "" {
			fmt.Fprintf(a.Err, "banyan: task %d: %s\n", task+1, inLine(m.Note))
		}
		if len(m.Data) == 0 {
			return nil
		}
		_, err := to.Write(m.Data)
		return err
	})
}

// allLogs prints the output of all finished tasks, and of the then step.
func (a *app) allLogs(ctx context.Context, s *session, id banyan.JobID, f *logsFlags) error {
	print := func(r *banyanv1.TaskResult, then bool) error {
		p := &printer{tag: f.tag && !f.format.json(), chunks: s.Blobs().Download}
		p.out, p.err = a.writers(r.Task, f)
		return p.result(ctx, r, then)
	}
	err := s.eachResult(ctx, &banyanv1.TasksRequest{JobId: string(id)}, func(r *banyanv1.TaskResult) error { return print(r, false) })
	if err != nil {
		return err
	}
	j, err := s.Jobs().Get(ctx, id)
	if err != nil || j.GetThenResult() == nil {
		return err
	}
	return print(j.ThenResult, true)
}
