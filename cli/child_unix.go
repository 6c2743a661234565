//go:build unix

package cli

import (
	"os"
	"os/exec"
	"syscall"
)

func prepare(cmd *exec.Cmd, group bool) {
	cmd.SysProcAttr = dieWithParent()
	cmd.SysProcAttr.Setpgid = group
}

// signal passes a signal on to the command, and to its group if it has one.
func (c *child) signal(s os.Signal) {
	pid := c.cmd.Process.Pid
	if c.group {
		pid = -pid
	}
	_ = syscall.Kill(pid, s.(syscall.Signal)) // it may have ended
}

// terminate asks the command to end, also when it is stopped.
func (c *child) terminate() {
	c.signal(syscall.SIGTERM)
	c.signal(syscall.SIGCONT)
}

func (c *child) kill() { c.signal(syscall.SIGKILL) }

// exitCodeOf gives the exit code as shells do: 128 and the signal's number.
func exitCodeOf(state *os.ProcessState) int {
	if ws, ok := state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return state.ExitCode()
}
