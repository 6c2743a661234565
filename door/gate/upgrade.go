package gate

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/wire"
)

const (
	// sessionSilence is how long nothing may come before a session is given up.
	// Callers in want of an answer send something long before.
	sessionSilence = 2 * time.Minute
	sessionLinger  = 500 * time.Millisecond // for the caller to read why a session ends
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + wire.SessionProtocol + "\r\n\r\n"

// framed is a session on a connection of its own.
type framed struct{ *wire.Frames }

func (f framed) Receive() (*banyanv1.SessionRequest, error) {
	m := &banyanv1.SessionRequest{}
	err := f.Read(m)
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) {
		err = &banyan.Error{Kind: banyan.Canceled, Msg: "the caller is gone", Err: err}
	}
	return m, err
}

// Send ends receiving, too, if it fails.
func (f framed) Send(m *banyanv1.SessionResponse) error {
	err := f.Write(m)
	if err != nil {
		_ = f.Close() // err says enough
	}
	return err
}

// upgrade makes the connection of a call that asks for it a session; next
// answers the others.
func (d kvDoor) upgrade(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		server := connectionOf(r.Context()).server
		if server == nil || !strings.EqualFold(r.Header.Get("Upgrade"), wire.SessionProtocol) {
			next.ServeHTTP(w, r)
			return
		}
		if leaves(r.Context()) {
			refuse(w, r, errLeaving)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if errors.Is(err, http.ErrNotSupported) { // HTTP/2 has streams
			next.ServeHTTP(w, r)
			return
		} else if err != nil {
			return // the caller is gone
		}
		frames := wire.NewFrames(conn, rw.Reader, sessionSilence)
		frames.In(billOf(r.Context()))
		if !server.begin(frames) {
			_ = conn.Close()
			return
		}
		defer server.end(frames)
		defer conn.Close()
		if _, err := rw.WriteString(switching); err != nil || rw.Flush() != nil {
			return
		}
		defer context.AfterFunc(server.leaving, frames.Stop)()
		err = d.edge.stream(r.Context(), &d.meters[doorSession], procedures[doorSession], func(ctx context.Context) error {
			return serveSession(ctx, d, framed{frames})
		})
		if err != nil && frames.Write(&banyanv1.SessionResponse{End: wire.EncodeCall(err)}) == nil {
			_ = frames.CloseAfter(sessionLinger)
		}
	})
}
