// Package harness drives a layer's controller beside the leader of one shard,
// in one term. It decides when the rows are read, in which order commands are
// proposed, when one is proposed again, and when everything is read anew. It is
// a pure core: loads, ticks and answers go in; commits, loads and a timer come
// out. Package seam drives it with goroutines, package sim with events.
//
// The harness goes through these states:
//
//	reading   the rows are being read; nothing is under way
//	serving   the seat is asked for commands, and each is proposed until it is
//	          clear what became of it
//	draining  a command was refused, or the shard was split: no new commands,
//	          until it is clear what became of those under way
//	pausing   until the rows are read again
//	over      another term has begun, or will
//
// Commands under way are waited for before the rows are read, because one that
// is committed behind the reading would not be in what was read.
package harness

import (
	"banyan"
	"banyan/core/mvcc"
	"banyan/core/retry"
)

// Time is what a controller knows of time.
type Time struct {
	Now  int64 // milliseconds on a clock that does not go back
	Wall int64 // the time of day, in milliseconds since 1970, for people
}

// Seat is what a layer does beside the leader of one shard. The harness calls
// it once its rows are read; when they are read anew, it has forgotten all
// commands that it gave before.
type Seat interface {
	// Tick lets time pass.
	Tick(t Time)
	// Deadline says when Tick is wanted, on the clock of Time.Now; not ok: not
	// before something else happens.
	Deadline() (at int64, ok bool)
	// Next gives the next command, fenced by the term; nil if there is none now.
	// It is proposed behind those given before.
	Next(t Time) *mvcc.Command
	// Committed gives the outcome of the oldest command, which may be that its
	// conditions did not hold. An error asks for the rows to be read anew.
	Committed(t Time, res mvcc.Result) error
	// Refused says that the oldest command will never be committed. An error
	// asks for the rows to be read anew.
	Refused(t Time, err error) error
}

// Effects is what the shell has to do.
type Effects struct {
	Load    bool     // read the rows, then call Loaded
	Commits []Commit // propose each, in this order, then call Answer
	Notes   []Note   // for the log
}

// Commit is a command to propose.
type Commit struct {
	N       uint64 // names it in Answer
	Command *mvcc.Command
}

// Note is a line for the log.
type Note struct {
	What  string
	Err   error
	Fault bool // it should never happen
}

type state uint8

const (
	reading state = iota
	serving
	draining
	pausing
	over
)

// Harness is not safe for concurrent use. The same inputs in the same order
// give the same outputs.
type Harness struct {
	seat  Seat
	name  func() banyan.RequestID
	state state
	until int64      // of the pause
	wait  retry.Wait // before the rows are read again
	again bool       // what is being read is out of date already

	given  uint64
	flight []*flying // in the order in which they were given
	out    Effects
}

// flying is a command under way.
type flying struct {
	n       uint64
	cmd     *mvcc.Command
	wait    retry.Wait
	resend  int64 // when to propose it again; 0: its answer is to come
	settled bool
	res     mvcc.Result
	err     error
}

// New makes the harness of a seat. name gives a new request id each time.
func New(seat Seat, name func() banyan.RequestID) *Harness {
	return &Harness{seat: seat, name: name, out: Effects{Load: true}}
}

// Effects gives what there is to do and forgets it.
func (h *Harness) Effects() Effects {
	e := h.out
	h.out = Effects{}
	return e
}

// Over says that the term is over; there is nothing more to do.
func (h *Harness) Over() bool { return h.state == over }

// InFlight counts the commands under way.
func (h *Harness) InFlight() int { return len(h.flight) }

// Loaded says that the seat has read its rows, or could not.
func (h *Harness) Loaded(t Time, err error) {
	switch {
	case h.state != reading:
	case banyan.IsKind(err, banyan.Stale):
		h.state = over
	case err != nil:
		h.readLater(t, err)
	case h.again:
		h.again, h.out.Load = false, true
	default:
		h.state = serving
		h.wait.Reset()
		h.Step(t)
	}
}

