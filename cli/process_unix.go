//go:build unix

package cli

import (
	"os"
	"os/exec"
	"syscall"
)

// detach takes a process out of the terminal's foreground group, so that it
// outlives the terminal and its signals.
func detach(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

// interrupt asks a process to end. One that has ended already does not mind.
func interrupt(p *os.Process) { _ = p.Signal(syscall.SIGTERM) }
