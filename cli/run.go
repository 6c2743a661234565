package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/obs"
)

const runHelp = `Run COMMAND once for every INPUT, on the cluster or a node inside this command.

Inputs come after ':::', from files after '::::' or -a, or from standard input,
one per line. Several sources multiply; ':::+' and '::::+' link a source to the
one before it. As in GNU parallel:

  {}  the input       {.}  without extension   {/}  base name    {//}  directory
  {/.}  base name without extension            {#}  number of the task, from 1
  {%}  slot           {2} {2.} {2/} …  of the second source or column

and as with its --plus, which is always on (P is a regular expression):

  {..} {...} {/..} {/...}   without the last two or three extensions
  {+/} {+.} {+..} {+...}    directory, extension, the last two or three
  {#P} {##P} {%P} {%%P}     without the shortest or longest P in front, behind
  {/P/R} {//P/R}            R for the first or every P; so {/#P/R} {/%P/R}
  {^P} {^^P} {,P} {,,P}     P in front or everywhere in capitals or small
  {:N} {:N:M} {:-D}         from byte N on, M of them; D if the input is empty
  {##} {0#} {seq-1} {slot-1}  number of tasks; number with zeros; counted from 0

Perl expressions {= … =} and the others are refused. ${…} is left to the shell.
A command that needs such a text itself can have it from a script or from --env.

Without any of them {} is appended. A COMMAND of several arguments, or of one
plain word, is executed as it is, without a shell. A COMMAND that is one
argument with blanks or shell characters is run by 'sh -c', with the inputs
quoted. So no input is taken for syntax by Banyan; a program that is given one
inside its own code does, as bash -c 'echo {}': write bash -c 'echo "$1"' _ {}.

Output comes grouped by task, when a task has ended. Ctrl-C holds the job;
'banyan resume JOB' does what is not yet done. --return and --then work in a
directory of their own for every task; the files come back to --outdir. With
--then the files that it makes come back, and not those of the tasks. Empty
directories, times of change and links within what is sent or returned stay. A
link out of it is sent as what it leads to, and is not brought back. Whatever a
node says, only files that --return names are written (* and ? stand for no dot
in front; of --then all but hidden ones), below --outdir, also not through links
out of it, and with no more rights than the umask gives.

Inputs from one file or pipe stream: tasks begin while the rest is read, as in
'tail -f queue | banyan run …', and there may be any number of them. What is
read ahead is bounded. Of such a job the results that were printed are removed
again, some thousands at a time, and those of failed tasks kept; --keep and
--then keep all, of a million tasks at most. All inputs are read first where
{##}, {0#} or a template in --send want to know them, and with --detach.

A task is over when its command has ended and none of its processes holds its
output any more, or 5 s later; what is left running then is killed and named.
To leave something running have the machine's service manager start it, as with
'systemd-run --user'; setsid and nohup do not.`

const runExamples = `  banyan run gzip -9 {} ::: *.log
  banyan run 'convert {1} -resize {2} {1/.}-{2}.png' ::: *.jpg ::: 100 400
  find . -name '*.c' | banyan run -k --tag wc -l
  tail -f queue | banyan run ./handle {}
  banyan run --send {} --return {.}.mp3 'lame {} {.}.mp3' ::: *.wav
  banyan run --send {} --return {}.part --then 'sort -m *.part > sorted' \
    'sort {} > {}.part' ::: *.txt`

// runFlags are the flags of run.
type runFlags struct {
	show     showFlags
	files    []string
	null     bool
	colsep   string
	skip     bool // --no-run-if-empty
	jobs     string
	retries  int
	timeout  string
	output   string // --output-max
	memory   string // --memory
	slots    int
	dryRun   bool
	name     string
	send     []string
	returns  []string
	linksOut string
	then     string
	env      []string
	detach   bool
	workdir  string
	keep     string
}

