package exec

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banyan"
)

// cookieName is the variable that tells the processes of an attempt from others.
// Its value is PREFIX.NUMBER; a node inside a task of another node puts its own
// behind the other's and a colon.
const cookieName = "BANYAN_COOKIE"

// cookieFile keeps a launcher's prefix as long as it may have processes.
const cookieFile = "cookie"

// cookieBytesMax bounds the cookie of nodes inside tasks of nodes.
const cookieBytesMax = 256

// local makes attempts children of this process.
//
// What an attempt has started is known so: from its first process down, and,
// because this process is a subreaper, from the processes that have become
// this process's children when their parents ended. Whose such an orphan is
// says the cookie in its environment, else what was last seen of the trees,
// else that only one attempt ran when it began. An orphan of which nothing is
// known is killed when no attempt runs that it may belong to.
type local struct {
	cfg     Config
	prefix  string
	self    int
	listed  bool     // this kernel lists children
	pidfds  bool     // and describes them
	orphans *os.File // the children of the main thread, to which the kernel gives orphans; nil: not listed
	guard   *guard
	cgroups *cgroups // nil: none

	// contained says that this process is the first of a process namespace: what
	// it has started ends with it, and no other processes are there.
	contained bool
	// oneThread says that start is called on a thread that lives as long as this
	// process does.
	oneThread bool

	// reaping is held to take what has ended from the list of children: who reads
	// the list meanwhile, with it shared, would miss the next one.
	reaping sync.RWMutex

	mu     sync.Mutex
	next   uint64
	trees  map[string]*localTree // by cookie
	firsts map[int]*localTree    // by the number of the first process
	began  uint64                // when the first attempt of all began
	ended  uint64                // when the last one ended
	owned  map[procID]string     // orphans: their cookie, "": not of an attempt
}

func newLauncher(cfg Config) (launcher, error) { return newLocal(cfg, false) }

func newCookie() string {
	var random [8]byte
	rand.Read(random[:])
	return hex.EncodeToString(random[:])
}

func newLocal(cfg Config, contained bool) (*local, error) {
	inheritNothing()
	// A kernel without it has orphans go to init: then groups alone are known.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	l := &local{
		cfg: cfg, prefix: newCookie(), self: os.Getpid(), contained: contained,
		listed: childrenListed(), pidfds: describesChildren(),
		trees: map[string]*localTree{}, firsts: map[int]*localTree{}, owned: map[procID]string{},
	}
	if l.listed {
		l.orphans, _ = os.Open(procPath(l.self, "task/"+strconv.Itoa(l.self)+"/children")) // nil: children() reads them
	}
	if contained {
		return l, nil
	}
	l.guard = newGuard(cfg.Logger, l.prefix)
	name, before := filepath.Join(cfg.Dir, cookieFile), ""
	if old, err := os.ReadFile(name); err == nil && len(old) == len(l.prefix) { // of a node that was killed
		before = string(old)
		killCookie(before)
	}
	if err := os.WriteFile(name, []byte(l.prefix), 0o600); err != nil {
		return nil, err
	}
	if cfg.Cgroup {
		l.cgroups = newCgroups(cfg, l.prefix, before)
	}
	return l, nil
}

