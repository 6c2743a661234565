package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	banyanv1 "banyan/api/banyan/v1"
)

// nasty is text from outside with everything that must not reach a terminal.
const nasty = "a\x1b]0;x\x07b\u009b31mc\u202ed\u2028e\u2029f\x7fg\xe9h\rI\x00j\u2066k"

// actsLeft says what of a text would act on a terminal.
func actsLeft(s string) string {
	for i, r := range s {
		if acts(r) || r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD") {
			return s[i:]
		}
	}
	return ""
}

func TestShownActsOnNoTerminal(t *testing.T) {
	want := `a\x1b]0;x\x07b\x9b31mc\u202ed\u2028e\u2029f\x7fg\xe9h\x0dI\x00j\u2066k`
	if got := shown(nasty); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	for _, plain := range []string{"", "plain", "Zoë\tü\n", "\uFFFD", "日本"} {
		if got := shown(plain); got != plain {
			t.Errorf("%q became %q", plain, got)
		}
	}
	for name, got := range map[string]string{
		"oneLine": oneLine(nasty), "abbreviate": abbreviate(nasty, 80), "inLine": inLine(nasty),
		"failure": failure(&banyanv1.TaskResult{Error: nasty}),
		"task":    taskName(&banyanv1.TaskResult{Input: banyanv1.NewInput(nasty)}, false),
		"job":     jobName(&banyanv1.Job{Spec: &banyanv1.JobSpec{Name: nasty}}),
	} {
		if at := actsLeft(got); at != "" || strings.ContainsAny(got, "\t\n") {
			t.Errorf("%s: %q", name, got)
		}
	}
	var b strings.Builder
	tb := newTable("A")
	tb.add(nasty)
	if tb.print(&b); actsLeft(b.String()) != "" || strings.Count(b.String(), "\n") != 2 {
		t.Errorf("table: %q", b.String())
	}
	b.Reset()
	a := &app{IO: IO{Out: &b, Err: &b}, now: time.Now}
	j := &banyanv1.Job{Id: "j0123456789abc", Spec: &banyanv1.JobSpec{Name: nasty, Command: banyanv1.NewCommand(nasty)}, Progress: &banyanv1.Progress{Nodes: []*banyanv1.NodeProgress{{Node: 1, Name: nasty, State: nasty}}}}
	if err := a.printJob(j, []*banyanv1.TaskResult{{Input: banyanv1.NewInput(nasty), Error: nasty, Signal: nasty}}, ""); err != nil || actsLeft(b.String()) != "" {
		t.Errorf("job show: %q, %v", b.String(), err)
	}
}

// TestJSONLosesNoByte: what is no text has a base64 twin, what is text has none.
func TestJSONLosesNoByte(t *testing.T) {
	for name, v := range map[string]any{
		"result": newResultJSON(&banyanv1.TaskResult{
			Input: banyanv1.NewInput("x", "\xff\xfe"), Returned: []*banyanv1.FileRef{{Path: []byte("\xff\xfe")}},
			Stdout: &banyanv1.Output{Bytes: 2, Inline: []byte("\xff\xfe")}, Stderr: &banyanv1.Output{Bytes: 2, Inline: []byte("\xff\xfe")},
		}),
		"job":  newJobJSON(&banyanv1.Job{Spec: &banyanv1.JobSpec{Command: banyanv1.NewCommand("\xff\xfe")}}),
		"key":  newKVJSON(&banyanv1.KeyValue{Key: []byte("\xff\xfe"), Value: []byte("\xff\xfe")}),
		"lock": newLockJSON(&banyanv1.LockState{Holders: []*banyanv1.Claim{{Value: []byte("\xff\xfe")}}}),
	} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"result": 4, "job": 1, "key": 2, "lock": 1}[name]
		if n := strings.Count(string(b), `"//4="`); n != want {
			t.Errorf("%s: %d of %d values have all their bytes: %s", name, n, want, b)
		}
	}
	b, _ := json.Marshal(newKVJSON(&banyanv1.KeyValue{Key: []byte("k"), Value: []byte("v")}))
	if strings.Contains(string(b), "base64") {
		t.Errorf("text has a twin: %s", b)
	}
}
