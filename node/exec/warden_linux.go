package exec

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banyan"
)

// wardenEnv carries wardenConfig to the warden.
const wardenEnv = "BANYAN_WARDEN"

// wardenConfig is what the warden is told when it is started. Paths are bytes.
type wardenConfig struct {
	By        string   // ByNamespaces or ByLandlock
	Dir       []byte   // for tasks; seen by them though it is below one that is covered
	Hidden    [][]byte // directories that tasks do not see, without links
	Frozen    []byte   // a control group that tasks do not change, "": none
	Cgroup    []byte   // of the groups of attempts, "": none
	Node      string
	Memory    int64
	Processes int
	Root      bool
}

// wardenWait is how long a warden may take to begin.
const wardenWait = 15 * time.Second

// warden starts attempts through a process between this node and them, which
// sees less than the node does. See docs/architecture.md, "Isolation".
type warden struct {
	cfg     Config
	config  wardenConfig
	cgroups *cgroups // whose directory the warden divides; nil: none

	mu   sync.Mutex
	post *post
}

// newIsolated starts a warden with the strongest of what this machine allows;
// nil where it allows nothing, or not what the config asks for.
func newIsolated(cfg Config) (launcher, Isolated) {
	root := os.Geteuid() == 0
	if len(cfg.Warden) == 0 {
		return nil, Isolated{Root: root, Why: errors.New("this program has no warden for tasks")}
	}
	if root && cfg.Isolation == IsolationStrict {
		return nil, Isolated{Root: root, Why: errors.New("this node runs as root, and so would its tasks: run it as a user of its own")}
	}
	inheritNothing()
	w := &warden{cfg: cfg}
	w.config = wardenConfig{Dir: []byte(cfg.Dir), Node: cfg.Node, Memory: cfg.MemoryMax, Processes: cfg.ProcessesMax, Root: root}
	for _, dir := range hiddenOf(cfg) {
		w.config.Hidden = append(w.config.Hidden, []byte(dir))
	}
	if err := w.takeOver(); err != nil {
		return nil, Isolated{Root: root, Why: err}
	}
	var whys []error
	for _, by := range []string{ByNamespaces, ByLandlock} {
		if cfg.isolateBy != "" && cfg.isolateBy != by {
			continue
		}
		if by == ByLandlock && cfg.Isolation == IsolationStrict {
			break // it does not keep tasks from sockets of the user's session
		}
		w.config.By = by
		if by == ByLandlock {
			w.config.Cgroup, w.config.Frozen = nil, nil // to divide them would let tasks do so
		}
		p, err := w.begin()
		if err == nil {
			w.post = p
			return w, Isolated{By: by, Root: root, Why: errors.Join(whys...)}
		}
		whys = append(whys, fmt.Errorf("%s: %w", by, err))
	}
	w.close()
	return nil, Isolated{Root: root, Why: errors.Join(whys...)}
}

// hiddenOf lists what tasks are not to see: the node's directory, the operator's
// contexts, and the sockets of the user's session, through which processes
// outside could be started. What is not there is made where that can be done, so
// that it is covered before it is filled.
func hiddenOf(cfg Config) []string {
	var list []string
	for _, dir := range append([]string{cfg.Private}, cfg.Hidden...) {
		if dir == "" {
			continue
		}
		_ = os.MkdirAll(dir, 0o700) // if this user cannot, nobody of this user puts anything there
		if real, err := filepath.EvalSymlinks(dir); err == nil {
			list = append(list, real)
		}
	}
	if st, err := os.Stat(sessionsDir); err == nil && st.IsDir() {
		list = append(list, sessionsDir)
	}
	return list
}

// sessionsDir is where the sessions of users have their sockets.
const sessionsDir = "/run/user"

// takeOver ends what an earlier node left, and makes the group that the warden
// divides: as long as the node lives it is the node's.
func (w *warden) takeOver() error {
	prefix, before := newCookie(), ""
	name := filepath.Join(w.cfg.Dir, cookieFile)
	if old, err := os.ReadFile(name); err == nil && len(old) == len(prefix) {
		before = string(old)
		killCookie(before)
	}
	if err := os.WriteFile(name, []byte(prefix), 0o600); err != nil || !w.cfg.Cgroup {
		return err
	}
	if w.cgroups = newCgroups(w.cfg, prefix, before); w.cgroups != nil {
		w.config.Cgroup, w.config.Frozen = []byte(w.cgroups.dir), []byte(filepath.Dir(w.cgroups.dir))
	}
	return nil
}

