//go:build unix

// Package e2e runs the real binary as real processes on loopback and does to
// them what happens to machines: kill, pause, fill the disk, forge a token.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds every wait for a condition; it is far beyond what anything
// takes, so that only a real failure reaches it.
const patience = 60 * time.Second

var build struct {
	sync.Once
	bin string
	err error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if build.bin != "" {
		_ = os.RemoveAll(filepath.Dir(build.bin)) // what stays is in a directory for such things
	}
	os.Exit(code)
}

// binary builds banyan once for all tests.
func binary(t *testing.T) string {
	t.Helper()
	build.Do(func() {
		dir, err := os.MkdirTemp("", "banyan-e2e-")
		if err != nil {
			build.err = err
			return
		}
		build.bin = filepath.Join(dir, "banyan")
		cmd := exec.Command("go", "build", "-o", build.bin, "banyan/cmd/banyan")
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = fmt.Errorf("%w\n%s", err, out)
		}
	})
	if build.err != nil {
		t.Fatal(build.err)
	}
	return build.bin
}

// node is one banyan process and its directory.
type node struct {
	c    *cluster
	id   string // n1
	dir  string
	addr string
	host *host // nil: the machine of the test
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when the process has ended

	logged int // bytes of log from before this process
}

// cluster is some nodes and the operator's configuration.
type cluster struct {
	t     *testing.T
	bin   string
	dir   string
	hosts []*host // of its nodes in order; further ones run on the machine of the test
	nodes []*node
}

// newCluster starts n nodes and waits until every shard has as many voters as
// it can.
func newCluster(t *testing.T, n int, flags ...string) *cluster {
	t.Helper()
	c := emptyCluster(t)
	c.grow(n, flags...)
	return c
}

// grow starts nodes until there are n, and waits for their voters.
func (c *cluster) grow(n int, flags ...string) {
	c.t.Helper()
	if len(c.nodes) == 0 {
		c.up(filepath.Join(c.dir, "n1"), flags...)
	}
	for len(c.nodes) < n {
		c.join(c.token(), flags...)
	}
	if n >= 3 {
		c.waitVoters(3)
	}
}

func emptyCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{t: t, bin: binary(t), dir: t.TempDir()}
	t.Cleanup(func() {
		for _, n := range c.nodes {
			n.kill()
			if t.Failed() {
				t.Logf("log of %s:\n%s", n.id, tail(n.output(), 60))
			}
			_ = n.log.Close() // the processes wrote it, not we
		}
	})
	return c
}

func tail(text string, lines int) string {
	all := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *cluster) env() []string {
	return append(os.Environ(), "BANYAN_CONFIG="+filepath.Join(c.dir, "config"), "XDG_STATE_HOME="+filepath.Join(c.dir, "state"), "BANYAN_CONTEXT=")
}

func (c *cluster) newNode(dir string) *node {
	c.t.Helper()
	n := &node{c: c, id: fmt.Sprintf("n%d", len(c.nodes)+1), dir: dir}
	if i := len(c.nodes); i < len(c.hosts) {
		n.host = c.hosts[i]
		n.addr = n.host.String() + ":7401"
	} else {
		n.addr = freeAddr(c.t)
	}
	log, err := os.Create(filepath.Join(c.dir, n.id+".log"))
	if err != nil {
		c.t.Fatal(err)
	}
	n.log = log
	c.nodes = append(c.nodes, n)
	return n
}

func (c *cluster) up(dir string, flags ...string) *node {
	c.t.Helper()
	n := c.newNode(dir)
	n.start(append([]string{"up", "--dir", dir, "--listen", n.addr}, flags...)...)
	n.waitReady()
	return n
}

func (c *cluster) join(token string, flags ...string) *node {
	c.t.Helper()
	n := c.newNode(filepath.Join(c.dir, fmt.Sprintf("n%d", len(c.nodes)+1)))
	n.start(append([]string{"join", c.nodes[0].addr, "--token", token, "--dir", n.dir, "--listen", n.addr}, flags...)...)
	n.waitReady()
	return n
}

// start runs the process; its output goes to the node's log.
func (n *node) start(args ...string) {
	n.c.t.Helper()
	n.logged = len(n.output())
	n.cmd = exec.Command(n.c.bin, args...)
	n.cmd.Env = n.c.env()
	n.cmd.Stdout, n.cmd.Stderr = n.log, n.log
	endWithParent(n.cmd)
	if err := n.host.start(n.cmd); err != nil {
		n.c.t.Fatal(err)
	}
	n.done = make(chan struct{})
	go func(cmd *exec.Cmd, done chan struct{}) {
		_ = cmd.Wait() // the tests look at its state
		close(done)
	}(n.cmd, n.done)
}

