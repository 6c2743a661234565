package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestATaskDoesNotReadItsNode has a task of a real node try for the keys of the
// cluster; what a task is for goes on as ever.
func TestATaskDoesNotReadItsNode(t *testing.T) {
	if out, err := exec.Command("unshare", "-Ump", "--fork", "--mount-proc", "true").CombinedOutput(); err != nil {
		t.Skipf("no namespaces here: %v: %s", err, out)
	}
	c := newCluster(t, 1, "--slots", "2")
	n := c.nodes[0]
	keys, err := filepath.Glob(filepath.Join(n.dir, "pki", "*"))
	if err != nil || len(keys) == 0 {
		t.Fatalf("the node has no keys: %v", err)
	}
	config := filepath.Join(c.dir, "config")
	for _, path := range append(keys, n.dir+"/store", n.dir+"/blobs", config) {
		if _, err := os.Stat(path); err != nil {
			t.Fatal(err)
		}
		for _, script := range []string{"cat " + path, "ls " + path + "/*", "cat ../../" + strings.TrimPrefix(path, n.dir+"/")} {
			if out, _, code := c.try("run", script+" # {}", ":::", "1"); code == 0 {
				t.Errorf("%s: %q", script, out)
			}
		}
	}
	if out := c.run("run", "ls -A "+n.dir+" "+config+" # {}", ":::", "1"); strings.Contains(out, "pki") || strings.Contains(out, "yaml") || strings.Contains(out, "key") {
		t.Errorf("a task sees %q", out)
	}
	if out := c.run("run", "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done # {}", ":::", "1"); strings.Contains(out, "--listen") {
		t.Errorf("a task sees its node among the processes:\n%s", out)
	}

	if err := os.WriteFile(filepath.Join(c.dir, "in.txt"), []byte("given\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.run("run", "--send", "in.txt", "--return", "out.txt", "cat in.txt >out.txt; pwd >>out.txt # {}", ":::", "1")
	out, err := os.ReadFile(filepath.Join(c.dir, "out.txt"))
	if lines := strings.Split(string(out), "\n"); err != nil || lines[0] != "given" || !strings.HasPrefix(lines[1], n.dir) {
		t.Errorf("returned %q, %v", out, err)
	}
	shared := t.TempDir()
	c.run("run", "--workdir", shared, "echo kept >file # {}", ":::", "1")
	if kept, err := os.ReadFile(filepath.Join(shared, "file")); err != nil || string(kept) != "kept\n" {
		t.Errorf("in a working directory of the job: %q, %v", kept, err)
	}
	for _, problem := range c.problems() {
		if strings.Contains(problem, "keys") {
			t.Errorf("a problem without cause: %s", problem)
		}
	}
}

// TestIsolationIsToldInStatus starts nodes that do not isolate, or must not run tasks.
func TestIsolationIsToldInStatus(t *testing.T) {
	c := newCluster(t, 1, "--isolation", "none")
	c.expectProblem("can read its keys")
	if os.Geteuid() != 0 {
		return
	}
	c.nodes[0].kill()
	c.nodes[0].start("up", "--dir", c.nodes[0].dir, "--isolation", "strict")
	c.nodes[0].waitReady()
	c.expectProblem("takes no tasks, for they cannot be kept from it: this node runs as root")
}