// begin starts a warden and waits until it takes starts.
func (w *warden) begin() (*post, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "warden")
	defer theirs.Close()
	l, err := newLink(os.NewFile(uintptr(pair[0]), "warden"))
	if err != nil {
		return nil, err
	}
	config, err := json.Marshal(w.config)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(w.cfg.Warden[0], append(w.cfg.Warden[1:], stageCover)...)
	cmd.Env = append(os.Environ(), wardenEnv+"="+string(config))
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.Stderr = os.Stderr
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if w.config.By == ByNamespaces {
		namespaces(cmd.SysProcAttr, w.config.Root)
	}
	if err := startDumpable(cmd); err != nil {
		l.conn.Close()
		return nil, err
	}
	p := &post{link: l, cmd: cmd, log: w.cfg.Logger, calls: map[uint64]chan packet{}, trees: map[uint64]*farTree{}, ready: make(chan error, 1), gone: make(chan struct{})}
	go p.receive()
	select {
	case err = <-p.ready:
	case <-p.gone:
		err = errors.New("it ended at once")
	case <-time.After(wardenWait):
		err = fmt.Errorf("it was not ready within %v", wardenWait)
	}
	if err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

// namespaces has a process begin in namespaces of its own, in which it may mount.
func namespaces(attr *syscall.SysProcAttr, root bool) {
	attr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWPID
	if root {
		return
	}
	attr.Cloneflags |= unix.CLONE_NEWUSER
	attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
	attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
	attr.AmbientCaps = []uintptr{unix.CAP_SYS_ADMIN, unix.CAP_SETPCAP}
}

var dumping sync.Mutex

// startDumpable starts a command while this process lets others of its user look
// at it, if it does not otherwise: the kernel gives the files in /proc through
// which a child's users are mapped to root where its memory may not be dumped.
func startDumpable(cmd *exec.Cmd) error {
	dumping.Lock()
	defer dumping.Unlock()
	if now, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0); err == nil && now != 1 && cmd.SysProcAttr.UidMappings != nil {
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_SET_DUMPABLE)", err)
		}
		defer func() { _ = Harden() }() // it went well before
	}
	return cmd.Start()
}

// current gives the warden that there is, a new one where the last has ended.
func (w *warden) current() (*post, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	select {
	case <-w.post.gone:
	default:
		return w.post, nil
	}
	w.post.close()
	p, err := w.begin()
	if err != nil {
		return nil, fmt.Errorf("the warden of tasks ended and cannot be started again: %w: %w", err, syscall.EAGAIN)
	}
	w.cfg.Logger.Warn("the warden of tasks ended, and what ran with it; there is a new one")
	w.post = p
	return p, nil
}

func (w *warden) start(s launch) (tree, error) {
	p, err := w.current()
	if err != nil {
		return nil, err
	}
	return p.start(s)
}

func (w *warden) sweep() {
	w.mu.Lock()
	p := w.post
	w.mu.Unlock()
	p.ask(opSweep, 0, nil)
}

