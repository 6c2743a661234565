package server

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"banyan"
	"banyan/internal/pause"
	"banyan/obs"
)

const (
	askRootMax = 2 * time.Second // for the root shard to say who is in
	// askRootEvery is how often it is asked at most. Rows that come in between are
	// heard of by the watch.
	askRootEvery = time.Second
	// rootSilenceMax is for how long the root shard must give no answer before a
	// node that is not known here is let in by its certificate alone: it may be
	// the one that the root shard needs to have a leader again.
	rootSilenceMax = 5 * time.Second
)

// unknowns decides about nodes that show a good certificate and are not in this
// node's copy of the node rows. Either they never joined, or their join is so
// new that this node has not heard of it. So they are told to come again, and
// the root shard is asked meanwhile: who is in is in the rows then.
type unknowns struct {
	wake chan struct{} // the root shard is to be asked

	mu     sync.Mutex
	asked  time.Time // when the question began that was answered last
	silent time.Time // since when there is no answer; zero: the last one came
	last   banyan.NodeID
	seldom obs.Seldom
}

func newUnknowns() *unknowns { return &unknowns{wake: make(chan struct{}, 1)} }

// judge says why an unknown node is refused now. It does not wait.
func (u *unknowns) judge(id banyan.NodeID, now time.Time) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.last = id
	if u.asked.IsZero() || now.Sub(u.asked) >= askRootEvery {
		select {
		case u.wake <- struct{}{}:
		default: // it is to be asked already
		}
	}
	if !u.silent.IsZero() && now.Sub(u.silent) >= rootSilenceMax {
		return nil
	}
	return banyan.Errorf(banyan.Unavailable, "node %v is not one of this cluster's nodes, as far as is known here: a node that has just joined is let in at its next try, one that never joined is not", id)
}

// answered takes note of how a question ended that began then.
func (u *unknowns) answered(began time.Time, err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch {
	case err == nil:
		u.asked, u.silent = began, time.Time{}
	case u.silent.IsZero():
		u.silent = began
	}
}

// tell logs now and then that the root shard does not know a node either.
func (u *unknowns) tell(log *slog.Logger, known func(banyan.NodeID) bool) {
	u.mu.Lock()
	id := u.last
	u.mu.Unlock()
	if known(id) {
		return
	}
	if left, due := u.seldom.Now(time.Now()); due {
		log.Warn("refused a node that never joined", "node", id, "more", left)
	}
}

// askRoot asks the root shard who is in whenever a node shows up that is not
// known here.
func (n *Server) askRoot(ctx context.Context) error {
	u := n.nodes.unknown
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-u.wake:
		}
		began := time.Now()
		asking, cancel := context.WithTimeout(ctx, askRootMax)
		_, err := n.nodes.reload(asking, n.router)
		cancel()
		u.answered(began, err)
		if err != nil {
			_ = pause.For(ctx, askRootEvery/10)
			continue
		}
		u.tell(n.log, n.nodes.known)
	}
}
