package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banyan"
)

// Command is what an attempt executes.
type Command struct {
	Args      []string      // as they are, without a shell; Args[0] is looked up in the PATH of Env
	Env       []string      // the whole environment, KEY=value, each key once; not nil
	Timeout   time.Duration // 0: none
	OutputMax int64         // bytes of both outputs together; 0: banyan.OutputBytesDefault
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	Exited     Outcome = iota // by itself: exit code or signal say how
	TimedOut                  // killed, it took longer than its timeout
	Canceled                  // killed, the context ended
	NotStarted                // it could not be run at all: Err says why
	Exceeded                  // it went over a limit, and was killed if it still ran: Err says which
)

// Result is what is known of an attempt that ended.
type Result struct {
	Outcome  Outcome
	ExitCode int32  // 128+n when signal n ended it, 127 or 126 when it could not be run, as shells say
	Signal   string // that ended it, such as "SIGKILL"; "": none
	Start    time.Time
	Duration time.Duration
	Stdout   int64 // bytes
	Stderr   int64 // bytes
	Err      error // why it could not be run, or which limit it went over

	// Killed names processes that were still there when it was over by itself,
	// KilledCount in all, KilledNamedMax of them by name.
	Killed      []string
	KilledCount int
}

// OK says whether the attempt did its work.
func (r Result) OK() bool { return r.Outcome == Exited && r.ExitCode == 0 && r.Err == nil }

// Starved says whether an error of Open or Run is for want of descriptors,
// processes or memory on this node: it says nothing about the task.
func Starved(err error) bool { return starved(err) }

// Run executes the command in a place and returns when it and everything it has
// started are gone. When ctx ends or the timeout passes they are killed: asked
// first, forced after the grace. One Run at a time in one place.
func (r *Runner) Run(ctx context.Context, p *Place, c Command) Result {
	res := Result{Start: time.Now()}
	if ctx.Err() != nil {
		res.Outcome, res.ExitCode = Canceled, 128+int32(syscall.SIGTERM)
		return res
	}
	err := r.once(ctx, p, c, &res)
	// A file that was just written may for an instant be open for writing in a
	// process that another goroutine is starting: then it is "busy".
	for wait := time.Millisecond; errors.Is(err, errBusy) && wait < time.Second; wait *= 2 {
		time.Sleep(wait)
		err = r.once(ctx, p, c, &res)
	}
	if err != nil {
		res.Outcome, res.Err, res.ExitCode = NotStarted, err, 126
		if banyan.IsKind(err, banyan.NotFound) {
			res.ExitCode = 127
		}
	}
	return res
}

// once is Run but for an error that says why the command did not begin.
func (r *Runner) once(ctx context.Context, p *Place, c Command, res *Result) error {
	t, path, err := r.start(p, c)
	if err != nil {
		return err
	}
	a := &attempt{r: r, tree: t, place: p, began: res.Start, outputMax: c.OutputMax}
	if a.outputMax == 0 {
		a.outputMax = banyan.OutputBytesDefault
	}
	r.watchdog.add(a)
	err = a.run(ctx, c.Timeout, res)
	r.watchdog.remove(a)
	if err != nil {
		return r.startError(path, c, err)
	}
	res.Duration = time.Since(res.Start)
	if res.Stdout, err = p.Stdout().Size(); err == nil {
		res.Stderr, err = p.Stderr().Size()
	}
	switch {
	case err != nil:
		res.Err = fmt.Errorf("the captured output: %w", err)
	case res.Outcome == Exited && res.Err == nil && res.Stdout+res.Stderr > a.outputMax:
		res.Outcome, res.Err = Exceeded, a.tooMuch("wrote")
	}
	return nil
}

// start begins with the command and gives the program that it is.
func (r *Runner) start(p *Place, c Command) (t tree, path string, err error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return nil, "", banyan.Errorf(banyan.Invalid, "no command to run")
	}
	if path, err = r.look(c.Args[0], p.Dir(), c.Env); err != nil {
		return nil, "", err
	}
	files := []*os.File{r.null, nil, nil}
	for i, out := range p.out {
		w, err := out.writer()
		if err != nil {
			return nil, "", fmt.Errorf("capture output on node %s: %w", r.cfg.Node, err)
		}
		defer w.Close()
		files[i+1] = w
	}
	l := launch{path: path, args: c.Args, env: c.Env, dir: enterable(p.handle, p.Dir()), files: files, place: p.Dir(), handle: p.handle}
	if t, err = r.launcher.start(l); err != nil {
		return nil, "", r.startError(path, c, err)
	}
	return t, path, nil
}

func (r *Runner) startError(path string, c Command, err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return banyan.Errorf(banyan.NotFound, "cannot run %s on node %s: it, or the interpreter its first line names, or the working directory is not there", path, r.cfg.Node)
	case errors.Is(err, fs.ErrPermission):
		return banyan.Errorf(banyan.PermissionDenied, "cannot run %s on node %s: permission denied; make it executable (chmod +x)", path, r.cfg.Node)
	case errors.Is(err, errFormat):
		return banyan.Errorf(banyan.Invalid, "cannot run %s on node %s: it is no program of this machine and has no '#!' line", path, r.cfg.Node)
	case errors.Is(err, errTooLong):
		return banyan.Errorf(banyan.Exhausted, "cannot run %s on node %s: its arguments and environment are longer than the system allows", path, r.cfg.Node)
	}
	return fmt.Errorf("cannot run %s on node %s: %w", path, r.cfg.Node, err)
}

// look finds the program. A name with a slash is taken from the working
// directory, as a shell would.
func (r *Runner) look(name, dir string, env []string) (string, error) {
	if strings.ContainsRune(name, '/') || strings.ContainsRune(name, filepath.Separator) {
		path := name
		if !filepath.IsAbs(path) {
			path = filepath.Join(dir, path)
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return "", banyan.Errorf(banyan.NotFound, "command %q is not there on node %s (working directory %s): send it with --send, or install it", name, r.cfg.Node, dir)
		}
		return path, nil
	}
	list := ""
	for _, kv := range env {
		if k, v, _ := strings.Cut(kv, "="); sameKey(k, "PATH") {
			list = v
		}
	}
	for _, d := range filepath.SplitList(list) {
		if !filepath.IsAbs(d) {
			continue // never run what happens to lie in the working directory
		}
		if path, ok := executable(filepath.Join(d, name), env); ok {
			return path, nil
		}
	}
	return "", banyan.Errorf(banyan.NotFound, "command %q is not found on node %s: install it there, or give its path (PATH there is %q)", name, r.cfg.Node, list)
}
