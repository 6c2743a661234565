package exec

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// procID names a process for good: numbers are given out again, but not within
// the same hundredth of a second.
type procID struct {
	pid   int
	start uint64 // in hundredths of a second since the machine began
}

// procStat is what is wanted of /proc/PID/stat.
type procStat struct {
	id     procID
	ppid   int
	group  int
	over   bool // it runs no code any more, though it may not be a zombie yet
	zombie bool // it has ended and waits to be waited for
}

// readStat says what a process is; false when it is gone.
func readStat(pid int) (procStat, bool) {
	text, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return procStat{}, false
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])) // its name may hold anything
	if len(f) < 20 {
		return procStat{}, false
	}
	const exiting = 0x4                         // PF_EXITING
	flags, _ := strconv.ParseUint(f[6], 10, 64) // of its first thread
	alone := f[17] == "0" || f[17] == "1"       // a process may go on without its first thread
	ended := f[0] == "Z" || f[0] == "X"         // so has this one
	s := procStat{id: procID{pid: pid}, over: alone && (ended || flags&exiting != 0), zombie: alone && ended}
	s.ppid, _ = strconv.Atoi(f[1])
	s.group, _ = strconv.Atoi(f[2])
	s.id.start, _ = strconv.ParseUint(f[19], 10, 64)
	return s, true
}

func procPath(pid int, name string) string {
	return "/proc/" + strconv.Itoa(pid) + "/" + name
}

// ticks is the time as procID has it.
func ticks() uint64 {
	var t unix.Timespec
	if unix.ClockGettime(unix.CLOCK_BOOTTIME, &t) != nil {
		return 0
	}
	return uint64(t.Nano()) / 1e7
}

// kin answers who is whose child. Where the kernel lists the children of each
// thread it looks no further than asked; elsewhere it reads all processes once.
type kin struct {
	listed bool
	all    map[int][]int // where not listed, by parent; made when needed
}

// childrenListed says whether this kernel lists the children of a thread.
func childrenListed() bool {
	_, err := os.Stat("/proc/thread-self/children")
	return err == nil
}

func (k *kin) children(pid int) []int {
	if !k.listed {
		k.readAll()
		return k.all[pid]
	}
	var pids []int
	threads, _ := filepath.Glob(procPath(pid, "task/*/children")) // none: it is gone
	for _, name := range threads {
		if text, err := os.ReadFile(name); err == nil {
			pids = append(pids, numbers(text)...)
		}
	}
	return pids
}

func (k *kin) readAll() {
	if k.all != nil {
		return
	}
	k.all = map[int][]int{}
	for _, pid := range allProcesses() {
		if s, ok := readStat(pid); ok {
			k.all[s.ppid] = append(k.all[s.ppid], pid)
		}
	}
}

// below lists all that descends from a process.
func (k *kin) below(pid int) []int {
	found := k.children(pid)
	for i := 0; i < len(found); i++ {
		found = append(found, k.children(found[i])...)
	}
	return found
}

