//go:build unix

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
)

// streamed is a `banyan run` whose standard input goes on.
type streamed struct {
	cmd *exec.Cmd
	in  io.WriteCloser

	mu        sync.Mutex
	out, errs bytes.Buffer
}

type locked struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (c *cluster) stream(args ...string) *streamed {
	c.t.Helper()
	s := &streamed{cmd: exec.Command(c.bin, append([]string{"run"}, args...)...)}
	s.cmd.Env, s.cmd.Dir = c.env(), c.dir
	s.cmd.Stdout, s.cmd.Stderr = locked{&s.mu, &s.out}, locked{&s.mu, &s.errs}
	var err error
	if s.in, err = s.cmd.StdinPipe(); err == nil {
		endWithParent(s.cmd)
		err = s.cmd.Start()
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = s.cmd.Process.Kill() }) // it may have ended
	return s
}

func (s *streamed) lines() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Fields(s.out.String())
}

// feed writes lines from to to, and waits until they have been printed.
func (s *streamed) feed(c *cluster, from, to int) {
	c.t.Helper()
	for i := from; i < to; i++ {
		fmt.Fprintln(s.in, i)
	}
	c.eventually(fmt.Sprintf("%d lines are printed", to), func() bool { return len(s.lines()) >= to })
}

// newest is the job that was submitted last.
func (c *cluster) newest() (j struct {
	ID, State, Leader string
	Open              bool
	Succeeded         int
}) {
	c.t.Helper()
	line, _, _ := strings.Cut(c.run("jobs", "-o", "json"), "\n")
	if err := json.Unmarshal([]byte(line), &j); err != nil {
		c.t.Fatal(err)
	}
	return j
}

// TestAStreamOutlivesItsLeader: tasks begin while the input goes on, also when
// the leader of the job is killed, and each input is one task. When its reader is
// killed, resume goes on with what was read.
func TestAStreamOutlivesItsLeader(t *testing.T) {
	c := newCluster(t, 3, "--slots", "2")
	s := c.stream("echo", "{}")
	s.feed(c, 0, 1)
	s.feed(c, 1, 20)
	j := c.newest()
	if !j.Open || j.State != "active" {
		t.Fatalf("the job is %+v", j)
	}
	var leader string
	for _, n := range c.nodes {
		if n.id == j.Leader || leader == "" && j.Leader == "" {
			leader = n.id
			n.kill()
			break
		}
	}
	s.feed(c, 20, 200)
	if err := s.in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, s.errs.String())
	}
	got := s.lines()
	slices.Sort(got)
	want := numbers(200)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%d lines, %d of them once, after %s was killed: %v", len(got), len(slices.Compact(got)), leader, got)
	}

	s = c.stream("echo", "{}")
	s.feed(c, 0, 5)
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = s.cmd.Wait()
	j = c.newest()
	if _, errs, code := c.try("resume", j.ID); code != 0 || !strings.Contains(errs, "5 inputs that were read, and no more") {
		t.Errorf("resume: exit %d: %s", code, errs)
	}
	if j = c.newest(); j.State != "succeeded" || j.Open || j.Succeeded != 5 {
		t.Errorf("the job is %+v", j)
	}
}
