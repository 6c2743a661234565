//go:build unix && !linux

package e2e

import "errors"

func mountTmpfs(dir, size string) error { return errors.New("only on Linux") }
func unmount(dir string) error          { return nil }
