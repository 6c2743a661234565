package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// resultJSON is one task's result as -o json prints it.
type resultJSON struct {
	Seq         uint32   `json:"seq"` // from 1; of the then step: the number of tasks and one
	Then        bool     `json:"then,omitempty"`
	Input       []string `json:"input"`
	InputBase64 []string `json:"input_base64,omitempty"` // the same, when one is not UTF-8
	State       string   `json:"state"`
	ExitCode    int32    `json:"exit_code"`
	Signal      string   `json:"signal,omitempty"`
	Error       string   `json:"error,omitempty"`
	Attempt     uint32   `json:"attempt"`
	Node        string   `json:"node"`
	Slot        uint32   `json:"slot"`
	StartMs     int64    `json:"start_ms"`
	DurationUs  int64    `json:"duration_us"`
	StdoutBytes int64    `json:"stdout_bytes"`
	StderrBytes int64    `json:"stderr_bytes"`
	Stdout      *string  `json:"stdout,omitempty"` // absent when it is large: 'banyan logs'
	Stderr      *string  `json:"stderr,omitempty"`

	StdoutBase64   string   `json:"stdout_base64,omitempty"` // the same, when it is not UTF-8
	StderrBase64   string   `json:"stderr_base64,omitempty"`
	Returned       []string `json:"returned,omitempty"`
	ReturnedBase64 []string `json:"returned_base64,omitempty"` // the same, when one is not UTF-8
	ReturnedFiles  uint32   `json:"returned_files,omitempty"`  // how many; of a long list 'job show' tells no more
	Truncated      bool     `json:"truncated,omitempty"`       // an output was cut off
	Killed         []string `json:"killed,omitempty"`          // processes that it left behind, some by name
	KilledCount    uint32   `json:"killed_count,omitempty"`
}

func newResultJSON(r *banyanv1.TaskResult) resultJSON {
	j := resultJSON{
		Seq: r.Task + 1, Input: banyanv1.Strings(r.Input.GetColumns()), State: taskState(r.State), ExitCode: r.ExitCode,
		Signal: r.Signal, Error: r.Error, Attempt: r.Attempt, Slot: r.Slot,
		StartMs: r.StartMs, DurationUs: r.DurationUs,
		StdoutBytes: r.Stdout.GetBytes(), StderrBytes: r.Stderr.GetBytes(),
		Stdout: inlineText(r.Stdout), Stderr: inlineText(r.Stderr),
	}
	j.Truncated = r.Stdout.GetTruncated() || r.Stderr.GetTruncated()
	j.Killed, j.KilledCount = r.Killed, r.KilledCount
	if r.Node != 0 {
		j.Node = banyan.NodeID(r.Node).String()
	}
	if j.Input == nil {
		j.Input = []string{}
	}
	j.InputBase64 = base64All(j.Input)
	j.StdoutBase64, j.StderrBase64 = base64Of(string(r.Stdout.GetInline())), base64Of(string(r.Stderr.GetInline()))
	j.ReturnedFiles = r.ReturnedList.GetFiles()
	j.files(r.Returned)
	return j
}

// files names the returned files.
func (j *resultJSON) files(refs []*banyanv1.FileRef) {
	j.Returned = nil
	for _, f := range refs {
		j.Returned = append(j.Returned, string(f.Path))
	}
	j.ReturnedBase64 = base64All(j.Returned)
	j.ReturnedFiles = max(j.ReturnedFiles, uint32(len(refs)))
}

func inlineText(o *banyanv1.Output) *string {
	if o.GetBytes() != int64(len(o.GetInline())) {
		return nil
	}
	s := string(o.GetInline())
	return &s
}

// taskState gives the word for a state, as in "timed out" without the blank.
func taskState(s banyanv1.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TASK_STATE_"))
}

func jobState(s banyanv1.JobState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "JOB_STATE_"))
}

// printer writes results as a user wants to see them. A result's output is
// written in one piece, standard output before standard error.
type printer struct {
	out, err io.Writer
	tag      bool
	json     bool
	chunks   chunkReader
	files    func(context.Context, *banyanv1.TaskResult) ([]*banyanv1.FileRef, error) // of a long list
}

// chunkReader writes the content of a blob to w.
type chunkReader func(ctx context.Context, chunks [][]byte, w io.Writer) error

