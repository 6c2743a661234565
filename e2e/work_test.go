//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// long skips a test that is not of the core.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("not of the core: run without -short")
	}
}

// job is what 'job show -o json' tells of a job.
type job struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	Leader    string `json:"leader"`
	Succeeded int    `json:"succeeded"`
	Repeated  int    `json:"repeated"`
	Results   []struct {
		Seq   int    `json:"seq"`
		State string `json:"state"`
		Error string `json:"error"`
	} `json:"results"`
}

// work is a job whose tasks print their number, 0 to n-1, and note it in a
// file when they end: it tells which of them ran, and how often.
type work struct {
	c    *cluster
	id   string
	n    int
	file string
	kept []int // tasks that had a result when expectKept was called
}

// gate is the file that tasks which are held wait for.
func (w *work) gate() string { return w.file + ".gate" }

// noteCommand is the command of such tasks.
func noteCommand(file string) string { return "sleep 0.05; echo {} >>" + file + "; echo {}" }

func numbers(n int) []string {
	var out []string
	for i := range n {
		out = append(out, strconv.Itoa(i))
	}
	return out
}

// submit starts a job of n tasks.
func (c *cluster) submit(n int) *work {
	c.t.Helper()
	return c.submitHeld(n, n)
}

// submitHeld starts a job of n tasks, of which those after the first so many
// end only when check is called.
func (c *cluster) submitHeld(n, first int) *work {
	c.t.Helper()
	f, err := os.CreateTemp(c.dir, "ran-")
	if err != nil {
		c.t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		c.t.Fatal(err)
	}
	w := &work{c: c, n: n, file: f.Name()}
	held := fmt.Sprintf("[ {} -lt %d ] || until [ -e %s ]; do sleep 0.05; done; ", first, w.gate())
	args := append([]string{"run", "--detach", "--", held + noteCommand(w.file), ":::"}, numbers(n)...)
	w.id = strings.TrimSpace(c.run(args...))
	return w
}

func (w *work) show() job {
	w.c.t.Helper()
	var j job
	w.c.json(&j, "job", "show", w.id, "-n", "10000")
	return j
}

func (j job) done() []int {
	var out []int
	for _, r := range j.Results {
		if r.State == "succeeded" {
			out = append(out, r.Seq-1)
		}
	}
	return out
}

func (w *work) waitDone(n int) {
	w.c.t.Helper()
	w.c.eventually(fmt.Sprintf("%d tasks of %s are done", n, w.id), func() bool {
		return w.show().Succeeded >= n
	})
}

// expectKept remembers the tasks that have a result: they must not run again.
func (w *work) expectKept() {
	w.c.t.Helper()
	w.kept = w.show().done()
	if len(w.kept) == 0 || len(w.kept) == w.n {
		w.c.t.Fatalf("%d of %d tasks are done: nothing to be seen", len(w.kept), w.n)
	}
}

func (w *work) leader() *node {
	w.c.t.Helper()
	var found *node
	w.c.eventually("job "+w.id+" has a leader", func() bool {
		id := w.show().Leader
		i := slices.IndexFunc(w.c.nodes, func(n *node) bool { return n.id == id })
		if i >= 0 {
			found = w.c.nodes[i]
		}
		return i >= 0
	})
	return found
}

// check waits for the job's end and checks that each task has exactly one
// result, the right one, and that no task ran again that had one before.
func (w *work) check() {
	w.c.t.Helper()
	if err := os.WriteFile(w.gate(), nil, 0o600); err != nil {
		w.c.t.Fatal(err)
	}
	w.c.run("wait", w.id)
	w.checkEnded(w.c.run("logs", w.id))
}

func (w *work) checkEnded(logs string) {
	w.c.t.Helper()
	got := parse(w.c.t, logs)
	slices.Sort(got)
	if want := parse(w.c.t, strings.Join(numbers(w.n), "\n")+"\n"); !slices.Equal(got, want) {
		w.c.t.Fatalf("%d results of %d tasks: %v", len(got), w.n, got)
	}
	text, err := os.ReadFile(w.file)
	if err != nil {
		w.c.t.Fatal(err)
	}
	ran := make([]int, w.n)
	for _, i := range parse(w.c.t, string(text)) {
		ran[i]++
	}
	if i := slices.Index(ran, 0); i >= 0 {
		w.c.t.Errorf("task %d has a result and did not run", i)
	}
	for _, i := range w.kept {
		if ran[i] != 1 {
			w.c.t.Errorf("task %d had a result and ran again: %d times in all", i, ran[i])
		}
	}
}

// parse reads a number a line; a last line that is cut counts not.
func parse(t *testing.T, text string) []int {
	t.Helper()
	var out []int
	for _, line := range strings.Fields(text[:strings.LastIndex(text, "\n")+1]) {
		v, err := strconv.Atoi(line)
		if err != nil {
			t.Fatalf("not a number: %q", line)
		}
		out = append(out, v)
	}
	return out
}

// waitAlive waits until n nodes are alive.
func (c *cluster) waitAlive(n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d nodes are alive", n), func() bool {
		out, _, code := c.try("nodes", "-o", "json")
		return code == 0 && strings.Count(out, `"state":"alive"`) == n
	})
}

// jobs lists the jobs there are.
func (c *cluster) jobs() []job {
	c.t.Helper()
	var all []job
	for line := range strings.Lines(c.run("jobs", "-o", "json")) {
		var j job
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			c.t.Fatalf("jobs -o json: %v\n%s", err, line)
		}
		all = append(all, j)
	}
	return all
}

func mkdir(t *testing.T, elem ...string) string {
	t.Helper()
	dir := filepath.Join(elem...)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}
