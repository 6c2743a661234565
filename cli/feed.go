package cli

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
)

// Inputs from one file or pipe stream: what has not ended within a moment, or a
// first piece, becomes an open job, whose tasks begin while the rest is read.
// What is read ahead of the tasks is bounded, and so is what the job keeps: what
// was printed is trimmed, unless --keep or --then need it.
const (
	streamAfter     = 100 * time.Millisecond // since the first input
	streamTasks     = 100_000                // or so many inputs
	streamBytes     = 1 << 20                // or bytes of them
	batchBytes      = 256 << 10              // of inputs, sent together
	aheadTasks      = 1 << 16                // inputs without a result
	aheadBytes      = banyan.JobInputBytesMax / 2
	unprintedTasks  = banyan.JobTasksMax / 2 // since the first one that was not printed
	feedAlive       = time.Minute            // a source says that it is there, see work.SourceSilenceMs
	feedRetry       = 100 * time.Millisecond
	feedHoldTimeout = 10 * time.Second
)

// streaming is a source that is being read.
type streaming struct {
	batches chan batch    // closed at its end
	quit    chan struct{} // closed: nobody wants more
	err     error         // why it ended before its end; read it when batches is closed
}

// batch is some rows of a source.
type batch struct {
	rows  [][]string
	bytes int
}

// stream begins to read a source. A batch is handed over when it is large, or
// when the next line is not there yet.
func (r reading) stream(s source) (*streaming, error) {
	file, name, err := r.open(s)
	if err != nil {
		return nil, err
	}
	st := &streaming{batches: make(chan batch), quit: make(chan struct{})}
	go func() { // it may wait for its file for ever, and ends with the process
		defer file.Close()
		defer close(st.batches)
		br := bufio.NewReaderSize(file, banyan.InputBytesMax+1)
		var b batch
		give := func() bool {
			if len(b.rows) == 0 {
				return true
			}
			select {
			case st.batches <- b:
				b = batch{}
				return true
			case <-st.quit:
				return false
			}
		}
		st.err = r.lines(br, name, 0, func(line string) bool {
			b.rows, b.bytes = append(b.rows, r.row(line)), b.bytes+len(line)
			there, _ := br.Peek(br.Buffered()) // what is buffered can be had
			if len(b.rows) < banyan.FeedInputsMax && b.bytes < batchBytes && bytes.IndexByte(there, r.sep) >= 0 {
				return true
			}
			return give()
		})
		if !give() {
			return
		}
	}()
	return st, nil
}

func (st *streaming) stop() {
	if st != nil {
		close(st.quit)
	}
}

// mayStream says whether the inputs of a run can be read while tasks run: of one
// file, and nothing wants to know all of them before.
func (f *runFlags) mayStream(sources []source, spec *banyanv1.JobSpec) bool {
	if len(sources) != 1 || !sources[0].file || f.dryRun || f.detach || job.CountsAll(spec) {
		return false
	}
	for _, s := range f.send {
		if job.Literal(s) != s {
			return false
		}
	}
	return true
}

// takeInputs reads the inputs of a run, or their beginning: then rest is the
// source, which goes on.
func (a *app) takeInputs(f *runFlags, sources []source, spec *banyanv1.JobSpec) (in *inputs, rest *streaming, err error) {
	r, err := a.reading(f, sources)
	if err != nil {
		return nil, nil, err
	}
	if !f.mayStream(sources, spec) {
		in, err = r.read(sources)
		return in, nil, err
	}
	st, err := r.stream(sources[0])
	if err != nil {
		return nil, nil, err
	}
	first, ended := st.first()
	if ended && st.err != nil {
		return nil, nil, st.err
	}
	if !ended {
		rest = st
	}
	if in, err = newInputs([][][]string{first.rows}); err != nil {
		rest.stop()
		return nil, nil, err
	}
	return in, rest, nil
}

// first takes what comes in a moment, and says whether that was all.
func (st *streaming) first() (all batch, ended bool) {
	var late <-chan time.Time // from the first input on
	for len(all.rows) < streamTasks && all.bytes < streamBytes {
		select {
		case b, more := <-st.batches:
			if !more {
				return all, true
			}
			if all.rows == nil {
				late = time.After(streamAfter)
			}
			all.rows, all.bytes = append(all.rows, b.rows...), all.bytes+b.bytes
		case <-late:
			return all, false
		}
	}
	return all, false
}

// feeder gives an open job its inputs.
type feeder struct {
	s     *session
	job   banyan.JobID
	from  *streaming
	trims bool // what was printed is not needed
	rows  bool // inputs are asked for by task

	fed   uint32 // tasks
	alive time.Duration

	mu      sync.Mutex
	got     uint32 // results
	printed uint32 // all results before this task are
	spans   []span
	bytes   int
	inputs  map[uint32][]string
	moved   chan struct{} // has room for one
}

// span is the inputs of one call.
type span struct {
	end   uint32
	bytes int
}

