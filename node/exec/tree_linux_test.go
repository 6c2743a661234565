package exec

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"banyan"
)

// escape makes what follows leave session and process group.
const escape = "setsid"

// alive says whether a process runs that has this number for the attempts of r.
func alive(t *testing.T, r *Runner, pid string) bool {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		t.Fatal(err)
	}
	w, ok := r.launcher.(*warden)
	if !ok || w.config.By != ByNamespaces {
		return readable(n)
	}
	k := kin{}
	return slices.ContainsFunc(k.below(w.post.cmd.Process.Pid), func(pid int) bool {
		status, _ := os.ReadFile(procPath(pid, "status"))
		return readable(pid) && regexp.MustCompile(`(?m)^NSpid:.*\t`+strconv.Itoa(n)+`$`).Match(status)
	})
}

// Whatever way a process takes out of its group, it does not outlive its attempt.
func TestNothingOutlivesItsAttempt(t *testing.T) {
	r := newRunner(t)
	const long, up = "sh -c 'echo $$; touch up; exec sleep 1000'", "while [ ! -e up ]; do sleep 0.01; done"
	for name, c := range map[string]struct {
		script  string
		timeout time.Duration
		outcome Outcome
	}{
		"group of its own":      {"timeout 50 " + long, 200 * time.Millisecond, TimedOut},
		"session of its own":    {"setsid -w " + long, 200 * time.Millisecond, TimedOut},
		"left in a session":     {"setsid " + long + " & " + up, 0, Exited},
		"nohup":                 {"nohup " + long + " & " + up, 0, Exited},
		"forked twice":          {"(setsid sh -c \"" + strings.ReplaceAll(long, "$", "\\$") + " & exit 0\" &); " + up, 0, Exited},
		"nameless and detached": {"env -i setsid /bin/sh -c 'echo $$; exec >/dev/null 2>&1; /usr/bin/touch up; exec /bin/sleep 1000' & " + up, 0, Exited},
		"deaf":                  {"trap '' TERM HUP; setsid " + long + " & wait", 200 * time.Millisecond, TimedOut},
	} {
		t.Run(name, func(t *testing.T) {
			res, out, _ := sh(t, r, c.script, c.timeout)
			if res.Outcome != c.outcome {
				t.Errorf("%+v", res)
			}
			if pid, _, _ := strings.Cut(out, "\n"); alive(t, r, pid) {
				t.Errorf("process %s lives after the attempt: %+v", pid, res)
			}
			if c.outcome == Exited && !strings.Contains(strings.Join(res.Killed, ","), "sleep 1000") {
				t.Errorf("what was killed is not named: %+v", res)
			}
		})
	}
}

// Who writes to the output in the background is waited for, and is no failure.
func TestWritersAreWaitedFor(t *testing.T) {
	r := newRunner(t)
	r.cfg.Linger = time.Minute
	for name, script := range map[string]string{
		"background": "(sleep 0.1; echo late) &",
		"session":    "setsid sh -c 'sleep 0.1; echo late' &",
		"error":      "(sleep 0.1; echo late >f; cat f >&2) >/dev/null &",
	} {
		res, out, errs := sh(t, r, script, 0)
		if !res.OK() || out+errs != "late\n" || res.KilledCount != 0 {
			t.Errorf("%s: %+v, %q %q", name, res, out, errs)
		}
	}
}

// What holds no output is not waited for, what holds it only for so long; the
// result names both.
func TestLeftoversAreNamed(t *testing.T) {
	r := newRunner(t)
	for _, c := range []struct {
		script string
		linger time.Duration
	}{
		{"sleep 1000 >/dev/null 2>&1 & sleep 1000 </dev/null >/dev/null 2>&1 & sleep 0.1", time.Hour},
		{"sleep 1000 & sleep 1000 & sleep 0.1", time.Millisecond},
	} {
		r.cfg.Linger = c.linger
		res, _, _ := sh(t, r, c.script, 0)
		if !res.OK() || res.KilledCount != 2 || len(res.Killed) != 2 || !strings.HasPrefix(res.Killed[0], "sleep 1000 (process ") {
			t.Errorf("%s: %+v", c.script, res)
		}
	}
}

