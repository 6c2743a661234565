// Package cli is the command line: one file per subcommand. It knows client,
// job for showing what a template becomes, and server for the commands that
// start a node. Flags live here and nowhere else.
//
// Results go to standard output; progress, notices and errors to standard
// error. Every error is one line: "banyan: what happened, to what: what to do".
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	"banyan/node/exec"
	"banyan/obs"
	"banyan/obs/otlp"
)

// IO is what a command touches of the process it runs in.
type IO struct {
	In  io.Reader
	Out io.Writer
	Err io.Writer
	Env func(name string) string
}

// Process gives the IO of this process.
func Process() IO {
	return IO{In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Env: os.Getenv}
}

// Main runs the command that args name (without the program's own name) and
// gives the process's exit code.
func Main(ctx context.Context, args []string, io IO) int {
	if len(args) > 0 && args[0] == exec.WardenArg {
		return exec.RunWarden(args[1:])
	}
	a := &app{IO: io, now: time.Now, leave: os.Exit, command: runProgram}
	a.opens = a.open
	root := a.root()
	root.SetArgs(args)
	flush, err := otlp.Setup(ctx, "banyan")
	if err != nil {
		return a.finish(root, err)
	}
	cmd, err := root.ExecuteContextC(obs.WithTraceparent(ctx, io.Env(obs.TraceparentEnv)))
	code := a.finish(cmd, err)
	if err := flush(context.WithoutCancel(ctx)); err != nil {
		fmt.Fprintln(a.Err, "banyan: traces could not be sent: "+oneLine(err.Error()))
	}
	return code
}

// app is one run of the command line.
type app struct {
	IO
	now    func() time.Time
	opens  func(context.Context, need) (*session, error) // open, or a test's
	leave  func(code int)                                // ends the process at once
	target target

	command  func(ctx context.Context, name string, args ...string) (string, error) // of the machine: runProgram, or a test's
	unitRoot string                                                                 // before the system's paths, for tests
	binary   string                                                                 // that 'add' copies: "" for this one, or a test's

	signaled atomic.Bool // a signal has come
	toldHome bool        // where things are kept without HOME
}

// exit is an error that carries the exit code of the process. An empty message
// prints nothing: what there was to say has been said.
type exit struct {
	code int
	err  error
}

func (e *exit) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}

func (e *exit) Unwrap() error { return e.err }

// usage marks an error of the command line itself.
func usage(format string, args ...any) error {
	return &exit{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// finish prints err and gives the exit code.
func (a *app) finish(cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	code := exitError
	var e *exit
	switch {
	case errors.As(err, &e):
		code = e.code
	case a.signaled.Load() && (errors.Is(err, context.Canceled) || banyan.IsKind(err, banyan.Canceled)):
		code = exitInterrupted
	}
	if counts(cmd) && (code == exitError || code == exitUsage) && (e == nil || e.err != nil) {
		code = exitOther
	}
	if text := oneLine(err.Error()); text != "" && code != exitInterrupted {
		fmt.Fprintln(a.Err, "banyan: "+text)
	}
	return code
}

// oneLine is an error's text from anywhere, fit for a terminal, on one line.
func oneLine(s string) string {
	return inLine(strings.Join(strings.FieldsFunc(strings.TrimSpace(s), func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// root builds the tree of commands.
func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "banyan",
		Short: "Run commands over many inputs, on one machine or many",
		Long: `Banyan turns a set of machines into one computer: equal nodes, no head.

  banyan run gzip -9 {} ::: *.log      run a command over many inputs
  banyan up                            start a cluster of one on this machine
  banyan join HOST:PORT --token T      let this machine join it
  banyan demo                          three nodes render a film; one is killed

A command that needs a cluster finds it by --context, BANYAN_CONTEXT, or the one
'banyan up' wrote last. 'run' without a cluster uses a node inside the command.`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		hint := ""
		if strings.Contains(cmd.Use, "-- COMMAND") {
			hint = "put -- before COMMAND, whose flags are its own; "
		}
		return usage("%w: %s'banyan help%s' lists the flags", err, hint, strings.TrimPrefix(cmd.CommandPath(), "banyan"))
	})
	root.Args = func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return usage("unknown command %q: 'banyan help' lists the commands", args[0])
		}
		return nil
	}
	root.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
	flags := root.PersistentFlags()
	flags.BoolVar(&a.target.local, "local", false, "use a node inside this command, not a cluster")
	flags.StringVar(&a.target.context, "context", "", "use the cluster of this `NAME` ('banyan context list')")
	root.AddGroup(
		&cobra.Group{ID: "work", Title: "Work:"},
		&cobra.Group{ID: "cluster", Title: "Cluster:"},
		&cobra.Group{ID: "more", Title: "More:"},
	)
	root.SetHelpCommandGroupID("more")
	root.SetCompletionCommandGroupID("more")
	a.add(root, "work", a.runCommand(), a.resumeCommand(), a.jobsCommand(), a.jobCommand(), a.logsCommand(), a.waitCommand(), a.cancelCommand(), a.kvCommand(), a.lockCommand(), a.electCommand(), a.locksCommand(), a.unlockCommand())
	a.add(root, "cluster", a.upCommand(), a.joinCommand(), a.addCommand(), a.upgradeCommand(), a.serviceCommand(), a.tokenCommand(), a.statusCommand(), a.nodesCommand(), a.drainCommand(), a.nodeCommand(), a.clusterCommand(), a.recoverCommand(), a.contextCommand())
	a.add(root, "cluster", a.metricsCommand(), a.debugCommand())
	a.add(root, "more", a.demoCommand(), a.versionCommand())
	root.AddCommand(a.filmCommand(), exitCodesTopic(), outputTopic())
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), ".FlagUsages", fmt.Sprintf(".FlagUsagesWrapped %d", widthOf(a.Out)())))
	root.CompletionOptions.SetDefaultShellCompDirective(cobra.ShellCompDirectiveNoFileComp)
	a.completeFlags(root)
	return root
}

func (a *app) add(root *cobra.Command, group string, cmds ...*cobra.Command) {
	for _, c := range cmds {
		c.GroupID = group
		root.AddCommand(c)
	}
}

// exactly checks the number of arguments, naming what they are.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usage("%s: %s is missing: 'banyan help%s' says what it is", cmd.CommandPath(), names[len(args)], strings.TrimPrefix(cmd.CommandPath(), "banyan"))
		case len(args) > len(names):
			return usage("%s: unexpected argument %q: 'banyan help%s' lists what it takes", cmd.CommandPath(), args[len(names)], strings.TrimPrefix(cmd.CommandPath(), "banyan"))
		}
		return nil
	}
}

// atMost is exactly with arguments that may be left out from the end.
func atMost(required int, names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < required {
			return exactly(names[:required]...)(cmd, args)
		}
		if len(args) > len(names) {
			return exactly(names...)(cmd, args)
		}
		return nil
	}
}