// Again asks for the rows to be read anew in the same term, because the shard
// was split and holds fewer of them.
func (h *Harness) Again(t Time) {
	switch h.state {
	case reading:
		h.again = true
	case serving:
		h.state = draining
		h.Step(t)
	}
}

// Answer gives the outcome of a command that was proposed.
func (h *Harness) Answer(t Time, n uint64, res mvcc.Result, err error) {
	f := h.find(n)
	if f == nil || h.state == over {
		return
	}
	switch {
	case err == nil && res.Stale, banyan.IsKind(err, banyan.Stale):
		h.state = over
		return
	case err == nil, banyan.IsKind(err, banyan.Invalid), banyan.IsKind(err, banyan.Moved):
		f.settled, f.res, f.err = true, res, err
	default: // it may have been committed: the same request id asks again
		late := f.wait.Late()
		f.resend = t.Now + f.wait.Next()
		if !late && f.wait.Late() {
			h.note("a command is not committed, which is proposed again", err)
		}
	}
	h.Step(t)
}

// Step lets time pass, and asks the seat for what it wants done now.
func (h *Harness) Step(t Time) {
	if h.state == pausing && t.Now >= h.until {
		h.state, h.out.Load = reading, true
	}
	if h.state != serving && h.state != draining {
		return
	}
	for _, f := range h.flight {
		if f.resend != 0 && t.Now >= f.resend {
			f.resend = 0
			h.propose(f)
		}
	}
	h.settle(t)
	if h.state == serving {
		h.seat.Tick(t)
		for cmd := h.seat.Next(t); cmd != nil; cmd = h.seat.Next(t) {
			cmd.Request = h.name()
			h.given++
			f := &flying{n: h.given, cmd: cmd}
			h.flight = append(h.flight, f)
			h.propose(f)
		}
	}
	if h.state == draining && len(h.flight) == 0 {
		h.pause(t)
	}
}

// Timer says when to call Step, on the clock of Time.Now; not ok: not before
// something else happens.
func (h *Harness) Timer() (at int64, ok bool) {
	earlier := func(ms int64) {
		if !ok || ms < at {
			at, ok = ms, true
		}
	}
	switch h.state {
	case pausing:
		earlier(h.until)
	case serving:
		if ms, due := h.seat.Deadline(); due {
			earlier(ms)
		}
	}
	for _, f := range h.flight {
		if f.resend != 0 {
			earlier(f.resend)
		}
	}
	return at, ok
}

// settle tells the seat, in order, what became of its commands. Behind one that
// makes it read its rows anew it hears of no other.
func (h *Harness) settle(t Time) {
	for len(h.flight) > 0 && h.flight[0].settled {
		f := h.flight[0]
		h.flight = h.flight[1:]
		if h.state == draining {
			continue
		}
		if banyan.IsKind(f.err, banyan.Moved) { // the shard was split: what is left of it is read
			h.state = draining
			continue
		}
		var err error
		if f.err == nil {
			err = h.seat.Committed(t, f.res)
		} else {
			h.out.Notes = append(h.out.Notes, Note{"a command was refused", f.err, true})
			err = h.seat.Refused(t, f.err)
		}
		if err != nil {
			h.note("the rows are read again", err)
			h.state = draining
		}
	}
}

func (h *Harness) propose(f *flying) {
	own := *f.cmd // who proposes it may write to it
	h.out.Commits = append(h.out.Commits, Commit{f.n, &own})
}

func (h *Harness) readLater(t Time, err error) {
	if !banyan.IsKind(err, banyan.Moved) {
		h.note("the rows are read again", err)
	}
	h.pause(t)
}

func (h *Harness) pause(t Time) {
	h.state, h.until, h.again = pausing, t.Now+h.wait.Next(), false
}

func (h *Harness) find(n uint64) *flying {
	for _, f := range h.flight {
		if f.n == n && !f.settled {
			return f
		}
	}
	return nil
}

func (h *Harness) note(what string, err error) {
	h.out.Notes = append(h.out.Notes, Note{what, err, false})
}