// An attempt that ends leaves alone what belongs to others.
func TestOthersAreLeftAlone(t *testing.T) {
	r := newRunner(t)
	r.cfg.Linger = time.Hour
	own := exec.Command("sleep", "1000")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	p := open(t, r, "")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan Result)
	go func() {
		done <- r.Run(ctx, p, Command{Args: []string{"sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & exit 0"}, Env: testEnv})
	}()
	for text(t, p.Stdout()) == "" {
		time.Sleep(time.Millisecond)
	}
	other := text(t, p.Stdout())
	for range 3 {
		if res, _, _ := sh(t, r, "setsid sleep 1000 >/dev/null 2>&1 & exit 0", 0); res.KilledCount != 1 {
			t.Errorf("%+v", res)
		}
		r.launcher.sweep()
	}
	if !alive(t, r, other) {
		t.Error("a process of another attempt is gone")
	}
	cancel()
	if res := <-done; res.Outcome != Canceled || alive(t, r, other) {
		t.Errorf("%+v", res)
	}
	p.Release()
	if !readable(own.Process.Pid) {
		t.Error("a process that is no attempt's is gone")
	}
	own.Process.Kill()
	if err := own.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("somebody else has waited for a process of ours: %v", err)
	}
}

// Orphans that have ended are taken out of the system's table, and no others.
func TestOrphansAreReaped(t *testing.T) {
	r := newRunner(t)
	own := exec.Command("true")
	if err := own.Start(); err != nil {
		t.Fatal(err)
	}
	_, out, _ := sh(t, r, "for i in 1 2 3; do (setsid sh -c 'echo $$' &); done; wait; sleep 0.1", 0)
	r.launcher.sweep()
	for _, pid := range strings.Fields(out) {
		n, _ := strconv.Atoi(pid)
		if s, ok := readStat(n); ok && s.ppid == os.Getpid() {
			t.Errorf("orphan %s is still there: %+v", pid, s)
		}
	}
	if err := own.Wait(); err != nil {
		t.Errorf("somebody else has waited for a process of ours: %v", err)
	}
}

// Processes of a node that was killed, and its guard with it, end when the node
// is started again.
func TestStartedAgain(t *testing.T) {
	dir := t.TempDir()
	old := exec.Command("sh", "-c", "exec sleep 1000")
	old.Env = []string{"PATH=" + os.Getenv("PATH"), cookieName + "=0123456789abcdef.7"}
	if err := old.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, cookieFile), []byte("0123456789abcdef"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := old.Wait(); err == nil {
		t.Error("not killed")
	}
}

func TestLimits(t *testing.T) {
	r := newRunner(t)
	r.outputEvery, r.usageEvery = time.Millisecond, time.Millisecond
	r.cfg.ProcessesMax = 20
	run := func(script string, outputMax int64) Result {
		p := open(t, r, "")
		defer p.Release()
		return r.Run(context.Background(), p, Command{Args: []string{"sh", "-c", script}, Env: testEnv, OutputMax: outputMax})
	}
	check := func(res Result, say string) {
		t.Helper()
		if res.Outcome != Exceeded || !banyan.IsKind(res.Err, banyan.Exhausted) || !strings.Contains(res.Err.Error(), say) {
			t.Errorf("%+v, want %q", res, say)
		}
	}
	check(run("yes", 1<<16), "--output-max")
	check(run("echo four; echo more >&2", 9), "--output-max")
	if res := run("echo four; echo five", 10); !res.OK() {
		t.Errorf("just as much as allowed: %+v", res)
	}
	check(run("for i in $(seq 40); do sleep 1000 & done; wait", 0), "TaskProcessesMax")
	r.cfg.MemoryMax = 8 << 20
	if l, ok := r.launcher.(*local); ok {
		l.cfg.MemoryMax = 8 << 20
	}
	check(run("head -c 30000000 /dev/zero | tail -c 29000000 | sleep 1000", 0), "--task-memory")
}

