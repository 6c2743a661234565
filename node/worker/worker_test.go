//go:build unix

package worker

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/node/exec"

	"connectrpc.com/connect"
)

// boss is a small real controller: it gives out the tasks of one job as credit
// allows, takes results once, and remembers claims.
type boss struct {
	peerv1connect.UnimplementedPeerHandler
	header *peerv1.JobHeader

	mu       sync.Mutex
	changed  *sync.Cond
	deaf     bool // does not record
	pending  []uint32
	next     uint64
	sessions int
	out      map[Key]int // the session it was sent or claimed on
	results  map[uint32]*banyanv1.TaskResult
	twice    int
	rejected []Key
	claims   [][]Key
	draining bool
	stop     []Key
}

func newBoss(spec *banyanv1.JobSpec, tasks int) *boss {
	c := &boss{
		header: &peerv1.JobHeader{JobId: testJob, Spec: spec, Tasks: uint32(tasks)},
		out:    map[Key]int{}, results: map[uint32]*banyanv1.TaskResult{},
	}
	c.changed = sync.NewCond(&c.mu)
	for i := range tasks {
		c.pending = append(c.pending, uint32(i))
	}
	return c
}

func (c *boss) Work(ctx context.Context, s *connect.BidiStream[peerv1.WorkerMessage, peerv1.ControllerMessage]) error {
	known := false
	c.mu.Lock()
	c.sessions++
	session := c.sessions
	c.mu.Unlock()
	for {
		in, err := s.Receive()
		if err != nil {
			return nil //nolint:nilerr // the worker is gone
		}
		c.mu.Lock()
		out := c.take(in, session)
		for len(c.pending) > 0 && len(c.out) < int(in.Credit.GetSlots()) {
			c.next++
			k := Key{testJob, c.pending[0], c.next}
			c.pending, c.out[k] = c.pending[1:], session
			out.Start = append(out.Start, &peerv1.Attempt{Key: k.proto(), Try: 1, Input: banyanv1.NewInput(fmt.Sprint(k.Task))})
		}
		for _, k := range c.stop {
			out.Stop = append(out.Stop, k.proto())
		}
		c.stop = nil
		out.Demand = []*peerv1.Demand{{Attempts: uint32(len(c.pending))}}
		if !known && len(out.Start) > 0 {
			out.Jobs, known = []*peerv1.JobHeader{c.header}, true
		}
		c.changed.Broadcast()
		c.mu.Unlock()
		if err := s.Send(out); err != nil {
			return err
		}
	}
}

func (c *boss) take(in *peerv1.WorkerMessage, session int) *peerv1.ControllerMessage {
	out := &peerv1.ControllerMessage{}
	if in.Hello != nil {
		var claim []Key
		for _, k := range in.Hello.Running {
			claim = append(claim, keyOf(k))
			if c.results[k.Task] == nil {
				c.out[keyOf(k)] = session
			}
		}
		c.claims = append(c.claims, claim)
		for k, on := range c.out { // sent on an earlier stream, and never arrived
			if on != session {
				delete(c.out, k)
				c.pending = append(c.pending, k.Task)
			}
		}
	}
	for _, f := range in.Finished {
		if c.deaf {
			continue
		}
		delete(c.out, keyOf(f.Key))
		if c.results[f.Key.Task] != nil {
			c.twice++
		}
		c.results[f.Key.Task] = f.Result
		out.Recorded = append(out.Recorded, f.Key)
	}
	for _, k := range in.Rejected {
		delete(c.out, keyOf(k))
		c.rejected = append(c.rejected, keyOf(k))
		c.pending = append(c.pending, k.Task)
	}
	c.draining = in.Draining
	return out
}

// await returns when the condition holds; only a fault keeps it waiting.
func (c *boss) await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	late := time.AfterFunc(20*time.Second, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		t.Errorf("waiting for: %s; %d results, %d out, %d pending, claims %v", what, len(c.results), len(c.out), len(c.pending), c.claims)
		holds = func() bool { return true }
		c.changed.Broadcast()
	})
	defer late.Stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for !holds() {
		c.changed.Wait()
	}
}

// net is the nodes that a worker can reach and who leads the one shard.
type network struct {
	mu      sync.Mutex
	leader  banyan.NodeID
	changed chan struct{}
	servers map[banyan.NodeID]*httptest.Server
}

func newNetwork(t testing.TB, nodes map[banyan.NodeID]*boss) *network {
	n := &network{changed: make(chan struct{}), servers: map[banyan.NodeID]*httptest.Server{}}
	for id, c := range nodes {
		mux := http.NewServeMux()
		mux.Handle(peerv1connect.NewPeerHandler(c))
		s := httptest.NewUnstartedServer(mux)
		s.Config.Protocols = new(http.Protocols)
		s.Config.Protocols.SetUnencryptedHTTP2(true)
		s.Start()
		t.Cleanup(func() { s.CloseClientConnections(); s.Close() })
		n.servers[id] = s
	}
	return n
}

