// Package exec runs one attempt as a process of this machine: in a working
// directory of its own, in its own process group, with its output going
// straight to files.
//
// A Place is where an attempt runs: a directory and two output files. Whoever
// runs an attempt opens a Place, puts files into it, calls Run, reads what came
// out and releases it. Places are used again when the attempt before left
// nothing behind, because on common file systems making a directory costs a
// quarter of starting a process.
//
// What dies with what:
//   - When an attempt's first process ends, the rest of its group is killed.
//   - At timeout or cancel the group gets SIGTERM, and after a grace SIGKILL.
//   - When this process is killed (kill -9), Linux kills each attempt's first
//     process (PR_SET_PDEATHSIG). The kernel sends that signal when the thread
//     that forked ends, so Run keeps its goroutine locked to its thread for as
//     long as the process lives; no thread is set apart for forking, since
//     handing over to it would cost more than locking does. Groups older than
//     a second are known also to a guard: a shell in a session of its own that
//     reads a pipe from this process and kills, at its end, every group it
//     still knows. On Windows a job object does all of this.
//
// A task that leaves its process group on purpose (setsid) is out of reach.
package exec

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"banyan"
)

// Grace is how long a process group may take to end after SIGTERM.
const Grace = 2 * time.Second

// guardAfter is the age at which a process group is made known to the guard.
const guardAfter = time.Second

// placesIdleMax is how many unused places are kept for the next attempts.
const placesIdleMax = 64

// Config says where and how attempts run.
type Config struct {
	Dir    string        // for working directories and output; the Runner's alone
	Node   string        // names this node in messages, such as "n3 (rack7)"
	Grace  time.Duration // 0: the constant Grace
	Logger *slog.Logger  // nil: none
}

// Runner runs attempts as processes. Its methods may be called by many
// goroutines at once.
type Runner struct {
	cfg        Config
	null       *os.File
	guard      *guard
	guardAfter time.Duration

	mu   sync.Mutex
	next int
	idle []*Place
}

var leftover = regexp.MustCompile(`^(w|out)[0-9]+$`)

// New takes over the directory, making it if need be, and removes what earlier
// runs left in it.
func New(cfg Config) (*Runner, error) {
	if cfg.Grace == 0 {
		cfg.Grace = Grace
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("the directory for tasks: %w", err)
	}
	cfg.Dir = dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("the directory for tasks: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("the directory for tasks: %w", err)
	}
	for _, e := range entries {
		if !leftover.MatchString(e.Name()) {
			continue
		}
		if err := removeAll(filepath.Join(dir, e.Name())); err != nil {
			cfg.Logger.Warn("cannot remove what an earlier run left; remove it by hand", "error", err)
		}
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg, null: null, guard: newGuard(cfg.Logger), guardAfter: guardAfter}, nil
}

// Writable says what keeps the disk under the directory from taking a write.
func (r *Runner) Writable() error {
	f, err := os.CreateTemp(r.cfg.Dir, "out") // a leftover, if this process dies now
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4<<10))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// Open gives a place to run in. With workDir, an absolute path, the attempt runs
// there and nothing in it is removed; else in an empty directory of its own.
// The caller must Release it.
func (r *Runner) Open(workDir string) (*Place, error) {
	if workDir != "" {
		st, err := os.Stat(workDir)
		switch {
		case !filepath.IsAbs(workDir):
			return nil, banyan.Errorf(banyan.Invalid, "the working directory %q is not an absolute path", workDir)
		case errors.Is(err, fs.ErrNotExist):
			return nil, banyan.Errorf(banyan.NotFound, "the working directory %s does not exist on node %s: create it there, or leave out the working directory", workDir, r.cfg.Node)
		case err != nil:
			return nil, fmt.Errorf("the working directory on node %s: %w", r.cfg.Node, err)
		case !st.IsDir():
			return nil, banyan.Errorf(banyan.Invalid, "%s on node %s is not a directory", workDir, r.cfg.Node)
		}
	}
	p := r.take()
	p.workDir = workDir
	if err := p.ready(); err != nil {
		p.destroy()
		return nil, fmt.Errorf("prepare a place for a task in %s on node %s: %w", r.cfg.Dir, r.cfg.Node, err)
	}
	p.refs.Store(1)
	return p, nil
}

func (r *Runner) take() *Place {
	r.mu.Lock()
	defer r.mu.Unlock()
	if n := len(r.idle); n > 0 {
		p := r.idle[n-1]
		r.idle = r.idle[:n-1]
		return p
	}
	return &Place{runner: r}
}

func (r *Runner) give(p *Place) {
	r.mu.Lock()
	keep := len(r.idle) < placesIdleMax
	if keep {
		r.idle = append(r.idle, p)
	}
	r.mu.Unlock()
	if !keep {
		p.destroy()
	}
}

// newDir makes an empty directory that no attempt has had.
func (r *Runner) newDir() (string, error) {
	for {
		r.mu.Lock()
		r.next++
		dir := filepath.Join(r.cfg.Dir, fmt.Sprintf("w%d", r.next))
		r.mu.Unlock()
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrExist) {
			return dir, err
		}
	}
}

// Close removes the idle places. Every Run must have returned and every place
// must have been released.
func (r *Runner) Close() error {
	r.mu.Lock()
	idle := r.idle
	r.idle = nil
	r.mu.Unlock()
	for _, p := range idle {
		p.destroy()
	}
	r.guard.close()
	return r.null.Close()
}

// removeAll removes a tree, also where a task took away its own right to.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if err == nil {
		return nil
	}
	_ = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() || path == dir {
			_ = os.Chmod(path, 0o700) // what still fails, RemoveAll reports
		}
		return nil
	})
	return os.RemoveAll(dir)
}
