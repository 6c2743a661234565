package cli

import (
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/node/server"
)

// runLane runs the node of a locked lane until stop, also for other commands of
// this user (share). When it cannot, the lane is released.
func (a *app) runLane(ctx context.Context, ln *lane, slots int) (h http.Handler, stop func() error, err error) {
	srv, err := server.New(server.Config{Dir: ln.path(ln.n), Embedded: true, Slots: slots, Name: "local", TaskEnv: os.Environ()})
	if banyan.IsKind(err, banyan.Corrupt) {
		err = banyan.Errorf(banyan.Corrupt, "%w; the jobs run without a cluster are kept there: to go on without these, move %s away", err, ln.path(ln.n))
	}
	if err != nil {
		return nil, nil, errors.Join(err, ln.release())
	}
	run, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(run) }()
	end := func() error {
		cancel()
		err := <-ended
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		return errors.Join(err, ln.release())
	}
	select {
	case <-srv.Ready():
		unshare := ln.share(srv.Handler())
		return srv.Handler(), func() error { unshare(); return end() }, nil
	case err := <-ended:
		cancel()
		return nil, nil, errors.Join(err, ln.release())
	case <-ctx.Done():
		return nil, nil, errors.Join(ctx.Err(), end())
	}
}

// startLane is runLane until the session is closed.
func (a *app) startLane(ctx context.Context, ln *lane, slots int, hint string) (*session, error) {
	h, stop, err := a.runLane(ctx, ln, slots)
	if err != nil {
		return nil, err
	}
	cl, err := client.Open(client.Config{Transport: client.InProcess(h)})
	if err != nil {
		return nil, errors.Join(err, stop())
	}
	s := &session{Client: cl, local: true, hint: hint, lane: ln}
	s.stop = func() error {
		s.prune()
		return errors.Join(cl.Close(), stop())
	}
	return s, nil
}

// prune has the lane forget the jobs that are gone. That it failed is told by
// nobody: a later command tries again.
func (s *session) prune() {
	ctx, cancel := context.WithTimeout(context.Background(), pruneMax)
	defer cancel()
	_ = s.lane.prune(func(fn func(banyan.JobID)) error {
		return eachJob(ctx, s, func(j *banyanv1.Job) error {
			fn(banyan.JobID(j.Id))
			return nil
		})
	})
}

// pruneMax is how long a command waits for it.
const pruneMax = time.Second
