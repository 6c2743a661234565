//go:build unix

package transport

import (
	"math"
	"syscall"
)

// openFiles says how many files this process may have open; 0: not known. Go
// has raised the soft limit to the hard one when the process started.
func openFiles() int {
	var l syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l) != nil {
		return 0
	}
	return int(min(l.Cur, math.MaxInt32))
}
