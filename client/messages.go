package client

import (
	"encoding/binary"
	"io"
	"net/http"
)

// messages is the body of a stream of calls, and gives every message together
// with the few bytes before it: Connect writes them apart, and HTTP/2 would
// send them apart, each in a packet of its own that wakes the node.
type messages struct {
	io.ReadCloser
	left  int  // of the message that is being read
	plain bool // not what it should be: given as it comes
}

// prefixBytes stand before a message: flags, and its length.
const prefixBytes = 5

// together makes the body of a stream one that gives messages whole.
func together(req *http.Request) *http.Request {
	if req.Body == nil || req.Header.Get("Content-Type") != "application/connect+proto" {
		return req
	}
	own := *req
	own.Body = &messages{ReadCloser: req.Body}
	return &own
}

func (m *messages) Read(p []byte) (int, error) {
	n, err := m.ReadCloser.Read(p)
	switch {
	case m.plain:
		return n, err
	case m.left > 0:
		m.left -= n
	case n >= prefixBytes:
		m.left = int(binary.BigEndian.Uint32(p[1:])) + prefixBytes - n
		if n == prefixBytes && m.left > 0 && n < len(p) && err == nil {
			var more int
			more, err = m.ReadCloser.Read(p[n:]) // it is being written
			m.left -= more
			n += more
		}
	case n > 0:
		m.plain = true
	}
	m.plain = m.plain || m.left < 0
	return n, err
}