func (a *app) runCommand() *cobra.Command {
	f := &runFlags{}
	cmd := &cobra.Command{
		Use:               "run [flags] [--] COMMAND [ARG …] [::: INPUT …]",
		Short:             "Run a command over many inputs",
		Long:              runHelp,
		Example:           runExamples,
		Annotations:       map[string]string{countsFailures: ""},
		ValidArgsFunction: files,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.run(cmd.Context(), f, args) },
	}
	fs := cmd.Flags()
	fs.SetInterspersed(false)
	fs.SortFlags = false
	fs.StringArrayVarP(&f.files, "arg-file", "a", nil, "read inputs from `FILE` ('-': standard input); several multiply")
	fs.BoolVarP(&f.null, "null", "0", false, "inputs in files end with NUL, not with a line end")
	fs.StringVarP(&f.colsep, "colsep", "C", "", "split every input into columns at this `REGEXP`: {1} {2} …")
	fs.BoolVarP(&f.skip, "no-run-if-empty", "r", false, "no inputs: do nothing and succeed")
	fs.StringVarP(&f.jobs, "jobs", "j", "", "tasks at once on a node: `N`, N% of its cores, or 0 for as many as possible")
	fs.IntVar(&f.retries, "retries", 1, "try a failing task `N` times in all")
	fs.StringVar(&f.timeout, "timeout", "", "kill a task after `TIME`: seconds, or such as 1.5m, 2h, 1h30m")
	fs.IntVar(&f.slots, "slots", 1, "each task occupies `N` slots of its node, such as one that uses N cores")
	fs.StringVar(&f.memory, "memory", "", "each task needs `SIZE` of memory, such as 2G: a node runs no more at once than fit")
	fs.StringVar(&f.output, "output-max", "", "kill a task that writes more than `SIZE` to standard output and error, such as 10G (default 1G)")
	fs.BoolVar(&f.dryRun, "dry-run", false, "print the commands, run nothing")
	fs.StringVar(&f.name, "name", "", "a `NAME` for the job, shown by 'banyan jobs'")
	fs.StringArrayVar(&f.send, "send", nil, "send `FILE` or directory to every task; a template such as {} sends each task its own")
	fs.StringArrayVar(&f.returns, "return", nil, "bring back the files that match this `PATTERN`; a template, * and ? match")
	fs.StringVar(&f.linksOut, "links-out", linksFollow, "links that lead out of what is sent or of --outdir: `HOW` is follow or refuse")
	fs.StringVar(&f.then, "then", "", "when all tasks succeeded, run this shell `COMMAND` once where all returned files are")
	fs.StringArrayVar(&f.env, "env", nil, "set `NAME=VALUE` for the tasks, or NAME to pass it on from here")
	fs.StringVar(&f.keep, "keep", "", "keep the job for this `TIME` after its end, such as 7d; or the newest N of its name; or \"forever\"; or 0: nothing")
	fs.StringVar(&f.workdir, "workdir", "", "run every task in this `DIR`, which is there on every node")
	fs.BoolVar(&f.detach, "detach", false, "print the job's id and return while the cluster works")
	f.show.add(fs)
	return cmd
}

// run does the whole of `banyan run`: everything that can be wrong with the
// command line is found before a node is started or anything is sent.
func (a *app) run(ctx context.Context, f *runFlags, args []string) error {
	if err := f.show.check(); err != nil {
		return err
	}
	if err := checkLinks(f.linksOut); err != nil {
		return err
	}
	command, sources := splitArgs(args, f.files)
	spec, err := f.spec(command, a.Env)
	if err != nil {
		return err
	}
	a.warnOfCode(command)
	in, rest, err := a.takeInputs(f, sources, spec)
	if err != nil {
		return err
	}
	if in.count == 0 {
		if f.skip {
			return nil
		}
		return banyan.Errorf(banyan.Invalid, "no inputs: give some after ':::', in a file with -a, or on standard input; -r makes none a success")
	}
	if err := checkTemplates(f, spec, in.columns); err != nil {
		if in.least != nil {
			err = banyan.Errorf(banyan.Invalid, "%w; inputs differ, this one has the fewest columns: %q", err, abbreviate(strings.Join(in.least, " "), 60))
		}
		return err
	}
	files, err := findSends(f.send, in, f.linksOut)
	if err != nil {
		return err
	}
	tasks := in.count
	if rest != nil {
		tasks = banyan.JobTasksMax // or how many it will be
	}
	perNode, err := parseJobs(f.jobs, tasks)
	if err != nil {
		return err
	}
	if f.dryRun {
		return a.dryRun(spec, in)
	}
	return a.submitAndFollow(ctx, f, spec, in, rest, files, perNode)
}

