package exec

import (
	"errors"
	"io"
	"os"
	"sync/atomic"
)

// Place is where one attempt runs: a working directory and two output files.
// Output may be read while the attempt runs and until the last Release.
type Place struct {
	runner  *Runner
	workDir string // given by the job; "": own
	own     string // path of the own directory; "": none made yet
	handle  *os.File
	info    os.FileInfo // of own when it was made
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
// closes it.
func (p *Place) Root() (*os.Root, error) { return os.OpenRoot(p.Dir()) }

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
	if p.own != "" && !p.pristine() {
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
		return nil
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
	if p.handle, err = os.Open(own); err != nil {
		return err
	}
	p.info, err = p.handle.Stat()
	return err
}

// pristine says whether the directory is as it was made: empty, in its place,
// with the same owner and rights.
func (p *Place) pristine() bool {
	if !reusable || p.handle == nil || p.info == nil {
		return false
	}
	now, err := os.Lstat(p.own)
	if err != nil || !os.SameFile(now, p.info) || now.Mode() != p.info.Mode() {
		return false
	}
	if _, err := p.handle.Seek(0, io.SeekStart); err != nil {
		return false
	}
	_, err = p.handle.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

func (p *Place) dropDir() {
	if p.handle != nil {
		p.handle.Close()
	}
	if err := removeAll(p.own); err != nil {
		p.runner.cfg.Logger.Warn("cannot remove a task's working directory; remove it by hand", "error", err)
	}
	p.own, p.handle, p.info = "", nil, nil
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
}