func (l *local) close() {
	l.sweep()
	if l.guard != nil {
		l.guard.close()
	}
	if l.orphans != nil {
		l.orphans.Close()
	}
	if l.cgroups != nil {
		l.cgroups.close()
	}
	if l.contained {
		return
	}
	if err := os.Remove(filepath.Join(l.cfg.Dir, cookieFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.cfg.Logger.Warn("cannot remove what names the processes of tasks", "error", err)
	}
}

// inheritNothing keeps descriptors of whoever started this process from tasks.
func inheritNothing() {
	if unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC) == nil {
		return
	}
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		if fd, err := strconv.Atoi(e.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
}

// killCookie kills what a node left that ended without killing it.
func killCookie(prefix string) {
	for range killRounds {
		found := false
		for _, pid := range allProcesses() {
			if strings.Contains(cookiesOf(pid), prefix+".") {
				found = true
				_ = unix.Kill(pid, unix.SIGKILL) // ESRCH: gone
			}
		}
		if !found {
			return
		}
		time.Sleep(killPause)
	}
}

const (
	killRounds = 200 // looks for what is left to kill
	killPause  = 5 * time.Millisecond
)

// localTree is one attempt's processes.
type localTree struct {
	l      *local
	cookie string
	began  uint64
	p      *os.Process
	group  *cgroup // nil: none

	op      sync.Mutex // held while its processes are dealt with: release waits, and gives the group to another
	mu      sync.Mutex
	reaped  bool // the first process's number may belong to somebody else
	guarded bool

	seen map[procID]bool // at the last look; l.mu
}

var _ tree = (*localTree)(nil)

func (l *local) start(s launch) (tree, error) {
	t := &localTree{l: l, began: ticks()}
	l.mu.Lock()
	l.next++
	t.cookie = l.prefix + "." + strconv.FormatUint(l.next, 10)
	l.trees[t.cookie] = t // before it runs: what it leaves is known to be of somebody
	if l.began == 0 {
		l.began = t.began
	}
	l.mu.Unlock()
	sys := &syscall.SysProcAttr{Setpgid: true}
	if !l.contained {
		// The kernel sends the signal when the thread that forked ends, so that
		// must outlive the process: see the package comment.
		sys.Pdeathsig = syscall.SIGKILL
	}
	l.pin()
	if l.cgroups != nil {
		if t.group = l.cgroups.take(); t.group != nil {
			sys.UseCgroupFD, sys.CgroupFD = true, int(t.group.dir.Fd())
		}
	}
	attr := &os.ProcAttr{Dir: s.dir, Env: withCookie(s.env, t.cookie), Files: s.files, Sys: sys}
	p, err := l.fork(s, attr)
	if err != nil && sys.UseCgroupFD && !starved(err) && !errors.Is(err, errBusy) {
		// Either the program cannot be run or the cgroup takes nobody.
		sys.UseCgroupFD = false
		why := err
		if p, err = l.fork(s, attr); err == nil {
			l.cgroups.refuse(t.group, why)
			t.group = nil
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if err != nil {
		l.unpin()
		delete(l.trees, t.cookie)
		if t.group != nil {
			l.cgroups.give(t.group)
		}
		return nil, err
	}
	t.p = p
	l.firsts[p.Pid] = t
	return t, nil
}

// pin keeps the goroutine on its thread where that must outlive a process.
func (l *local) pin() {
	if !l.contained && !l.oneThread {
		runtime.LockOSThread()
	}
}

func (l *local) unpin() {
	if !l.contained && !l.oneThread {
		runtime.UnlockOSThread()
	}
}

func (l *local) fork(s launch, attr *os.ProcAttr) (*os.Process, error) {
	if l.cfg.NoNewPrivileges { // of this thread, which the child inherits
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
		}
	}
	return os.StartProcess(s.path, s.args, attr)
}

// withCookie sets the cookie in an environment, behind one that is there.
func withCookie(env []string, cookie string) []string {
	out := make([]string, 0, len(env)+1)
	for _, kv := range env {
		if outer, ok := strings.CutPrefix(kv, cookieName+"="); !ok {
			out = append(out, kv)
		} else if len(outer) < cookieBytesMax {
			cookie = outer + ":" + cookie
		}
	}
	return append(out, cookieName+"="+cookie)
}

// first returns when the first process has ended. It stays a zombie, so its
// number, which is that of its group, cannot go to another meanwhile.
func (t *localTree) first() error {
	for unix.Waitid(unix.P_PID, t.p.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	return nil
}

func (t *localTree) rest(outputs [2]*os.File) rest {
	ids, err := idsOf(outputs)
	r := t.restOf(ids)
	r.holds = r.holds || err != nil && r.count > 0
	return r
}

func (t *localTree) restOf(outputs [2]fileID) rest {
	var r rest
	for _, pid := range t.members() {
		if pid == t.p.Pid {
			continue
		}
		name, holding := nameOf(pid), holds(pid, outputs)
		if !holding && !readable(pid) { // it has ended since it was listed, and so holds nothing any more
			continue
		}
		if r.count++; len(r.names) < banyan.KilledNamedMax {
			r.names = append(r.names, name)
		}
		r.holds = r.holds || holding
	}
	return r
}

// members lists the processes of the tree that have not ended.
func (t *localTree) members() []int {
	k := &kin{listed: t.l.listed}
	found := map[int]bool{}
	if t.group != nil {
		for _, pid := range t.group.members() {
			found[pid] = true
		}
	}
	roots := t.l.adopted(k, t)
	if !t.gone() {
		roots = append(roots, t.p.Pid)
	}
	for _, pid := range roots {
		if s, ok := readStat(pid); !ok || s.over {
			continue
		}
		found[pid] = true
		for _, below := range k.below(pid) {
			if s, ok := readStat(below); ok && !s.over {
				found[below] = true
			}
		}
	}
	list := make([]int, 0, len(found))
	for pid := range found {
		list = append(list, pid)
	}
	slices.Sort(list)
	return list
}

// gone says whether the first process's number is no longer surely its own.
func (t *localTree) gone() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.reaped
}

// signal goes to the whole group, as long as its number is surely ours.
func (t *localTree) signal(s syscall.Signal) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reaped {
		_ = unix.Kill(-t.p.Pid, s) // ESRCH: already gone
	}
}

func (t *localTree) terminate() {
	t.op.Lock()
	defer t.op.Unlock()
	if t.gone() {
		return
	}
	others := t.members()                                            // before parents end
	for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGCONT} { // a stopped process hears nothing else
		t.signal(s)
		for _, pid := range others {
			if st, ok := readStat(pid); ok && st.group != t.p.Pid {
				_ = unix.Kill(pid, s)
			}
		}
	}
}

