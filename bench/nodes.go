package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/node/pki"
)

// nodes is a Banyan cluster of real processes on loopback, in a directory of
// its own, and the clients opened to it.
type nodes struct {
	bin, dir  string
	env       []string
	procs     []*exec.Cmd
	dirs      []string
	ids       []banyan.NodeID
	addresses []string
	clients   []*client.Client
	op        *client.Client // the operator's, beside those that are the load
}

// startNodes builds the product, starts a cluster of it and waits until every
// shard has its voters. Close it.
func startNodes(ctx context.Context, count int) (_ *nodes, err error) {
	dir, bin, err := build(ctx)
	if err != nil {
		return nil, err
	}
	n := &nodes{bin: bin, dir: dir, env: append(os.Environ(), "BANYAN_CONFIG="+filepath.Join(dir, "config"), "BANYAN_CONTEXT=")}
	defer func() {
		if err != nil {
			n.Close()
		}
	}()
	for i := range count {
		if err := n.join(ctx); err != nil {
			return nil, err
		}
		if err := n.wait(ctx, startMax, func(s *banyanv1.StatusResponse) bool { return len(s.Nodes) == i+1 }); err != nil {
			return nil, err
		}
	}
	voters := 1
	if count >= 3 {
		voters = 3
	}
	return n, n.settle(ctx, voters, 0, startMax)
}

// join starts one more node, the first one as a cluster of its own.
func (n *nodes) join(ctx context.Context) error {
	i := len(n.procs)
	id := banyan.NodeID(i + 1)
	ports, err := freePorts(1)
	if err != nil {
		return err
	}
	args := []string{"up"}
	if i > 0 {
		c, err := n.operator()
		if err != nil {
			return err
		}
		token, err := c.Cluster().CreateToken(ctx, time.Minute, 1)
		if err != nil {
			return err
		}
		args = []string{"join", token.Address, "--token", token.Token}
	}
	n.addresses = append(n.addresses, fmt.Sprintf("127.0.0.1:%d", ports[0]))
	n.dirs = append(n.dirs, filepath.Join(n.dir, id.String()))
	n.ids = append(n.ids, id)
	n.procs = append(n.procs, nil)
	return n.start(i, append(args, "--dir", n.dirs[i], "--listen", n.addresses[i])...)
}

func (n *nodes) start(i int, args ...string) error {
	log, err := os.OpenFile(filepath.Join(n.dir, n.ids[i].String()+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := exec.Command(n.bin, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = n.env, log, log
	n.procs[i] = cmd
	return cmd.Start()
}

func (n *nodes) restart(i int) error {
	return n.start(i, "up", "--dir", n.dirs[i])
}

// kill ends a node as kill -9 does.
func (n *nodes) kill(i int) {
	if n.procs[i] != nil {
		_ = n.procs[i].Process.Kill()
		_ = n.procs[i].Wait()
		n.procs[i] = nil
	}
}

// stop ends a node as an operator does.
func (n *nodes) stop(i int) {
	if n.procs[i] != nil {
		_ = n.procs[i].Process.Signal(syscall.SIGTERM)
		_ = n.procs[i].Wait()
		n.procs[i] = nil
	}
}

// Close ends clients and nodes, those with a profile to write by asking, and
// removes the directory.
func (n *nodes) Close() {
	for _, c := range append(n.clients, n.op) {
		if c != nil {
			_ = c.Close()
		}
	}
	for i := range n.procs {
		if os.Getenv(profiles) != "" {
			n.stop(i)
		}
		n.kill(i)
	}
	_ = os.RemoveAll(n.dir)
}

func (n *nodes) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, n.bin, args...)
	cmd.Env = n.env
	out, err := cmd.Output()
	return string(out), err
}

// operator is a client beside those of the load. It asks for what a benchmark
// needs while it measures: starting a command would be a load of its own.
func (n *nodes) operator() (_ *client.Client, err error) {
	if n.op == nil {
		n.op, err = n.open()
	}
	return n.op, err
}

// settle waits until every shard has its voters, without one node (0: any).
func (n *nodes) settle(ctx context.Context, voters int, without banyan.NodeID, within time.Duration) error {
	return n.wait(ctx, within, func(s *banyanv1.StatusResponse) bool {
		return every(s, func(sh *banyanv1.Shard) bool {
			return len(sh.Voters) == voters && sh.Leader != 0 && !slices.Contains(sh.Voters, uint64(without))
		})
	})
}

// every says whether it holds of every shard, of those that there must be.
func every(s *banyanv1.StatusResponse, holds func(*banyanv1.Shard) bool) bool {
	return len(s.Shards) > 0 && !slices.ContainsFunc(s.Shards, func(sh *banyanv1.Shard) bool { return !holds(sh) })
}

const (
	startMax   = time.Minute            // until nodes of an empty cluster are as they should be
	waitsEvery = 250 * time.Millisecond // asking is a load too
)

// wait asks for the status until it is as it should be.
func (n *nodes) wait(ctx context.Context, within time.Duration, done func(*banyanv1.StatusResponse) bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		if c, err := n.operator(); err == nil { // a first node has yet to write how it is reached
			if s, err := c.Cluster().Status(ctx); err == nil && done(s) {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the cluster in %s did not settle: %w", n.dir, ctx.Err())
		case <-time.After(waitsEvery):
		}
	}
}

// client opens one more client for the load, until Close.
func (n *nodes) client() (*client.Client, error) {
	c, err := n.open()
	if err == nil {
		n.clients = append(n.clients, c)
	}
	return c, err
}

// open opens the SDK as 'banyan up' has left it to be.
func (n *nodes) open() (*client.Client, error) {
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

// banyanKeys spreads keys over the clients of a cluster, each with connections
// of its own.
type banyanKeys struct{ *nodes }

// startKeys starts three nodes and as many clients as etcd gets.
func startKeys(ctx context.Context) (banyanKeys, error) {
	n, err := startNodes(ctx, 3)
	if err != nil {
		return banyanKeys{}, err
	}
	for range connections {
		if _, err := n.client(); err != nil {
			n.Close()
			return banyanKeys{}, err
		}
	}
	return banyanKeys{n}, nil
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
func (b banyanKeys) Processes() []*exec.Cmd { return b.procs }

func (b banyanKeys) of(key string) client.KV {
	return b.clients[int(key[len(key)-1])%len(b.clients)].KV()
}
