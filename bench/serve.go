package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// measured is a point as one bench process tells another.
type measured struct {
	EachNs, NodesNs, SelfNs int64 // between two acknowledgements; CPU of one operation, of all nodes and of the client
	Error                   string
}

// benchServe starts three nodes of this tree and measures what its standard
// input says, a line each: "puts CLIENTS DURATION", "gets …" or "idle 0 DURATION".
// Two trees are measured in turn so, each with its own client.
func benchServe(ctx context.Context, _ []string) error {
	own, err := startKeys(ctx)
	if err != nil {
		return err
	}
	defer own.Close()
	for i := range readKeys {
		if err := own.Put(ctx, fmt.Sprintf("k%015d", i), make([]byte, 256)); err != nil {
			return err
		}
	}
	out := json.NewEncoder(os.Stdout)
	if err := out.Encode(measured{}); err != nil { // ready
		return err
	}
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var (
			what, text string
			clients    int
		)
		_, _ = fmt.Sscan(in.Text(), &what, &clients, &text)
		lasting, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q: %w", in.Text(), err)
		}
		if err := out.Encode(measure(ctx, own, what, clients, lasting)); err != nil {
			return err
		}
	}
	return nil
}

func measure(ctx context.Context, own banyanKeys, what string, clients int, lasting time.Duration) (m measured) {
	if what == "idle" {
		before := cpuOf(own.procs)
		select {
		case <-ctx.Done():
		case <-time.After(lasting):
		}
		return measured{EachNs: lasting.Nanoseconds(), NodesNs: (cpuOf(own.procs) - before).Nanoseconds()}
	}
	p := load(ctx, own, what == "gets", clients, lasting)
	if p.rate > 0 {
		m.EachNs = int64(float64(time.Second) / p.rate)
	}
	if p.lastError != nil {
		m.Error = fmt.Sprintf("%d errors, the last: %v", p.errors, p.lastError)
	}
	m.NodesNs, m.SelfNs = p.nodes.Nanoseconds(), p.self.Nanoseconds()
	return m
}

// served is a bench process of one tree that measures on request.
type served struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *json.Decoder
}

// serveTree builds the bench of a tree and starts it with its nodes. Close it.
func serveTree(ctx context.Context, tree, bin string) (*served, error) {
	dir := filepath.Join(tree, "bench")
	b := exec.CommandContext(ctx, "go", "build", "-o", bin, ".")
	b.Dir, b.Stderr = dir, os.Stderr
	if err := b.Run(); err != nil {
		return nil, fmt.Errorf("building %s: %w", dir, err)
	}
	s := &served{cmd: exec.CommandContext(ctx, bin, "serve")}
	s.cmd.Dir, s.cmd.Stderr = dir, os.Stderr
	var err error
	if s.in, err = s.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out = json.NewDecoder(out)
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	var ready measured
	if err := s.out.Decode(&ready); err != nil {
		s.Close()
		return nil, fmt.Errorf("the bench of %s did not start its nodes: %w", tree, err)
	}
	return s, nil
}

func (s *served) ask(what string, clients int, lasting time.Duration) (m measured, err error) {
	if _, err = fmt.Fprintln(s.in, what, clients, lasting); err == nil {
		err = s.out.Decode(&m)
	}
	if err == nil && strings.TrimSpace(m.Error) != "" {
		fmt.Fprintln(os.Stderr, "bench:", what, m.Error)
	}
	return m, err
}

// Close ends the nodes, and then the process.
func (s *served) Close() {
	_ = s.in.Close()
	_ = s.cmd.Wait()
}
