//go:build unix && !linux

package exec

import (
	"os"
	"syscall"
)

func sysProcAttr() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// awaitExit waits for the process and takes its number away, since these
// systems cannot wait without. Between that and the signal to the group the
// number would have to be given out anew to hit a stranger.
func (p *process) awaitExit() *os.ProcessState {
	state, _ := p.p.Wait()
	return state
}
