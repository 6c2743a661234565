package cli

import (
	"os"
	"os/exec"
)

func prepare(*exec.Cmd, bool) {}

// signal ends the command: Windows has no way to ask it.
func (c *child) signal(os.Signal) { c.kill() }

func (c *child) terminate() { c.kill() }

func (c *child) kill() { _ = c.cmd.Process.Kill() } // it may have ended

func exitCodeOf(state *os.ProcessState) int { return state.ExitCode() }
