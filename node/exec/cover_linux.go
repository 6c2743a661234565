package exec

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// cover is the first stage of a warden: it makes what tasks are not to see
// unseen, gives up the rights that could undo it, for itself and whatever it
// executes, and becomes the second stage. It returns only with an error.
func cover(config wardenConfig) error {
	runtime.LockOSThread() // rights are a thread's, and what this one executes has them
	if config.By == ByNamespaces {
		if err := coverPaths(&config); err != nil {
			return err
		}
	}
	if err := dropRights(config.Root); err != nil {
		return err
	}
	if config.By == ByLandlock {
		if err := fence(config); err != nil {
			return err
		}
	}
	told, err := json.Marshal(config)
	if err != nil {
		return err
	}
	args := append(os.Args[:len(os.Args)-1:len(os.Args)-1], stageServe)
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, wardenEnv+"=") })
	return os.NewSyscallError("execve", syscall.Exec("/proc/self/exe", args, append(env, wardenEnv+"="+string(told))))
}

// coverPaths mounts over what is hidden. What is mounted on the machine later
// comes in, under what is covered: the tree of files follows the machine's.
func coverPaths(config *wardenConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return os.NewSyscallError("mount / as one that follows", err)
	}
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	work, err := os.OpenFile(string(config.Dir), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer work.Close()
	if err := freeze(config); err != nil {
		return err
	}
	mounts := readMounts(string(text))
	var hidden []string
	for _, dir := range config.Hidden {
		hidden = append(hidden, string(dir))
		hidden = append(hidden, mounts.aliases(string(dir))...)
	}
	slices.Sort(hidden)
	covered := ""
	for _, dir := range hidden {
		if covered != "" && below(dir, covered) {
			continue
		}
		if err := coverOne(dir, string(config.Dir), work); err != nil {
			return err
		}
		covered = dir
	}
	// Processes outside are not there; the machine's own list would name them.
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	return os.NewSyscallError("mount /proc", unix.Mount("proc", "/proc", "proc", plain, ""))
}

// below says whether a path is a directory or below it.
func below(path, dir string) bool {
	rel, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(rel)
}

// coverOne puts an empty directory over one, in which nothing is but the way to
// the directory for tasks where that is below.
func coverOne(dir, tasks string, work *os.File) error {
	const plain = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("banyan", dir, "tmpfs", plain, "size=64k,nr_inodes=64,mode=0700"); err != nil {
		if errors.Is(err, unix.ENOENT) { // gone since
			return nil
		}
		return os.NewSyscallError("mount over "+dir, err)
	}
	if below(tasks, dir) {
		if err := os.MkdirAll(tasks, 0o700); err != nil {
			return err
		}
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(int(work.Fd())), tasks, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return os.NewSyscallError("mount "+tasks, err)
		}
	}
	return os.NewSyscallError("mount over "+dir+" as read-only", unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|plain, ""))
}

// freeze has the node's control group be read-only for tasks, which could
// otherwise leave theirs, or stop the node by it. The warden keeps a way in.
func freeze(config *wardenConfig) error {
	if len(config.Cgroup) == 0 {
		return nil
	}
	fd, err := unix.Open(string(config.Cgroup), unix.O_PATH|unix.O_DIRECTORY, 0) // not closed: for the next stage
	if err != nil {
		return os.NewSyscallError("open "+string(config.Cgroup), err)
	}
	top := string(config.Frozen)
	if err := unix.Mount(top, top, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return os.NewSyscallError("mount "+top, err)
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, top, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
		return os.NewSyscallError("mount "+top+" as read-only", err)
	}
	config.Cgroup = []byte("/proc/self/fd/" + strconv.Itoa(fd))
	return nil
}

// rootRights are what a task that is root does not have: with each of them it
// could take a cover away or look past it.
var rootRights = []uintptr{
	unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_DAC_READ_SEARCH, unix.CAP_MKNOD, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO,
	unix.CAP_SYS_BOOT, unix.CAP_BPF, unix.CAP_PERFMON, unix.CAP_CHECKPOINT_RESTORE, unix.CAP_MAC_ADMIN, unix.CAP_MAC_OVERRIDE,
	unix.CAP_SETPCAP, // the last, since it is the right to drop them
}

