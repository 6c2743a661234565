package client

import (
	"bytes"
	"io"
	"sync"
)

// pipeMax is how many bytes a pipe holds before its writer waits.
const pipeMax = 64 << 10

// pipe is io.Pipe with a bounded buffer: a handler that answers and returns
// while the caller is still sending must not wait for it, as over HTTP/2.
type pipe struct {
	mu     sync.Mutex
	moved  sync.Cond
	buf    bytes.Buffer
	err    error // what the reader gets when buf is empty
	closed bool  // no reader any more
}

func newPipe() *pipe {
	p := &pipe{}
	p.moved.L = &p.mu
	return p
}

// Write waits while the buffer is full.
func (p *pipe) Write(b []byte) (n int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for p.buf.Len() >= pipeMax && !p.closed && p.err == nil {
			p.moved.Wait()
		}
		if p.closed || p.err != nil {
			return n, io.ErrClosedPipe
		}
		k := min(len(b), pipeMax-p.buf.Len())
		p.buf.Write(b[:k])
		b, n = b[k:], n+k
		p.moved.Broadcast()
	}
	return n, nil
}

// Read waits for bytes or the end.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for p.buf.Len() == 0 && p.err == nil && !p.closed {
		p.moved.Wait()
	}
	if p.closed {
		return 0, io.ErrClosedPipe
	}
	if p.buf.Len() == 0 {
		return 0, p.err
	}
	n, _ := p.buf.Read(b)
	p.moved.Broadcast()
	return n, nil
}

// end lets the reader read to the end of what was written, then gives err.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
	}
	p.moved.Broadcast()
}

// fail gives err to the reader at once.
func (p *pipe) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.buf, p.err = bytes.Buffer{}, err
	p.moved.Broadcast()
}

// Close ends reading; the writer is told.
func (p *pipe) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed, p.buf = true, bytes.Buffer{}
	p.moved.Broadcast()
	return nil
}