func (w *warden) close() {
	if w.post != nil {
		w.post.close()
	}
	if w.cgroups != nil {
		w.cgroups.close()
	}
	if err := os.Remove(filepath.Join(w.cfg.Dir, cookieFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		w.cfg.Logger.Warn("cannot remove what names the processes of tasks", "error", err)
	}
}

// post is one warden's life, from this side.
type post struct {
	link  *link
	cmd   *exec.Cmd
	log   *slog.Logger
	ready chan error
	gone  chan struct{} // closed when it has ended, or nothing more comes from it

	mu    sync.Mutex
	next  uint64
	calls map[uint64]chan packet
	trees map[uint64]*farTree
	over  bool
}

func (p *post) receive() {
	defer close(p.gone)
	for {
		f, err := p.link.receive()
		if err != nil {
			p.mu.Lock()
			p.over = true
			p.mu.Unlock()
			return
		}
		switch f.op {
		case opReady:
			p.ready <- nil
		case opFailed:
			p.ready <- f.body.error()
		case opLog:
			p.log.Warn("the warden of tasks warns", "text", f.body.text())
		case opFirst:
			p.mu.Lock()
			t := p.trees[f.tree]
			delete(p.trees, f.tree)
			p.mu.Unlock()
			if t != nil {
				t.heard(f.body)
			}
		case opAnswer:
			p.mu.Lock()
			answer := p.calls[f.call]
			delete(p.calls, f.call)
			p.mu.Unlock()
			if answer != nil {
				answer <- f.body
			}
		}
	}
}

// ask sends a question and gives the answer; false when the warden has ended.
func (p *post) ask(o op, tree uint64, body packet, files ...*os.File) (packet, bool) {
	answer := make(chan packet, 1)
	p.mu.Lock()
	if p.over {
		p.mu.Unlock()
		return nil, false
	}
	p.next++
	call := p.next
	p.calls[call] = answer
	p.mu.Unlock()
	if err := p.link.send(frame{op: o, call: call, tree: tree, body: body}, files...); err != nil {
		p.link.conn.Close() // half a frame may be on its way; receive ends
	}
	select {
	case a := <-answer:
		return a, true
	case <-p.gone:
		select { // it may have come before the end
		case a := <-answer:
			return a, true
		default:
			return nil, false
		}
	}
}

func (p *post) close() {
	p.link.conn.Close()
	kill := time.AfterFunc(time.Second, func() { _ = p.cmd.Process.Kill() })
	_ = p.cmd.Wait() // how it ended matters to nobody
	kill.Stop()
	<-p.gone
}

func (p *post) start(s launch) (tree, error) {
	var want unix.Stat_t
	if err := unix.Fstat(int(s.handle.Fd()), &want); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	var b packet
	b.putText(s.path)
	b.putText(s.place)
	b.putNumber(uint64(want.Dev)) //nolint:unconvert // of other types on other machines
	b.putNumber(want.Ino)
	b.putTexts(s.args)
	b.putTexts(s.env)
	p.mu.Lock()
	p.next++
	t := &farTree{p: p, id: p.next, ended: make(chan struct{})}
	p.trees[t.id] = t
	p.mu.Unlock()
	// No answer is waited for: first gives an error as well, and a task that ends
	// at once is one message less.
	if err := p.link.send(frame{op: opStart, tree: t.id, body: b}, s.files...); err != nil {
		p.link.conn.Close() // half a frame may be on its way; receive ends
		return nil, fmt.Errorf("the warden of tasks ended: %w", syscall.EAGAIN)
	}
	return t, nil
}

// farTree is an attempt's processes, seen to by the warden.
type farTree struct {
	p     *post
	id    uint64
	ended chan struct{} // closed when the first process has ended

	// Before ended is closed.
	begin  error // it has not begun
	done   bool  // nothing is left, and it is released
	code   int32
	signal string
}

var _ tree = (*farTree)(nil)

func (t *farTree) first() error {
	select {
	case <-t.ended:
		return t.begin
	case <-t.p.gone:
		return nil // release says so
	}
}

// ends of a tree, in opFirst.
const (
	endFirst     = iota // its first process has ended
	endAll              // all of it has ended: exit
	endNotBegun         // nothing was started: error
	endForbidden        // nothing was started, for it may not: text
)

// heard takes in how a tree has ended.
func (t *farTree) heard(b packet) {
	switch b.number() {
	case endAll:
		t.done = true
		t.code, t.signal = int32(b.number()), b.text()
	case endNotBegun:
		t.done = true
		t.begin = b.error()
	case endForbidden:
		t.done = true
		t.begin = banyan.Errorf(banyan.PermissionDenied, "%s", b.text())
	}
	close(t.ended)
}

// isDone says that nothing is left that the warden knows of.
func (t *farTree) isDone() bool {
	select {
	case <-t.ended:
		return t.done
	default:
		return false
	}
}

func (t *farTree) rest([2]*os.File) rest {
	if t.isDone() {
		return rest{}
	}
	a, ok := t.p.ask(opRest, t.id, nil)
	if !ok {
		return rest{}
	}
	return rest{count: int(a.number()), holds: a.bool(), names: a.texts()}
}

func (t *farTree) tell(o op) {
	if !t.isDone() {
		t.p.ask(o, t.id, nil)
	}
}

func (t *farTree) terminate() { t.tell(opTerminate) }
func (t *farTree) kill()      { t.tell(opKill) }
func (t *farTree) expose()    { t.tell(opExpose) }
func (t *farTree) guard()     { t.tell(opGuard) }

func (t *farTree) usage() (usage, bool) {
	if t.isDone() {
		return usage{}, false
	}
	a, ok := t.p.ask(opUsage, t.id, nil)
	if !ok || !a.bool() {
		return usage{}, false
	}
	return usage{processes: int(a.number()), memory: int64(a.number()), outOfMemory: a.bool()}, true
}

func (t *farTree) release() (code int32, signal string, err error) {
	if t.isDone() {
		return t.code, t.signal, nil
	}
	a, ok := t.p.ask(opRelease, t.id, nil)
	if !ok {
		return 128 + int32(unix.SIGKILL), "SIGKILL", banyan.Errorf(banyan.Unavailable, "the process that looks after the tasks of this node ended, and the task with it: see the node's log")
	}
	return int32(a.number()), a.text(), nil
}

// stages of a warden, its last argument.
const (
	stageCover = "cover"
	stageServe = "serve"
)

// wardenSocket is where a warden finds its node.
const wardenSocket = 3

// RunWarden is main of a warden and gives its exit code. In its first stage it
// has the right to mount, covers what tasks are not to see, and executes itself
// anew without that right; the second one starts tasks until its node is gone.
func RunWarden(args []string) int {
	var config wardenConfig
	if err := json.Unmarshal([]byte(os.Getenv(wardenEnv)), &config); err != nil || len(args) != 1 {
		fmt.Fprintln(os.Stderr, "banyan: a node starts this; it is nothing to be run by hand")
		return 2
	}
	var why error
	if args[0] == stageCover {
		why = cover(config)
	}
	l, err := newLink(os.NewFile(wardenSocket, "node"))
	if err != nil {
		return 1
	}
	if why == nil {
		why = serveTasks(l, config)
	}
	if why != nil {
		var b packet
		b.putError(why)
		_ = l.send(frame{op: opFailed, body: b}) // else the node sees the end
		return 1
	}
	return 0
}

// heedNoSignals has signals do nothing: a task may send them to its warden. (From
// within its namespace the kernel lets none come that would stop or kill it.)
func heedNoSignals() {
	none := make(chan os.Signal, 1)
	for s := syscall.Signal(1); s <= 64; s++ {
		switch {
		case s == syscall.SIGKILL || s == syscall.SIGSTOP || s == syscall.SIGCHLD || s == syscall.SIGURG || signal.Ignored(s):
		default:
			signal.Notify(none, s)
		}
	}
	go func() {
		for range none { //nolint:revive // see above
		}
	}()
}

// linkLogger has the node log what a warden has to say.
func linkLogger(l *link) *slog.Logger {
	return slog.New(slog.NewTextHandler(logWriter{l}, &slog.HandlerOptions{Level: slog.LevelWarn, ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
			return slog.Attr{}
		}
		return a
	}}))
}

