package job

import (
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

func spec(change func(*banyanv1.JobSpec)) *banyanv1.JobSpec {
	s := &banyanv1.JobSpec{Command: banyanv1.NewCommand("echo", "{}")}
	change(s)
	return s
}

func TestValidateNamesWhatIsWrong(t *testing.T) {
	for want, s := range map[string]*banyanv1.JobSpec{
		"no job specification": nil,
		"no command":           spec(func(s *banyanv1.JobSpec) { s.Command = nil }),
		"--then":               spec(func(s *banyanv1.JobSpec) { s.Then = &banyanv1.Command{} }),
		"negative":             spec(func(s *banyanv1.JobSpec) { s.TimeoutMs = -1 }),
		"not absolute":         spec(func(s *banyanv1.JobSpec) { s.WorkDir = []byte("here") }),
		`"../x"`:               spec(func(s *banyanv1.JobSpec) { s.Send = []*banyanv1.FileRef{{Path: []byte("../x")}} }),
		`"/etc/passwd"`:        spec(func(s *banyanv1.JobSpec) { s.Send = []*banyanv1.FileRef{{Path: []byte("/etc/passwd")}} }),
		"chunk":                spec(func(s *banyanv1.JobSpec) { s.Send = []*banyanv1.FileRef{{Path: []byte("x"), Chunks: [][]byte{{1}}}} }),
		"--return":             spec(func(s *banyanv1.JobSpec) { s.Return = banyanv1.Bytes("/abs") }),
		`"A"`:                  spec(func(s *banyanv1.JobSpec) { s.Env = banyanv1.Bytes("A") }),
		"NameBytesMax":         spec(func(s *banyanv1.JobSpec) { s.Name = strings.Repeat("x", 257) }),
		"CommandArgsMax":       spec(func(s *banyanv1.JobSpec) { s.Command.Args = make([][]byte, 5000); s.Command.Args[0] = []byte("x") }),
		"EnvBytesMax":          spec(func(s *banyanv1.JobSpec) { s.Env = banyanv1.Bytes("A=" + strings.Repeat("x", 128<<10)) }),
		"RetriesMax":           spec(func(s *banyanv1.JobSpec) { s.AttemptsMax = 1001 }),
		"SendFilesMax":         spec(func(s *banyanv1.JobSpec) { s.SendTemplates = make([][]byte, 10001) }),
		"JobSpecBytesMax":      spec(func(s *banyanv1.JobSpec) { s.Command.Args[1] = []byte(strings.Repeat("x", 512<<10)) }),
	} {
		err := Validate(s)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
		if k := banyan.KindOf(err); k != banyan.Invalid && k != banyan.Exhausted {
			t.Errorf("%v is %v", err, k)
		}
	}
	if err := Validate(spec(func(s *banyanv1.JobSpec) { s.WorkDir = []byte(`C:\x`); s.Return = banyanv1.Bytes("{.}.png") })); err != nil {
		t.Error(err)
	}
}

// A path that leads out of the working directory on any system that a node may
// run on is refused when it is submitted, not when a task starts.
func TestPathsThatLeadOutAreRefused(t *testing.T) {
	for _, p := range []string{"", "/x", `\x`, `\\host\share`, `C:\x`, "c:x", `..\x`, `a\..\..\x`, "..", "../x", "a/../../x", "a\x00b"} {
		for what, s := range map[string]*banyanv1.JobSpec{
			"send":     spec(func(s *banyanv1.JobSpec) { s.Send = []*banyanv1.FileRef{{Path: []byte(p)}} }),
			"return":   spec(func(s *banyanv1.JobSpec) { s.Return = banyanv1.Bytes(p) }),
			"template": spec(func(s *banyanv1.JobSpec) { s.SendTemplates = banyanv1.Bytes(p) }),
		} {
			if err := Validate(s); (p != "" || what != "template") && !banyan.IsKind(err, banyan.Invalid) {
				t.Errorf("%s %q: %v", what, p, err)
			}
		}
	}
	for _, p := range []string{"x", "a/b", `a\b`, "..x", "a:b c", "x..", "ab:c"} {
		s := spec(func(s *banyanv1.JobSpec) {
			s.Send, s.Return = []*banyanv1.FileRef{{Path: []byte(p)}}, banyanv1.Bytes(p)
		})
		if err := Validate(s); (p == "a:b c") != (err != nil) {
			t.Errorf("%q: %v", p, err)
		}
	}
	if err := Validate(spec(func(s *banyanv1.JobSpec) { s.WorkDir = []byte("/a\x00") })); !banyan.IsKind(err, banyan.Invalid) {
		t.Errorf("a working directory with NUL: %v", err)
	}
}

func TestValidateInputAsksEveryTemplate(t *testing.T) {
	for want, s := range map[string]*banyanv1.JobSpec{
		"{2} names column 2":  spec(func(s *banyanv1.JobSpec) { s.Command.Args[1] = []byte("{2}") }),
		"{3.} names column 3": spec(func(s *banyanv1.JobSpec) { s.Return = banyanv1.Bytes("{3.}.x") }),
		"{4} names column 4":  spec(func(s *banyanv1.JobSpec) { s.SendTemplates = banyanv1.Bytes("{4}") }),
	} {
		err := ValidateInput(s, banyanv1.NewInput("a"))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	ok := spec(func(*banyanv1.JobSpec) {})
	if err := ValidateInput(ok, &banyanv1.Input{}); !banyan.IsKind(err, banyan.Invalid) {
		t.Error(err)
	}
	if err := ValidateInput(ok, banyanv1.NewInput(strings.Repeat("x", banyan.InputBytesMax+1))); !banyan.IsKind(err, banyan.Exhausted) {
		t.Error(err)
	}
}

// Whatever the table says, an ended job has no way on but the retry of a
// failed one, and every state can be reached and left as people expect.
func TestTableOfChanges(t *testing.T) {
	for _, m := range JobMoves {
		if Ended(m.From) && (m.From != banyanv1.JobState_JOB_STATE_FAILED || m.To != banyanv1.JobState_JOB_STATE_ACTIVE) {
			t.Errorf("%v: %v → %v", m.When, m.From, m.To)
		}
	}
	for n := range banyanv1.JobState_name {
		s := banyanv1.JobState(n)
		reached := s == banyanv1.JobState_JOB_STATE_UNSPECIFIED
		for _, m := range JobMoves {
			reached = reached || m.To == s
		}
		if !reached || Word(s) == "" {
			t.Errorf("%v is never reached or has no word", s)
		}
	}
	succeeded := banyanv1.TaskState_TASK_STATE_SUCCEEDED
	for n := range banyanv1.TaskState_name {
		if TaskMay(succeeded, banyanv1.TaskState(n)) {
			t.Errorf("a recorded success may become %v", banyanv1.TaskState(n))
		}
	}
	if AttemptMay(AttemptRecorded, AttemptSent) || !AttemptMay(AttemptLost, AttemptFinished) {
		t.Error("attempts")
	}
}
