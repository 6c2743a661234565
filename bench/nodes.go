package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/pki"
)

// nodes is a Banyan cluster of real processes on loopback.
type nodes struct {
	bin, dir string
	env      []string
	procs    []*exec.Cmd
	dirs     []string
	ids      []string
}

// startNodes starts a cluster and waits until every shard has its voters.
func startNodes(ctx context.Context, bin, dir string, count int) (*nodes, error) {
	n := &nodes{bin: bin, dir: dir, env: append(os.Environ(), "BANYAN_CONFIG="+filepath.Join(dir, "config"), "BANYAN_CONTEXT=")}
	ports, err := freePorts(count)
	if err != nil {
		return nil, err
	}
	for i := range count {
		home, listen := filepath.Join(dir, fmt.Sprintf("n%d", i+1)), fmt.Sprintf("127.0.0.1:%d", ports[i])
		args := []string{"up", "--dir", home, "--listen", listen}
		if i > 0 {
			token, err := n.output(ctx, "token")
			if err != nil {
				return n, err
			}
			args = []string{"join", fmt.Sprintf("127.0.0.1:%d", ports[0]), "--token", strings.TrimSpace(token), "--dir", home, "--listen", listen}
		}
		n.dirs = append(n.dirs, home)
		n.ids = append(n.ids, fmt.Sprintf("n%d", i+1))
		n.procs = append(n.procs, nil)
		if err := n.start(ctx, i, args...); err != nil {
			return n, err
		}
		if err := n.wait(ctx, func(s status) bool { return len(s.Nodes) == i+1 }); err != nil {
			return n, err
		}
	}
	voters := 1
	if count >= 3 {
		voters = 3
	}
	return n, n.waitVoters(ctx, voters)
}

func (n *nodes) start(ctx context.Context, i int, args ...string) error {
	log, err := os.OpenFile(filepath.Join(n.dir, n.ids[i]+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.bin, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	n.procs[i] = cmd
	return cmd.Start()
}

func (n *nodes) restart(ctx context.Context, i int) error {
	return n.start(ctx, i, "up", "--dir", n.dirs[i])
}

// kill ends a node as kill -9 does.
func (n *nodes) kill(i int) {
	if n.procs[i] != nil {
		_ = n.procs[i].Process.Kill()
		_ = n.procs[i].Wait()
		n.procs[i] = nil
	}
}

// Close ends every node, those with a profile to write by asking.
func (n *nodes) Close() {
	if os.Getenv(profiles) != "" {
		for i, p := range n.procs {
			if p != nil {
				_ = p.Process.Signal(syscall.SIGTERM)
				_ = p.Wait()
				n.procs[i] = nil
			}
		}
	}
	for i := range n.procs {
		n.kill(i)
	}
}

func (n *nodes) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.bin, args...)
	cmd.Env = n.env
	out, err := cmd.Output()
	return string(out), err
}

// address is where a live node listens.
func (n *nodes) address(ctx context.Context) (string, error) {
	for _, node := range n.status(ctx).Nodes {
		if node.State == "alive" {
			return node.Address, nil
		}
	}
	return "", fmt.Errorf("no node of the cluster in %s is alive", n.dir)
}

// status is what 'banyan status -o json' prints, as far as it matters here.
type status struct {
	Nodes []struct {
		ID      string
		State   string
		Address string
		Memory  int64 `json:"memory_bytes"`
	}
	Shards []shardStatus
}

type shardStatus struct {
	ID     int
	Leader string
	Voters []string
}

func (n *nodes) status(ctx context.Context) (s status) {
	out, _ := n.output(ctx, "status", "-o", "json") // exits with 1 when anything is unhealthy
	_ = json.Unmarshal([]byte(out), &s)             // an empty status is asked again
	return s
}

func (n *nodes) wait(ctx context.Context, ok func(status) bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		if ok(n.status(ctx)) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster in %s did not settle: %w", n.dir, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (n *nodes) waitVoters(ctx context.Context, voters int) error {
	return n.wait(ctx, func(s status) bool {
		for _, sh := range s.Shards {
			if len(sh.Voters) != voters || sh.Leader == "" {
				return false
			}
		}
		return len(s.Shards) > 0
	})
}

// client opens the SDK as the operator.
func (n *nodes) client() (*client.Client, error) {
	dir := filepath.Join(n.dir, "config")
	name, err := pki.CurrentContext(dir)
	if err != nil {
		return nil, err
	}
	c, err := pki.LoadContext(dir, name)
	if err != nil {
		return nil, err
	}
	cfg, err := client.FromContext(c)
	if err != nil {
		return nil, err
	}
	return client.Open(cfg)
}

// banyanKeys spreads keys over several clients, each with connections of its own.
type banyanKeys struct {
	clients []*client.Client
	nodes   *nodes
}

// Put writes one key.
func (b banyanKeys) Put(ctx context.Context, key string, value []byte) error {
	_, err := b.of(key).Put(ctx, []byte(key), value)
	return err
}

// Get reads one key, linearizable; one that is not there is no error.
func (b banyanKeys) Get(ctx context.Context, key string) error {
	_, err := b.of(key).Read(ctx, &banyanv1.GetRequest{Key: []byte(key)})
	return err
}

// Processes are the three nodes.
func (b banyanKeys) Processes() []*exec.Cmd { return b.nodes.procs }

func (b banyanKeys) of(key string) client.KV {
	return b.clients[int(key[len(key)-1])%len(b.clients)].KV()
}
