package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/node/pki"
)

// demo is one run of `banyan demo`.
type demo struct {
	app    *app
	exe    string // that nodes and tasks run
	dir    string
	keep   bool
	nodes  int
	frames int
	out    string
	start  time.Time

	procs []*demoNode
	s     *session
	job   banyan.JobID
	kill  demoKill

	watching sync.WaitGroup // the one who waits for the kill to be noticed
}

// demoKill is what is known of the node that was killed.
type demoKill struct {
	node      *demoNode
	at        time.Time
	done      uint32 // tasks before
	lost      bitmap // tasks that it was running
	noticed   time.Duration
	recovered time.Duration
}

func (a *app) demoCommand() *cobra.Command {
	d := &demo{app: a}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Three nodes render a film together while one of them is killed",
		Long: `Start nodes as processes of this machine, let them render the frames of a short
film, kill the one that leads the job with SIGKILL when a third is done, watch
the others carry on, and join the frames to one animation. Everything but the
film is removed at the end.`,
		Args: exactly(),
		RunE: func(cmd *cobra.Command, _ []string) error { return d.run(cmd.Context()) },
	}
	fs := cmd.Flags()
	fs.SortFlags = false
	fs.BoolVar(&d.keep, "keep", false, "leave the cluster running, and say how to talk to it")
	fs.IntVar(&d.nodes, "nodes", 3, "start `N` nodes: 3 to 9, or 1, which is not killed")
	fs.IntVar(&d.frames, "frames", filmFrames, "render a film of `N` frames")
	fs.StringVar(&d.dir, "dir", "", "keep the nodes in this empty `DIR` (default a temporary one)")
	fs.StringVar(&d.out, "out", "banyan-film.png", "write the film to this `FILE`")
	return cmd
}

func (d *demo) run(ctx context.Context) (err error) {
	if d.nodes < 1 || d.nodes == 2 || d.nodes > 9 {
		return usage("bad --nodes %d: give 3 to 9, or 1, which is not killed; two do not go on without one of them", d.nodes)
	}
	if d.frames < 1 || d.frames > 10_000 {
		return usage("bad --frames %d: give 1 to 10000", d.frames)
	}
	ctx, stop := d.app.interruptible(ctx)
	defer stop()
	if err := d.prepare(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.cleanUp(err)) }()
	d.start = d.app.now()
	if err := d.startCluster(ctx); err != nil {
		return err
	}
	if err := d.render(ctx); err != nil {
		return err
	}
	return d.report(ctx)
}

// prepare makes the directory, and a copy of the program if it must outlive us.
func (d *demo) prepare() error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	d.exe = exe
	if d.out, err = filepath.Abs(d.out); err != nil {
		return err
	}
	probe, err := os.CreateTemp(filepath.Dir(d.out), ".banyan-*")
	if err != nil {
		return banyan.Errorf(banyan.Invalid, "the film cannot be written to %s: %w: give another --out", d.out, unwrapPath(err))
	}
	if err := errors.Join(probe.Close(), os.Remove(probe.Name())); err != nil {
		return err
	}
	if strings.HasSuffix(strings.TrimSuffix(exe, ".exe"), ".test") { // its copies would run the tests, which run the demo
		return banyan.Errorf(banyan.Internal, "the demo starts copies of its own binary, and %s is a test", exe)
	}
	if d.dir == "" {
		d.dir, err = os.MkdirTemp("", "banyan-demo-")
	} else if d.dir, err = filepath.Abs(d.dir); err == nil {
		err = os.MkdirAll(d.dir, 0o700)
		if entries, _ := os.ReadDir(d.dir); err == nil && len(entries) > 0 {
			err = usage("--dir %s is not empty: give an empty directory", d.dir)
		}
	}
	if err != nil || !d.keep {
		return err
	}
	d.exe = filepath.Join(d.dir, "banyan"+filepath.Ext(exe))
	return copyFile(exe, d.exe)
}

// copyFile copies a program.
func copyFile(from, to string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}

func (d *demo) configDir() string { return filepath.Join(d.dir, "config") }

func (d *demo) say(format string, args ...any) {
	fmt.Fprintf(d.app.Out, format+"\n", args...)
}

// startCluster starts the first node, lets the others join, and waits until
// every shard has all the voters it is meant to have.
func (d *demo) startCluster(ctx context.Context) error {
	d.say("Starting %s on this machine, one process each.", count(d.nodes, "node"))
	slots := max(1, runtime.NumCPU()/d.nodes)
	flags := []string{"--listen", "127.0.0.1:0", "--slots", strconv.Itoa(slots)}
	first, err := d.startNode(ctx, "", append([]string{"up"}, flags...))
	if err != nil {
		return err
	}
	if err := d.openSession(); err != nil {
		return err
	}
	if d.nodes > 1 {
		token, err := d.s.Cluster().CreateToken(ctx, time.Hour, d.nodes-1)
		if err != nil {
			return err
		}
		for range d.nodes - 1 {
			if _, err := d.startNode(ctx, token.Token, append([]string{"join", first.address}, flags...)); err != nil {
				return err
			}
		}
	}
	if err := d.openSession(); err != nil {
		return err
	}
	return d.awaitHealth(ctx)
}

// openSession talks to the cluster through the context that the node which was
// started last has written.
func (d *demo) openSession() error {
	name, err := pki.CurrentContext(d.configDir())
	if err != nil {
		return err
	}
	if d.s != nil {
		if err := d.s.close(); err != nil {
			return err
		}
	}
	d.s, err = openContext(d.configDir(), name, "", "")
	return err
}

