package exec

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// landlockVersion asks the kernel. The first version cannot allow that a file is
// moved from one directory to another.
func landlockVersion() (int, error) {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	if version < 2 {
		return 0, fmt.Errorf("this kernel's Landlock is of version %d: 2 is needed", version)
	}
	return int(version), nil
}

// landlockRights are all that a version of Landlock can refuse of files.
func landlockRights(version int) uint64 {
	rights := uint64(unix.LANDLOCK_ACCESS_FS_MAKE_SYM)<<1 - 1 // the first version has these
	rights |= unix.LANDLOCK_ACCESS_FS_REFER
	if version >= 3 {
		rights |= unix.LANDLOCK_ACCESS_FS_TRUNCATE
	}
	if version >= 5 {
		rights |= unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	}
	return rights
}

// landlockOfFiles are those that a file has which is no directory.
const landlockOfFiles = unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_READ_FILE |
	unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV

func landlockCreate(attr *unix.LandlockRulesetAttr, size uintptr) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(attr)), size, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("landlock_create_ruleset", errno)
	}
	return int(fd), nil
}

// landlockAllow allows everything at a path and below.
func landlockAllow(ruleset int, path string, rights uint64) error {
	f, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil //nolint:nilerr // gone since, or not this user's to reach: then not a task's either
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.IsDir() {
		rights &= landlockOfFiles
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights, Parent_fd: int32(f.Fd())}
	if _, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(ruleset), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0); errno != 0 {
		return os.NewSyscallError("landlock_add_rule "+path, errno)
	}
	return nil
}
