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
// An attempt is over when its first process has ended and nothing else holds its
// output, or Linger has passed; what is left then is killed and named in the
// result. A tree of processes is started, known and killed by a launcher
// (tree.go). With Config.Isolation a warden is between this process and them: a
// process that sees less (warden_linux.go). What dies with what:
//   - At timeout or cancel the attempt's processes get SIGTERM, and after a
//     grace SIGKILL; at a limit SIGKILL at once.
//   - On Linux a process belongs to an attempt by descent, by a cookie in its
//     environment or by its control group, also after setsid and a double fork.
//     Elsewhere it belongs to it as long as it stays in its process group, on
//     Windows by a job object.
//   - When this process is killed (kill -9), Linux kills each attempt's first
//     process (PR_SET_PDEATHSIG). The kernel sends that signal when the thread
//     that forked ends, so Run keeps its goroutine locked to its thread for as
//     long as the process lives; no thread is set apart for forking, since
//     handing over to it would cost more than locking does. Groups older than
//     a second are known also to a guard: a shell in a session of its own that
//     reads a pipe from this process and kills, at its end, every group it
//     still knows and, on Linux, what has the cookie. What was younger is killed
//     when the node is started again.
//
// What is to outlive an attempt has to be started by somebody else, such as the
// machine's service manager.
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

// Grace is how long an attempt's processes may take to end after SIGTERM.
const Grace = 2 * time.Second

// Linger is how long processes that hold an attempt's output may go on when its
// first process has ended.
const Linger = 5 * time.Second

// guardAfter is the age at which a process group is made known to the guard.
const guardAfter = time.Second

// placesIdleMax is how many unused places are kept for the next attempts.
const placesIdleMax = 64

// Config says where and how attempts run.
type Config struct {
	Dir    string        // for working directories and output; the Runner's alone
	Node   string        // names this node in messages, such as "n3 (rack7)"
	Grace  time.Duration // 0: the constant Grace
	Linger time.Duration // 0: the constant Linger
	Logger *slog.Logger  // nil: none

	// Private is the node's directory, in which no job may have its working
	// directory; "": none is kept from jobs.
	Private string

	MemoryMax    int64 // bytes of one attempt's processes; 0: no limit
	ProcessesMax int   // of one attempt; 0: no limit

	// Cgroup gives each attempt a control group of its own, where this process
	// has one to divide.
	Cgroup bool
	// Isolation is how far attempts are kept from this process and its files;
	// "": not at all. Isolated says what came of it.
	Isolation Isolation
	Warden    []string // a program and its arguments that call RunWarden; none: no isolation
	Hidden    []string // directories that attempts do not see, beside Private

	isolateBy string // of tests: this alone

	// NoNewPrivileges has attempts gain no rights by what they execute (sudo).
	NoNewPrivileges bool
}

// Runner runs attempts as processes. Its methods may be called by many
// goroutines at once.
type Runner struct {
	cfg      Config
	null     *os.File
	root     *os.Root    // cfg.Dir
	private  os.FileInfo // cfg.Private; nil: none
	launcher launcher
	isolated Isolated
	watchdog watchdog

	guardAfter, outputEvery, usageEvery time.Duration

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
	if cfg.Linger == 0 {
		cfg.Linger = Linger
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
	r := &Runner{cfg: cfg, guardAfter: guardAfter, outputEvery: outputEvery, usageEvery: usageEvery}
	r.watchdog = watchdog{r: r, attempts: map[*attempt]bool{}, closed: make(chan struct{})}
	if err := r.open(); err != nil {
		if r.root != nil {
			r.root.Close()
		}
		if r.null != nil {
			r.null.Close()
		}
		return nil, fmt.Errorf("the directory for tasks: %w", err)
	}
	return r, nil
}

func (r *Runner) open() (err error) {
	if r.cfg.Private != "" {
		if r.cfg.Private, err = filepath.Abs(r.cfg.Private); err == nil {
			r.cfg.Private, err = filepath.EvalSymlinks(r.cfg.Private)
		}
		if err == nil {
			r.private, err = os.Stat(r.cfg.Private)
		}
		if err != nil {
			return err
		}
	}
	if r.root, err = os.OpenRoot(r.cfg.Dir); err != nil {
		return err
	}
	entries, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !leftover.MatchString(e.Name()) {
			continue
		}
		if err := r.remove(e.Name()); err != nil {
			r.cfg.Logger.Warn("cannot remove what an earlier run left; remove it by hand", "error", err)
		}
	}
	if r.null, err = os.Open(os.DevNull); err != nil {
		return err
	}
	if r.cfg.Isolation != "" && r.cfg.Isolation != IsolationNone {
		r.launcher, r.isolated = newIsolated(r.cfg)
	}
	if r.launcher == nil {
		r.launcher, err = newLauncher(r.cfg)
	}
	return err
}

// Capacity is how many attempts the limits of this process allow at once: those
// of files and of processes.
func Capacity() int { return capacity() }

// MemorySpare is how much memory one attempt may have by default: nine tenths of
// what there is for this process; 0 where that cannot be known.
func MemorySpare() int64 { return memoryTotal() / 10 * 9 }

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
		if banyan.KindOf(err) != banyan.Internal {
			return nil, err
		}
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
		name := fmt.Sprintf("w%d", r.next)
		r.mu.Unlock()
		if err := r.root.Mkdir(name, 0o700); !errors.Is(err, fs.ErrExist) {
			return filepath.Join(r.cfg.Dir, name), err
		}
	}
}

// Close removes the idle places. Every Run must have returned and every place
// must have been released.
func (r *Runner) Close() error {
	r.watchdog.close() // it may be the last to have a place
	r.mu.Lock()
	idle := r.idle
	r.idle = nil
	r.mu.Unlock()
	for _, p := range idle {
		p.destroy()
	}
	r.launcher.close()
	return errors.Join(r.root.Close(), r.null.Close())
}

// remove removes what bears a name in the directory for tasks: a link, not what
// it leads to.
func (r *Runner) remove(name string) error {
	err := r.root.RemoveAll(name)
	if err == nil {
		return nil
	}
	if st, lerr := r.root.Lstat(name); lerr != nil || !st.IsDir() {
		return err
	}
	_ = r.root.Chmod(name, 0o700) // what still fails, the removal reports
	if dir, err := r.root.OpenRoot(name); err == nil {
		_ = empty(dir) // the same
		dir.Close()
	}
	return r.root.RemoveAll(name)
}