// result prints one task's result.
func (p *printer) result(ctx context.Context, r *banyanv1.TaskResult, then bool) error {
	if p.json {
		j := newResultJSON(r)
		j.Then = then
		if r.ReturnedList != nil && p.files != nil {
			refs, err := p.files(ctx, r)
			if err != nil {
				return err
			}
			j.files(refs)
		}
		return writeJSON(p.out, j)
	}
	tag := ""
	if p.tag && !then {
		tag = columns(r.Input) + "\t"
	}
	if err := p.output(ctx, p.out, r.Stdout, tag); err != nil {
		return err
	}
	if err := p.output(ctx, p.err, r.Stderr, tag); err != nil {
		return err
	}
	if why := failure(r); why != "" {
		fmt.Fprintf(p.err, "banyan: %s %s\n", taskName(r, then), why)
	}
	if left := leftovers(r); left != "" {
		fmt.Fprintf(p.err, "banyan: %s had ended and left something running, which was killed: %s\n", taskName(r, then), left)
	}
	return nil
}

// failure says why a task did not succeed, where its output cannot say it.
func failure(r *banyanv1.TaskResult) string {
	switch {
	case r.Error != "" && r.State == banyanv1.TaskState_TASK_STATE_FAILED && r.ExitCode != 126 && r.ExitCode != 127:
		return "failed: " + oneLine(r.Error) // it ran
	case r.Error != "":
		return "could not be run: " + oneLine(r.Error)
	case r.State == banyanv1.TaskState_TASK_STATE_TIMED_OUT:
		return fmt.Sprintf("was killed on %v after %s: it took longer than --timeout allows", banyan.NodeID(r.Node), duration(time.Duration(r.DurationUs)*time.Microsecond))
	}
	return ""
}

// leftovers names the processes that a task left behind.
func leftovers(r *banyanv1.TaskResult) string {
	if r.KilledCount == 0 {
		return ""
	}
	names := make([]string, len(r.Killed))
	for i, n := range r.Killed {
		names[i] = oneLine(n)
	}
	if more := int(r.KilledCount) - len(names); more > 0 {
		names = append(names, fmt.Sprintf("%d more", more))
	}
	return strings.Join(names, ", ")
}

// columns is an input with blanks between its columns, as bytes.
func columns(in *banyanv1.Input) string {
	return string(bytes.Join(in.GetColumns(), []byte(" ")))
}

func taskName(r *banyanv1.TaskResult, then bool) string {
	if then {
		return "the --then step"
	}
	return fmt.Sprintf("task %d (%s)", r.Task+1, abbreviate(columns(r.Input), 40))
}

// abbreviate shortens s to at most n characters on one line.
func abbreviate(s string, n int) string {
	if len(s) > 4*n+8 {
		s = s[:4*n+8] // no more can show
	}
	r := []rune(inLine(s))
	if len(r) <= n {
		return string(r)
	}
	return string(r[:n-1]) + "…"
}

func (p *printer) output(ctx context.Context, w io.Writer, o *banyanv1.Output, tag string) error {
	if o == nil {
		return nil
	}
	if tag != "" {
		w = &tagger{w: w, tag: []byte(tag), start: true}
	}
	var err error
	switch {
	case len(o.Chunks) > 0:
		err = p.chunks(ctx, o.Chunks, w)
	case len(o.Inline) > 0:
		_, err = w.Write(o.Inline)
	}
	if err != nil {
		return err
	}
	if o.Truncated {
		fmt.Fprintf(p.err, "banyan: output was cut off after %d bytes\n", o.Bytes)
	}
	return nil
}

// tagger writes tag before every line.
type tagger struct {
	w     io.Writer
	tag   []byte
	start bool
}

func (t *tagger) Write(b []byte) (int, error) {
	var buf bytes.Buffer
	for rest := b; len(rest) > 0; {
		if t.start {
			buf.Write(t.tag)
		}
		n := bytes.IndexByte(rest, '\n') + 1
		t.start = n > 0
		if n == 0 {
			n = len(rest)
		}
		buf.Write(rest[:n])
		rest = rest[n:]
	}
	_, err := t.w.Write(buf.Bytes())
	return len(b), err
}

// count prints a number of things.
func count[N uint32 | int](n N, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// duration prints a time as people say it: 340ms, 12.4s, 3m20s, 2h05m.
func duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(time.Millisecond).String()
	case d < time.Minute:
		return d.Round(100 * time.Millisecond).String()
	case d < time.Hour:
		return d.Round(time.Second).String()
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd%02dh", int(d.Hours())/24, int(d.Hours())%24)
}