func (n *network) lead(node banyan.NodeID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.leader = node
	close(n.changed)
	n.changed = make(chan struct{})
}

func (n *network) ShardOf([]byte) banyan.ShardID { return 1 }

func (n *network) Leaders() (map[banyan.ShardID]banyan.NodeID, <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.leader == 0 {
		return map[banyan.ShardID]banyan.NodeID{}, n.changed
	}
	return map[banyan.ShardID]banyan.NodeID{1: n.leader}, n.changed
}

func (n *network) dial(node banyan.NodeID) (peerv1connect.PeerClient, error) {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	return peerv1connect.NewPeerClient(&http.Client{Transport: tr}, n.servers[node].URL, connect.WithGRPC()), nil
}

// run starts a worker; leave makes it shut down and waits for that.
func run(t testing.TB, n *network, slots int) (w *Worker, leave func()) {
	w = newWorker(t, Config{Slots: slots, Leaders: n, Dial: n.dial})
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	leave = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(leave)
	return w, leave
}

func TestJobRunsOnce(t *testing.T) {
	const tasks = 300
	c := newBoss(&banyanv1.JobSpec{Command: shell(`echo "$1-$BANYAN_SLOT"`)}, tasks)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	_, leave := run(t, n, 2)
	c.await(t, "all results", func() bool { return len(c.results) == tasks })
	leave()
	for task, r := range c.results {
		out := strings.TrimSpace(string(r.Stdout.Inline))
		if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || out != fmt.Sprintf("%d-1", task) && out != fmt.Sprintf("%d-2", task) {
			t.Errorf("task %d: %v", task, r)
		}
	}
	// On a machine that stands still attempts that wait are handed back: what
	// was handed back and ran all the same would come twice.
	if c.twice > 0 || !c.draining {
		t.Errorf("%d results came twice, draining at the end: %v; handed back %v", c.twice, c.draining, c.rejected)
	}
}

// sick is a runner whose disk takes no write when it is asked the first time.
type sick struct {
	Runner
	asked atomic.Bool
}

func (s *sick) Writable() error {
	if s.asked.Swap(true) {
		return s.Runner.Writable()
	}
	return syscall.ENOSPC
}

// TestSickDiskFailsNoTask: what fails on a disk that takes no writes is handed
// back; on one that does, it counts.
func TestSickDiskFailsNoTask(t *testing.T) {
	c := newBoss(&banyanv1.JobSpec{Command: shell(`exit 3`)}, 1)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	w := newWorker(t, Config{Slots: 1, Leaders: n, Dial: n.dial})
	w.cfg.Runner = &sick{Runner: w.cfg.Runner}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	c.await(t, "a result", func() bool { return len(c.results) == 1 })
	if r := c.results[0]; len(c.rejected) != 1 || r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != 3 {
		t.Errorf("handed back %v, then %v", c.rejected, r)
	}
}

// hungry is a runner that can start no process when it is asked the first time.
type hungry struct {
	Runner
	asked atomic.Bool
}

func (h *hungry) Run(ctx context.Context, p *exec.Place, c exec.Command) exec.Result {
	if h.asked.Swap(true) {
		return h.Runner.Run(ctx, p, c)
	}
	return exec.Result{Outcome: exec.NotStarted, ExitCode: 126, Err: fmt.Errorf("cannot run: %w", syscall.EAGAIN)}
}

// TestShortOfProcessesFailsNoTask: a start that fails for want of processes is
// handed back.
func TestShortOfProcessesFailsNoTask(t *testing.T) {
	c := newBoss(&banyanv1.JobSpec{Command: shell(`exit 0`)}, 1)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	w := newWorker(t, Config{Slots: 1, Leaders: n, Dial: n.dial})
	w.cfg.Runner = &hungry{Runner: w.cfg.Runner}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.Run(ctx) })
	defer wg.Wait()
	defer cancel()
	c.await(t, "a result", func() bool { return len(c.results) == 1 })
	if r := c.results[0]; len(c.rejected) != 1 || r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED {
		t.Errorf("handed back %v, then %v", c.rejected, r)
	}
}

func TestWorkerOutlivesController(t *testing.T) {
	gate := filepath.Join(t.TempDir(), "gate")
	if err := syscall.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	// Task 0 ends only when the gate opens, the other at once.
	spec := &banyanv1.JobSpec{Command: shell(`[ "$1" = 1 ] || read x <` + gate)}
	first, second := newBoss(spec, 2), newBoss(spec, 0)
	first.deaf = true
	n := newNetwork(t, map[banyan.NodeID]*boss{1: first, 2: second})
	n.lead(1)
	w, _ := run(t, n, 2)
	first.await(t, "both are out", func() bool { return len(first.out) == 2 })
	for w.Running() != 1 {
		time.Sleep(time.Millisecond)
	}
	n.servers[1].CloseClientConnections()
	n.lead(0)
	n.lead(2)
	second.await(t, "claims at the next leader", func() bool { return len(second.claims) > 0 && second.results[1] != nil })
	if claim := second.claims[0]; len(claim) != 2 {
		t.Errorf("claimed %v", claim)
	}
	if err := os.WriteFile(gate, []byte("open\n"), 0); err != nil {
		t.Fatal(err)
	}
	second.await(t, "the result of what ran on", func() bool { return second.results[0] != nil })
	if second.results[0].State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || second.twice > 0 {
		t.Errorf("%v", second.results)
	}
}