func (t *localTree) kill() {
	t.op.Lock()
	defer t.op.Unlock()
	if t.gone() {
		return
	}
	t.signal(unix.SIGKILL)
	if t.group != nil {
		t.group.kill()
	}
	// A list of children may miss one when another ends while it is read, and a
	// process may fork before the signal meets it: so look until nothing is found twice.
	for round, none := 0, 0; none < 2; round++ {
		members := t.members()
		if none++; len(members) > 0 {
			none = 0
		}
		for _, pid := range members {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		if round == killRounds {
			t.l.cfg.Logger.Warn("processes of a task do not end though they were killed", "processes", len(members), "one", nameOf(members[0]))
			return
		}
		if len(members) > 0 {
			time.Sleep(killPause)
		}
	}
}

func (t *localTree) usage() (usage, bool) {
	t.op.Lock()
	defer t.op.Unlock()
	if t.gone() {
		return usage{}, false
	}
	members := t.members()
	seen := make(map[procID]bool, len(members))
	u := usage{processes: len(members)}
	for _, pid := range members {
		if s, ok := readStat(pid); ok {
			seen[s.id] = true
		}
		u.memory += memoryOf(pid, false)
	}
	t.l.mu.Lock()
	t.seen = seen
	t.l.mu.Unlock()
	if limit := t.l.cfg.MemoryMax; limit > 0 && u.memory > limit { // forked processes share
		u.memory = 0
		for _, pid := range members {
			u.memory += memoryOf(pid, true)
		}
	}
	u.outOfMemory = t.group != nil && t.group.oomKills() > t.group.kills
	return u, true
}

// oomScore is added to what the system's killer thinks of tasks: half of all memory.
const oomScore = 500

func (t *localTree) expose() {
	t.op.Lock()
	defer t.op.Unlock()
	if t.gone() {
		return
	}
	own := 0
	if text, err := os.ReadFile("/proc/self/oom_score_adj"); err == nil {
		own, _ = strconv.Atoi(string(bytes.TrimSpace(text)))
	}
	score := strconv.Itoa(min(1000, max(own, 0)+oomScore))
	for _, pid := range t.members() {
		_ = os.WriteFile(procPath(pid, "oom_score_adj"), []byte(score), 0) // gone, or another user's
	}
}

func (t *localTree) guard() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.reaped && t.l.guard != nil {
		t.l.guard.add(t.p.Pid)
		t.guarded = true
	}
}

func (t *localTree) release() (code int32, signal string, err error) {
	t.op.Lock()
	defer t.op.Unlock()
	defer t.l.unpin()
	t.l.reaping.Lock()
	state, _ := t.p.Wait() // at once: it has ended
	t.l.reaping.Unlock()
	t.mu.Lock()
	t.reaped = true
	guarded := t.guarded
	t.mu.Unlock()
	t.l.mu.Lock()
	delete(t.l.trees, t.cookie)
	delete(t.l.firsts, t.p.Pid)
	t.l.ended = ticks()
	t.l.mu.Unlock()
	if guarded {
		t.l.guard.remove(t.p.Pid)
	}
	if t.group != nil {
		t.l.cgroups.give(t.group)
	}
	code, signal = codeOf(state)
	return code, signal, nil
}

