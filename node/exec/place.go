package exec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"

	"banyan"
)

// Place is where one attempt runs: a working directory and two output files.
// Output may be read while the attempt runs and until the last Release.
type Place struct {
	runner  *Runner
	workDir string      // given by the job; "": own
	own     string      // path of the own directory; "": none made yet
	root    *os.Root    // the working directory as it was when the place was opened
	handle  *os.File    // the same
	info    os.FileInfo // of the handle
	holds   bool        // the job's directory has the node's own in it
	out     [2]*capture // stdout, stderr
	rest    [2]*capture // what the attempt before wrote to, for the next one
	refs    atomic.Int32
}

// Dir is the absolute path of the working directory.
func (p *Place) Dir() string {
	if p.workDir != "" {
		return p.workDir
	}
	return p.own
}

// Shared says whether the working directory is the job's rather than the
// attempt's own.
func (p *Place) Shared() bool { return p.workDir != "" }

// Root opens the working directory so that no path leads out of it. The caller
// closes it. It is the directory that was there when the place was opened: what
// a task has put under its name since is not looked at.
func (p *Place) Root() (*os.Root, error) {
	if p.holds {
		return nil, banyan.Errorf(banyan.PermissionDenied, "the working directory %s holds the directory of node %s: no files are put there or returned from there; take another working directory", p.workDir, p.runner.cfg.Node)
	}
	return p.root.OpenRoot(".")
}

// Stdout is what the attempt has written to its standard output so far.
func (p *Place) Stdout() Output { return Output{p.out[0]} }

// Stderr is what the attempt has written to its standard error so far.
func (p *Place) Stderr() Output { return Output{p.out[1]} }

// Output is one captured stream.
type Output struct{ c *capture }

// ReadAt reads at an offset, as io.ReaderAt; io.EOF at the present end.
func (o Output) ReadAt(b []byte, off int64) (int, error) {
	from, _, err := o.c.span()
	if err != nil {
		return 0, err
	}
	return o.c.read.ReadAt(b, from+off)
}

// Size is how many bytes there are now.
func (o Output) Size() (int64, error) {
	_, size, err := o.c.span()
	return size, err
}

