package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"

	"banyan/sim"
)

// A run replaces crypto/rand.Reader of its whole process, so seeds run beside
// each other only in processes of their own: children that read configurations
// and write reports, one a line.

// serve is a child.
func serve(in io.Reader, out *bufio.Writer) error {
	configs, reports := json.NewDecoder(in), json.NewEncoder(out)
	for {
		var cfg sim.Config
		err := configs.Decode(&cfg)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = reports.Encode(sim.Run(cfg))
		}
		if err == nil {
			err = out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// run gives the seeds to each in turn, and what became of them to take, in the
// order of the seeds, until that says false.
type run func(take func(*sim.Report) bool) error

// runner is this process alone, or children.
func (o *options) runner() (run, func(), error) {
	if o.jobs = min(o.jobs, int(min(o.seeds, 1024))); o.jobs <= 1 {
		return o.alone, func() {}, nil
	}
	var children []*child
	stop := func() {
		for _, c := range children {
			c.end()
		}
	}
	for range o.jobs {
		c, err := newChild()
		if err != nil {
			stop()
			return nil, nil, err
		}
		children = append(children, c)
	}
	return func(take func(*sim.Report) bool) error { return o.together(children, take) }, stop, nil
}

func (o *options) config(n uint64) sim.Config {
	cfg := o.cfg
	cfg.Seed += n
	return cfg
}

func (o *options) alone(take func(*sim.Report) bool) error {
	for n := range o.seeds {
		if !take(sim.Run(o.config(n))) {
			return nil
		}
	}
	return nil
}

// result is what a child says of one seed.
type result struct {
	report *sim.Report
	err    error
}

// together lets every child work through seeds of its own: the n-th has each
// seed that is n modulo their number, so reports come in order by turns.
func (o *options) together(children []*child, take func(*sim.Report) bool) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	over := make(chan struct{})
	defer close(over)
	results := make([]chan result, len(children))
	for i, c := range children {
		results[i] = make(chan result, 64)
		wg.Go(func() {
			for n := uint64(i); n < o.seeds; n += uint64(len(children)) {
				report, err := c.run(o.config(n))
				select {
				case results[i] <- result{report, err}:
				case <-over:
					return
				}
				if err != nil {
					return
				}
			}
		})
	}
	for n := range o.seeds {
		r := <-results[n%uint64(len(children))]
		if r.err != nil {
			return r.err
		}
		if !take(r.report) {
			return nil
		}
	}
	return nil
}

// child is one process that runs seeds.
type child struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

func newChild() (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{cmd: exec.Command(self, "-child")}
	c.cmd.Stderr = os.Stderr
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.out = json.NewDecoder(out)
	return c, c.cmd.Start()
}

func (c *child) run(cfg sim.Config) (*sim.Report, error) {
	if err := json.NewEncoder(c.in).Encode(cfg); err != nil {
		return nil, err
	}
	r := sim.NewReport()
	return r, c.out.Decode(r)
}

// end lets the child finish the seed it is at.
func (c *child) end() {
	c.in.Close()
	_ = c.cmd.Wait()
}
