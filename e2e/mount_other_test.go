//go:build unix && !linux

package e2e

import (
	"errors"
	"os/exec"
)

func mountTmpfs(dir, size string) error { return errors.New("only on Linux") }
func unmount(dir string) error          { return nil }

// host is a machine on a network of its own: only on Linux.
type host struct{}

func (h *host) start(cmd *exec.Cmd) error { return cmd.Start() }
func (h *host) String() string            { return "" }
func endWithParent(*exec.Cmd)             {}
