//go:build unix && !linux

package cli

import "syscall"

// dieWithParent: here a command survives the process that holds its lock if
// that is killed. The token still stops it.
func dieWithParent() *syscall.SysProcAttr { return &syscall.SysProcAttr{} }
