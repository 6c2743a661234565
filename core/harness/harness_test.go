package harness

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"banyan"
	"banyan/core/mvcc"
)

// script is a seat that gives the commands that a test queues, and writes down
// what it hears.
type script struct {
	h        *Harness
	at       Time
	queue    []string
	deadline int64
	refuse   bool // asks for the rows to be read anew when a command is refused
	log      []string
	names    byte
}

func newScript() *script {
	s := &script{}
	s.h = New(s, func() banyan.RequestID { s.names++; return banyan.RequestID{s.names} })
	return s
}

func (s *script) Tick(t Time) { s.say("tick %d", t.Now) }

func (s *script) Deadline() (int64, bool) { return s.deadline, s.deadline != 0 }

func (s *script) Next(Time) *mvcc.Command {
	if len(s.queue) == 0 {
		return nil
	}
	cmd := &mvcc.Command{Muts: []mvcc.Mutation{{Key: []byte(s.queue[0])}}}
	s.queue = s.queue[1:]
	return cmd
}

func (s *script) Committed(_ Time, res mvcc.Result) error {
	s.say("committed at %d", res.Revision)
	if !res.OK {
		return errors.New("its conditions did not hold")
	}
	return nil
}

func (s *script) Refused(_ Time, err error) error {
	s.say("refused")
	if s.refuse {
		return err
	}
	return nil
}

func (s *script) say(format string, args ...any) { s.log = append(s.log, fmt.Sprintf(format, args...)) }

// effects gives what the harness wants, as text: load, and N=key/request of each
// command.
func (s *script) effects() string {
	var out []string
	e := s.h.Effects()
	for _, c := range e.Commits {
		out = append(out, fmt.Sprintf("%d=%s/%d", c.N, c.Command.Muts[0].Key, c.Command.Request[0]))
	}
	if e.Load {
		out = append(out, "load")
	}
	return strings.Join(out, " ")
}

func (s *script) want(t *testing.T, what, want string) {
	t.Helper()
	if got := s.effects(); got != want {
		t.Fatalf("%s: the harness wants %q, not %q", what, got, want)
	}
}

// serve reads the rows and queues commands.
func (s *script) serve(t *testing.T, queue ...string) {
	t.Helper()
	s.want(t, "at first", "load")
	s.queue = queue
	s.h.Loaded(s.at, nil)
}

func ok(rev banyan.Revision) mvcc.Result { return mvcc.Result{OK: true, Revision: rev} }

// The seat hears in the order in which it gave its commands, whatever the order
// of their answers.
func TestAnswersAreHeardInOrder(t *testing.T) {
	s := newScript()
	s.serve(t, "a", "b")
	s.want(t, "served", "1=a/1 2=b/2")
	s.h.Answer(s.at, 2, ok(8), nil)
	if slices.Contains(s.log, "committed at 8") {
		t.Fatal("it hears of the second command before the first")
	}
	s.h.Answer(s.at, 1, ok(7), nil)
	if got := strings.Join(s.log, ", "); !strings.Contains(got, "committed at 7, committed at 8") {
		t.Error(got)
	}
}

// A command whose outcome is not known is proposed again, under the same id,
// after pauses that grow.
func TestACommandIsProposedUntilItsOutcomeIsClear(t *testing.T) {
	s := newScript()
	s.serve(t, "a")
	s.want(t, "served", "1=a/1")
	lost := banyan.Errorf(banyan.Unavailable, "no majority")
	var waits []int64
	for range 8 {
		s.h.Answer(s.at, 1, mvcc.Result{}, lost)
		s.want(t, "before the pause is over", "")
		at, timed := s.h.Timer()
		if !timed {
			t.Fatal("no timer")
		}
		waits = append(waits, at-s.at.Now)
		s.at.Now = at
		s.h.Step(s.at)
		s.want(t, "after the pause", "1=a/1")
	}
	if want := []int64{5, 10, 20, 40, 80, 160, 250, 250}; !slices.Equal(waits, want) {
		t.Errorf("the pauses are %v, want %v", waits, want)
	}
	s.h.Answer(s.at, 1, ok(7), nil)
	if s.h.InFlight() != 0 || !slices.Contains(s.log, "committed at 7") {
		t.Error(s.log)
	}
}

