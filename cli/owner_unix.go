//go:build unix

package cli

import (
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
