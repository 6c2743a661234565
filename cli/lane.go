package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"banyan"
)

// lanesMax is how many commands may run a node of their own at once. Each has
// a lane: a directory of a node, locked while the command runs.
const lanesMax = 16

// lanes are the directories of the nodes inside commands:
//
//	lane-0/       the node's own
//	lane-0.lock   held by the command that runs it
//	jobs/JOB      the number of the lane in which JOB lives
type lanes struct{ dir string }

// lane is one locked lane.
type lane struct {
	lanes
	n    int
	lock *os.File
}

func (a *app) lanes() (lanes, error) {
	dir, err := a.homes().state()
	return lanes{filepath.Join(dir, "local")}, err
}

func (l lanes) path(n int) string             { return filepath.Join(l.dir, "lane-"+strconv.Itoa(n)) }
func (l lanes) jobs() string                  { return filepath.Join(l.dir, "jobs") }
func (l lanes) marker(id banyan.JobID) string { return filepath.Join(l.jobs(), string(id)) }

// knows says whether a job was run here, by a node inside a command.
func (l lanes) knows(id banyan.JobID) bool {
	_, ok := l.find(id)
	return ok
}

func (l lanes) find(id banyan.JobID) (int, bool) {
	text, err := os.ReadFile(l.marker(id))
	if err != nil {
		return 0, false
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	return n, err == nil && n >= 0 && n < lanesMax
}

// used lists the lanes that hold a node.
func (l lanes) used() []int {
	var ns []int
	for n := range lanesMax {
		if _, err := os.Stat(l.path(n)); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

// errBusy says that another command holds the lane.
var errBusy = errors.New("in use")

// take locks lane n.
func (l lanes) take(n int) (*lane, error) {
	if err := os.MkdirAll(l.jobs(), 0o700); err != nil {
		return nil, banyan.Errorf(banyan.Invalid, "the directory %s cannot be made: %w: set XDG_STATE_HOME to one that can", l.dir, unwrapPath(err))
	}
	f, err := lockFile(l.path(n) + ".lock")
	if err != nil {
		return nil, err
	}
	return &lane{lanes: l, n: n, lock: f}, nil
}

// takeFree locks the first lane that no other command holds, or is errBusy.
func (l lanes) takeFree() (*lane, error) {
	for n := range lanesMax {
		ln, err := l.take(n)
		if err == nil || !errors.Is(err, errBusy) {
			return ln, err
		}
	}
	return nil, errBusy
}

func (l *lane) remember(id banyan.JobID) error {
	if err := os.WriteFile(l.marker(id), []byte(strconv.Itoa(l.n)+"\n"), 0o600); err != nil {
		return fmt.Errorf("the job cannot be noted in %s: %w: free space or set XDG_STATE_HOME", l.dir, unwrapPath(err))
	}
	return nil
}

// forget takes back what remember noted of a job that is gone. What it cannot
// remove only has a later command say that there is no such job.
func (l *lane) forget(id banyan.JobID) { _ = os.Remove(l.marker(id)) }

// pruneEvery is how often the notes of jobs that are gone are taken back.
const pruneEvery = 24 * time.Hour

// prune takes back what was noted of jobs that the lane's node no longer has. It
// does so once a day; each calls its argument with every job that there is.
func (l *lane) prune(each func(func(banyan.JobID)) error) error {
	mark := l.path(l.n) + ".pruned"
	if st, err := os.Stat(mark); err == nil && time.Since(st.ModTime()).Abs() < pruneEvery {
		return nil
	}
	there := map[banyan.JobID]bool{}
	if err := each(func(id banyan.JobID) { there[id] = true }); err != nil {
		return err
	}
	notes, err := os.ReadDir(l.jobs())
	if err != nil {
		return err
	}
	for _, e := range notes {
		id := banyan.JobID(e.Name())
		if n, ok := l.find(id); ok && n == l.n && !there[id] {
			l.forget(id)
		}
	}
	return os.WriteFile(mark, nil, 0o600)
}

func (l *lane) release() error { return l.lock.Close() }

// openLocal starts a node inside this command, or finds that of the command that
// runs it. A command that wants tasks to run waits for a lane of its own: they
// have the environment and the slots of the command whose node runs them.
func (a *app) openLocal(ctx context.Context, n need, hint string) (*session, error) {
	l, err := a.lanes()
	if err != nil {
		return nil, err
	}
	at := 0
	if n.job != "" {
		ok := false
		if at, ok = l.find(n.job); !ok {
			return nil, banyan.Errorf(banyan.NotFound, "there is no job %s here: 'banyan jobs --local' lists those there are", n.job)
		}
	}
	var ln *lane
	switch {
	case n.job != "" && n.runs:
		ln, err = a.waitFor(ctx, fmt.Sprintf("job %s lives in %s, which another banyan command is using: waiting for its end", n.job, l.path(at)), func() (*lane, error) { return l.take(at) })
	case n.job != "" || n.first:
		s, err := a.openLane(ctx, l, at, n.slots, hint)
		if errors.Is(err, errBusy) {
			err = banyan.Errorf(banyan.Unavailable, "another banyan command is using %s and cannot be asked: wait until it has ended, or interrupt it", l.path(at))
		}
		return s, err
	default:
		ln, err = a.waitFor(ctx, fmt.Sprintf("%d commands run nodes of their own already: waiting for one to end; 'banyan up' starts a node that all share", lanesMax), l.takeFree)
	}
	if err != nil {
		return nil, err
	}
	return a.startLane(ctx, ln, n.slots, hint)
}
