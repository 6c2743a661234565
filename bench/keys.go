package main

import (
	"context"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
)

// lone is a store of one process that is filled, stopped and started.
type lone interface {
	// Many puts the keys of one batch in one transaction.
	Many(ctx context.Context, keys []string, values [][]byte) error
	// Probe connects anew and reads, linearizable, whatever is written apart.
	Probe(ctx context.Context) error
	Process() *exec.Cmd
	Address() string
	Home() string // its files
	Start() error
	Stop() // SIGTERM
	Kill() // kill -9
}

const (
	keysBatch   = 1000 // keys in one transaction
	keysWriters = 16
	keysAgain   = 50 // one in so many is written again before the kill
)

// benchMany fills one node with many keys and measures what it takes of disk
// and memory, how it stops and starts, and how two nodes catch up with it.
func benchMany(ctx context.Context, args []string) error {
	n, beside, rate, idle := 10_000_000, true, 100, 30*time.Second
	if err := parse("keys", args, func(fs *flag.FlagSet) {
		fs.IntVar(&n, "keys", n, "keys of 16 bytes with values of 256")
		fs.BoolVar(&beside, "etcd", beside, "also one etcd")
		fs.IntVar(&rate, "rate", rate, "puts a second while two nodes catch up")
		fs.DurationVar(&idle, "idle", idle, "how long a filled node is left alone")
	}); err != nil {
		return err
	}
	own, caught, err := fillOwn(ctx, n, rate, idle)
	if err != nil {
		return fmt.Errorf("banyan: %w", err)
	}
	fmt.Printf("%d keys of 16 bytes with values of 256 (%d MB), one node, put %d at a time by %d clients\n\n", n, n*rowBytes/1e6, keysBatch, keysWriters)
	caught.print(n)
	fmt.Println()
	filled := []filling{own}
	if beside {
		var e filling
		if e, err = fillEtcd(ctx, n, idle); err == nil {
			filled = append(filled, e)
		} else {
			err = fmt.Errorf("etcd: %w", err)
		}
	}
	printFillings(filled)
	return err
}

func fillOwn(ctx context.Context, n, rate int, idle time.Duration) (f filling, u caughtUp, err error) {
	own, err := startNodes(ctx, 1)
	if err != nil {
		return f, u, err
	}
	defer own.Close()
	c, err := own.client()
	if err != nil {
		return f, u, err
	}
	if f, err = fillAndRestart(ctx, "banyan", ownNode{own, c}, n, idle); err != nil {
		return f, u, err
	}
	u, err = catchUp(ctx, own, c, n, rate)
	return f, u, err
}

func fillEtcd(ctx context.Context, n int, idle time.Duration) (filling, error) {
	dir, err := os.MkdirTemp("", "banyan-bench-")
	if err != nil {
		return filling{}, err
	}
	defer os.RemoveAll(dir)
	etcd, err := startEtcd(ctx, dir, 1, "--quota-backend-bytes", fmt.Sprint(int64(16)<<30), "--max-txn-ops", fmt.Sprint(keysBatch))
	if err != nil {
		return filling{}, err
	}
	defer etcd.Close()
	return fillAndRestart(ctx, "etcd", etcdNode{etcd}, n, idle)
}

// memory is what a process has resident, and how much of that is not of files.
type memory struct{ resident, own int64 }

func (m memory) String() string { return fmt.Sprintf("%d MiB", m.resident>>20) }

func memoryOf(p *exec.Cmd) (m memory) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Process.Pid))
	if err != nil {
		return m
	}
	for line := range strings.Lines(string(b)) {
		var kib int64
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
			m.resident = kib << 10
		} else if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			_, _ = fmt.Sscan(rest, &kib)
			m.own = kib << 10
		}
	}
	return m
}

// watchMemory looks at processes until stop and gives the most that each had.
func watchMemory(procs func() []*exec.Cmd) (stop func() []memory) {
	var most []memory
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			for i, p := range procs() {
				if i == len(most) {
					most = append(most, memory{})
				}
				if m := memoryOf(p); m.resident > most[i].resident {
					most[i] = m
				}
			}
			select {
			case <-done:
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
	}()
	return func() []memory {
		close(done)
		<-ended
		return most
	}
}

// filling is what was measured of one store.
type filling struct {
	name                       string
	took, stop                 time.Duration
	disk                       int64
	most, full, idle           memory
	clean, killed              time.Duration
	cleanMemory, killedMemory  memory
	cleanSettled, killedSettle memory
}