func allProcesses() []int {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	var pids []int
	for _, n := range names {
		if pid, err := strconv.Atoi(n); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

func numbers(text []byte) []int {
	var ns []int
	for _, f := range bytes.Fields(text) {
		if n, err := strconv.Atoi(string(f)); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

// nameOf gives the command line of a process, or what else names it.
func nameOf(pid int) string {
	text := started(pid, "cmdline")
	if len(text) == 0 {
		text, _ = os.ReadFile(procPath(pid, "comm"))
		text = bytes.TrimSpace(text)
	}
	return commandLine(text) + " (process " + strconv.Itoa(pid) + ")"
}

// fileID names a file on this machine.
type fileID struct{ dev, ino uint64 }

func idsOf(files [2]*os.File) (ids [2]fileID, err error) {
	for i, f := range files {
		if f == nil {
			return ids, os.ErrInvalid
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return ids, os.NewSyscallError("fstat", err)
		}
		ids[i] = idOf(&st)
	}
	return ids, nil
}

func idOf(st *unix.Stat_t) fileID { return fileID{uint64(st.Dev), st.Ino} } //nolint:unconvert // of other types on other machines

// holds says whether a process has one of the files open; also when it does
// not let this process know.
func holds(pid int, want [2]fileID) bool {
	dir, err := os.Open(procPath(pid, "fd"))
	if err != nil {
		return !os.IsNotExist(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return !os.IsNotExist(err) && readable(pid)
	}
	for _, n := range names {
		var st unix.Stat_t
		if unix.Stat(procPath(pid, "fd/"+n), &st) != nil {
			continue
		}
		if slices.Contains(want[:], idOf(&st)) {
			return true
		}
	}
	return false
}

// readable says whether a process is still there.
func readable(pid int) bool {
	s, ok := readStat(pid)
	return ok && !s.over
}

// memoryOf gives the memory in bytes that a process alone keeps occupied: cheaply, too much
// where a process shares with what it forked; exactly, it is the process's share.
func memoryOf(pid int, exactly bool) int64 {
	if exactly {
		text, _ := os.ReadFile(procPath(pid, "smaps_rollup"))
		for line := range bytes.Lines(text) {
			if rest, ok := bytes.CutPrefix(line, []byte("Pss:")); ok {
				if n := numbers(rest); len(n) > 0 {
					return int64(n[0]) << 10
				}
			}
		}
	}
	text, err := os.ReadFile(procPath(pid, "statm"))
	if n := numbers(text); err == nil && len(n) > 2 {
		return int64(n[1]-n[2]) * int64(os.Getpagesize())
	}
	return 0
}

// cookiesOf gives the value of the cookie in a process's environment.
func cookiesOf(pid int) string {
	for kv := range bytes.SplitSeq(started(pid, "environ"), []byte{0}) {
		if v, ok := bytes.CutPrefix(kv, []byte(cookieName+"=")); ok {
			return string(v)
		}
	}
	return ""
}

// started reads what a process began with: its command line or environment. One
// that is just executing a program has neither for an instant, and is asked again.
func started(pid int, name string) []byte {
	empty := 0
	for range executingLooks {
		text, err := os.ReadFile(procPath(pid, name))
		if len(text) > 0 || err != nil { // with an error it is gone, or another's
			return text
		}
		// Between this look and the one before it may have come to the end of
		// executing, or to the beginning.
		if empty++; executing(pid) {
			empty = 0
		}
		if empty == emptyLooks {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return nil
}

// emptyLooks is how often in a row a process has nothing before it is taken to
// have begun with nothing.
const emptyLooks = 3

// executingLooks is how often a process is asked that is executing a program, or
// does not say. On a busy machine it may wait for a processor in between.
const executingLooks = 50

// executing says whether a process has no environment yet rather than an empty one.
func executing(pid int) bool {
	text, err := os.ReadFile(procPath(pid, "stat"))
	if err != nil {
		return false
	}
	f := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const envEnd = 51 - 3 // proc_pid_stat(5) counts from 1, these are from the third on
	return len(f) > envEnd && f[envEnd] == "0" && f[0] != "Z"
}

// awaited lists the processes that somebody in this process waits for: Go's
// os.StartProcess holds a descriptor of each child until it has been waited for.
func awaited() map[int]bool {
	pids := map[int]bool{}
	dir, err := os.Open("/proc/self/fdinfo")
	if err != nil {
		return pids
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		text, err := os.ReadFile("/proc/self/fdinfo/" + n)
		if err != nil {
			continue
		}
		if _, after, ok := bytes.Cut(text, []byte("\nPid:")); ok {
			line, _, _ := bytes.Cut(after, []byte("\n"))
			for _, pid := range numbers(line) {
				pids[pid] = true
			}
		}
	}
	return pids
}

// describesChildren says whether os.StartProcess takes a descriptor of the
// child: since Linux 5.4.
func describesChildren() bool {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return false
	}
	unix.Close(fd)
	return true
}