type logWriter struct{ l *link }

func (w logWriter) Write(line []byte) (int, error) {
	var b packet
	b.putText(strings.TrimSpace(string(line)))
	return len(line), w.l.send(frame{op: opLog, body: b})
}

// yard is a warden's side of its link.
type yard struct {
	link  *link
	local *local
	outs  map[uint64][2]fileID // of each tree; mu
	trees map[uint64]*localTree
	mu    sync.Mutex
}

// serveTasks starts and ends what the node asks for, until that is gone.
func serveTasks(l *link, config wardenConfig) error {
	if err := Harden(); err != nil {
		return err
	}
	heedNoSignals()
	contained := config.By == ByNamespaces
	cfg := Config{Dir: string(config.Dir), Node: config.Node, MemoryMax: config.Memory, ProcessesMax: config.Processes, Logger: linkLogger(l)}
	made, err := newLocal(cfg, contained)
	if err != nil {
		return err
	}
	if !contained {
		runtime.LockOSThread() // all are started from here
		made.oneThread = true
	}
	if len(config.Cgroup) > 0 {
		made.cgroups = cgroupsBelow(string(config.Cgroup), cfg)
	}
	y := &yard{link: l, local: made, outs: map[uint64][2]fileID{}, trees: map[uint64]*localTree{}}
	if err := l.send(frame{op: opReady}); err != nil {
		return err
	}
	for {
		f, err := l.receive()
		if err != nil {
			break // the node is gone, and so is whoever wants an error
		}
		if f.op != opStart {
			go y.answer(f)
			continue
		}
		files, err := l.take(3)
		if err != nil {
			return err
		}
		// Here rather than beside others, for processes are started one at a time in
		// any case; and what is asked of a tree comes after its start.
		y.start(f, files)
	}
	if !contained { // else the kernel ends all with this process
		y.killAll()
	}
	return nil
}