// adopted gives the roots of what is left of a tree among the orphans that this
// process has got, nil for t: of none. On its way it takes what has ended from
// the system's table and kills what belongs to no attempt that runs.
func (l *local) adopted(k *kin, t *localTree) []int {
	kids := l.strangers(k)
	if len(kids) == 0 {
		return nil
	}
	var mine []int
	var known map[int]bool // who is waited for; read when needed
	ask := func() map[int]bool {
		if known == nil {
			known = awaited()
		}
		return known
	}
	present := make(map[procID]bool, len(kids))
	for _, pid := range kids {
		s, ok := readStat(pid)
		if !ok {
			continue
		}
		present[s.id] = true
		if s.over {
			if s.zombie && l.mayReap(s.id, ask) {
				l.reaping.Lock()
				_, _ = unix.Wait4(pid, nil, unix.WNOHANG, nil) // ECHILD: somebody has
				l.reaping.Unlock()
			}
			continue
		}
		switch owner, stray := l.ownerOf(s.id, ask); {
		case stray:
			for _, p := range append(k.below(pid), pid) {
				_ = unix.Kill(p, unix.SIGKILL)
			}
		case t != nil && owner == t:
			mine = append(mine, pid)
		}
	}
	l.mu.Lock()
	for id := range l.owned {
		if !present[id] {
			delete(l.owned, id)
		}
	}
	l.mu.Unlock()
	return mine
}

// strangers lists the children of this process that are no first processes.
func (l *local) strangers(k *kin) []int {
	pids := l.children(k)
	if len(pids) == 0 {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(pids, func(pid int) bool { return l.firsts[pid] != nil })
}

// children lists those of this process: where that is quick, of its main thread,
// to which the kernel gives orphans.
func (l *local) children(k *kin) []int {
	l.reaping.RLock()
	defer l.reaping.RUnlock()
	if l.orphans == nil {
		return k.children(l.self)
	}
	var buf [4096]byte
	n, _ := l.orphans.ReadAt(buf[:], 0)
	if n == len(buf) {
		return k.children(l.self)
	}
	return numbers(buf[:n])
}

// mayReap says whether a child that has ended is an orphan that nobody in this
// process waits for. It may be the first process of an attempt whose start has not yet
// returned, and so is not among firsts: the descriptor tells, and without that
// only what was seen alive as another process of an attempt is surely an orphan.
func (l *local) mayReap(id procID, ask func() map[int]bool) bool {
	if l.pidfds {
		return !ask()[id.pid]
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cookie := l.owned[id]
	t := l.trees[cookie]
	return cookie != "" && (t == nil || t.p != nil && t.p.Pid != id.pid)
}

// ownerOf says whose an orphan is, nil if that cannot be told or it is nobody's.
// A stray is of an attempt that has ended.
func (l *local) ownerOf(id procID, ask func() map[int]bool) (owner *localTree, stray bool) {
	l.mu.Lock()
	cookie, known := l.owned[id]
	l.mu.Unlock()
	if !known {
		for c := range strings.SplitSeq(cookiesOf(id.pid), ":") {
			if strings.HasPrefix(c, l.prefix+".") {
				cookie, known = c, true
			}
		}
		if !known && ask()[id.pid] {
			known = true // a child that somebody here has started
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known {
		l.owned[id] = cookie
		owner = l.trees[cookie]
		return owner, owner == nil && cookie != ""
	}
	var may []*localTree
	for _, t := range l.trees {
		if t.seen[id] {
			l.owned[id] = t.cookie
			return t, false
		}
		if t.began <= id.start {
			may = append(may, t)
		}
	}
	switch {
	case len(may) == 1 && may[0].p != nil && l.pidfds:
		return may[0], false
	case len(may) > 0 || !l.pidfds:
		return nil, false
	}
	return nil, l.began != 0 && l.began <= id.start && id.start <= l.ended
}

func (l *local) sweep() { l.adopted(&kin{listed: l.listed}, nil) }

// Harden keeps other processes of the same user from reading this one's memory,
// environment and descriptors, and it from leaving a core file.
func Harden() error {
	return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0))
}

// memoryTotal is how much memory there is for this process, 0 where unknown.
func memoryTotal() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	total := int64(info.Totalram) * int64(info.Unit)
	if own, err := ownCgroup(); err == nil {
		if n, ok := readNumber(filepath.Join(own, "memory.max")); ok {
			total = min(total, n)
		}
	}
	return total
}

// processesLimit is how many processes and threads this user may have, unless
// that is not bounded or does not bind this process.
func processesLimit() (int, bool) {
	var l unix.Rlimit
	if os.Geteuid() == 0 || unix.Getrlimit(unix.RLIMIT_NPROC, &l) != nil || l.Cur > 1<<30 {
		return 0, false
	}
	return int(l.Cur), true
}
