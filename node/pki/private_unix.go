//go:build unix

package pki

import (
	"errors"
	"os"

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

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
