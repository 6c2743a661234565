package exec

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// link carries frames between a node and its warden, with open files beside them.
type link struct {
	conn *net.UnixConn

	writing sync.Mutex

	in    []byte     // read, and not yet a frame
	files []*os.File // came with it, in order
}

// frame is one message.
type frame struct {
	op   op
	call uint64 // answers bear the number of their question; 0: no answer is wanted
	tree uint64
	body packet
}

// op says what a frame is.
type op byte

const (
	opReady     op = iota + 1 // the warden takes starts
	opFailed                  // it does not, and ends: text
	opLog                     // a warning: text
	opStart                   // a tree: launch
	opFirst                   // how a tree has ended, or not begun: see farTree.heard
	opRest                    // asks for rest
	opTerminate               // asks all to end
	opKill                    // ends all
	opUsage                   // asks for usage
	opExpose
	opGuard
	opRelease // gives a tree up; exit
	opSweep
	opAnswer
)

const (
	frameHead     = 4 + 1 + 8 + 8
	frameBytesMax = 64 << 20 // more than arguments and environment that any kernel takes
	framesBuffer  = 64 << 10
)

// newLink makes a link of an open socket, which it takes over.
func newLink(f *os.File) (*link, error) {
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, ok := c.(*net.UnixConn)
	if !ok {
		c.Close()
		return nil, errors.New("not a unix socket")
	}
	return &link{conn: u}, nil
}

// send writes a frame and passes files on; they stay open here.
func (l *link) send(f frame, files ...*os.File) error {
	b := make([]byte, frameHead, frameHead+len(f.body))
	binary.LittleEndian.PutUint32(b, uint32(len(f.body)))
	b[4] = byte(f.op)
	binary.LittleEndian.PutUint64(b[5:], f.call)
	binary.LittleEndian.PutUint64(b[13:], f.tree)
	b = append(b, f.body...)
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	n, _, err := l.conn.WriteMsgUnix(b, rights, nil)
	if err == nil && n < len(b) {
		_, err = l.conn.Write(b[n:])
	}
	return err
}

// receive gives the next frame. Files that came are taken in order by who knows
// how many the frame has. One goroutine receives.
func (l *link) receive() (frame, error) {
	for {
		if len(l.in) >= frameHead {
			n := binary.LittleEndian.Uint32(l.in)
			if n > frameBytesMax {
				return frame{}, fmt.Errorf("a frame of %d bytes", n)
			}
			if whole := frameHead + int(n); len(l.in) >= whole {
				f := frame{
					op: op(l.in[4]), call: binary.LittleEndian.Uint64(l.in[5:]), tree: binary.LittleEndian.Uint64(l.in[13:]),
					body: append(packet(nil), l.in[frameHead:whole]...),
				}
				l.in = l.in[:copy(l.in, l.in[whole:])]
				return f, nil
			}
		}
		if err := l.read(); err != nil {
			return frame{}, err
		}
	}
}

func (l *link) read() error {
	if cap(l.in)-len(l.in) < framesBuffer/2 {
		l.in = append(make([]byte, 0, 2*len(l.in)+framesBuffer), l.in...)
	}
	var rights [256]byte
	n, o, flags, _, err := l.conn.ReadMsgUnix(l.in[len(l.in):cap(l.in)], rights[:])
	if err != nil {
		return err
	}
	if n == 0 {
		return io.EOF
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return os.NewSyscallError("recvmsg", syscall.EMFILE) // a file was lost: what follows would get another's
	}
	l.in = l.in[:len(l.in)+n]
	messages, err := unix.ParseSocketControlMessage(rights[:o])
	if err != nil {
		return err
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			return err
		}
		for _, fd := range fds {
			l.files = append(l.files, os.NewFile(uintptr(fd), "of a task"))
		}
	}
	return nil
}

// take gives the next files that came.
func (l *link) take(n int) ([]*os.File, error) {
	if len(l.files) < n {
		return nil, fmt.Errorf("%d files came instead of %d", len(l.files), n)
	}
	taken := append([]*os.File(nil), l.files[:n]...)
	l.files = l.files[:copy(l.files, l.files[n:])]
	return taken, nil
}

// packet is the body of a frame: numbers and byte strings one after another.
// Reading beyond its end gives zeros.
type packet []byte

func (p *packet) putNumber(n uint64) { *p = binary.AppendUvarint(*p, n) }

func (p *packet) putBool(b bool) {
	if b {
		p.putNumber(1)
	} else {
		p.putNumber(0)
	}
}

func (p *packet) putText(s string) {
	p.putNumber(uint64(len(s)))
	*p = append(*p, s...)
}

func (p *packet) putTexts(list []string) {
	p.putNumber(uint64(len(list)))
	for _, s := range list {
		p.putText(s)
	}
}

func (p *packet) number() uint64 {
	n, used := binary.Uvarint(*p)
	if used <= 0 {
		*p = nil
		return 0
	}
	*p = (*p)[used:]
	return n
}

func (p *packet) bool() bool { return p.number() != 0 }

func (p *packet) text() string {
	n := p.number()
	if n > uint64(len(*p)) {
		n = uint64(len(*p))
	}
	s := string((*p)[:n])
	*p = (*p)[n:]
	return s
}

func (p *packet) texts() []string {
	n := p.number()
	if n > uint64(len(*p)) { // each takes a byte at least
		n = uint64(len(*p))
	}
	list := make([]string, n)
	for i := range list {
		list[i] = p.text()
	}
	return list
}

// putError keeps of an error what Go's os says: the call, the file, the number.
func (p *packet) putError(err error) {
	var path *os.PathError
	var number syscall.Errno
	if errors.As(err, &path) && errors.As(path.Err, &number) {
		p.putNumber(uint64(number))
		p.putText(path.Op)
		p.putText(path.Path)
		return
	}
	if errors.As(err, &number) {
		p.putNumber(uint64(number))
		p.putText(err.Error())
		p.putText("")
		return
	}
	p.putNumber(0)
	p.putText(err.Error())
	p.putText("")
}

func (p *packet) error() error {
	number, what, path := syscall.Errno(p.number()), p.text(), p.text()
	switch {
	case number == 0:
		return errors.New(what)
	case path == "":
		return os.NewSyscallError(what, number)
	}
	return &os.PathError{Op: what, Path: path, Err: number}
}
