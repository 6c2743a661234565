//go:build unix && !linux

package exec

import (
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// local makes attempts children of this process, each in a process group of its
// own. These systems do not say what else an attempt has started: a process
// that leaves the group is out of reach, and nobody knows who holds the output.
type local struct{ guard *guard }

func newLauncher(cfg Config) (launcher, error) {
	inheritNothing()
	return &local{newGuard(cfg.Logger, "")}, nil
}

func (l *local) sweep() {}
func (l *local) close() { l.guard.close() }

// inheritNothing keeps descriptors of whoever started this process from tasks.
func inheritNothing() {
	dir, err := os.Open("/dev/fd")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		if fd, err := strconv.Atoi(n); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// localTree is the process group that an attempt's first process leads.
type localTree struct {
	l     *local
	p     *os.Process
	state *os.ProcessState // after first

	mu      sync.Mutex
	over    bool // the number may belong to somebody else
	guarded bool
}

var _ tree = (*localTree)(nil)

func (l *local) start(s launch) (tree, error) {
	p, err := os.StartProcess(s.path, s.args, &os.ProcAttr{
		Dir: s.dir, Env: s.env, Files: s.files, Sys: &syscall.SysProcAttr{Setpgid: true},
	})
	if err != nil {
		return nil, err
	}
	return &localTree{l: l, p: p}, nil
}

// first waits for the process and takes its number away, since these systems
// cannot wait without. As long as one member of the group lives the number stays
// taken; with none, it would have to be given out anew to hit a stranger.
func (t *localTree) first() error {
	t.state, _ = t.p.Wait()
	return nil
}

func (t *localTree) rest([2]*os.File) rest {
	if unix.Kill(-t.p.Pid, 0) != nil {
		return rest{}
	}
	return rest{names: []string{"process group " + strconv.Itoa(t.p.Pid)}, count: 1, holds: true}
}

// signal goes to the whole group, as long as its number is surely ours.
func (t *localTree) signal(s syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		_ = unix.Kill(-t.p.Pid, s) // ESRCH: already gone
	}
}

func (t *localTree) terminate() {
	t.signal(unix.SIGTERM)
	t.signal(unix.SIGCONT) // a stopped process hears nothing else
}

func (t *localTree) kill()                { t.signal(unix.SIGKILL) }
func (t *localTree) usage() (usage, bool) { return usage{}, false }
func (t *localTree) expose()              {}

// guard makes the group known to the guard until it is gone.
func (t *localTree) guard() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.over {
		t.l.guard.add(t.p.Pid)
		t.guarded = true
	}
}

func (t *localTree) release() (code int32, signal string, err error) {
	t.mu.Lock()
	t.over = true
	guarded := t.guarded
	t.mu.Unlock()
	if guarded {
		t.l.guard.remove(t.p.Pid)
	}
	code, signal = codeOf(t.state)
	return code, signal, nil
}

func processesLimit() (int, bool) { return 0, false }

func memoryTotal() int64 { return 0 }

// Harden has nothing to do: these systems guard a process by its user alone.
func Harden() error { return nil }
