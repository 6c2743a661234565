//go:build unix

package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// job is a submitted job as 'job show -o json' tells it.
type job struct {
	ID       string `json:"id"`
	State    string `json:"state"`
	Tasks    int    `json:"tasks"`
	Leader   string `json:"leader"`
	Progress struct {
		Succeeded, Failed, Running, Pending int
	} `json:"progress"`
}

// submit starts a job of n tasks that each note that they ran and print their
// number, and returns its id.
func (c *cluster) submit(n int, command string, flags ...string) string {
	c.t.Helper()
	args := append(append([]string{"run", "--detach", "-o", "json"}, flags...), "--", command, ":::")
	for i := range n {
		args = append(args, strconv.Itoa(i))
	}
	out := c.run(args...)
	var v struct {
		ID string `json:"job"`
	}
	if err := json.Unmarshal([]byte(out), &v); err != nil || v.ID == "" {
		c.t.Fatalf("run --detach -o json: %v\n%s", err, out)
	}
	return v.ID
}

func decodeInto(out string, j *job) bool { return json.Unmarshal([]byte(out), j) == nil }

// waitDone waits until n tasks have succeeded.
func (c *cluster) waitDone(id string, n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d tasks of %s are done", n, id), func() bool {
		var j job
		out, _, code := c.try("job", "show", id, "-o", "json")
		return code == 0 && decodeInto(out, &j) && j.Progress.Succeeded >= n
	})
}

// checkJob waits for the job's end and checks that each task has exactly one
// result, with the right output.
func (c *cluster) checkJob(id string, n int) {
	c.t.Helper()
	c.run("wait", id)
	out := c.run("logs", id)
	var got []int
	for _, line := range strings.Fields(out) {
		v, err := strconv.Atoi(line)
		if err != nil {
			c.t.Fatalf("logs of %s: %q", id, line)
		}
		got = append(got, v)
	}
	sort.Ints(got)
	if len(got) != n {
		c.t.Fatalf("%d results of %d tasks: %v", len(got), n, got)
	}
	for i, v := range got {
		if v != i {
			c.t.Fatalf("result %d is of task %d: one is missing or doubled: %v", i, v, got)
		}
	}
}

func TestKillEachNodeInTurnDuringJobs(t *testing.T) {
	c := newCluster(t, 3, "--slots", "4")
	for i := range c.nodes {
		id := c.submit(60, "sleep 0.05; echo {}")
		c.waitDone(id, 15)
		c.nodes[i].kill()
		c.checkJob(id, 60)
		c.nodes[i].restart()
		c.eventually("all nodes are alive", func() bool {
			out := c.run("nodes")
			return strings.Count(out, "alive") == 3
		})
	}
}

func TestKillAllAndRestart(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	c.run("kv", "put", "app/color", "green")
	id := c.submit(40, "sleep 0.05; echo {}")
	c.waitDone(id, 10)
	for _, n := range c.nodes {
		n.signal(syscall.SIGKILL)
	}
	for _, n := range c.nodes {
		n.kill()
	}
	for _, n := range c.nodes {
		n.start("up", "--dir", n.dir)
	}
	for _, n := range c.nodes {
		n.waitReady()
	}
	if got := strings.TrimSpace(c.run("kv", "get", "app/color")); got != "green" {
		t.Errorf("kv get after the restart: %q", got)
	}
	c.checkJob(id, 40)
}

func TestPausedNodeComesBack(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	id := c.submit(40, "sleep 0.05; echo {}")
	c.waitDone(id, 8)
	leader := c.leaderOf(id)
	leader.signal(syscall.SIGSTOP)
	c.checkJob(id, 40)
	c.run("kv", "put", "a/1", "while paused")
	leader.signal(syscall.SIGCONT)
	c.eventually("the paused node is alive again", func() bool {
		out, _, code := c.try("nodes")
		return code == 0 && strings.Count(out, "alive") == 3
	})
	c.checkJob(id, 40)
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "while paused" {
		t.Errorf("kv get: %q", got)
	}
}

func (c *cluster) leaderOf(id string) *node {
	c.t.Helper()
	var j job
	c.json(&j, "job", "show", id)
	for _, n := range c.nodes {
		if n.id == j.Leader {
			return n
		}
	}
	c.t.Fatalf("job %s is led by %q, no node of ours", id, j.Leader)
	return nil
}

func TestWritesSurviveKills(t *testing.T) {
	c := newCluster(t, 3)
	var acked []string
	for i := range 6 {
		victim := c.nodes[i%3]
		for k := range 5 {
			key := fmt.Sprintf("w/%d-%d", i, k)
			c.run("kv", "put", key, key)
			acked = append(acked, key)
			if k == 2 {
				victim.kill()
			}
		}
		victim.restart()
	}
	for _, key := range acked {
		if got := strings.TrimSpace(c.run("kv", "get", key)); got != key {
			t.Errorf("acknowledged %s reads %q", key, got)
		}
	}
}

