//go:build unix

package exec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banyan"
)

var testEnv = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "A=b"}

// isolated is set where the tests run once more under isolation.
var isolated = func(c Config) Config { return c }

func newRunner(t testing.TB) *Runner {
	r, err := New(isolated(Config{Dir: filepath.Join(t.TempDir(), "tasks"), Node: "n7", Grace: 50 * time.Millisecond, Linger: 50 * time.Millisecond}))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if left, _ := os.ReadDir(r.cfg.Dir); len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	})
	return r
}

func open(t testing.TB, r *Runner, dir string) *Place {
	p, err := r.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func text(t testing.TB, o Output) string {
	n, err := o.Size()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(io.NewSectionReader(o, 0, n))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sh runs a script in a place of its own and gives what it wrote.
func sh(t testing.TB, r *Runner, script string, timeout time.Duration) (Result, string, string) {
	p := open(t, r, "")
	defer p.Release()
	res := r.Run(context.Background(), p, Command{Args: []string{"sh", "-c", script}, Env: testEnv, Timeout: timeout})
	return res, text(t, p.Stdout()), text(t, p.Stderr())
}

func TestResult(t *testing.T) {
	r := newRunner(t)
	for _, c := range []struct {
		script  string
		code    int32
		signal  string
		out, er string
	}{
		{"echo hello; echo $A >&2", 0, "", "hello\n", "b\n"},
		{"exit 3", 3, "", "", ""},
		{"kill -USR1 $$", 128 + int32(syscall.SIGUSR1), "SIGUSR1", "", ""},
		{"cat; echo done", 0, "", "done\n", ""},
		{"ls -A", 0, "", "", ""},
		{"touch here; ls -A", 0, "", "here\n", ""},
		{"mkdir -p d/e; touch d/e/f; chmod 000 d/e d; exit 0", 0, "", "", ""},
		{"ls -A", 0, "", "", ""},
		{"mv $PWD $PWD.elsewhere; mv $PWD.elsewhere ../w99; exit 0", 0, "", "", ""},
		{"ls -A; pwd >/dev/null", 0, "", "", ""},
		{"rmdir $PWD", 0, "", "", ""},
		{"echo one; echo two >/dev/stdout", 0, "", "two\n", ""},
		{"echo three", 0, "", "three\n", ""},
		{"head -c 2000000 /dev/zero | tr '\\0' x >/dev/stdout; echo end >/dev/stdout", 0, "", "end\n", ""},
		{"echo four", 0, "", "four\n", ""},
		{"chmod 500 .", 0, "", "", ""},
		{"touch writable; ls -A", 0, "", "writable\n", ""},
	} {
		res, out, er := sh(t, r, c.script, 0)
		if res.Outcome != Exited || res.Err != nil || res.ExitCode != c.code || res.Signal != c.signal || out != c.out || er != c.er {
			t.Errorf("%s: %+v, stdout %q, stderr %q; want %+v", c.script, res, out, er, c)
		}
		if res.Stdout != int64(len(out)) || res.Stderr != int64(len(er)) || res.Start.IsZero() {
			t.Errorf("%s: recorded %+v", c.script, res)
		}
		if res.OK() != (c.code == 0) {
			t.Errorf("%s: OK is %v", c.script, res.OK())
		}
	}
	if _, err := os.Stat(filepath.Join(r.cfg.Dir, "w99")); !os.IsNotExist(err) {
		t.Errorf("a directory that a task moved is still there: %v", err)
	}
}

func TestPlaceServesAgainOnlyWhenPristine(t *testing.T) {
	r := newRunner(t)
	dirOf := func(script string) string {
		p := open(t, r, "")
		defer p.Release()
		if res := r.Run(context.Background(), p, Command{Args: []string{"/bin/sh", "-c", script}, Env: testEnv}); !res.OK() {
			t.Fatalf("%+v", res)
		}
		return p.Dir()
	}
	first := dirOf("true")
	if again := dirOf("touch x"); again != first {
		t.Errorf("a clean directory was not used again: %s, then %s", first, again)
	}
	if _, err := os.Stat(first); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a used directory is still there: %v", err)
	}
	if again := dirOf("true"); again == first {
		t.Errorf("a used directory serves again: %s", again)
	}
}

func TestWorkDir(t *testing.T) {
	r, dir := newRunner(t), t.TempDir()
	p := open(t, r, dir)
	res := r.Run(context.Background(), p, Command{Args: []string{"/bin/sh", "-c", "echo x >kept"}, Env: testEnv})
	p.Release()
	if _, err := os.Stat(filepath.Join(dir, "kept")); err != nil || !res.OK() {
		t.Errorf("%v, %+v", err, res)
	}
	if _, err := r.Open(filepath.Join(dir, "none")); !banyan.IsKind(err, banyan.NotFound) || !strings.Contains(err.Error(), "n7") {
		t.Errorf("a missing working directory: %v", err)
	}
	for _, bad := range []string{"relative", filepath.Join(dir, "kept")} {
		if _, err := r.Open(bad); err == nil {
			t.Errorf("%s was taken for a working directory", bad)
		}
	}
}

func TestNotStarted(t *testing.T) {
	r, dir := newRunner(t), t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct {
		command string
		code    int32
		kind    banyan.Kind
		say     string
	}{
		{"no-such-command", 127, banyan.NotFound, "PATH there is"},
		{"./no-such-file", 127, banyan.NotFound, "--send"},
		{write("script", "echo hi", 0o755), 126, banyan.Invalid, "#!"},
		{write("plain", "#!/bin/sh\n", 0o644), 126, banyan.PermissionDenied, "chmod"},
		{write("lost", "#!/no/interpreter\n", 0o755), 127, banyan.NotFound, "interpreter"},
	} {
		p := open(t, r, dir)
		res := r.Run(context.Background(), p, Command{Args: []string{c.command}, Env: testEnv})
		p.Release()
		if res.Outcome != NotStarted || res.ExitCode != c.code || !banyan.IsKind(res.Err, c.kind) {
			t.Errorf("%s: %+v", c.command, res)
			continue
		}
		for _, word := range []string{c.say, "n7", c.command} {
			if !strings.Contains(res.Err.Error(), word) {
				t.Errorf("%s: %v does not say %q", c.command, res.Err, word)
			}
		}
	}
}

// awaitDead returns when a process is gone; only a fault keeps it waiting.
func awaitDead(t *testing.T, pid string) {
	t.Helper()
	n, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil {
		t.Fatal(err)
	}
	for range 1000 {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", n))
		if syscall.Kill(n, 0) != nil || err == nil && strings.Contains(string(stat), ") Z ") {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("process %d lives", n)
}

func TestGroupDies(t *testing.T) {
	r := newRunner(t)
	for name, c := range map[string]struct {
		script  string
		timeout time.Duration
		outcome Outcome
		signal  string
	}{
		"at the end":         {"sleep 1000 & echo $!", 0, Exited, ""},
		"at timeout":         {"sleep 1000 & echo $!; wait", 100 * time.Millisecond, TimedOut, "SIGTERM"},
		"deaf":               {"trap '' TERM; (while :; do sleep 1000; done) & echo $!; while :; do wait; done", 100 * time.Millisecond, TimedOut, "SIGKILL"},
		"stopped":            {"sleep 1000 & echo $!; kill -STOP $$", 100 * time.Millisecond, TimedOut, "SIGTERM"},
		"leader leaves deaf": {"(trap '' TERM; while :; do sleep 1000; done) & echo $!; wait", 100 * time.Millisecond, TimedOut, "SIGTERM"},
	} {
		t.Run(name, func(t *testing.T) {
			res, out, _ := sh(t, r, c.script, c.timeout)
			if res.Outcome != c.outcome || res.Signal != c.signal {
				t.Errorf("%+v", res)
			}
			awaitDead(t, out)
		})
	}
}

func TestCancel(t *testing.T) {
	r := newRunner(t)
	r.cfg.Grace = time.Minute
	p := open(t, r, "")
	defer p.Release()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for n, _ := p.Stdout().Size(); n == 0; n, _ = p.Stdout().Size() {
			time.Sleep(time.Millisecond)
		}
		cancel()
	}()
	// What a process says while it ends in good order is kept.
	res := r.Run(ctx, p, Command{Args: []string{"/bin/sh", "-c", "trap 'echo bye; exit 9' TERM; echo up; while :; do sleep 0.01; done"}, Env: testEnv})
	if res.Outcome != Canceled || res.ExitCode != 9 || text(t, p.Stdout()) != "up\nbye\n" {
		t.Errorf("%+v, %q", res, text(t, p.Stdout()))
	}
	if res := r.Run(ctx, p, Command{Args: []string{"/bin/true"}, Env: testEnv}); res.Outcome != Canceled {
		t.Errorf("run under a canceled context: %+v", res)
	}
}

func TestOutputReadWhileRunningAndAfter(t *testing.T) {
	r := newRunner(t)
	p := open(t, r, "")
	if !p.Retain() {
		t.Fatal("not retained")
	}
	if res := r.Run(context.Background(), p, Command{Args: []string{"echo", "x"}, Env: testEnv}); !res.OK() {
		t.Fatalf("%+v", res)
	}
	p.Release()
	if other := open(t, r, ""); other == p {
		t.Error("a retained place was given to another")
	} else {
		other.Release()
	}
	if text(t, p.Stdout()) != "x\n" {
		t.Error("output is gone while retained")
	}
	p.Release()
	if p.Retain() {
		t.Error("retained after the last release")
	}
}

func TestLeftoversAreRemoved(t *testing.T) {
	dir := t.TempDir()
	os.MkdirAll(filepath.Join(dir, "w12", "deep"), 0o755)
	os.WriteFile(filepath.Join(dir, "out3"), nil, 0o600)
	os.WriteFile(filepath.Join(dir, "notes"), nil, 0o600)
	r, err := New(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	left, _ := os.ReadDir(dir)
	if len(left) != 1 || left[0].Name() != "notes" {
		t.Errorf("after a run: %v", left)
	}
}

// A program written a moment ago must run, though other goroutines fork.
func TestJustWrittenProgram(t *testing.T) {
	r := newRunner(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 25 {
				p := open(t, r, "")
				os.WriteFile(filepath.Join(p.Dir(), "prog"), []byte("#!/bin/sh\nexit 0\n"), 0o755)
				if res := r.Run(context.Background(), p, Command{Args: []string{"./prog"}, Env: testEnv}); !res.OK() {
					t.Errorf("%+v", res)
				}
				p.Release()
			}
		})
	}
	wg.Wait()
}

// TestHelperNode is the node that TestKilledNode kills.
func TestHelperNode(t *testing.T) {
	dir := os.Getenv("BANYAN_TEST_NODE")
	if dir == "" {
		t.Skip("only as a process of its own")
	}
	r, err := New(isolated(Config{Dir: dir, Node: "n1"}))
	if err != nil {
		t.Fatal(err)
	}
	r.guardAfter, r.outputEvery = 0, time.Millisecond
	p := open(t, r, "")
	go func() {
		for ; ; time.Sleep(time.Millisecond) {
			up := true
			if l, ok := r.launcher.(*local); ok {
				l.guard.mu.Lock()
				up = l.guard.cmd != nil
				l.guard.mu.Unlock()
			}
			if n, _ := p.Stdout().Size(); up && strings.Count(text(t, p.Stdout()), "\n") == 2 && n > 0 {
				fmt.Printf("pids %s\n", seenHere(r, strings.Fields(text(t, p.Stdout()))))
				return
			}
		}
	}()
	r.Run(context.Background(), p, Command{Args: []string{"/bin/sh", "-c", "echo $$; " + escape + " sh -c 'echo $$; exec sleep 1000' & wait"}, Env: testEnv})
}

// program is this one, also for a user who does not see its file.
var program = os.Args[0]

// seenHere gives processes of attempts as this process sees them; where those
// have numbers of their own, all that there are.
var seenHere = func(_ *Runner, pids []string) string { return strings.Join(pids, " ") }

func TestKilledNode(t *testing.T) {
	cmd := exec.Command(program, "-test.run=^TestHelperNode$")
	cmd.Env = append(os.Environ(), "BANYAN_TEST_NODE="+t.TempDir())
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pids []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if f := strings.Fields(lines.Text()); len(f) >= 3 && f[0] == "pids" {
			pids = f[1:]
			break
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if len(pids) < 2 {
		t.Fatal("the node did not say what it runs")
	}
	for _, pid := range pids {
		awaitDead(t, pid)
	}
}

// The ceiling of BenchmarkRun is BenchmarkBare: go test -bench . -benchtime 2000x
func BenchmarkBare(b *testing.B) {
	two(b, func() {
		if _, err := exec.Command("/bin/true", "x").Output(); err != nil {
			b.Error(err)
		}
	})
}

func BenchmarkRun(b *testing.B) {
	r := newRunner(b)
	env := os.Environ()
	two(b, func() {
		p := open(b, r, "")
		if res := r.Run(context.Background(), p, Command{Args: []string{"/bin/true", "x"}, Env: env}); !res.OK() {
			b.Error(res)
		}
		p.Release()
	})
}

func BenchmarkRunWithOutput(b *testing.B) {
	r := newRunner(b)
	env := os.Environ()
	two(b, func() {
		p := open(b, r, "")
		if res := r.Run(context.Background(), p, Command{Args: []string{"/bin/echo", "hello"}, Env: env}); !res.OK() || text(b, p.Stdout()) != "hello\n" {
			b.Error(res)
		}
		p.Release()
	})
}

func BenchmarkBareWithOutput(b *testing.B) {
	two(b, func() {
		if out, err := exec.Command("/bin/echo", "hello").Output(); err != nil || string(out) != "hello\n" {
			b.Error(err)
		}
	})
}

// two runs f b.N times, two at once.
func two(b *testing.B, f func()) {
	work := make(chan struct{}, b.N)
	for range b.N {
		work <- struct{}{}
	}
	close(work)
	var wg sync.WaitGroup
	b.ResetTimer()
	for range 2 {
		wg.Go(func() {
			for range work {
				f()
			}
		})
	}
	wg.Wait()
}