func TestReconnect(t *testing.T) {
	c := newBoss(&banyanv1.JobSpec{Command: shell("true")}, 40)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	run(t, n, 2)
	for i := 1; i <= 3; i++ {
		c.await(t, "some results", func() bool { return len(c.results) >= 10*i })
		n.servers[1].CloseClientConnections()
	}
	c.await(t, "all results", func() bool { return len(c.results) == 40 })
}

func TestShutdownHandsBackAndLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	c := newBoss(&banyanv1.JobSpec{Command: shell(`sleep 1000 & echo $! >` + dir + `/$1; wait`)}, 2)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	w, leave := run(t, n, 2)
	for {
		if files, _ := filepath.Glob(filepath.Join(dir, "?")); len(files) == 2 {
			break
		}
		time.Sleep(time.Millisecond)
	}
	leave()
	if len(c.results) > 0 || len(c.rejected) != 2 || w.Running() != 0 {
		t.Errorf("results %v, rejected %v, running %d", c.results, c.rejected, w.Running())
	}
	for _, f := range []string{"0", "1"} {
		b, _ := os.ReadFile(filepath.Join(dir, f))
		var pid int
		fmt.Sscan(string(b), &pid)
		if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err == nil && !strings.Contains(string(stat), ") Z ") {
			t.Errorf("process %d lives on: %s", pid, stat)
		}
	}
}

func TestDrain(t *testing.T) {
	c := newBoss(&banyanv1.JobSpec{Command: shell("true")}, 0)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	w, _ := run(t, n, 2)
	c.await(t, "contact", func() bool { return len(c.claims) > 0 })
	w.Drain(true)
	c.await(t, "word of draining", func() bool { return c.draining })
	w.Drain(false)
	c.await(t, "word of its end", func() bool { return !c.draining })
}

func TestStopAndTail(t *testing.T) {
	c := newBoss(&banyanv1.JobSpec{Command: shell("echo one; echo two >&2; while :; do sleep 0.01; done")}, 1)
	n := newNetwork(t, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	w, _ := run(t, n, 1)
	c.await(t, "it is out", func() bool { return len(c.out) == 1 })
	for w.Running() == 0 {
		time.Sleep(time.Millisecond)
	}
	var got [2]string
	ended := false
	err := w.Tail(context.Background(), &peerv1.TailRequest{Key: &peerv1.AttemptKey{JobId: testJob}, Follow: true, StdoutFrom: 1}, func(m *peerv1.TailResponse) error {
		i := 0
		if m.Stderr {
			i = 1
		}
		got[i] += string(m.Data)
		ended = m.Ended
		if got == [2]string{"ne\n", "two\n"} && !ended {
			w.do(func() { // a controller's word
				w.core.stop(w.now(), Key{testJob, 0, 1})
			})
		}
		return nil
	})
	if err != nil || !ended || got != [2]string{"ne\n", "two\n"} {
		t.Errorf("tail: %v, ended %v, %q", err, ended, got)
	}
	c.await(t, "the result", func() bool { return len(c.results) == 1 })
	if r := c.results[0]; r.State != banyanv1.TaskState_TASK_STATE_CANCELED || string(r.Stdout.Inline) != "one\n" {
		t.Errorf("%v", r)
	}
	err = w.Tail(context.Background(), &peerv1.TailRequest{Key: &peerv1.AttemptKey{JobId: testJob, Task: 5}}, nil)
	if !banyan.IsKind(err, banyan.NotFound) {
		t.Errorf("tail of what does not run: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []Config{{}, {Slots: 1}, {Slots: banyan.SlotsMax + 1}} {
		if _, err := New(c); err == nil {
			t.Errorf("%+v was taken", c)
		}
	}
	if env := inherited(); !slices.ContainsFunc(env, func(s string) bool { return strings.HasPrefix(s, "PATH=") }) {
		t.Errorf("no PATH in %q", env)
	}
}

// The ceiling is exec's BenchmarkBare: go test -bench . -benchtime 2000x
func BenchmarkTrue(b *testing.B) {
	c := newBoss(&banyanv1.JobSpec{Command: banyanv1.NewCommand("/bin/true")}, b.N)
	n := newNetwork(b, map[banyan.NodeID]*boss{1: c})
	n.lead(1)
	b.ResetTimer()
	run(b, n, 2)
	c.await(b, "all results", func() bool { return len(c.results) == b.N })
}