// dropRights takes from this thread, and from whatever it executes, the rights
// of root that matter here, from an ordinary user all, and the way to gain any.
func dropRights(root bool) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	_ = unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) // old kernels have no such thing
	drop := rootRights
	if !root {
		drop = nil
		for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
			if c != unix.CAP_SETPCAP {
				drop = append(drop, c)
			}
		}
		drop = append(drop, unix.CAP_SETPCAP)
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for _, c := range drop {
		held, _ := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if held == 1 && (root || have[0].Permitted != 0) { // an ordinary user without rights gains none: see above
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return os.NewSyscallError("prctl(PR_CAPBSET_DROP)", err)
			}
		}
		gone := uint32(1) << (c % 32)
		have[c/32].Permitted &^= gone
		if c != unix.CAP_SETPCAP {
			have[c/32].Effective &^= gone
		}
	}
	for i := range have {
		have[i].Inheritable = 0
		have[i].Effective &= have[i].Permitted
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &have[0]))
}

// mount is a line of mountinfo; see proc_pid_mountinfo(5).
type mount struct {
	device string
	root   string // the part of the file system that is seen
	point  string // where
}

type mounts []mount

func readMounts(text string) mounts {
	var all mounts
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 5 {
			all = append(all, mount{device: f[2], root: unescape.Replace(f[3]), point: unescape.Replace(f[4])})
		}
	}
	return all
}

// aliases lists where else a directory, or what is in it, is seen because its
// file system is mounted more than once.
func (all mounts) aliases(dir string) []string {
	var own mount
	for _, m := range all { // of two at one place the later is above
		if below(dir, m.point) && len(m.point) >= len(own.point) {
			own = m
		}
	}
	if own.point == "" {
		return nil
	}
	rel, err := filepath.Rel(own.point, dir)
	if err != nil {
		return nil
	}
	place := filepath.Join(own.root, rel)
	var found []string
	for _, m := range all {
		if m.device != own.device || m == own {
			continue
		}
		if below(m.root, place) && !below(m.point, dir) {
			found = append(found, m.point)
		} else if in, err := filepath.Rel(m.root, place); err == nil && filepath.IsLocal(in) {
			if at := filepath.Join(m.point, in); same(at, dir) && at != dir {
				found = append(found, at)
			}
		}
	}
	return found
}

// same says whether two paths lead to one file.
func same(a, b string) bool {
	x, err := os.Stat(a)
	if err != nil {
		return false
	}
	y, err := os.Stat(b)
	return err == nil && os.SameFile(x, y)
}

// fence has this thread, and whatever it executes, open only what is allowed:
// Landlock lists that, so what comes to be later beside a way to what is hidden
// is not allowed.
func fence(config wardenConfig) error {
	version, err := landlockVersion()
	if err != nil {
		return err
	}
	attr := unix.LandlockRulesetAttr{Handled_access_fs: landlockRights(version)}
	size := uintptr(8)
	if version >= 6 {
		attr.Scoped, size = unix.LANDLOCK_SCOPE_SIGNAL, 24
	}
	ruleset, err := landlockCreate(&attr, size)
	if err != nil {
		return err
	}
	defer unix.Close(ruleset)
	var hidden []string
	for _, dir := range config.Hidden {
		hidden = append(hidden, string(dir))
	}
	for _, path := range append(allowed("/", hidden), string(config.Dir)) {
		if err := landlockAllow(ruleset, path, attr.Handled_access_fs); err != nil {
			return err
		}
	}
	_, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(ruleset), 0, 0)
	if errno != 0 {
		return os.NewSyscallError("landlock_restrict_self", errno)
	}
	return nil
}

// allowed lists what is in a directory but for what is hidden.
func allowed(dir string, hidden []string) []string {
	within := false
	for _, h := range hidden {
		if below(dir, h) {
			return nil
		}
		within = within || below(h, dir)
	}
	if !within {
		return []string{dir}
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil // nor may tasks
	}
	var list []string
	for _, e := range entries {
		if e.Type()&os.ModeSymlink == 0 { // where it leads to counts
			list = append(list, allowed(filepath.Join(dir, e.Name()), hidden)...)
		}
	}
	return list
}