func (y *yard) killAll() {
	y.mu.Lock()
	trees := make([]*localTree, 0, len(y.trees))
	for _, t := range y.trees {
		trees = append(trees, t)
	}
	y.mu.Unlock()
	for _, t := range trees {
		t.kill()
	}
	y.local.close()
}

// start begins with a tree.
func (y *yard) start(f frame, files []*os.File) {
	t, err := y.begin(f, files)
	for _, file := range files {
		file.Close()
	}
	var b packet
	switch {
	case err == nil:
		go y.await(f.tree, t)
		return
	case errors.Is(err, errNotThePlace):
		b.putNumber(endForbidden)
		b.putText(err.Error())
	default:
		b.putNumber(endNotBegun)
		b.putError(err)
	}
	_ = y.link.send(frame{op: opFirst, tree: f.tree, body: b}) // the node is gone: receive says so
}

// await says how a tree has ended.
func (y *yard) await(id uint64, t *localTree) {
	_ = t.first() // it has begun
	y.mu.Lock()
	outs := y.outs[id]
	y.mu.Unlock()
	var b packet
	if t.restOf(outs).count > 0 {
		b.putNumber(endFirst)
	} else {
		code, signal := y.release(id, t)
		b.putNumber(endAll)
		b.putNumber(uint64(uint32(code)))
		b.putText(signal)
	}
	_ = y.link.send(frame{op: opFirst, tree: id, body: b}) // the node is gone: receive says so
}

var errNotThePlace = errors.New("is kept from tasks, or was replaced just now: take another")

func (y *yard) begin(f frame, files []*os.File) (*localTree, error) {
	s := launch{path: f.body.text(), place: f.body.text(), files: files}
	dev, ino := f.body.number(), f.body.number()
	s.args, s.env = f.body.texts(), f.body.texts()
	// The directory is opened by its name, for one that the node has opened lies
	// outside of what is covered: 'cd ..' would lead out.
	dir, err := os.OpenFile(s.place, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(dir.Fd()), &st); err != nil {
		return nil, os.NewSyscallError("fstat", err)
	}
	if uint64(st.Dev) != dev || st.Ino != ino { //nolint:unconvert // of other types on other machines
		return nil, fmt.Errorf("the working directory %s on node %s %w", s.place, y.local.cfg.Node, errNotThePlace)
	}
	s.dir = enterable(dir, s.place)
	outs, err := idsOf([2]*os.File{files[1], files[2]})
	if err != nil {
		return nil, err
	}
	made, err := y.local.start(s)
	if err != nil {
		return nil, err
	}
	t := made.(*localTree)
	y.mu.Lock()
	y.trees[f.tree], y.outs[f.tree] = t, outs
	y.mu.Unlock()
	return t, nil
}

func (y *yard) release(id uint64, t *localTree) (int32, string) {
	y.mu.Lock()
	delete(y.trees, id)
	delete(y.outs, id)
	y.mu.Unlock()
	code, signal, _ := t.release()
	return code, signal
}

// answer does what is asked of a tree. One that is not known is released: all
// there is to say of it has been said.
func (y *yard) answer(f frame) {
	y.mu.Lock()
	t, outs := y.trees[f.tree], y.outs[f.tree]
	y.mu.Unlock()
	var b packet
	switch {
	case f.op == opSweep:
		y.local.sweep()
	case t == nil:
	case f.op == opRest:
		r := t.restOf(outs)
		b.putNumber(uint64(r.count))
		b.putBool(r.holds)
		b.putTexts(r.names)
	case f.op == opTerminate:
		t.terminate()
	case f.op == opKill:
		t.kill()
	case f.op == opExpose:
		t.expose()
	case f.op == opGuard:
		t.guard()
	case f.op == opUsage:
		u, ok := t.usage()
		b.putBool(ok)
		b.putNumber(uint64(u.processes))
		b.putNumber(uint64(u.memory))
		b.putBool(u.outOfMemory)
	case f.op == opRelease:
		code, signal := y.release(f.tree, t)
		b.putNumber(uint64(uint32(code)))
		b.putText(signal)
	}
	y.reply(f, b)
}

func (y *yard) reply(f frame, b packet) {
	_ = y.link.send(frame{op: opAnswer, call: f.call, tree: f.tree, body: b}) // the node is gone: receive says so
}