// Retain keeps the place for one more Release, unless it is gone already.
func (p *Place) Retain() bool {
	for {
		n := p.refs.Load()
		if n <= 0 {
			return false
		}
		if p.refs.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// Release gives the place back. After the last one everything in its own
// directory is removed and its output is gone.
func (p *Place) Release() {
	if p.refs.Add(-1) > 0 {
		return
	}
	for i, c := range p.out {
		if c != nil && !c.small() {
			c.close()
			p.out[i] = nil
		}
	}
	if p.workDir != "" {
		p.leave()
	} else if p.own != "" && !p.pristine() {
		p.dropDir()
	}
	p.runner.give(p)
}

// ready makes what is missing: output files, and an empty directory. Output
// files take turns: just after an attempt a process that another goroutine is
// starting may for an instant hold the file open, as it holds everything.
func (p *Place) ready() error {
	for i := range p.out {
		p.out[i], p.rest[i] = p.rest[i], p.out[i]
		if p.out[i] != nil && !p.out[i].reset() {
			p.out[i].close()
			p.out[i] = nil
		}
		if p.out[i] == nil {
			c, err := newCapture(p.runner.cfg.Dir)
			if err != nil {
				return err
			}
			p.out[i] = c
		}
	}
	if p.workDir != "" {
		return p.enter()
	}
	if p.own != "" {
		if p.pristine() {
			return nil
		}
		p.dropDir()
	}
	own, err := p.runner.newDir()
	if err != nil {
		return err
	}
	p.own = own
	if err := p.hold(p.runner.root.OpenRoot(filepath.Base(own))); err != nil {
		return err
	}
	// Another task may have put a link there between making and opening.
	if now, err := p.runner.root.Lstat(filepath.Base(own)); err != nil || !os.SameFile(now, p.info) {
		return fmt.Errorf("%s is not the directory that was made", own)
	}
	return nil
}

// hold keeps what was opened.
func (p *Place) hold(root *os.Root, err error) error {
	if err != nil {
		return err
	}
	p.root = root
	if p.handle, err = root.Open("."); err != nil {
		return err
	}
	p.info, err = p.handle.Stat()
	return err
}

// enter opens the directory that the job names, unless it is the node's. A place
// that has a directory of its own gives it up.
func (p *Place) enter() error {
	if p.own != "" {
		p.dropDir()
	}
	if err := p.hold(os.OpenRoot(p.workDir)); err != nil {
		return err
	}
	private := p.runner.private
	if private == nil {
		return nil
	}
	// The name is resolved after the directory was opened; should it lead
	// elsewhere by now, it is not known where the opened one lies.
	real, err := filepath.EvalSymlinks(p.workDir)
	if err != nil {
		return err
	}
	if now, err := os.Stat(real); err != nil || !os.SameFile(now, p.info) {
		return banyan.Errorf(banyan.Unavailable, "the working directory %s on node %s was replaced while it was opened: try again", p.workDir, p.runner.cfg.Node)
	}
	within, err := lies(real, private)
	if err == nil && within {
		return banyan.Errorf(banyan.PermissionDenied, "the working directory %s is in the directory of node %s, which is no place for tasks: take another", p.workDir, p.runner.cfg.Node)
	}
	if err == nil {
		p.holds, err = lies(p.runner.cfg.Private, p.info)
	}
	return err
}

// lies says whether a path without links is a directory or is below it.
func lies(path string, dir os.FileInfo) (bool, error) {
	for {
		st, err := os.Stat(path)
		if err != nil {
			return false, err
		}
		if os.SameFile(st, dir) {
			return true, nil
		}
		up := filepath.Dir(path)
		if up == path {
			return false, nil
		}
		path = up
	}
}

// leave closes the working directory.
func (p *Place) leave() {
	if p.handle != nil {
		p.handle.Close()
	}
	if p.root != nil {
		p.root.Close()
	}
	p.root, p.handle, p.info, p.holds, p.workDir = nil, nil, nil, false, ""
}

// pristine says whether the directory is as it was made: empty, in its place,
// with the same owner and rights.
func (p *Place) pristine() bool {
	if !reusable || p.handle == nil || p.info == nil {
		return false
	}
	now, err := p.runner.root.Lstat(filepath.Base(p.own))
	if err != nil || !os.SameFile(now, p.info) || now.Mode() != p.info.Mode() {
		return false
	}
	if _, err := p.handle.Seek(0, io.SeekStart); err != nil {
		return false
	}
	_, err = p.handle.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// dropDir removes the own directory: what is in it by its handle, wherever it
// is now, then what bears its name, then itself where the task has moved it.
func (p *Place) dropDir() {
	moved := ""
	var err error
	if p.info != nil {
		err = empty(p.root)
		if now := pathOf(p.handle); now != p.own {
			if st, err := os.Lstat(now); err == nil && os.SameFile(st, p.info) {
				moved = now
			}
		}
	}
	own := p.own
	p.leave()
	p.own = ""
	if e := p.runner.remove(filepath.Base(own)); err == nil {
		err = e
	}
	if moved != "" {
		if e := os.Remove(moved); err == nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
	}
	if err != nil {
		p.runner.cfg.Logger.Warn("cannot remove a task's working directory; remove it by hand", "directory", own, "error", err)
	}
}

func (p *Place) destroy() {
	for _, c := range append(p.out[:], p.rest[:]...) {
		if c != nil {
			c.close()
		}
	}
	p.out, p.rest = [2]*capture{}, [2]*capture{}
	if p.own != "" {
		p.dropDir()
	}
	p.leave()
}

// empty removes all that is in a directory, also where a task took away its own
// right to.
func empty(root *os.Root) error {
	err := emptyOnce(root)
	if err == nil {
		return nil
	}
	_ = fs.WalkDir(root.FS(), ".", func(path string, d fs.DirEntry, err error) error {
		if path == "." || err == nil && d.IsDir() {
			_ = root.Chmod(path, 0o700) // what still fails, the removal reports
		}
		return nil
	})
	return emptyOnce(root)
}

func emptyOnce(root *os.Root) error {
	d, err := root.Open(".")
	if errors.Is(err, fs.ErrPermission) {
		_ = root.Chmod(".", 0o700)
		d, err = root.Open(".")
	}
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	for _, n := range names {
		if e := root.RemoveAll(n); err == nil {
			err = e
		}
	}
	return err
}
