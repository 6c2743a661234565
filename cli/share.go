package cli

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"

	"banyan"
	"banyan/client"
)

const (
	socketPathMax = 100                    // bytes: systems take 104 to 108
	shareEnd      = 300 * time.Millisecond // for the calls of others, when the node ends
	sharePatience = 2 * time.Second        // for a node that starts or ends, before its lane is called busy
	lanePause     = 20 * time.Millisecond  // between two looks at a lane
)

// socket is where the command that runs the node of lane n serves it to others:
// beside the lane, in a directory of this user's own, or, where that path is too
// long for a socket, in another such directory.
func (l lanes) socket(n int) (string, error) {
	if path := l.path(n) + ".sock"; len(path) <= socketPathMax {
		return path, nil
	}
	dir, err := privateTemp(os.TempDir())
	if err != nil {
		return "", err
	}
	h := fnv.New64a()
	_, _ = h.Write([]byte(l.path(n)))
	path := filepath.Join(dir, fmt.Sprintf("%x.sock", h.Sum64()))
	if len(path) > socketPathMax {
		return "", banyan.Errorf(banyan.Invalid, "the path %s is too long for a socket: set TMPDIR to a shorter one", path)
	}
	return path, nil
}

// share serves the lane's node to this user's other commands until stop. Where
// that cannot be, they are told that the lane is in use.
func (l *lane) share(h http.Handler) (stop func()) {
	path, err := l.socket(l.n)
	if err != nil {
		return func() {}
	}
	os.Remove(path) // of a command that was killed; the lane is ours
	listener, err := net.Listen("unix", path)
	if err != nil {
		return func() {}
	}
	if err := os.Chmod(path, 0o600); err != nil {
		listener.Close()
		return func() {}
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: h, Protocols: protocols, ReadHeaderTimeout: sharePatience, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(listener) // it ends with stop
	}()
	return func() {
		ctx, cancel := context.WithTimeout(context.Background(), shareEnd)
		defer cancel()
		if srv.Shutdown(ctx) != nil {
			srv.Close()
		}
		<-ended
	}
}

// laneTransport carries calls to the node of a lane that another command runs.
// When that has ended, it takes the lane and runs the node itself.
type laneTransport struct {
	app   *app
	lanes lanes
	n     int
	slots int
	other http.Transport

	mu   sync.Mutex
	own  *client.Local
	stop func() error // of own
}

func (a *app) transportTo(l lanes, n, slots int) (*laneTransport, error) {
	path, err := l.socket(n)
	if err != nil {
		return nil, err
	}
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	t := &laneTransport{app: a, lanes: l, n: n, slots: slots}
	t.other.Protocols = protocols
	t.other.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	c, err := net.Dial("unix", path)
	if err == nil {
		err = c.Close()
	}
	return t, err
}

// RoundTrip fails when the other command has just ended; the client tries again.
func (t *laneTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	t.mu.Lock()
	own := t.own
	t.mu.Unlock()
	if own != nil {
		return own.RoundTrip(req)
	}
	res, err := t.other.RoundTrip(req)
	if op := (*net.OpError)(nil); errors.As(err, &op) && op.Op == "dial" {
		if mine := t.takeOver(req.Context()); mine != nil && !errors.Is(mine, errBusy) {
			return nil, mine
		}
	}
	return res, err
}

func (t *laneTransport) takeOver(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.own != nil {
		return nil
	}
	ln, err := t.lanes.take(t.n)
	if err != nil {
		return err
	}
	h, stop, err := t.app.runLane(ctx, ln, t.slots)
	if err == nil {
		t.own, t.stop = client.InProcess(h), stop
	}
	return err
}

// Close ends the node, if it is run here. Calls must have ended.
func (t *laneTransport) Close() error {
	t.other.CloseIdleConnections()
	if t.own == nil {
		return nil
	}
	return errors.Join(t.own.Close(), t.stop())
}

// openLane opens the node of lane n: in this command, or in that which runs it.
// A lane whose command can be neither replaced nor called is errBusy.
func (a *app) openLane(ctx context.Context, l lanes, n, slots int, hint string) (*session, error) {
	for until := time.Now().Add(sharePatience); ; {
		ln, err := l.take(n)
		if err == nil {
			return a.startLane(ctx, ln, slots, hint)
		}
		if !errors.Is(err, errBusy) {
			return nil, err
		}
		if t, err := a.transportTo(l, n, slots); err == nil {
			cl, err := client.Open(client.Config{Transport: t})
			if err != nil {
				return nil, err
			}
			return &session{Client: cl, local: true, shared: true, hint: hint, lane: &lane{lanes: l, n: n}, stop: cl.Close}, nil
		}
		if !pause(ctx, lanePause) {
			return nil, ctx.Err()
		}
		if time.Now().After(until) {
			return nil, errBusy
		}
	}
}

// pause is false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

// waitFor takes a lane as soon as it is free. What is waited for is told once.
func (a *app) waitFor(ctx context.Context, what string, take func() (*lane, error)) (*lane, error) {
	for told := false; ; told = true {
		ln, err := take()
		if !errors.Is(err, errBusy) {
			return ln, err
		}
		if !told {
			fmt.Fprintln(a.Err, "banyan: "+what)
		}
		if !pause(ctx, lanePause) {
			return nil, ctx.Err()
		}
	}
}
