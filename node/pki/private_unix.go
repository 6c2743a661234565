//go:build unix

package pki

import (
	"errors"
	"os"
	"syscall"

	"banyan"
)

// CheckPrivate refuses a file or directory that others than its owner can
// read or write, naming the remedy.
func CheckPrivate(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return banyan.Errorf(banyan.Unavailable, "checking %s: %w", path, err)
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	want := "600"
	if info.IsDir() {
		want = "700"
	}
	return banyan.Errorf(banyan.PermissionDenied, "%s can be read or written by others (mode %04o) and holds keys: chmod %s %s", path, info.Mode().Perm(), want, path)
}

// CheckOwned is CheckPrivate for a node's directory, which must be owned by
// the user that runs the node, too: its owner can put other keys there,
// whatever the mode says.
func CheckOwned(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return banyan.Errorf(banyan.Unavailable, "checking %s: %w", dir, err)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return banyan.Errorf(banyan.PermissionDenied, "%s is owned by the user %d and this process runs as %d: run banyan as the owner, or chown -R %d %s", dir, st.Uid, os.Geteuid(), os.Geteuid(), dir)
	}
	return CheckPrivate(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
