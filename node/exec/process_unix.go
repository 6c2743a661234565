//go:build unix

package exec

import (
	"errors"
	"math"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	errBusy    = syscall.ETXTBSY
	errFormat  = syscall.ENOEXEC
	errTooLong = syscall.E2BIG
)

// starved says whether a start failed for want of descriptors, processes or
// memory, so that it may go well when others have ended.
func starved(err error) bool {
	for _, short := range []syscall.Errno{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM} {
		if errors.Is(err, short) {
			return true
		}
	}
	return false
}

// codeOf says how a process ended, the code as shells do.
func codeOf(state *os.ProcessState) (code int32, signal string) {
	if state == nil {
		return 255, "" // somebody else has waited for it
	}
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int32(ws.Signal()), unix.SignalName(ws.Signal())
	}
	return int32(state.ExitCode()), ""
}

// descriptors an attempt needs: its directory, four files of output and two of
// them open to write, its process, a pipe while it is started, its control group.
const descriptorsPerAttempt = 12

// descriptorsReserve is kept for the node itself: connections, tables, logs.
const descriptorsReserve = 120

// capacity is how many attempts this process's own limits allow at once.
func capacity() int {
	most := math.MaxInt32
	var l unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &l) == nil {
		if l.Cur < l.Max { // Go's os has done so where it could
			_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: l.Max, Max: l.Max})
			_ = unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
		}
		if n := (int64(min(l.Cur, math.MaxInt32)) - descriptorsReserve) / descriptorsPerAttempt; n < int64(most) {
			most = int(max(1, n))
		}
	}
	if n, ok := processesLimit(); ok {
		most = min(most, max(1, n/processesPerAttempt))
	}
	return most
}

// processesPerAttempt is what is reckoned of the user's limit for an attempt: a
// thread of this process, the attempt's first process and two of its own.
const processesPerAttempt = 4

func sameKey(a, b string) bool { return a == b }

// executable says whether path is a program this process may run.
func executable(path string, _ []string) (string, bool) {
	st, err := os.Stat(path)
	if err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
		return "", false
	}
	return path, unix.Access(path, unix.X_OK) == nil
}