func TestTaskIsKilledBeforeTheNode(t *testing.T) {
	r := newRunner(t)
	r.outputEvery = time.Millisecond
	res, out, _ := sh(t, r, "i=0; until [ $(cat /proc/$$/oom_score_adj) -ge 500 ] || [ $i -gt 500 ]; do sleep 0.01; i=$((i+1)); done; cat /proc/$$/oom_score_adj", 0)
	if n, _ := strconv.Atoi(strings.TrimSpace(out)); !res.OK() || n < 500 {
		t.Errorf("%+v, %q", res, out)
	}
}

// A task has its three files and nothing of whoever started the node.
func TestNothingIsInherited(t *testing.T) {
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	fd, err := syscall.Dup(int(f.Fd())) // as somebody left it open: not closed by exec
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	r := newRunner(t)
	r.cfg.NoNewPrivileges = true
	p := open(t, r, "")
	defer p.Release()
	res := r.Run(context.Background(), p, Command{Args: []string{"sh", "-c", "ls /proc/$$/fd"}, Env: testEnv})
	if got := strings.Fields(text(t, p.Stdout())); !res.OK() || slices.Contains(got, strconv.Itoa(fd)) || len(got) > 4 {
		t.Errorf("open files %v, %+v", got, res)
	}
}

func TestNoNewPrivileges(t *testing.T) {
	for _, on := range []bool{false, true} {
		r := newRunner(t)
		r.launcher.(*local).cfg.NoNewPrivileges = on
		var out string
		done := make(chan struct{})
		go func() { // a thread keeps it for good
			defer close(done)
			_, out, _ = sh(t, r, "grep NoNewPrivs /proc/self/status", 0)
		}()
		<-done
		if want := map[bool]string{false: "0", true: "1"}[on]; !strings.HasSuffix(strings.TrimSpace(out), want) && on {
			t.Errorf("NoNewPrivileges %v: %q", on, out)
		}
	}
}

func TestStarved(t *testing.T) {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EAGAIN, syscall.ENOMEM} {
		if !Starved(fmt.Errorf("start: %w", &os.PathError{Op: "fork/exec", Path: "x", Err: e})) {
			t.Errorf("%v is for want of something", e)
		}
	}
	for _, e := range []error{nil, syscall.ENOENT, syscall.EACCES} {
		if Starved(e) {
			t.Errorf("%v is not for want of anything", e)
		}
	}
}

// A start that fails for want of descriptors says so, whatever failed first.
func TestFewDescriptors(t *testing.T) {
	r := newRunner(t)
	var old syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := old
	defer syscall.Setrlimit(syscall.RLIMIT_NOFILE, &old)
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	base := 0
	for _, e := range entries {
		n, _ := strconv.Atoi(e.Name())
		base = max(base, n)
	}
	for n := 0; ; n++ {
		few.Cur = uint64(base + n)
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &few); err != nil {
			t.Fatal(err)
		}
		p, err := r.Open("")
		if err == nil {
			res := r.Run(context.Background(), p, Command{Args: []string{"/bin/true"}, Env: testEnv})
			p.Release()
			if res.OK() {
				return
			}
			err = res.Err
		}
		if !Starved(err) || n > 100 {
			t.Fatalf("with %d more files: %v", n, err)
		}
	}
}

func TestCookie(t *testing.T) {
	got := withCookie([]string{"A=b", cookieName + "=outer.1"}, "inner.2")
	if want := []string{"A=b", cookieName + "=outer.1:inner.2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	got = withCookie([]string{cookieName + "=" + strings.Repeat("x", cookieBytesMax)}, "inner.2")
	if want := []string{cookieName + "=inner.2"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
