package exec

import (
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	errBusy    = windows.ERROR_SHARING_VIOLATION
	errFormat  = windows.ERROR_BAD_EXE_FORMAT
	errTooLong = windows.ERROR_FILENAME_EXCED_RANGE
)

// guard has nothing to do here: a job object dies with the process that holds it.
type guard struct{}

func newGuard(*slog.Logger) *guard { return &guard{} }
func (*guard) close()              {}

// process is a process in a job object, which holds everything it starts.
// What it starts in the instant before it is put into the object is not held.
type process struct {
	p *os.Process

	mu  sync.Mutex
	job windows.Handle // 0: closed
}

func startProcess(path string, args []string, attr *os.ProcAttr) (*process, error) {
	job, err := windows.CreateJobObject(nil, nil)
	if err != nil {
		return nil, os.NewSyscallError("CreateJobObject", err)
	}
	var info windows.JOBOBJECT_EXTENDED_LIMIT_INFORMATION
	info.BasicLimitInformation.LimitFlags = windows.JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE
	if _, err := windows.SetInformationJobObject(job, windows.JobObjectExtendedLimitInformation,
		uintptr(unsafe.Pointer(&info)), uint32(unsafe.Sizeof(info))); err != nil {
		windows.CloseHandle(job)
		return nil, os.NewSyscallError("SetInformationJobObject", err)
	}
	attr.Sys = &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP}
	p, err := os.StartProcess(path, args, attr)
	if err != nil {
		windows.CloseHandle(job)
		return nil, err
	}
	if h, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(p.Pid)); err == nil {
		windows.AssignProcessToJobObject(job, h) // fails only when it has ended already
		windows.CloseHandle(h)
	}
	return &process{p: p, job: job}, nil
}

func (p *process) terminate() {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(p.p.Pid))
}

func (p *process) kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.job != 0 {
		windows.TerminateJobObject(p.job, 1)
		p.p.Kill()
	}
}

func (p *process) guard(*guard) {}

// wait returns when the process has ended and everything it started is killed.
func (p *process) wait(grace func() time.Duration) (code int32, signal string) {
	state, err := p.p.Wait()
	grace()
	p.kill()
	p.mu.Lock()
	windows.CloseHandle(p.job)
	p.job = 0
	p.mu.Unlock()
	if err != nil {
		return 255, ""
	}
	return int32(state.ExitCode()), ""
}

func sameKey(a, b string) bool { return strings.EqualFold(a, b) }

// executable finds path with one of the extensions of programs.
func executable(path string, _ []string) (string, bool) {
	found, err := exec.LookPath(path)
	return found, err == nil
}