// Rows are read anew only when it is clear what became of every command: one
// that is committed behind the reading would be missing in what was read.
func TestRowsAreReadAnewBehindWhatIsUnderWay(t *testing.T) {
	again := map[string]func(*script){
		"a condition did not hold": func(s *script) { s.h.Answer(s.at, 1, mvcc.Result{}, nil) },
		"a command was refused": func(s *script) {
			s.refuse = true
			s.h.Answer(s.at, 1, mvcc.Result{}, banyan.Errorf(banyan.Invalid, "no"))
		},
		"its rows have moved": func(s *script) {
			s.refuse = true
			s.h.Answer(s.at, 1, mvcc.Result{}, banyan.Errorf(banyan.Moved, "no"))
		},
		"the shard was split": func(s *script) { s.h.Again(s.at); s.h.Answer(s.at, 1, ok(7), nil) },
	}
	for what, happen := range again {
		s := newScript()
		s.serve(t, "a", "b")
		s.want(t, what, "1=a/1 2=b/2")
		happen(s)
		s.queue = []string{"c"}
		s.at.Now = 1000
		s.h.Step(s.at)
		s.want(t, what+", with the second under way", "")
		s.h.Answer(s.at, 2, ok(8), nil)
		if slices.Contains(s.log, "committed at 8") {
			t.Errorf("%s: the seat hears of a command behind that", what)
		}
		s.want(t, what+", before the pause is over", "")
		at, timed := s.h.Timer()
		if s.at.Now = at; !timed {
			t.Fatalf("%s: no timer", what)
		}
		s.h.Step(s.at)
		s.want(t, what+", with nothing under way", "load")
		s.h.Loaded(s.at, nil)
		s.want(t, what+", read again", "3=c/3")
	}
}

// A split that is announced while the rows are being read has them read once more.
func TestASplitWhileReading(t *testing.T) {
	s := newScript()
	s.want(t, "at first", "load")
	s.h.Again(s.at)
	s.queue = []string{"a"}
	s.h.Loaded(s.at, nil)
	s.want(t, "read before the split", "load")
	s.h.Loaded(s.at, nil)
	s.want(t, "read behind it", "1=a/1")
}

func TestReadingIsTriedAgain(t *testing.T) {
	s := newScript()
	s.want(t, "at first", "load")
	for _, wait := range []int64{5, 10, 20} {
		s.h.Loaded(s.at, errors.New("the disk"))
		s.h.Step(s.at)
		s.want(t, "before the pause is over", "")
		s.at.Now += wait
		s.h.Step(s.at)
		s.want(t, "after it", "load")
	}
}

// Nothing happens in a term that is over.
func TestTheTermIsOver(t *testing.T) {
	for what, answer := range map[string]func(*script){
		"refused by the fence":      func(s *script) { s.h.Answer(s.at, 1, mvcc.Result{Stale: true}, nil) },
		"refused before it is sent": func(s *script) { s.h.Answer(s.at, 1, mvcc.Result{}, banyan.Errorf(banyan.Stale, "over")) },
	} {
		s := newScript()
		s.serve(t, "a", "b")
		s.effects()
		answer(s)
		s.queue = []string{"c"}
		s.h.Answer(s.at, 2, ok(8), nil)
		s.at.Now = 5000
		s.h.Step(s.at)
		if s.want(t, what, ""); !s.h.Over() || slices.Contains(s.log, "committed at 8") {
			t.Errorf("%s: over %v, %v", what, s.h.Over(), s.log)
		}
	}
}

// The seat's deadline is the timer, and its tick comes then.
func TestTheSeatHasItsTick(t *testing.T) {
	s := newScript()
	s.deadline = 70
	s.serve(t)
	at, timed := s.h.Timer()
	s.at.Now = at
	s.h.Step(s.at)
	if !timed || at != 70 || !slices.Contains(s.log, "tick 70") {
		t.Errorf("timer at %d, %v", at, s.log)
	}
}