// spec builds the job's specification, but for the files sent with it.
func (f *runFlags) spec(command []string, env func(string) string) (*banyanv1.JobSpec, error) {
	if len(command) == 0 {
		return nil, usage("no command: give one, as in 'banyan run gzip -9 {} ::: *.log'")
	}
	if f.retries < 1 || f.retries > banyan.RetriesMax {
		return nil, usage("bad --retries %d: give 1 to %d", f.retries, banyan.RetriesMax)
	}
	timeoutMs, err := parseTimeout(f.timeout)
	if err != nil {
		return nil, err
	}
	demand, err := f.demand()
	if err != nil {
		return nil, err
	}
	outputMax, err := parseSize("--output-max", f.output, banyan.OutputBytesMax)
	if err != nil {
		return nil, err
	}
	vars, err := parseEnv(f.env, env)
	if err != nil {
		return nil, err
	}
	keepMs, keepNewest, err := parseKeep(f.keep)
	if err != nil {
		return nil, err
	}
	if f.workdir != "" && (len(f.send) > 0 || len(f.returns) > 0 || f.then != "") {
		return nil, usage("--workdir and --send, --return or --then exclude each other: sent and returned files need a directory of each task's own")
	}
	spec := &banyanv1.JobSpec{
		Name:        f.name,
		Command:     &banyanv1.Command{Args: banyanv1.Bytes(command...), Shell: isShell(command)},
		Env:         vars,
		AttemptsMax: uint32(f.retries),
		TimeoutMs:   timeoutMs,

		KeepMs: keepMs, KeepNewest: keepNewest,
		OutputBytesMax: outputMax,
		Demand:         demand,
		Return:         banyanv1.Bytes(f.returns...),
		WorkDir:        []byte(f.workdir),
	}
	if f.then != "" {
		spec.Then = banyanv1.NewShell(f.then)
	}
	return spec, nil
}

// warnOfCode warns where an input stands inside the code that a program is given
// with -c: the program takes it for syntax.
func (a *app) warnOfCode(command []string) {
	for i := 1; i < len(command); i++ {
		if i > 1 && isCodeFlag(command[0], command[i-1]) && takesInput(command[i]) {
			fmt.Fprintf(a.Err, "banyan: what an input holds is run as code by '%s %s': give it as an argument behind the code, as in: bash -c 'echo \"$1\"' _ {}\n", abbreviate(command[0], 40), command[i-1])
			return
		}
	}
}

// isCodeFlag says whether code comes behind a flag: -c, also as one of a shell's
// flags in one, such as -lc.
func isCodeFlag(program, flag string) bool {
	shell := slices.Contains([]string{"sh", "bash", "dash", "ksh", "zsh"}, filepath.Base(program))
	return flag == "-c" || shell && len(flag) > 1 && flag[0] == '-' && flag[1] != '-' && strings.HasSuffix(flag, "c")
}

// takesInput says whether a string changes with the input.
func takesInput(s string) bool {
	one, two := job.Vars{Columns: []string{"a.b/c.d", "g"}, Seq: 1, Slot: 1, Tasks: 1}, job.Vars{Columns: []string{"e.f/g.h", "h"}, Seq: 1, Slot: 1, Tasks: 1}
	return job.ExpandString(s, one) != job.ExpandString(s, two)
}

// isShell says whether a command is a string for the shell: exactly one
// argument, with blanks or shell characters besides its replacement strings.
func isShell(command []string) bool {
	if len(command) != 1 {
		return false
	}
	return strings.ContainsAny(job.Literal(command[0]), " \t\n|&;<>()$`\\\"'*?[]#~!{}")
}

func checkTemplates(f *runFlags, spec *banyanv1.JobSpec, columns int) error {
	if err := job.Check(spec.Command, columns); err != nil {
		return err
	}
	for _, s := range append(append([]string(nil), f.send...), f.returns...) {
		if err := job.CheckString(s, columns); err != nil {
			return err
		}
	}
	return nil
}

// reading says how the sources of inputs are read.
func (a *app) reading(f *runFlags, sources []source) (reading, error) {
	r := reading{stdin: a.In, sep: '\n'}
	if f.null {
		r.sep = 0
	}
	if f.colsep != "" {
		re, err := regexp.Compile(f.colsep)
		if err != nil {
			return r, usage("bad --colsep %q: %v: give a regular expression such as , or '\\t'", f.colsep, err)
		}
		r.columns = re
	}
	for _, s := range sources {
		if s.file && s.path == "-" && isTerminal(a.In) && len(f.files) == 0 {
			return r, usage("no inputs: give some after ':::', in a file with -a, or on standard input")
		}
	}
	return r, nil
}

