//go:build unix

package cli

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"syscall"
)

// ownerOf is the name of a directory's owner, "" if it is not there or nobody.
func ownerOf(dir string) string {
	info, err := os.Stat(dir)
	if err != nil {
		return ""
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return ""
	}
	u, err := user.LookupId(strconv.FormatUint(uint64(st.Uid), 10))
	if err != nil {
		return ""
	}
	return u.Username
}

// sigpipe comes with a write to a pipe that nobody reads.
var sigpipe = []os.Signal{syscall.SIGPIPE}

// private says why a directory is not one that only this user can write to.
func private(dir string) error {
	info, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return fmt.Errorf("%s is no directory", dir)
	case !ok || int(st.Uid) != os.Getuid():
		return fmt.Errorf("%s is another user's", dir)
	case info.Mode().Perm()&0o022 != 0:
		return fmt.Errorf("others can write to %s", dir)
	}
	return nil
}
