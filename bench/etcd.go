package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcdCluster is three etcd processes on loopback with their default settings
// (every write fsynced), and one client process with as many connections as
// Banyan's.
type etcdCluster struct {
	procs   []*exec.Cmd
	clients []*clientv3.Client
}

func startEtcd(ctx context.Context, dir string, connections int) (*etcdCluster, error) {
	bin := filepath.Join(dir, "etcd")
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "go.etcd.io/etcd/server/v3")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, err
	}
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	var initial, endpoints []string
	for i := range 3 {
		initial = append(initial, fmt.Sprintf("e%d=http://127.0.0.1:%d", i, ports[2*i+1]))
		endpoints = append(endpoints, fmt.Sprintf("127.0.0.1:%d", ports[2*i]))
	}
	c := &etcdCluster{}
	for i := range 3 {
		client, peer := "http://"+endpoints[i], fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])
		cmd := exec.CommandContext(ctx, bin, "--name", fmt.Sprintf("e%d", i), "--data-dir", filepath.Join(dir, fmt.Sprintf("e%d", i)),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--log-level", "error")
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			c.Close()
			return nil, err
		}
		c.procs = append(c.procs, cmd)
	}
	for range connections {
		cl, err := clientv3.New(clientv3.Config{Endpoints: endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
		if err != nil {
			c.Close()
			return nil, err
		}
		c.clients = append(c.clients, cl)
	}
	return c, c.waitReady(ctx)
}

func (c *etcdCluster) waitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		if _, err := c.clients[0].Put(ctx, "ready", "yes"); err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return fmt.Errorf("etcd did not start: %w", ctx.Err())
		}
	}
}

// Put spreads keys over the connections.
func (c *etcdCluster) Put(ctx context.Context, key string, value []byte) error {
	_, err := c.clients[int(key[len(key)-1])%len(c.clients)].Put(ctx, key, string(value))
	return err
}

// Get reads one key, linearizable.
func (c *etcdCluster) Get(ctx context.Context, key string) error {
	_, err := c.clients[int(key[len(key)-1])%len(c.clients)].Get(ctx, key)
	return err
}

// Processes are the three servers.
func (c *etcdCluster) Processes() []*exec.Cmd { return c.procs }

// Close ends the clients and the processes.
func (c *etcdCluster) Close() {
	for _, cl := range c.clients {
		_ = cl.Close()
	}
	for _, p := range c.procs {
		_ = p.Process.Kill()
		_ = p.Wait()
	}
}

func freePorts(n int) ([]int, error) {
	var ports []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		ports = append(ports, l.Addr().(*net.TCPAddr).Port)
	}
	return ports, nil
}
