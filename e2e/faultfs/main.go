// Command faultfs mounts a directory a second time, through a file system that
// fails when it is told to: the disk of a node under test.
//
//	faultfs DIRECTORY MOUNTPOINT
//
// Each line it reads is a fault from now on, and it answers each with "ok":
//
//	fail OP ERROR [SKIP]   OP fails, after SKIP more that do not
//	slow OP DURATION       OP takes longer
//	heal                   no fault
//
// OP is read, write, sync or create, ERROR is EIO or ENOSPC. At the end of its
// input, whatever ended it, it unmounts.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

func main() {
	signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP) // they end the test, and with it our input
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "faultfs:", err)
		os.Exit(1)
	}
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 2 {
		return errors.New("give a directory and a mount point")
	}
	loopback, err := fs.NewLoopbackRoot(args[0])
	if err != nil {
		return err
	}
	d := &disk{faults: map[string]fault{}, healed: make(chan struct{})}
	noCache := time.Duration(0)
	server, err := fs.Mount(args[1], &node{loopback.(*fs.LoopbackNode), d}, &fs.Options{
		EntryTimeout: &noCache, AttrTimeout: &noCache,
		MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "faultfs", Name: "faultfs"},
	})
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Unmount(args[1], syscall.MNT_DETACH) }()
	go server.Wait()
	fmt.Fprintln(out, "mounted")
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if err := d.command(strings.Fields(lines.Text())); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		fmt.Fprintln(out, "ok")
	}
	return nil
}

// disk is what every file of the mount stands on.
type disk struct {
	mu     sync.Mutex
	faults map[string]fault
	healed chan struct{} // closed when what is slow need not be slow any more
}

type fault struct {
	err  syscall.Errno
	skip int
	slow time.Duration
}

func (d *disk) command(words []string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(words) == 1 && words[0] == "heal" {
		clear(d.faults)
		close(d.healed)
		d.healed = make(chan struct{})
		return nil
	}
	if len(words) < 3 {
		return errors.New("unknown")
	}
	var f fault
	var err error
	switch {
	case words[0] == "slow":
		f.slow, err = time.ParseDuration(words[2])
	case words[0] == "fail" && words[2] == "EIO":
		f.err = syscall.EIO
	case words[0] == "fail" && words[2] == "ENOSPC":
		f.err = syscall.ENOSPC
	default:
		err = errors.New("unknown")
	}
	if len(words) == 4 {
		f.skip, err = strconv.Atoi(words[3])
	}
	d.faults[words[1]] = f
	return err
}

// do is called before each operation.
func (d *disk) do(op string) syscall.Errno {
	d.mu.Lock()
	f := d.faults[op]
	if f.skip > 0 {
		d.faults[op] = fault{err: f.err, skip: f.skip - 1}
		f.err = 0
	}
	healed := d.healed
	d.mu.Unlock()
	if f.slow > 0 {
		select {
		case <-time.After(f.slow):
		case <-healed:
		}
	}
	return f.err
}

// node is a file or directory.
type node struct {
	*fs.LoopbackNode
	disk *disk
}

var (
	_ fs.NodeWrapChilder = (*node)(nil)
	_ fs.NodeOpener      = (*node)(nil)
	_ fs.NodeCreater     = (*node)(nil)
)

// WrapChild makes every node below this one fail too.
func (n *node) WrapChild(_ context.Context, ops fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{ops.(*fs.LoopbackNode), n.disk}
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, flags, err := n.LoopbackNode.Open(ctx, flags)
	return n.wrap(f), flags, err
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	if err := n.disk.do("create"); err != 0 {
		return nil, nil, 0, err
	}
	inode, f, flags, err := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	return inode, n.wrap(f), flags, err
}

func (n *node) wrap(f fs.FileHandle) fs.FileHandle {
	if f, ok := f.(*fs.LoopbackFile); ok {
		return &file{f, n.disk}
	}
	return f
}

// file is an open file.
type file struct {
	*fs.LoopbackFile
	disk *disk
}

var (
	_ fs.FileReader          = (*file)(nil)
	_ fs.FileWriter          = (*file)(nil)
	_ fs.FileFsyncer         = (*file)(nil)
	_ fs.FilePassthroughFder = (*file)(nil)
)

// PassthroughFd keeps the kernel from going to the file below without asking here.
func (f *file) PassthroughFd() (int, bool) { return 0, false }

func (f *file) Read(ctx context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if err := f.disk.do("read"); err != 0 {
		return nil, err
	}
	return f.LoopbackFile.Read(ctx, dest, off)
}

func (f *file) Write(ctx context.Context, data []byte, off int64) (uint32, syscall.Errno) {
	if err := f.disk.do("write"); err != 0 {
		return 0, err
	}
	return f.LoopbackFile.Write(ctx, data, off)
}

func (f *file) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	if err := f.disk.do("sync"); err != 0 {
		return err
	}
	return f.LoopbackFile.Fsync(ctx, flags)
}
