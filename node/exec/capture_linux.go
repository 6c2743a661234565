package exec

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// reusable says that an emptied working directory may serve again.
const reusable = true

// capture is one output file. It has no name on disk where the file system lets
// it, so nothing is left of it however this process ends. Each attempt gets a description of its own to
// append through. The file serves again, continued where the last attempt
// stopped since truncating it costs a tenth of starting a process, when it is
// small and the kernel grants a read lease on it: then no process, in the group
// or escaped from it, can still write.
type capture struct {
	read *os.File
	name string // opens the file anew
	mark [16]byte
	base int64 // where the present attempt begins

	named bool // name is one on disk
}

// captureReuseMax is the size in bytes up to which an output file serves again.
const captureReuseMax = 1 << 20

func newCapture(dir string) (*capture, error) {
	c := &capture{}
	f, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err == nil {
		if c.read, err = os.Open(self(f)); err == nil {
			c.name = self(c.read)
		} else {
			f.Close()
		}
	}
	if err != nil { // a file system where a file cannot be without a name, such as many of FUSE
		if f, err = c.create(dir); err != nil {
			return nil, err
		}
	}
	defer f.Close()
	rand.Read(c.mark[:])
	c.base = int64(len(c.mark))
	if _, err := f.Write(c.mark[:]); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// create makes a file that keeps its name until close.
func (c *capture) create(dir string) (*os.File, error) {
	f, err := os.CreateTemp(dir, "out")
	if err != nil {
		return nil, err
	}
	c.name, c.named = f.Name(), true
	if c.read, err = os.Open(c.name); err != nil {
		f.Close()
		os.Remove(c.name)
		return nil, err
	}
	return f, nil
}

// span says where the attempt's output begins and how long it is. A script that
// writes to /dev/stderr truncates the file, and with it the mark at its front:
// then all there is belongs to the attempt.
func (c *capture) span() (from, size int64, err error) {
	st, err := c.read.Stat()
	if err != nil {
		return 0, 0, err
	}
	size = st.Size()
	if size == c.base {
		return size, 0, nil
	}
	var mark [len(c.mark)]byte
	if _, err := c.read.ReadAt(mark[:], 0); size < c.base || err != nil || mark != c.mark {
		return 0, size, nil //nolint:nilerr // no mark to be read: truncated
	}
	return c.base, size - c.base, nil
}

func self(f *os.File) string {
	return filepath.Join("/proc/self/fd", strconv.Itoa(int(f.Fd())))
}

// writer opens the end for the attempt; the caller closes it.
func (c *capture) writer() (*os.File, error) {
	fd, err := unix.Open(c.name, unix.O_WRONLY|unix.O_APPEND|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: c.name, Err: err}
	}
	return os.NewFile(uintptr(fd), c.name), nil
}

// small says whether the file may be kept for a later attempt.
func (c *capture) small() bool {
	from, size, err := c.span()
	return err == nil && from+size <= captureReuseMax
}

// reset makes the file ready for the next attempt; false if it must not serve again.
func (c *capture) reset() bool {
	from, size, err := c.span()
	if err != nil || from != c.base && size > 0 {
		return false
	}
	fd := c.read.Fd()
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return false
	}
	if _, err := unix.FcntlInt(fd, unix.F_SETLEASE, unix.F_UNLCK); err != nil {
		return false
	}
	c.base = from + size
	return true
}

func (c *capture) close() {
	c.read.Close()
	if c.named {
		os.Remove(c.name)
	}
}
