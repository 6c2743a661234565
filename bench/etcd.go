package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// etcdCluster is etcd processes on loopback with their default settings (every
// write fsynced), and one client process with as many connections as Banyan's.
type etcdCluster struct {
	bin, dir  string
	procs     []*exec.Cmd
	args      [][]string
	endpoints []string
	clients   []*clientv3.Client
}

// startEtcd builds etcd into dir and starts it there, with more flags than the
// usual if given. Close it.
func startEtcd(ctx context.Context, dir string, count int, flags ...string) (_ *etcdCluster, err error) {
	c := &etcdCluster{bin: filepath.Join(dir, "etcd"), dir: dir}
	build := exec.CommandContext(ctx, "go", "build", "-o", c.bin, "go.etcd.io/etcd/server/v3")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, err
	}
	ports, err := freePorts(2 * count)
	if err != nil {
		return nil, err
	}
	var initial []string
	for i := range count {
		initial = append(initial, fmt.Sprintf("e%d=http://127.0.0.1:%d", i, ports[2*i+1]))
		c.endpoints = append(c.endpoints, fmt.Sprintf("127.0.0.1:%d", ports[2*i]))
	}
	defer func() {
		if err != nil {
			c.Close()
		}
	}()
	for i := range count {
		client, peer := "http://"+c.endpoints[i], fmt.Sprintf("http://127.0.0.1:%d", ports[2*i+1])
		c.args = append(c.args, append([]string{
			"--name", fmt.Sprintf("e%d", i), "--data-dir", c.home(i),
			"--listen-client-urls", client, "--advertise-client-urls", client,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
			"--initial-cluster", strings.Join(initial, ","), "--log-level", "fatal",
		}, flags...))
		c.procs = append(c.procs, nil)
		if err := c.start(i); err != nil {
			return nil, err
		}
	}
	for range connections {
		cl, err := c.client()
		if err != nil {
			return nil, err
		}
		c.clients = append(c.clients, cl)
	}
	return c, c.waitReady(ctx)
}

func (c *etcdCluster) home(i int) string { return filepath.Join(c.dir, fmt.Sprintf("e%d", i)) }

func (c *etcdCluster) start(i int) error {
	cmd := exec.Command(c.bin, c.args[i]...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	c.procs[i] = cmd
	return nil
}

func (c *etcdCluster) client() (*clientv3.Client, error) {
	return clientv3.New(clientv3.Config{Endpoints: c.endpoints, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
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

// stop ends a member as an operator does.
func (c *etcdCluster) stop(i int) { c.end(i, syscall.SIGTERM) }

// kill ends a member as kill -9 does.
func (c *etcdCluster) kill(i int) { c.end(i, syscall.SIGKILL) }

func (c *etcdCluster) end(i int, s syscall.Signal) {
	if c.procs[i] != nil {
		_ = c.procs[i].Process.Signal(s)
		_ = c.procs[i].Wait()
		c.procs[i] = nil
	}
}

// Close ends the clients and the processes.
func (c *etcdCluster) Close() {
	for _, cl := range c.clients {
		_ = cl.Close()
	}
	for i := range c.procs {
		c.kill(i)
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
