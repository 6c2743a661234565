package client

import (
	"context"
	"errors"
	"io"
	"net/http"
	"sync"
)

// Local carries calls to a handler in the same process: no socket, no TLS, and
// streams in both directions at once, as over HTTP/2.
type Local struct {
	handler http.Handler
	running sync.WaitGroup
}

var _ http.RoundTripper = (*Local)(nil)

// InProcess gives the transport to a handler in the same process, such as the
// node inside a command.
func InProcess(h http.Handler) *Local { return &Local{handler: h} }

// Close waits until the handler has returned from every call. Calls must have
// ended or been canceled before.
func (l *Local) Close() error {
	l.running.Wait()
	return nil
}

// Do is RoundTrip, for those who want an HTTP client.
func (l *Local) Do(req *http.Request) (*http.Response, error) { return l.RoundTrip(req) }

// RoundTrip runs the handler beside the caller and returns when it has begun to
// answer. The handler's context ends with the request's, or when the body of
// the response is closed.
func (l *Local) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	body := newPipe()
	w := &localWriter{header: http.Header{}, sink: body, began: make(chan struct{})}
	in := req.Clone(ctx)
	in.Proto, in.ProtoMajor, in.ProtoMinor = "HTTP/2.0", 2, 0
	in.RequestURI = req.URL.RequestURI()
	in.RemoteAddr = "in-process"
	in.Host = req.URL.Host
	if in.Body == nil {
		in.Body = http.NoBody
	}
	l.running.Go(func() {
		defer cancel()
		defer in.Body.Close()
		defer w.finish()
		l.handler.ServeHTTP(w, in)
	})
	select {
	case <-w.began:
	case <-req.Context().Done():
		body.fail(req.Context().Err())
		in.Body.Close() // frees a handler that reads
		return nil, req.Context().Err()
	}
	// A reader must not hang on when the caller gives up.
	stop := context.AfterFunc(ctx, func() {
		if err := req.Context().Err(); err != nil {
			body.fail(err)
		}
	})
	return &http.Response{
		Status: http.StatusText(w.status), StatusCode: w.status,
		Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: w.sent, Trailer: w.trailer, ContentLength: -1, Request: req,
		Body: &localBody{pipe: body, close: func() { stop(); cancel() }},
	}, nil
}

// localBody ends the call when it is closed.
type localBody struct {
	*pipe
	close func()
}

func (b *localBody) Close() error {
	b.close()
	return b.pipe.Close()
}

// localWriter is the handler's side of the answer.
type localWriter struct {
	header  http.Header
	sink    *pipe
	began   chan struct{} // closed when status, sent and trailer are set
	status  int
	sent    http.Header // header as it was when the answer began
	trailer http.Header // filled by finish, before the reader sees the end
}

func (w *localWriter) Header() http.Header { return w.header }

func (w *localWriter) WriteHeader(status int) {
	if w.status != 0 || status < 200 {
		return
	}
	w.status, w.sent, w.trailer = status, w.header.Clone(), http.Header{}
	close(w.began)
}

func (w *localWriter) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.sink.Write(b)
}

// Flush begins the answer; bytes are never held back.
func (w *localWriter) Flush() { w.WriteHeader(http.StatusOK) }

// finish ends the answer when the handler returns or panics.
func (w *localWriter) finish() {
	if p := recover(); p != nil {
		if p != http.ErrAbortHandler { //nolint:errorlint // what was thrown, not an error that is handed up
			panic(p)
		}
		w.WriteHeader(http.StatusInternalServerError)
		w.sink.end(errors.New("the call was broken off"))
		return
	}
	w.WriteHeader(http.StatusOK)
	for k, v := range w.header {
		if name, ok := trailerName(k, w.sent); ok {
			w.trailer[name] = v
		}
	}
	w.sink.end(io.EOF)
}

// trailerName says under which name a header set by a handler is a trailer.
func trailerName(key string, sent http.Header) (string, bool) {
	if len(key) > len(http.TrailerPrefix) && key[:len(http.TrailerPrefix)] == http.TrailerPrefix {
		return http.CanonicalHeaderKey(key[len(http.TrailerPrefix):]), true
	}
	for _, declared := range sent.Values("Trailer") {
		if http.CanonicalHeaderKey(declared) == key {
			return key, true
		}
	}
	return "", false
}
