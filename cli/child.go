package cli

import (
	"errors"
	"io/fs"
	"os/exec"
	"runtime"

	"banyan"
)

// child is a command that runs under a lock, with what it starts.
type child struct {
	cmd   *exec.Cmd
	group bool     // it leads a process group of its own
	ended chan int // gets its exit code
}

// startChild starts a command on this process's terminal and files. Without a
// terminal it leads a group of its own, so that all of it can be stopped.
func startChild(command, env []string, io IO) (*child, error) {
	c := &child{cmd: exec.Command(command[0], command[1:]...), group: !isTerminal(io.In), ended: make(chan int, 1)} //nolint:gosec // what the user asked for
	c.cmd.Env = env
	c.cmd.Stdin, c.cmd.Stdout, c.cmd.Stderr = io.In, io.Out, io.Err
	prepare(c.cmd, c.group)
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // where the child dies with its parent, that is this thread
		err := c.cmd.Start()
		started <- err
		if err == nil {
			_ = c.cmd.Wait() // its state says it all
			c.ended <- exitCodeOf(c.cmd.ProcessState)
		}
	}()
	err := <-started
	switch {
	case err == nil:
		return c, nil
	case errors.Is(err, exec.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		return nil, &exit{code: exitNoCommand, err: banyan.Errorf(banyan.NotFound, "command %q not found: %w", command[0], err)}
	}
	return nil, &exit{code: exitCannotRun, err: banyan.Errorf(banyan.Invalid, "command %q cannot be run: %w", command[0], err)}
}
