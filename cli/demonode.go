package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// demoNode is a process of the demo.
type demoNode struct {
	id      banyan.NodeID
	address string
	dir     string
	cmd     *exec.Cmd
	ended   chan struct{} // closed when the process has ended
	killed  bool          // by us, on purpose
}

func (n *demoNode) log() string { return n.dir + ".log" }

// upLine is what a node prints when it answers.
func upLine() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^node (n\d+) of cluster \S+ is up at (\S+)$`)
}

// startNode runs this program as a node and waits until it answers.
func (d *demo) startNode(ctx context.Context, token string, args []string) (*demoNode, error) {
	n := &demoNode{dir: filepath.Join(d.dir, fmt.Sprintf("n%d", len(d.procs)+1)), ended: make(chan struct{})}
	log, err := os.Create(n.log())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	n.cmd = exec.Command(d.exe, append(args, "--dir", n.dir, "--name", filepath.Base(n.dir))...)
	n.cmd.Env = append(os.Environ(), "BANYAN_CONFIG="+d.configDir(), "BANYAN_TOKEN="+token)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	detach(n.cmd) // a Ctrl-C is for the demo, which then ends its nodes
	if err := n.cmd.Start(); err != nil {
		return nil, err
	}
	d.procs = append(d.procs, n)
	go func() {
		defer close(n.ended)
		_ = n.cmd.Wait() // how it ended is in its log
	}()
	for {
		text, err := os.ReadFile(n.log())
		if err != nil {
			return nil, err
		}
		if m := upLine().FindSubmatch(text); m != nil {
			n.address = string(m[2])
			n.id, err = banyan.ParseNodeID(string(m[1]))
			d.say("  %v is up at %s (pid %d)", n.id, n.address, n.cmd.Process.Pid)
			return n, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-n.ended:
			return nil, d.dead()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// dead gives an error if a node has ended that nobody killed.
func (d *demo) dead() error {
	for _, n := range d.procs {
		select {
		case <-n.ended:
			if n.killed {
				continue
			}
			text, _ := os.ReadFile(n.log())
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			return banyan.Errorf(banyan.Internal, "node %s ended by itself: %s", filepath.Base(n.dir), strings.TrimPrefix(lines[len(lines)-1], "banyan: "))
		default:
		}
	}
	return nil
}

// stopMax is how long nodes may take to stop before they are killed.
const stopMax = 5 * time.Second

// cleanUp ends the nodes and removes what they kept; with --keep it says how to
// talk to them. After an error it leaves their logs.
func (d *demo) cleanUp(failed error) error {
	var errs []error
	if d.s != nil {
		errs = append(errs, d.s.close())
	}
	if d.keep && failed == nil {
		d.sayKept()
		return errors.Join(errs...)
	}
	late := time.After(stopMax)
	for _, n := range d.procs {
		interrupt(n.cmd.Process)
	}
	for _, n := range d.procs {
		select {
		case <-n.ended:
		case <-late:
			late = time.After(0)
			_ = n.cmd.Process.Kill() // it may have ended just now
			<-n.ended
		}
	}
	if failed != nil && !d.app.signaled.Load() {
		fmt.Fprintf(d.app.Err, "banyan: the nodes' logs are left in %s\n", d.dir)
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, os.RemoveAll(d.dir))...)
}

func (d *demo) sayKept() {
	d.say("\nThe cluster goes on. To talk to it:\n")
	d.say("  export BANYAN_CONFIG=%s", d.configDir())
	d.say("  %s nodes", d.exe)
	d.say("  %s run -- echo hello {} ::: a b c", d.exe)
	var pids []string
	for _, n := range d.procs {
		if !n.killed {
			pids = append(pids, fmt.Sprint(n.cmd.Process.Pid))
			continue
		}
		d.say("\nTo start the killed node again:\n\n  %s up --dir %s &", d.exe, n.dir)
	}
	d.say("\nTo end it:\n\n  kill %s; rm -r %s", strings.Join(pids, " "), d.dir)
}

// after says how long something took that may not have happened.
func after(d time.Duration) string {
	if d == 0 {
		return "never"
	}
	return "after " + duration(d)
}

// report checks that every frame is there exactly once and says what happened.
func (d *demo) report(ctx context.Context) error {
	var seen bitmap
	good, repeated := 0, 0
	err := d.s.eachResult(ctx, &banyanv1.TasksRequest{JobId: string(d.job)}, func(r *banyanv1.TaskResult) error {
		if seen.has(r.Task) {
			return banyan.Errorf(banyan.Internal, "frame %d was recorded twice", r.Task+1)
		}
		seen.set(r.Task)
		if r.ExitCode == 0 {
			good++
		}
		if d.kill.lost.has(r.Task) && banyan.NodeID(r.Node) != d.kill.node.id {
			repeated++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if good != d.frames {
		return banyan.Errorf(banyan.Internal, "%d of %d frames were recorded", good, d.frames)
	}
	st, err := os.Stat(d.out)
	if err != nil {
		return err
	}
	d.say("")
	d.say("Film       %s (%s; any browser plays it)", d.out, size(st.Size()))
	d.say("Frames     %d of %d, each there exactly once", good, d.frames)
	d.say("Took       %s, the start of the nodes included", duration(d.app.now().Sub(d.start)))
	if k := d.kill; k.node != nil {
		d.say("Killed     %v, the leader of the job, when %d frames were done", k.node.id, k.done)
		d.say("Noticed    %s", after(k.noticed))
		d.say("Recovered  %s: the next frame was done", after(k.recovered))
		d.say("Repeated   %s, lost with the node", count(repeated, "attempt"))
	}
	return nil
}
