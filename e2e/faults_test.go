//go:build unix

package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"banyan"
	"banyan/node/pki"
)

func TestKillEachNodeInTurnDuringJobs(t *testing.T) {
	c := newCluster(t, 3, "--slots", "4")
	for i := range c.nodes {
		w := c.submitHeld(60, 40)
		w.waitDone(15)
		w.expectKept()
		c.nodes[i].kill()
		w.check()
		c.nodes[i].restart()
		c.waitAlive(3)
	}
}

func TestPausedLeaderComesBack(t *testing.T) {
	long(t)
	c := newCluster(t, 3, "--slots", "2")
	w := c.submitHeld(40, 25)
	w.waitDone(8)
	leader := w.leader()
	w.expectKept()
	leader.signal(syscall.SIGSTOP)
	w.check()
	c.run("kv", "put", "a/1", "while paused")
	leader.signal(syscall.SIGCONT)
	c.waitAlive(3)
	w.check() // what the paused node had in hand counts for nothing now
	if got := strings.TrimSpace(c.run("kv", "get", "a/1")); got != "while paused" {
		t.Errorf("kv get: %q", got)
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
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("join with a %s token left %s behind: %v", name, dir, err)
		}
	}
	good := c.token()
	middle, other := len(good)/2, "z"
	if good[middle] == 'z' {
		other = "y"
	}
	refused("bad", good[:middle]+other+good[middle+1:], "mistyped")
	refused("strange", "not-a-token", "banyan token")
	refused("forged", forge(t, good), "banyan token")
	c.join(good)
	refused("reused", good, "banyan token")
	short := c.token("--ttl", "1s")
	time.Sleep(1100 * time.Millisecond) // the one thing tested here is that time passes
	refused("expired", short, "banyan token")
	if got := strings.Count(c.run("nodes"), "alive"); got != 2 {
		t.Errorf("%d nodes alive, want 2", got)
	}
}

// forge gives a well-formed token for the same cluster with another secret.
func forge(t *testing.T, token string) string {
	t.Helper()
	_, fingerprint, err := pki.ParseToken(token)
	if err != nil {
		t.Fatal(err)
	}
	forged, _, err := pki.NewToken(fingerprint)
	if err != nil {
		t.Fatal(err)
	}
	return forged
}

func TestStrangersAreRefused(t *testing.T) {
	c := newCluster(t, 1)
	addr := c.nodes[0].addr
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	for _, path := range []string{"/", "/banyan.v1.Cluster/Status", "/banyan.v1.KV/Get", "/banyan.peer.v1.Peer/Info"} {
		resp, err := insecure.Post("https://"+addr+path, "application/json", strings.NewReader("{}"))
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		text := body(t, resp)
		if resp.StatusCode != http.StatusUnauthorized || !strings.Contains(text, "banyan") {
			t.Errorf("%s without a certificate: %s %q", path, resp.Status, text)
		}
	}
	resp, err := http.Get("http://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	text := body(t, resp)
	if resp.StatusCode != http.StatusBadRequest || !strings.Contains(text, "certificate") {
		t.Errorf("plain HTTP: %s %q", resp.Status, text)
	}
	other := newCluster(t, 1)
	if _, errOut, code := other.tryIn(other.dir, "", "nodes", "--context", "nowhere"); code == 0 || errOut == "" {
		t.Errorf("a context that is not there: exit %d, %q", code, errOut)
	}
	token := other.token()
	// The other cluster's operator, sent to this address.
	spoil := filepath.Join(other.dir, "config")
	replaceAddress(t, spoil, other.nodes[0].addr, addr)
	cluster := func(c *cluster) string {
		var v struct{ Cluster string }
		text, err := os.ReadFile(filepath.Join(c.nodes[0].dir, "node.json"))
		if err == nil {
			err = json.Unmarshal(text, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		return v.Cluster
	}
	for _, args := range [][]string{
		{"nodes"}, {"kv", "get", "a"},
		{"join", addr, "--token", token, "--dir", filepath.Join(c.dir, "x"), "--listen", freeAddr(t)},
	} {
		_, errOut, code := other.try(args...)
		words := []string{addr + ": this is a node of cluster " + cluster(c) + ",", "check the address"}
		if args[0] != "join" {
			words = append(words, "not of cluster "+cluster(other), "banyan context list")
		}
		for _, word := range words {
			if code == 0 || !strings.Contains(errOut, word) {
				t.Errorf("%s at another cluster: exit %d, no %q in %q", args[0], code, word, errOut)
			}
		}
	}
}

// body is all of an answer.
func body(t *testing.T, resp *http.Response) string {
	t.Helper()
	text, err := io.ReadAll(resp.Body)
	if err := errors.Join(err, resp.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(text)
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
	long(t)
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
	t.Cleanup(func() {
		if err := unmount(small); err != nil {
			t.Error(err)
		}
	})
	n := c.up(filepath.Join(small, "node"))
	sdk := c.sdk()
	defer sdk.Close()
	value := []byte(strings.Repeat("v", 64<<10))
	key := func(i int) []byte { return fmt.Appendf(nil, "f/%d", i) }
	acked := 0
	var refused error
	for ; acked < 1000 && refused == nil; acked++ {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		_, refused = sdk.KV().Put(ctx, key(acked), value)
		cancel()
	}
	acked-- // of the refused one
	if acked == 0 || refused == nil {
		t.Fatalf("%d writes of 64 KiB fit on 24 MiB", acked)
	}
	if banyan.IsKind(refused, banyan.Exhausted) { // it noticed in time: what makes room goes on
		if !strings.Contains(refused.Error(), small) {
			t.Errorf("the refusal does not say where to free space: %v", refused)
		}
		acked--
		if _, err := sdk.KV().Delete(t.Context(), key(acked)); err != nil {
			t.Errorf("a delete on a low disk: %v", err)
		}
	} else {
		select {
		case <-n.done: // the node stops rather than go on with a disk it cannot write
		case <-time.After(time.Minute):
			t.Fatalf("a put failed (%v), and the node goes on", refused)
		}
		n.cmd = nil
		if text := n.output(); !strings.Contains(text, "free") || !strings.Contains(text, small) {
			t.Errorf("the log does not say where to free space:\n%s", tail(text, 20))
		}
		if err := mountTmpfs(small, "remount,size=96m"); err != nil {
			t.Fatal(err)
		}
		n.restart()
	}
	for i := range acked {
		if kv, err := sdk.KV().Get(t.Context(), key(i)); err != nil || !bytes.Equal(kv.Value, value) {
			t.Fatalf("acknowledged f/%d is lost: %v", i, err)
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