func fillAndRestart(ctx context.Context, name string, s lone, n int, idle time.Duration) (f filling, err error) {
	f.name = name
	most := watchMemory(func() []*exec.Cmd { return []*exec.Cmd{s.Process()} })
	f.took, err = fillMany(ctx, name, s, n, 1)
	f.most = most()[0]
	if err != nil {
		return f, err
	}
	f.full = memoryOf(s.Process())
	if err := pause(ctx, idle); err != nil {
		return f, err
	}
	f.idle, f.disk = memoryOf(s.Process()), diskOf(s.Home())
	start := time.Now()
	s.Stop()
	f.stop = time.Since(start)
	if f.clean, f.cleanMemory, f.cleanSettled, err = startUp(ctx, s, idle/3); err != nil {
		return f, fmt.Errorf("starting after a clean stop: %w", err)
	}
	if _, err := fillMany(ctx, name, s, n, keysAgain); err != nil {
		return f, err
	}
	s.Kill()
	if f.killed, f.killedMemory, f.killedSettle, err = startUp(ctx, s, idle/3); err != nil {
		return f, fmt.Errorf("starting after kill -9: %w", err)
	}
	return f, nil
}

// startUp starts a process and tells how long it took until it answered a
// read, its memory then, and a while later.
func startUp(ctx context.Context, s lone, rest time.Duration) (took time.Duration, at, later memory, err error) {
	start := time.Now()
	if err := s.Start(); err != nil {
		return 0, at, later, err
	}
	for { // a client that was refused would wait before it tries again
		c, err := net.Dial("tcp", s.Address())
		if err == nil {
			c.Close()
			break
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil || time.Since(start) > 10*time.Minute {
			return 0, at, later, fmt.Errorf("nobody listens at %s", s.Address())
		}
	}
	if err := s.Probe(ctx); err != nil {
		return 0, at, later, err
	}
	took, at = time.Since(start), memoryOf(s.Process())
	err = pause(ctx, rest)
	return took, at, memoryOf(s.Process()), err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// fillMany puts n/part keys, and says on standard error how far it is.
func fillMany(ctx context.Context, name string, s lone, n, part int) (time.Duration, error) {
	batches := (n + keysBatch - 1) / keysBatch
	todo := max(batches/part, 1)
	var next, done atomic.Int64
	start := time.Now()
	told := make(chan struct{})
	defer close(told)
	go tellProgress(name, todo*keysBatch, &done, told)
	errs := make(chan error, keysWriters)
	var wg sync.WaitGroup
	for range keysWriters {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= todo {
					return
				}
				at := i * 7919 % batches // not in the order of the keys, and each once
				keys, values := keysOf(at)
				if err := s.Many(ctx, keys, values); err != nil {
					errs <- fmt.Errorf("batch %d: %w", i, err)
					return
				}
				done.Add(keysBatch)
			}
		})
	}
	wg.Wait()
	select {
	case err := <-errs:
		return 0, err
	default:
		return time.Since(start), nil
	}
}

func tellProgress(name string, n int, done *atomic.Int64, over <-chan struct{}) {
	start := time.Now()
	last := int64(0)
	for {
		select {
		case <-over:
			return
		case <-time.After(5 * time.Second):
		}
		d := done.Load()
		left := time.Duration(0)
		if d > 0 {
			left = time.Duration(float64(time.Since(start)) * float64(int64(n)-d) / float64(d))
		}
		fmt.Fprintf(os.Stderr, "%s: %d of %d keys, %d keys/s now, %v left\n", name, d, n, (d-last)/5, left.Round(time.Second))
		last = d
	}
}

// keysOf makes one batch: keys of one partition, values that do not compress.
func keysOf(batch int) (keys []string, values [][]byte) {
	rng := rand.NewChaCha8([32]byte{byte(batch), byte(batch >> 8), byte(batch >> 16)})
	b := make([]byte, keysBatch*256)
	_, _ = rng.Read(b)
	for i := range keysBatch {
		keys = append(keys, fmt.Sprintf("p%05d/%09d", batch, i))
		values = append(values, b[i*256:(i+1)*256])
	}
	return keys, values
}

// diskOf sums the files under a directory; one that goes meanwhile does not
// count, so that there are no errors.
func diskOf(dir string) (sum int64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// ownNode is the first node of a cluster.
type ownNode struct {
	*nodes
	c *client.Client
}

func (o ownNode) Many(ctx context.Context, keys []string, values [][]byte) error {
	req := &banyanv1.TxnRequest{}
	for i, k := range keys {
		put := &banyanv1.Mutation_Put{Key: []byte(k), Value: values[i]}
		req.Mutations = append(req.Mutations, &banyanv1.Mutation{Op: &banyanv1.Mutation_Put_{Put: put}})
	}
	_, err := o.c.KV().Txn(ctx, req)
	return err
}

// Probe reads a key of every shard.
func (o ownNode) Probe(ctx context.Context) error {
	c, err := o.client()
	if err != nil {
		return err
	}
	for _, key := range shardKeys() {
		if _, err := c.KV().Read(ctx, &banyanv1.GetRequest{Key: key}); err != nil {
			return err
		}
	}
	return nil
}

func (o ownNode) Process() *exec.Cmd { return o.procs[0] }
func (o ownNode) Address() string    { return o.addresses[0] }
func (o ownNode) Home() string       { return o.dirs[0] }
func (o ownNode) Start() error       { return o.restart(0) }
func (o ownNode) Stop()              { o.stop(0) }
func (o ownNode) Kill()              { o.kill(0) }

// etcdNode is the only member of a cluster.
type etcdNode struct{ *etcdCluster }

func (e etcdNode) Many(ctx context.Context, keys []string, values [][]byte) error {
	ops := make([]clientv3.Op, len(keys))
	for i, k := range keys {
		ops[i] = clientv3.OpPut(k, string(values[i]))
	}
	var err error
	for range 5 { // on a busy machine it gives up early
		if _, err = e.clients[int(keys[0][5])%len(e.clients)].Txn(ctx).Then(ops...).Commit(); err == nil || ctx.Err() != nil {
			break
		}
	}
	return err
}

func (e etcdNode) Probe(ctx context.Context) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	defer c.Close()
	for {
		if _, err = c.Get(ctx, "ready"); err == nil || ctx.Err() != nil {
			return err
		}
	}
}

