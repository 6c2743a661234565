//go:build unix

package e2e

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
)

// output is what a process has printed so far.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// interrupt runs n tasks on an embedded node and sends the command a signal
// when five results are printed. It gives the job, with the tasks whose
// results the user has seen as those that must not run again.
func (c *cluster) interrupt(n int, sig syscall.Signal) (w *work, errOut string, code int) {
	c.t.Helper()
	w = &work{c: c, n: n, file: filepath.Join(c.dir, "ran")}
	cmd := exec.Command(c.bin, append([]string{"run", "--progress", "none", "-j2", "--", noteCommand(w.file), ":::"}, numbers(n)...)...)
	var out, errs output
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = c.env(), c.dir, &out, &errs
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	ended := sync.OnceFunc(func() { _ = cmd.Wait() }) // it was told to end
	defer ended()
	defer func() { _ = cmd.Process.Kill() }() // it may have ended
	c.eventually("five results are printed", func() bool { return strings.Count(out.String(), "\n") >= 5 })
	if err := cmd.Process.Signal(sig); err != nil {
		c.t.Fatal(err)
	}
	ended()
	w.kept = parse(c.t, out.String())
	jobs := c.jobs()
	if len(jobs) != 1 {
		c.t.Fatalf("%d jobs after one run: %v", len(jobs), jobs)
	}
	w.id = jobs[0].ID
	done := w.show().done()
	for _, i := range w.kept {
		if !slices.Contains(done, i) {
			c.t.Errorf("the result of task %d was printed, but is not recorded", i)
		}
	}
	if w.kept = done; len(done) == n {
		c.t.Fatalf("all tasks were done when %v came", sig)
	}
	return w, errs.String(), cmd.ProcessState.ExitCode()
}

func TestInterruptAndResumeEmbedded(t *testing.T) {
	c := emptyCluster(t)
	w, errOut, code := c.interrupt(40, syscall.SIGINT)
	if code != 130 || !strings.Contains(errOut, "banyan resume "+w.id) {
		t.Errorf("after Ctrl-C: exit %d, %q", code, errOut)
	}
	c.resume(w)
}

func TestKillAndResumeEmbedded(t *testing.T) {
	c := emptyCluster(t)
	w, _, _ := c.interrupt(40, syscall.SIGKILL)
	c.resume(w)
}

// resume goes on with an interrupted job: it prints what was not done before.
func (c *cluster) resume(w *work) {
	c.t.Helper()
	printed := parse(c.t, c.run("resume", "--progress", "none", w.id))
	for _, i := range printed {
		if slices.Contains(w.kept, i) {
			c.t.Errorf("resume printed task %d, which was done before", i)
		}
	}
	if len(printed)+len(w.kept) != w.n {
		c.t.Errorf("resume printed %d results, %d of %d were there before", len(printed), len(w.kept), w.n)
	}
	w.check()
	if again := c.run("resume", "--progress", "none", w.id); again != "" {
		c.t.Errorf("resume of a job that is done printed %q", again)
	}
}

func TestRunEmbedded(t *testing.T) {
	c := emptyCluster(t)
	if out, _, code := c.try("run", "-k", "--tag", "echo", ":::", "a b", "$(c)", "d;e"); code != 0 || out != "a b\ta b\n$(c)\t$(c)\nd;e\td;e\n" {
		t.Errorf("exit %d, %q", code, out)
	}
	if out, _, code := c.tryIn(c.dir, "1\n0\n3\n", "run", "-k", "exit {}"); code != 2 || out != "" {
		t.Errorf("two tasks fail: exit %d, %q", code, out)
	}
	if out, _, code := c.try("run", "--dry-run", "echo {1} '>' {2/}", ":::", "a'b", ":::", "x/y"); code != 0 || out != `echo 'a'"'"'b' '>' y`+"\n" && out != `echo 'a'\''b' '>' y`+"\n" && out != `echo a\'b '>' y`+"\n" {
		t.Errorf("--dry-run: exit %d, %q", code, out)
	}
	out := mkdir(t, c.dir, "out")
	if _, errOut, code := c.try("run", "--return", "{}.part", "--then", "cat *.part > whole", "--outdir", out, "echo {} > {}.part", ":::", "a", "b", "c"); code != 0 {
		t.Errorf("--then: exit %d, %s", code, errOut)
	}
	if text, err := os.ReadFile(filepath.Join(out, "whole")); string(text) != "a\nb\nc\n" {
		t.Errorf("whole: %q, %v", text, err)
	}
}

func TestDemo(t *testing.T) {
	long(t)
	c := emptyCluster(t)
	film := filepath.Join(c.dir, "film.png")
	out := c.run("demo", "--frames", "18", "--dir", filepath.Join(c.dir, "demo"), "--out", film)
	for _, want := range []string{"18 of 18, each there exactly once", "with SIGKILL", film, "Noticed    after", "Recovered  after"} {
		if !strings.Contains(out, want) {
			t.Errorf("the demo does not say %q:\n%s", want, out)
		}
	}
	if png, err := os.ReadFile(film); err != nil || !bytes.HasPrefix(png, []byte("\x89PNG")) || !bytes.Contains(png, []byte("acTL")) {
		t.Errorf("the film is no animated PNG: %d bytes, %v", len(png), err)
	}
	if _, err := os.Stat(filepath.Join(c.dir, "demo")); !os.IsNotExist(err) {
		t.Errorf("the demo left its directory: %v", err)
	}
}
