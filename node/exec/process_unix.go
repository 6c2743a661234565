//go:build unix

package exec

import (
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	errBusy    = syscall.ETXTBSY
	errFormat  = syscall.ENOEXEC
	errTooLong = syscall.E2BIG
)

// process is a process and the group it leads.
type process struct {
	p *os.Process

	mu      sync.Mutex
	reaped  bool // the number may belong to somebody else
	guarded *guard
}

func startProcess(path string, args []string, attr *os.ProcAttr) (*process, error) {
	attr.Sys = sysProcAttr()
	p, err := os.StartProcess(path, args, attr)
	if err != nil {
		return nil, err
	}
	return &process{p: p}, nil
}

// signal goes to the whole group, as long as its number is surely ours.
func (p *process) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = unix.Kill(-p.p.Pid, s) // ESRCH: already gone
	}
}

func (p *process) terminate() {
	p.signal(unix.SIGTERM)
	p.signal(unix.SIGCONT) // a stopped process hears nothing else
}

func (p *process) kill() { p.signal(unix.SIGKILL) }

// guard makes the group known to the guard until it is gone.
func (p *process) guard(g *guard) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		g.add(p.p.Pid)
		p.guarded = g
	}
}

// wait returns when the process and its group are gone. When the process has
// ended, grace says how long the rest of the group may go on.
func (p *process) wait(grace func() time.Duration) (code int32, signal string) {
	state := p.awaitExit()
	left := grace()
	if left == 0 {
		p.kill()
	}
	if state == nil {
		state, _ = p.p.Wait() // at once: it has ended
	}
	// As long as one member lives the number of the group stays taken.
	for until := time.Now().Add(left); left > 0 && unix.Kill(-p.p.Pid, 0) == nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(until) {
			p.kill()
			break
		}
	}
	p.mu.Lock()
	p.reaped = true
	g := p.guarded
	p.mu.Unlock()
	if g != nil {
		g.remove(p.p.Pid)
	}
	if state == nil {
		return 255, "" // somebody else has waited for it
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int32(ws.Signal()), unix.SignalName(ws.Signal())
	}
	return int32(state.ExitCode()), ""
}

func sameKey(a, b string) bool { return a == b }

// executable says whether path is a program this process may run.
func executable(path string, _ []string) (string, bool) {
	st, err := os.Stat(path)
	if err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
		return "", false
	}
	return path, unix.Access(path, unix.X_OK) == nil
}
