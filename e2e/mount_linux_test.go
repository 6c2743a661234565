package e2e

import (
	"strings"
	"syscall"
)

// mountTmpfs mounts a tmpfs of a size at dir, or with "remount,size=…" resizes it.
func mountTmpfs(dir, size string) error {
	if opts, ok := strings.CutPrefix(size, "remount,"); ok {
		return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, opts)
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size)
}

func unmount(dir string) error { return syscall.Unmount(dir, syscall.MNT_DETACH) }