// restart starts a node that was killed, on its directory.
func (n *node) restart() {
	n.c.t.Helper()
	n.start("up", "--dir", n.dir)
	n.waitReady()
}

// waitReady waits until the process says that the node is up, and the cluster answers.
func (n *node) waitReady() {
	n.c.t.Helper()
	n.c.eventually("node "+n.id+" is up", func() bool {
		select {
		case <-n.done:
			n.c.t.Fatalf("node %s ended:\n%s", n.id, tail(n.output(), 5))
		default:
		}
		return strings.Contains(n.output()[n.logged:], " is up at ")
	})
	n.c.eventually("the cluster answers", func() bool {
		_, _, code := n.c.try("nodes")
		return code == 0
	})
}

// output is what the processes of the node have printed.
func (n *node) output() string {
	n.c.t.Helper()
	text, err := os.ReadFile(n.log.Name())
	if err != nil {
		n.c.t.Fatal(err)
	}
	return string(text)
}

// kill ends the process with SIGKILL and waits until it is gone.
func (n *node) kill() {
	if n.cmd == nil {
		return
	}
	_ = n.cmd.Process.Signal(syscall.SIGCONT) // these fail if it has ended, and then
	_ = n.cmd.Process.Kill()                  // done is closed
	<-n.done
	n.cmd = nil
}

func (n *node) signal(s syscall.Signal) {
	n.c.t.Helper()
	if err := n.cmd.Process.Signal(s); err != nil {
		n.c.t.Fatal(err)
	}
}

// try runs a banyan command and gives what it printed and its exit code.
func (c *cluster) try(args ...string) (stdout, stderr string, code int) {
	return c.tryIn(c.dir, "", args...)
}

func (c *cluster) tryIn(dir, stdin string, args ...string) (stdout, stderr string, code int) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.bin, args...)
	cmd.Env, cmd.Dir = c.env(), dir
	cmd.Stdin = strings.NewReader(stdin)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errOut
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		c.t.Fatalf("banyan %s: %v", strings.Join(args, " "), err)
	}
	return out.String(), errOut.String(), cmd.ProcessState.ExitCode()
}

// run is try for commands that must succeed.
func (c *cluster) run(args ...string) string {
	c.t.Helper()
	out, errOut, code := c.try(args...)
	if code != 0 {
		c.t.Fatalf("banyan %s: exit %d\n%s%s", strings.Join(args, " "), code, out, errOut)
	}
	return out
}

// json runs a command with -o json into v.
func (c *cluster) json(v any, args ...string) {
	c.t.Helper()
	out := c.run(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), v); err != nil {
		c.t.Fatalf("banyan %s -o json: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func (c *cluster) token(flags ...string) string {
	c.t.Helper()
	var v struct{ Token string }
	c.json(&v, append([]string{"token"}, flags...)...)
	return v.Token
}

type shardStatus struct {
	ID     int      `json:"id"`
	Leader string   `json:"leader"`
	Voters []string `json:"voters"`
}

// problems is what 'banyan status' complains about.
func (c *cluster) problems() []string {
	c.t.Helper()
	var v struct{ Problems []struct{ What string } }
	out, errOut, _ := c.try("status", "-o", "json")
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		c.t.Fatalf("banyan status: %v\n%s%s", err, out, errOut)
	}
	var all []string
	for _, p := range v.Problems {
		all = append(all, p.What)
	}
	return all
}

// expectProblem waits until 'banyan status' complains about something that mentions what.
func (c *cluster) expectProblem(what string) {
	c.t.Helper()
	if what != "" {
		c.eventually("status complains of "+what, func() bool { return strings.Contains(strings.Join(c.problems(), "\n"), what) })
	}
}

func (c *cluster) shards() []shardStatus {
	var v struct{ Shards []shardStatus }
	out, _, code := c.try("status", "-o", "json")
	if code != 0 && out == "" || json.Unmarshal([]byte(out), &v) != nil {
		return nil
	}
	return v.Shards
}

// waitVoters waits until every shard has n voters and a leader.
func (c *cluster) waitVoters(n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("every shard has %d voters", n), func() bool {
		shards := c.shards()
		for _, s := range shards {
			if len(s.Voters) != n || s.Leader == "" {
				return false
			}
		}
		return len(shards) > 0
	})
}

// eventually waits for a condition; the test fails when it does not come.
func (c *cluster) eventually(what string, ok func() bool) {
	c.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("not within %v: %s", patience, what)
		}
	}
}
