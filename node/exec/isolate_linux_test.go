package exec

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"banyan"
)

// isolateEnv has the tests of this process run under an isolation.
const isolateEnv = "BANYAN_TEST_ISOLATE_BY"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == WardenArg {
		os.Exit(RunWarden(os.Args[2:]))
	}
	program = "/proc/self/exe"
	if by := os.Getenv(isolateEnv); by != "" {
		isolated = func(c Config) Config { return isolateBy(c, by) }
		seenHere = func(r *Runner, _ []string) string {
			k := kin{}
			return strings.Trim(fmt.Sprint(k.below(r.launcher.(*warden).post.cmd.Process.Pid)), "[]")
		}
	}
	os.Exit(m.Run())
}

// isolateBy has a config isolate by one means alone.
func isolateBy(c Config, by string) Config {
	c.Isolation, c.Warden, c.isolateBy = IsolationNode, []string{"/proc/self/exe", WardenArg}, by
	return c
}

// byEach runs f for each means that this machine has, as root where the test is,
// and as an ordinary user; else it says why it does not.
func byEach(t *testing.T, f func(t *testing.T, by string, user *syscall.Credential)) {
	users := map[string]*syscall.Credential{"user": nil}
	if os.Geteuid() == 0 {
		const nobody = 65534
		users = map[string]*syscall.Credential{"root": nil, "user": {Uid: nobody, Gid: nobody}}
	}
	for _, by := range []string{ByNamespaces, ByLandlock} {
		for name, user := range users {
			t.Run(by+" as "+name, func(t *testing.T) {
				if why := lacks(t, by, user); why != "" {
					t.Skip(why)
				}
				f(t, by, user)
			})
		}
	}
}

// lacks says why this machine does not have a means of isolation for a user.
func lacks(t *testing.T, by string, user *syscall.Credential) string {
	if by == ByLandlock {
		if _, err := landlockVersion(); err != nil {
			return "no Landlock here: " + err.Error()
		}
		return ""
	}
	args := []string{"-mp", "--fork", "--mount-proc", "true"}
	if user != nil || os.Geteuid() != 0 {
		args[0] = "-Ump"
	}
	cmd := exec.Command("unshare", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	if out, err := cmd.CombinedOutput(); err != nil {
		return "no namespaces here: " + err.Error() + ": " + string(out)
	}
	return ""
}

// ownDir makes a directory that belongs to a user.
func ownDir(t *testing.T, user *syscall.Credential) string {
	dir, err := os.MkdirTemp("", "isolated")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if user != nil {
		if err := os.Chown(dir, int(user.Uid), int(user.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// again runs tests of this program in a process of its own.
func again(t *testing.T, user *syscall.Credential, dir, tests string, env ...string) []byte {
	cmd := exec.Command("/proc/self/exe", "-test.run=^("+tests+")$")
	cmd.Dir = dir
	cmd.Env = append(env, "TMPDIR="+dir, "HOME="+dir, "PATH="+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, out)
	}
	return out
}

// What holds of attempts holds of them behind a warden too. As root and under
// Landlock it is the same code but for the start and the end.
func TestAllIsTheSameBehindAWarden(t *testing.T) {
	tests := strings.Join([]string{
		"TestResult", "TestPlaceServesAgainOnlyWhenPristine", "TestWorkDir", "TestNotStarted", "TestCancel", "TestOutputReadWhileRunningAndAfter",
		"TestJustWrittenProgram", "TestWritersAreWaitedFor", "TestLeftoversAreNamed", "TestLimits", "TestNothingOutlivesItsAttempt", "TestOthersAreLeftAlone", "TestKilledNode", "TestTaskIsKilledBeforeTheNode", "TestNothingIsInherited",
	}, "|")
	byEach(t, func(t *testing.T, by string, user *syscall.Credential) {
		tests := tests
		if by == ByLandlock || user == nil {
			tests = "TestResult|TestNotStarted|TestNothingOutlivesItsAttempt|TestKilledNode"
		}
		out := again(t, user, ownDir(t, user), tests, isolateEnv+"="+by)
		if !bytes.HasPrefix(out, []byte("PASS")) {
			t.Errorf("%s", out)
		}
	})
}

// A warden that ends takes its attempts along, which is said; the next attempt
// has a new one.
func TestAWardenThatEnds(t *testing.T) {
	byEach(t, func(t *testing.T, by string, user *syscall.Credential) {
		if user != nil {
			t.Skip("the same as for root")
		}
		r, err := New(isolateBy(Config{Dir: filepath.Join(t.TempDir(), "tasks"), Node: "n7"}, by))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		p := open(t, r, "")
		defer p.Release()
		done := make(chan Result)
		go func() {
			done <- r.Run(context.Background(), p, Command{Args: []string{"sh", "-c", "echo up; exec sleep 1000"}, Env: testEnv})
		}()
		for text(t, p.Stdout()) == "" {
			time.Sleep(time.Millisecond)
		}
		r.launcher.(*warden).post.cmd.Process.Kill()
		if res := <-done; res.OK() || res.Outcome != Exited || !banyan.IsKind(res.Err, banyan.Unavailable) {
			t.Errorf("%+v", res)
		}
		if res, out, _ := sh(t, r, "echo again", 0); !res.OK() || out != "again\n" {
			t.Errorf("%+v, %q", res, out)
		}
	})
}

// Strict isolation refuses what is weaker.
func TestStrict(t *testing.T) {
	dir := t.TempDir()
	c := isolateBy(Config{Dir: filepath.Join(dir, "tasks"), Private: dir}, ByLandlock)
	c.Isolation = IsolationStrict
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if got := r.Isolated(); got.By != "" || got.Why == nil && os.Geteuid() == 0 {
		t.Errorf("%+v", got)
	}
}

// What isolation costs is this beside BenchmarkRun.
func BenchmarkRunBehindAWarden(b *testing.B) {
	before := isolated
	isolated = func(c Config) Config { return isolateBy(c, ByNamespaces) }
	defer func() { isolated = before }()
	BenchmarkRun(b)
}
