package exec

import (
	"errors"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/windows"
)

const (
	errBusy    = windows.ERROR_SHARING_VIOLATION
	errFormat  = windows.ERROR_BAD_EXE_FORMAT
	errTooLong = windows.ERROR_FILENAME_EXCED_RANGE
)

// local puts each attempt into a job object, which holds everything that it
// starts and dies with the process that holds it.
type local struct{}

func newLauncher(Config) (launcher, error) { return local{}, nil }

func (local) sweep() {}
func (local) close() {}

// localTree is a process in a job object. What it starts in the instant before it
// is put into the object is not held.
type localTree struct {
	p     *os.Process
	state *os.ProcessState // after first

	mu  sync.Mutex
	job windows.Handle // 0: closed
}

var _ tree = (*localTree)(nil)

func (local) start(s launch) (tree, error) {
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
	p, err := os.StartProcess(s.path, s.args, &os.ProcAttr{
		Dir: s.dir, Env: s.env, Files: s.files, Sys: &syscall.SysProcAttr{CreationFlags: windows.CREATE_NEW_PROCESS_GROUP},
	})
	if err != nil {
		windows.CloseHandle(job)
		return nil, err
	}
	if h, err := windows.OpenProcess(windows.PROCESS_SET_QUOTA|windows.PROCESS_TERMINATE, false, uint32(p.Pid)); err == nil {
		windows.AssignProcessToJobObject(job, h) // fails only when it has ended already
		windows.CloseHandle(h)
	}
	return &localTree{p: p, job: job}, nil
}

func (t *localTree) first() error {
	t.state, _ = t.p.Wait()
	return nil
}

// accounting is JOBOBJECT_BASIC_ACCOUNTING_INFORMATION.
type accounting struct {
	_                        [4]int64
	_, _, activeProcesses, _ uint32
}

// rest knows how many there are, and not what they hold.
func (t *localTree) rest([2]*os.File) rest {
	t.mu.Lock()
	defer t.mu.Unlock()
	var a accounting
	if t.job == 0 || windows.QueryInformationJobObject(t.job, windows.JobObjectBasicAccountingInformation,
		uintptr(unsafe.Pointer(&a)), uint32(unsafe.Sizeof(a)), nil) != nil || a.activeProcesses == 0 {
		return rest{}
	}
	n := int(a.activeProcesses)
	return rest{names: []string{strconv.Itoa(n) + " processes that it had started"}, count: n, holds: true}
}

func (t *localTree) terminate() {
	windows.GenerateConsoleCtrlEvent(windows.CTRL_BREAK_EVENT, uint32(t.p.Pid))
}

func (t *localTree) kill() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.job != 0 {
		windows.TerminateJobObject(t.job, 1)
		t.p.Kill()
	}
}

func (t *localTree) usage() (usage, bool) { return usage{}, false }
func (t *localTree) expose()              {}
func (t *localTree) guard()               {}

func (t *localTree) release() (code int32, signal string, err error) {
	t.mu.Lock()
	windows.CloseHandle(t.job)
	t.job = 0
	t.mu.Unlock()
	if t.state == nil {
		return 255, "", nil
	}
	return int32(t.state.ExitCode()), "", nil
}

// starved says whether a start failed for want of handles, processes or memory.
func starved(err error) bool {
	for _, short := range []windows.Errno{
		windows.ERROR_TOO_MANY_OPEN_FILES, windows.ERROR_NOT_ENOUGH_MEMORY,
		windows.ERROR_NO_SYSTEM_RESOURCES, windows.ERROR_COMMITMENT_LIMIT,
	} {
		if errors.Is(err, short) {
			return true
		}
	}
	return false
}

func capacity() int { return math.MaxInt32 }

func memoryTotal() int64 { return 0 }

// Harden has nothing to do.
func Harden() error { return nil }

func sameKey(a, b string) bool { return strings.EqualFold(a, b) }

// executable finds path with one of the extensions of programs.
func executable(path string, _ []string) (string, bool) {
	found, err := exec.LookPath(path)
	return found, err == nil
}
