//go:build unix

package e2e

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// lockHolder is a 'banyan lock' process.
type lockHolder struct {
	c      *cluster
	name   string // of its files
	cmd    *exec.Cmd
	errOut *os.File
	ended  chan struct{}
}

// lock starts 'banyan lock NAME' on a script, which finds BASE, the beginning
// of the names of its files.
func (c *cluster) lock(name, script string, flags ...string) *lockHolder {
	c.t.Helper()
	h := &lockHolder{c: c, name: filepath.Join(c.t.TempDir(), "holder"), ended: make(chan struct{})}
	var err error
	if h.errOut, err = os.Create(h.name + ".err"); err != nil {
		c.t.Fatal(err)
	}
	h.cmd = exec.Command(c.bin, append(append([]string{"lock", name}, flags...), "--", "sh", "-c", script)...)
	h.cmd.Env = append(c.env(), "BASE="+h.name)
	h.cmd.Stderr = h.errOut
	endWithParent(h.cmd)
	if err := h.cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		_ = h.cmd.Wait() // the tests look at its state
		close(h.ended)
	}()
	c.t.Cleanup(func() {
		_ = h.cmd.Process.Signal(syscall.SIGCONT) // it may have ended
		_ = h.cmd.Process.Kill()
		<-h.ended
		_ = h.errOut.Close() // the process wrote it, not we
	})
	return h
}

// file reads what the script wrote, empty if nothing yet.
func (h *lockHolder) file(ext string) string {
	b, err := os.ReadFile(h.name + ext)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		h.c.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// token waits until the script has the lock.
func (h *lockHolder) token() int {
	h.c.t.Helper()
	h.c.eventually("the lock is taken", func() bool {
		select {
		case <-h.ended:
			h.c.t.Fatalf("banyan lock ended: %v %s", h.cmd.ProcessState, h.file(".err"))
		default:
		}
		return h.file(".token") != ""
	})
	n, err := strconv.Atoi(h.file(".token"))
	if err != nil {
		h.c.t.Fatal(err)
	}
	return n
}

// stop lets the script end and gives the exit code.
func (h *lockHolder) stop() int {
	h.c.t.Helper()
	if err := os.WriteFile(h.name+".stop", nil, 0o600); err != nil {
		h.c.t.Fatal(err)
	}
	<-h.ended
	return h.cmd.ProcessState.ExitCode()
}

// holdScript holds the lock until it is stopped. It does not care about SIGTERM.
const holdScript = `trap 'echo told > $BASE.told' TERM
echo $$ > $BASE.pid; echo $BANYAN_LOCK_TOKEN > $BASE.token.new; mv $BASE.token.new $BASE.token
while [ ! -e $BASE.stop ]; do sleep 0.05; done; exit 7`

// write changes a key under a token and says whether that was allowed.
func (c *cluster) write(token int, value string) bool {
	c.t.Helper()
	_, errOut, code := c.try("kv", "txn", "--if", "shop/stock held "+strconv.Itoa(token), "--do", "put shop/lamps "+value)
	if code != 0 && !strings.Contains(errOut, "does not hold") {
		c.t.Fatalf("kv txn: %s", errOut)
	}
	return code == 0
}

// TestLocks: a lock is held across the death of the node that gave it out, and
// taken from a holder that is paused, whose token then counts for nothing.
func TestLocks(t *testing.T) {
	c := newCluster(t, 3)
	first := c.lock("shop/stock", holdScript, "--ttl", "4s")
	token := first.token()
	var lock struct {
		Shard   int
		Waiting int
	}
	c.json(&lock, "locks", "shop/stock")
	for _, s := range c.shards() {
		for _, n := range c.nodes {
			if s.ID == lock.Shard && n.id == s.Leader {
				n.kill()
			}
		}
	}
	if _, errOut, code := c.try("lock", "shop/stock", "--timeout", "0s", "--", "true"); code != 124 {
		t.Fatalf("the lock can be had: exit %d, %s", code, errOut)
	}
	if !c.write(token, "1") {
		t.Fatal("the holder's write was refused")
	}
	second := c.lock("shop/stock", holdScript, "--ttl", "2s")
	c.eventually("the second waits", func() bool {
		out, _, _ := c.try("locks", "shop/stock", "-o", "json")
		return json.Unmarshal([]byte(out), &lock) == nil && lock.Waiting == 1
	})
	if code := first.stop(); code != 7 {
		t.Fatalf("the first exits with %d: %s", code, first.file(".err"))
	}
	if second.token() <= token {
		t.Fatalf("token %d after %d", second.token(), token)
	}
	c.pausedHolder(second)
}

// pausedHolder stops a holder beyond its time, and lets it go on.
func (c *cluster) pausedHolder(paused *lockHolder) {
	t := c.t
	t.Helper()
	token := paused.token()
	third := c.lock("shop/stock", holdScript)
	pid, err := strconv.Atoi(paused.file(".pid"))
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range []int{paused.cmd.Process.Pid, -pid} {
		if err := syscall.Kill(p, syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
	}
	if third.token() <= token {
		t.Fatalf("token %d after %d", third.token(), token)
	}
	if !c.write(third.token(), "3") {
		t.Error("the new holder's write was refused")
	}
	if c.write(token, "2") {
		t.Error("the old holder's write was taken")
	}
	for _, p := range []int{-pid, paused.cmd.Process.Pid} {
		if err := syscall.Kill(p, syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
	<-paused.ended
	if code := paused.cmd.ProcessState.ExitCode(); code != 125 || !strings.Contains(paused.file(".err"), "lost") {
		t.Errorf("the paused holder exits with %d: %s", code, paused.file(".err"))
	}
	if paused.file(".told") != "told" {
		t.Error("its command was not told before it was killed")
	}
	if syscall.Kill(pid, 0) == nil {
		t.Error("its command lives on")
	}
	if c.write(token, "2") {
		t.Error("the old holder's write was taken")
	}
	if got := strings.TrimSpace(c.run("kv", "get", "shop/lamps")); got != "3" {
		t.Errorf("the key is %q", got)
	}
	if code := third.stop(); code != 7 {
		t.Errorf("the third exits with %d: %s", code, third.file(".err"))
	}
}