func newFeeder(s *session, id banyan.JobID, from *streaming, first *inputs, f *runFlags, spec *banyanv1.JobSpec) *feeder {
	fd := &feeder{
		s: s, job: id, from: from, fed: uint32(first.count), moved: make(chan struct{}, 1), alive: feedAlive,
		trims: (f.keep == "" || f.keep == "0") && spec.Then == nil, rows: len(spec.Return) > 0, inputs: map[uint32][]string{},
	}
	if fd.rows {
		for row := range first.all() {
			fd.inputs[uint32(len(fd.inputs))] = row
		}
	}
	return fd
}

// row gives a task's input, as long as its result has not come.
func (fd *feeder) row(task uint32) []string {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	return fd.inputs[task]
}

// progress takes it that so many results have come, that of task among them, and
// that all before printed are on standard output.
func (fd *feeder) progress(got, printed uint32) {
	fd.mu.Lock()
	fd.got, fd.printed = got, printed
	for len(fd.spans) > 0 && fd.spans[0].end <= printed {
		fd.bytes -= fd.spans[0].bytes
		fd.spans = fd.spans[1:]
	}
	fd.mu.Unlock()
	select {
	case fd.moved <- struct{}{}:
	default:
	}
}

func (fd *feeder) forget(task uint32) {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	delete(fd.inputs, task)
}

// room says whether a batch may be sent: not too far ahead of the tasks.
func (fd *feeder) room(b batch) bool {
	fd.mu.Lock()
	defer fd.mu.Unlock()
	return fd.fed-fd.got < aheadTasks && fd.fed-fd.printed < unprintedTasks && (fd.bytes == 0 || fd.bytes+b.bytes <= aheadBytes)
}

// run feeds the job until its source ends, and closes it. The error is nil, that
// of ctx, or why there can be no more inputs.
func (fd *feeder) run(ctx context.Context) error {
	defer fd.from.stop()
	tick := time.NewTicker(fd.alive)
	defer tick.Stop()
	var held *batch
	var retry <-chan time.Time
	from := fd.from.batches
	for {
		read := from
		if held != nil {
			read = nil
		}
		due := false
		select {
		case <-ctx.Done():
			return ctx.Err()
		case b, more := <-read:
			if held = &b; !more {
				if fd.from.err != nil {
					return fd.from.err
				}
				from, held = nil, &batch{} // nothing, and the end
			}
		case <-retry:
		case <-fd.moved:
		case <-tick.C:
			due = true
		}
		if held != nil && (from == nil || fd.room(*held)) {
			sent, err := fd.send(ctx, held.rows, held.bytes, from == nil)
			switch {
			case err != nil:
				return err
			case sent && from == nil:
				return nil
			case sent:
				held = nil
			default:
				retry = time.After(feedRetry)
			}
		} else if due {
			if _, err := fd.send(ctx, nil, 0, false); err != nil {
				return err
			}
		}
	}
}

// send makes one call. Not sent: it is to be tried again.
func (fd *feeder) send(ctx context.Context, rows [][]string, size int, last bool) (sent bool, err error) {
	req := &banyanv1.FeedRequest{JobId: string(fd.job), First: fd.fed, Close: last}
	for _, row := range rows {
		req.Inputs = append(req.Inputs, banyanv1.NewInput(row...))
	}
	fd.mu.Lock()
	if fd.trims {
		req.Done = fd.printed
	}
	for i, row := range rows {
		if fd.rows {
			fd.inputs[fd.fed+uint32(i)] = row
		}
	}
	fd.mu.Unlock()
	_, err = fd.s.Jobs().Feed(ctx, req)
	switch kind := banyan.KindOf(err); {
	case err == nil:
	case ctx.Err() != nil:
		return false, ctx.Err()
	case kind == banyan.Unavailable, kind == banyan.Timeout, kind == banyan.NotLeader, kind == banyan.Exhausted && fd.trims:
		return false, nil
	case kind == banyan.Exhausted:
		return false, fmt.Errorf("%w; a job that keeps its results has no more: without --keep and --then it has no end", err)
	default:
		return false, err
	}
	fd.mu.Lock()
	defer fd.mu.Unlock()
	fd.fed += uint32(len(rows))
	if len(rows) > 0 {
		fd.spans = append(fd.spans, span{fd.fed, size})
		fd.bytes += size
	}
	return true, nil
}

// fail holds a job whose source broke off, and says how to go on.
func (f *follower) fail(ctx context.Context, cause error) error {
	hold, cancel := context.WithTimeout(ctx, feedHoldTimeout)
	defer cancel()
	after := fmt.Sprintf("after %s", count(f.feed.fed, "input"))
	if _, err := f.s.Jobs().Hold(hold, f.job); err != nil {
		return fmt.Errorf("%s: %w; job %s goes on with those, and could not be held: %w", after, cause, f.job, err)
	}
	return fmt.Errorf("%s: %w; job %s is held: 'banyan resume%s %s' goes on with those", after, cause, f.job, f.s.hint, f.job)
}
