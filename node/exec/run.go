package exec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"banyan"
)

// Command is what an attempt executes.
type Command struct {
	Args    []string      // as they are, without a shell; Args[0] is looked up in the PATH of Env
	Env     []string      // the whole environment, KEY=value, each key once; not nil
	Timeout time.Duration // 0: none
}

// Outcome is how an attempt ended.
type Outcome uint8

// The outcomes.
const (
	Exited     Outcome = iota // by itself: exit code or signal say how
	TimedOut                  // killed, it took longer than its timeout
	Canceled                  // killed, the context ended
	NotStarted                // it could not be run at all: Err says why
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
	Err      error // why it could not be run
}

// OK says whether the attempt did its work.
func (r Result) OK() bool { return r.Outcome == Exited && r.ExitCode == 0 && r.Err == nil }

// Run executes the command in a place and returns when it and its process group
// are gone. When ctx ends or the timeout passes the group is killed: asked
// first, forced after the grace. One Run at a time in one place.
func (r *Runner) Run(ctx context.Context, p *Place, c Command) Result {
	res := Result{Start: time.Now()}
	if ctx.Err() != nil {
		res.Outcome, res.ExitCode = Canceled, 128+int32(syscall.SIGTERM)
		return res
	}
	// See the package comment: the thread must outlive the process.
	runtime.LockOSThread()
	proc, err := r.start(p, c)
	if err != nil {
		runtime.UnlockOSThread()
		res.Outcome, res.Err, res.ExitCode = NotStarted, err, 126
		if banyan.IsKind(err, banyan.NotFound) {
			res.ExitCode = 127
		}
		return res
	}
	res.Outcome, res.ExitCode, res.Signal = r.watch(ctx, proc, c.Timeout)
	runtime.UnlockOSThread()
	res.Duration = time.Since(res.Start)
	if res.Stdout, err = p.Stdout().Size(); err == nil {
		res.Stderr, err = p.Stderr().Size()
	}
	if err != nil {
		res.Err = fmt.Errorf("the captured output: %w", err)
	}
	return res
}

// watch waits for a process, ending it when it must end.
func (r *Runner) watch(ctx context.Context, proc *process, timeout time.Duration) (Outcome, int32, string) {
	var why atomic.Int32 // an Outcome
	var force atomic.Pointer[time.Timer]
	var ended atomic.Pointer[time.Time] // when the grace began
	end := func(o Outcome) {
		if why.CompareAndSwap(int32(Exited), int32(o)) {
			now := time.Now()
			ended.Store(&now)
			force.Store(time.AfterFunc(r.cfg.Grace, proc.kill))
			proc.terminate()
		}
	}
	defer context.AfterFunc(ctx, func() { end(Canceled) })()
	if timeout > 0 {
		defer time.AfterFunc(timeout, func() { end(TimedOut) }).Stop()
	}
	guarded := time.AfterFunc(r.guardAfter, func() { proc.guard(r.guard) })
	code, signal := proc.wait(func() time.Duration {
		guarded.Stop()
		if Outcome(why.Load()) == Exited {
			return 0
		}
		if at := ended.Load(); at != nil {
			return max(0, r.cfg.Grace-time.Since(*at))
		}
		return r.cfg.Grace
	})
	if t := force.Load(); t != nil {
		t.Stop()
	}
	return Outcome(why.Load()), code, signal
}

func (r *Runner) start(p *Place, c Command) (*process, error) {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return nil, banyan.Errorf(banyan.Invalid, "no command to run")
	}
	path, err := r.look(c.Args[0], p.Dir(), c.Env)
	if err != nil {
		return nil, err
	}
	files := []*os.File{r.null, nil, nil}
	for i, out := range p.out {
		w, err := out.writer()
		if err != nil {
			return nil, fmt.Errorf("capture output on node %s: %w", r.cfg.Node, err)
		}
		defer w.Close()
		files[i+1] = w
	}
	attr := &os.ProcAttr{Dir: p.Dir(), Env: c.Env, Files: files}
	proc, err := startProcess(path, c.Args, attr)
	// A file that was just written may for an instant be open for writing in a
	// process that another goroutine is starting: then it is "busy".
	for wait := time.Millisecond; errors.Is(err, errBusy) && wait < time.Second; wait *= 2 {
		time.Sleep(wait)
		proc, err = startProcess(path, c.Args, attr)
	}
	if err != nil {
		return nil, r.startError(path, c, err)
	}
	return proc, nil
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