func TestTokens(t *testing.T) {
	c := newCluster(t, 1)
	refused := func(name, token, want string) {
		t.Helper()
		dir := filepath.Join(c.dir, "refused-"+name)
		_, errOut, code := c.try("join", c.nodes[0].addr, "--token", token, "--dir", dir, "--listen", freeAddr(t))
		if code == 0 || !strings.Contains(errOut, want) {
			t.Errorf("join with a %s token: exit %d, %q; want %q", name, code, errOut, want)
		}
	}
	good := c.token()
	refused("bad", good[:len(good)-2]+"zz", "token")
	refused("forged", forge(good), "banyan token")
	c.join(good)
	refused("reused", good, "banyan token")
	short := c.token("--ttl", "1s")
	time.Sleep(1100 * time.Millisecond) // the one thing tested here is that time passes
	refused("expired", short, "banyan token")
	if got := strings.Count(c.run("nodes"), "alive"); got != 2 {
		t.Errorf("%d nodes alive, want 2", got)
	}
}

// forge gives another cluster's well-formed token.
func forge(string) string { return "banyan-not-a-token" }

func TestStrangersAreRefused(t *testing.T) {
	c := newCluster(t, 1)
	addr := c.nodes[0].addr
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{"/", "/banyan.v1.Cluster/Status", "/banyan.v1.KV/Get", "/banyan.peer.v1.Peer/Info"} {
		resp, err := insecure.Post("https://"+addr+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		text, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(string(text), "banyan") {
			t.Errorf("%s without a certificate: %s %q", path, resp.Status, text)
		}
	}
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "certificate") {
		t.Errorf("plain HTTP: %s %q", resp.Status, text)
	}
	other := newCluster(t, 1)
	if _, errOut, code := other.tryIn(other.dir, "", "nodes", "--context", "nowhere"); code == 0 || errOut == "" {
		t.Errorf("a context that is not there: exit %d, %q", code, errOut)
	}
	// The other cluster's operator, sent to this address.
	spoil := filepath.Join(other.dir, "config")
	replaceAddress(t, spoil, other.nodes[0].addr, addr)
	if _, errOut, code := other.try("nodes"); code == 0 || !strings.Contains(errOut, "cluster") && !strings.Contains(errOut, "certificate") {
		t.Errorf("another cluster's certificate: exit %d, %q", code, errOut)
	}
}

func replaceAddress(t *testing.T, dir, from, to string) {
	t.Helper()
	changed := false
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), from) {
			changed = true
			err = os.WriteFile(path, []byte(strings.ReplaceAll(string(text), from, to)), 0o600)
		}
		return err
	})
	if err != nil || !changed {
		t.Fatalf("no context names %s: %v", from, err)
	}
}

func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" || os.Geteuid() != 0 {
		t.Skip("needs root on Linux to mount a small tmpfs")
	}
	c := emptyCluster(t)
	small := filepath.Join(c.dir, "small")
	if err := os.Mkdir(small, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := mountTmpfs(small, "24m"); err != nil {
		t.Skipf("cannot mount a tmpfs here: %v", err)
	}
	t.Cleanup(func() { _ = unmount(small) })
	n := c.up(filepath.Join(small, "node"))
	value := strings.Repeat("v", 64<<10)
	acked := 0
	var errOut string
	for i := range 1000 {
		var code int
		if _, errOut, code = c.tryIn(c.dir, value, "kv", "put", fmt.Sprintf("f/%d", i), "-"); code != 0 {
			break
		}
		acked++
	}
	if acked == 0 || acked == 1000 {
		t.Fatalf("%d writes fit on 24 MiB: %s", acked, errOut)
	}
	<-n.done // the node stops rather than go on with a disk it cannot write
	n.cmd = nil
	text, err := os.ReadFile(n.log.Name())
	if err != nil || !strings.Contains(string(text), "space") {
		t.Errorf("the log does not speak of space: %v\n%s", err, tail(string(text), 20))
	}
	if err := mountTmpfs(small, "remount,size=96m"); err != nil {
		t.Fatal(err)
	}
	n.restart()
	for i := range acked {
		if got := c.run("kv", "get", fmt.Sprintf("f/%d", i)); strings.TrimSpace(got) != value {
			t.Fatalf("acknowledged f/%d is lost: %d bytes", i, len(got))
		}
	}
}

func TestSendReturnThen(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	in, out := filepath.Join(c.dir, "in"), filepath.Join(c.dir, "out")
	for _, d := range []string{in, out} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	var names []string
	want := ""
	for i := range 12 {
		name := fmt.Sprintf("part%02d.txt", i)
		names = append(names, name)
		text := strings.Repeat(fmt.Sprintf("%02d ", i), 1000*i) + "\n"
		want += strings.ToUpper(text)
		if err := os.WriteFile(filepath.Join(in, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	args := append([]string{"run", "--send", "{}", "--return", "{.}.up", "--then", "cat *.up > all.txt", "--outdir", out,
		"--", "tr a-z A-Z < {} > {.}.up", ":::"}, names...)
	if _, errOut, code := c.tryIn(in, "", args...); code != 0 {
		t.Fatalf("run: exit %d\n%s", code, errOut)
	}
	got, err := os.ReadFile(filepath.Join(out, "all.txt"))
	if err != nil || string(got) != want {
		t.Errorf("all.txt: %v, %d bytes, want %d", err, len(got), len(want))
	}
}

func TestConcurrentClients(t *testing.T) {
	c := newCluster(t, 3)
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := range 5 {
				if _, errOut, code := c.try("kv", "put", fmt.Sprintf("c%d/%d", w, i), "x"); code != 0 {
					t.Errorf("put: exit %d %s", code, errOut)
				}
			}
		})
	}
	wg.Wait()
	if got := strings.Count(c.run("kv", "list", "c"), "\n"); got != 20 {
		t.Errorf("%d keys listed, want 20", got)
	}
}
