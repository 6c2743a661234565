package exec

import (
	"os"
	"strconv"
)

// pathOf says where an open directory is now; "" where that is not known.
func pathOf(f *os.File) string {
	path, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return ""
	}
	return path
}

// enterable gives a name by which a child of this process comes into an open
// directory, whatever bears its own name by then.
func enterable(f *os.File, name string) string {
	path := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if _, err := os.Lstat(path); err != nil { // no /proc
		return name
	}
	return path
}
