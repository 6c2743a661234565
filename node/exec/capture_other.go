//go:build !linux

package exec

import (
	"os"
	"runtime"
)

// reusable says that an emptied working directory may serve again. Windows
// does not let a directory go while a handle to it is open.
const reusable = runtime.GOOS != "windows"

// capture is one output file, made anew for every attempt: without Linux's
// leases nobody can tell whether an escaped process still writes to an old one.
type capture struct {
	read, write *os.File
}

func newCapture(dir string) (*capture, error) {
	f, err := os.CreateTemp(dir, "out")
	if err != nil {
		return nil, err
	}
	read, err := os.Open(f.Name())
	if err != nil {
		f.Close()
		os.Remove(f.Name())
		return nil, err
	}
	if reusable {
		os.Remove(f.Name()) // lives on without a name
	}
	return &capture{read: read, write: f}, nil
}

// writer gives the end for the attempt; the caller closes it.
func (c *capture) writer() (*os.File, error) {
	w := c.write
	c.write = nil
	if w == nil {
		return nil, os.ErrClosed
	}
	return w, nil
}

// span says where the attempt's output begins and how long it is.
func (c *capture) span() (from, size int64, err error) {
	st, err := c.read.Stat()
	if err != nil {
		return 0, 0, err
	}
	return 0, st.Size(), nil
}

// small says whether the file may be kept for a later attempt.
func (c *capture) small() bool { return false }

// reset makes the file ready for the next attempt; false if it must not serve again.
func (c *capture) reset() bool { return false }

func (c *capture) close() {
	c.read.Close()
	if c.write != nil {
		c.write.Close()
	}
	if !reusable {
		os.Remove(c.read.Name())
	}
}