// dryRun prints what would be run, quoted for a shell.
func (a *app) dryRun(spec *banyanv1.JobSpec, in *inputs) error {
	out := bufio.NewWriter(a.Out)
	seq := 0
	for row := range in.all() {
		seq++
		args, err := job.Expand(spec.Command, job.Vars{Columns: row, Seq: seq, Slot: 1, Tasks: in.count})
		if err != nil {
			return err
		}
		if spec.Command.Shell {
			args = args[len(args)-1:]
		} else {
			for i := range args {
				args[i] = job.Quote(args[i])
			}
		}
		fmt.Fprintln(out, strings.Join(args, " "))
	}
	return out.Flush()
}

// submitAndFollow opens the cluster, sends files and job, and follows it.
func (a *app) submitAndFollow(ctx context.Context, f *runFlags, spec *banyanv1.JobSpec, in *inputs, rest *streaming, files []sendFile, perNode parallelism) (err error) {
	ctx, span := obs.Start(ctx, "banyan run")
	defer func() { span.End(err) }()
	spec.Traceparent = obs.Traceparent(ctx)
	sig := a.listen()
	defer sig.stop()
	ctx, cancel := sig.untilFirst(ctx)
	defer cancel()
	s, err := a.opens(ctx, need{slots: perNode.embedded(), embedded: true})
	if err != nil {
		return err
	}
	defer s.close()
	if f.detach && s.local {
		return usage("--detach needs a cluster: the node inside this command ends with it: 'banyan up' starts a cluster")
	}
	if err := fitsHere(s, spec, perNode.embedded()); err != nil {
		return err
	}
	if spec.PerNodeMax, err = perNode.perNodeMax(ctx, s); err != nil {
		return err
	}
	if err := setWorkDir(f, spec, s.local); err != nil {
		return err
	}
	if err := job.Validate(spec); err != nil {
		return err
	}
	if err := upload(ctx, s, spec, files, f.send); err != nil {
		return err
	}
	id, err := a.submit(ctx, s, spec, in, rest != nil)
	if err != nil {
		return err
	}
	s.learn(ctx)
	if f.detach {
		return f.show.printID(a.Out, id)
	}
	cancel()
	how := follow{job: id, show: f.show, back: asked{banyanv1.Strings(spec.Return), in.count, in.row, f.linksOut == linksRefuse}, then: spec.Then != nil}
	if rest != nil {
		how.feed = newFeeder(s, id, rest, in, f, spec)
		how.back.row = how.feed.row
	}
	err = a.follow(ctx, sig, s, how)
	failed := (*exit)(nil)
	if errors.As(err, &failed) && failed.code != exitFiles || err == nil {
		a.dispose(context.WithoutCancel(ctx), s, spec, id)
	}
	if failed != nil && failed.code <= exitFailedMore && failed.code != exitFiles && !s.local {
		if name := leftHere(spec, f.send, in); name != "" {
			fmt.Fprintf(a.Err, "banyan: %s is here, tasks run in directories of their own on the nodes: send files with --send {}, or name a directory that every node has with --workdir\n", name)
		}
	}
	return err
}

// leftHere names a file of the first input that the cluster's nodes were not given.
func leftHere(spec *banyanv1.JobSpec, sent []string, in *inputs) string {
	if len(spec.WorkDir) > 0 || len(sent) > 0 {
		return ""
	}
	for row := range in.all() {
		for _, name := range row {
			if st, err := os.Stat(name); err == nil && st.Mode().IsRegular() && !filepath.IsAbs(name) {
				return name
			}
		}
		break
	}
	return ""
}

// setWorkDir makes tasks of an embedded node run where the user is, unless
// files come and go with them.
func setWorkDir(f *runFlags, spec *banyanv1.JobSpec, local bool) error {
	dir, err := f.workdir, error(nil)
	switch {
	case dir == "" && local && len(f.send) == 0 && len(f.returns) == 0 && f.then == "":
		dir, err = os.Getwd()
	case dir != "" && local:
		dir, err = filepath.Abs(dir)
	case dir != "" && !filepath.IsAbs(dir) && !strings.HasPrefix(dir, "/"):
		return usage("bad --workdir %q: on a cluster it is an absolute path, there on every node", dir)
	}
	spec.WorkDir = []byte(dir)
	return err
}