func (e etcdNode) Process() *exec.Cmd { return e.procs[0] }
func (e etcdNode) Address() string    { return e.endpoints[0] }
func (e etcdNode) Home() string       { return e.home(0) }
func (e etcdNode) Start() error       { return e.start(0) }
func (e etcdNode) Stop()              { e.stop(0) }
func (e etcdNode) Kill()              { e.kill(0) }

func printFillings(all []filling) {
	row := func(what string, of func(f filling) string) {
		fmt.Printf("| %s |", what)
		for _, f := range all {
			fmt.Printf(" %s |", of(f))
		}
		fmt.Println()
	}
	row("", func(f filling) string { return f.name })
	fmt.Println("|---|" + strings.Repeat("--:|", len(all)))
	row("filled in", func(f filling) string { return fmt.Sprintf("%.0f s", f.took.Seconds()) })
	row("bytes on disk", func(f filling) string { return fmt.Sprintf("%d MB", f.disk/1e6) })
	row("resident memory while it is filled, most", func(f filling) string { return f.most.String() })
	row("after the fill / left alone", func(f filling) string { return f.full.String() + " / " + f.idle.String() })
	row("a clean stop takes", func(f filling) string { return fmt.Sprintf("%.0f ms", ms(f.stop)) })
	row("start after it, until every shard answers a linearizable read", func(f filling) string { return fmt.Sprintf("%.0f ms", ms(f.clean)) })
	row("resident memory then / left alone", func(f filling) string { return f.cleanMemory.String() + " / " + f.cleanSettled.String() })
	row("start after kill -9 under writes", func(f filling) string { return fmt.Sprintf("%.0f ms", ms(f.killed)) })
	row("resident memory then / left alone", func(f filling) string { return f.killedMemory.String() + " / " + f.killedSettle.String() })
}

// caughtUp is how two nodes caught up with a third.
type caughtUp struct {
	took                 time.Duration
	bytes                int64
	most                 []memory
	rate                 int
	before, during       []time.Duration
	failed, failedBefore int
}

func catchUp(ctx context.Context, own *nodes, c *client.Client, n, rate int) (u caughtUp, err error) {
	u.rate = rate
	p := startPaced(c, rate)
	defer p.stop()
	if err := pause(ctx, calm/2); err != nil {
		return u, err
	}
	p.take()
	if err := pause(ctx, calm); err != nil {
		return u, err
	}
	u.before, u.failedBefore = p.take()
	start := time.Now()
	most := watchMemory(func() []*exec.Cmd { return own.procs[:len(own.procs):len(own.procs)] })
	for range 2 {
		if err := own.join(ctx); err != nil {
			return u, err
		}
	}
	err = own.settle(ctx, 3, 0, 20*time.Minute)
	u.took, u.most = time.Since(start), most()
	u.during, u.failed = p.take()
	u.bytes = 2 * int64(n) * rowBytes
	return u, err
}

func (u *caughtUp) print(n int) {
	fmt.Printf("two nodes join, under %d puts/s\n\n| | |\n|---|--:|\n", u.rate)
	row := func(what, is string, args ...any) { fmt.Printf("| %s | %s |\n", what, fmt.Sprintf(is, args...)) }
	row("from their start until both vote in every shard", "%.1f s", u.took.Seconds())
	row("rate, keys and values to both", "%.0f MB/s, %.0f keys/s", float64(u.bytes)/1e6/u.took.Seconds(), 2*float64(n)/u.took.Seconds())
	row("most resident memory of the sender / the receivers", "%v / %v, %v", u.most[0], u.most[1], u.most[2])
	row("p50 / p99 of puts before", "%.1f / %.1f ms", ms(quantile(u.before, 0.5)), ms(quantile(u.before, 0.99)))
	row("p50 / p99 / longest of puts meanwhile", "%.1f / %.1f / %.0f ms", ms(quantile(u.during, 0.5)), ms(quantile(u.during, 0.99)), ms(quantile(u.during, 1)))
	row("failed", "%d", u.failed+u.failedBefore)
}
