package cli

import (
	"os"
	"os/exec"
	"syscall"
)

// detach takes a process out of the console's group, so that it outlives the
// console and its signals.
func detach(c *exec.Cmd) {
	c.SysProcAttr = &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

// interrupt ends a process: Windows has no way to ask one of another group.
func interrupt(p *os.Process) { _ = p.Kill() }