func (d *demo) awaitHealth(ctx context.Context) error {
	for {
		st, err := d.s.Cluster().Status(ctx)
		if err == nil && d.healthy(st) {
			d.say("The cluster is whole after %s: %d shards, each on %s.", duration(d.app.now().Sub(d.start)), len(st.Shards), count(len(st.Shards[0].Voters), "node"))
			return d.s.remember(st.Nodes)
		}
		if err := d.dead(); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (d *demo) healthy(st *banyanv1.StatusResponse) bool {
	alive := 0
	for _, n := range st.Nodes {
		if n.State == "alive" {
			alive++
		}
	}
	for _, s := range st.Shards {
		if s.Leader == 0 || len(s.Learners) > 0 || len(s.Voters) < min(3, d.nodes) {
			return false
		}
	}
	return alive == d.nodes && len(st.Shards) > 0
}

// render submits the job and follows it; the follower's messages drive the kill.
func (d *demo) render(ctx context.Context) error {
	size := []string{"--width", strconv.Itoa(filmWidth), "--height", strconv.Itoa(filmHeight)}
	frame := append([]string{d.exe, "film", "frame", "--frame", "{}", "--of", strconv.Itoa(d.frames), "--out", "frame-{}.png"}, size...)
	spec := &banyanv1.JobSpec{
		Name:        "film",
		Command:     banyanv1.NewCommand(frame...),
		Then:        banyanv1.NewCommand(d.exe, "film", "join", ".", "--out", filepath.Base(d.out)),
		Return:      banyanv1.Bytes("frame-{}.png"),
		AttemptsMax: 1,
	}
	numbers := &inputs{groups: [][][]string{nil}, count: d.frames, columns: 1}
	for i := range d.frames {
		numbers.groups[0] = append(numbers.groups[0], []string{strconv.Itoa(i + 1)})
	}
	var err error
	if d.job, err = d.app.submit(ctx, d.s, spec, numbers, false); err != nil {
		return err
	}
	d.say("Job %s: %d frames, one task each.", d.job, d.frames)
	show := showFlags{format: format{"text"}, progress: "auto", outDir: filepath.Dir(d.out)}
	fw := d.app.newFollower(d.s, follow{job: d.job, show: show, then: true})
	defer d.watching.Wait()
	fw.on = func(m *banyanv1.FollowResponse) error { return d.drive(ctx, fw, m) }
	err = fw.run(ctx)
	fw.bar.clear()
	if err != nil {
		return err
	}
	return fw.finish(ctx)
}

// drive kills the leader of the job when a third is done, and afterwards looks
// for the first task that ended later.
func (d *demo) drive(ctx context.Context, fw *follower, m *banyanv1.FollowResponse) error {
	k := &d.kill
	if k.node != nil {
		for _, r := range m.Results {
			if end := time.UnixMilli(r.StartMs).Add(time.Duration(r.DurationUs) * time.Microsecond); k.recovered == 0 && end.After(k.at) {
				k.recovered = d.app.now().Sub(k.at)
				fmt.Fprintf(fw.out, "%s after the kill the next frame is done.\n", duration(k.recovered))
			}
		}
		return nil
	}
	done := fw.doneTasks()
	if d.nodes < 2 || int(done) < d.frames/3 || ended(fw.state) {
		return nil
	}
	job, err := d.s.Jobs().Get(ctx, d.job)
	if err != nil {
		return err
	}
	for _, p := range d.procs {
		if p.id == banyan.NodeID(job.Leader) {
			return d.killNode(ctx, fw, p, done)
		}
	}
	return nil // between two leaders: with the next message
}

func (d *demo) killNode(ctx context.Context, fw *follower, p *demoNode, done uint32) error {
	var lost bitmap
	err := d.s.eachResult(ctx, &banyanv1.TasksRequest{JobId: string(d.job), WithRunning: true}, func(r *banyanv1.TaskResult) error {
		if r.State == banyanv1.TaskState_TASK_STATE_RUNNING && banyan.NodeID(r.Node) == p.id {
			lost.set(r.Task)
		}
		return nil
	})
	if err != nil {
		return err
	}
	p.killed = true
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	d.kill = demoKill{node: p, at: d.app.now(), done: done, lost: lost}
	fmt.Fprintf(fw.out, "%d of %d frames are done: killed %v (pid %d), the leader of the job, with SIGKILL.\n", done, d.frames, p.id, p.cmd.Process.Pid)
	d.watching.Go(func() { d.kill.noticed = d.untilNoticed(ctx, p.id, d.kill.at) })
	return nil
}

// noticeMax is how long the demo waits for the others to notice.
const noticeMax = time.Minute

// untilNoticed gives the time until a living node no longer takes the killed one
// for alive; 0 if that did not happen.
func (d *demo) untilNoticed(ctx context.Context, id banyan.NodeID, since time.Time) time.Duration {
	ctx, cancel := context.WithTimeout(ctx, noticeMax)
	defer cancel()
	for ctx.Err() == nil {
		nodes, err := d.s.Cluster().Nodes(ctx)
		for _, n := range nodes {
			if err == nil && banyan.NodeID(n.Id) == id && n.State != "alive" {
				return d.app.now().Sub(since)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Millisecond):
		}
	}
	return 0
}
