package cli

import "syscall"

// dieWithParent: a command must not go on without the process that holds its
// lock, even if that is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
