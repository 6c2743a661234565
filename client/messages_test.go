package client

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// Messages come whole, as far as there is room, whatever their length, and the
// bytes are those that were written.
func TestMessagesComeWhole(t *testing.T) {
	const room = 64
	r, w := io.Pipe()
	var written, read []byte
	sizes := []int{0, 1, prefixBytes, 30, room - prefixBytes, room, room + prefixBytes, 2 * room, 3}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for i, n := range sizes {
			message := bytes.Repeat([]byte{byte(i)}, n)
			prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(n))
			written = append(append(written, prefix...), message...)
			_, _ = w.Write(prefix)
			if n > 0 {
				_, _ = w.Write(message)
			}
		}
		_ = w.Close()
	}()
	m, buf, reads := &messages{ReadCloser: r}, make([]byte, room), 0
	for {
		n, err := m.Read(buf)
		read = append(read, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		reads++
	}
	<-ended
	if !bytes.Equal(read, written) || m.plain {
		t.Errorf("read %d bytes, written %d; plain: %v", len(read), len(written), m.plain)
	}
	if want := len(sizes) + 1 + 1 + 2; reads != want { // what does not fit comes in parts
		t.Errorf("%d reads, want %d", reads, want)
	}
}

// What is not made of messages passes through.
func TestOtherBodiesPassThrough(t *testing.T) {
	m := &messages{ReadCloser: io.NopCloser(bytes.NewReader([]byte("abc")))}
	if b, err := io.ReadAll(m); err != nil || string(b) != "abc" || !m.plain {
		t.Errorf("%q, %v", b, err)
	}
}
