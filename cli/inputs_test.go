package cli

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// rows reads sources as run does, and joins columns with '|'.
func rows(t *testing.T, r reading, args, files []string) []string {
	t.Helper()
	_, sources := splitArgs(args, files)
	in, err := r.read(sources)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for row := range in.all() {
		if at := in.row(uint32(len(out))); strings.Join(at, "|") != strings.Join(row, "|") {
			t.Errorf("row %d is %q, want %q", len(out), at, row)
		}
		out = append(out, strings.Join(row, "|"))
	}
	if len(out) != in.count {
		t.Errorf("%d rows, but the count says %d", len(out), in.count)
	}
	return out
}

func TestInputsMeanWhatTheyMeanInGNUParallel(t *testing.T) {
	dir := t.TempDir()
	f1, f2 := filepath.Join(dir, "f1"), filepath.Join(dir, "f2")
	os.WriteFile(f1, []byte("a,b\nc,d\n"), 0o600)
	os.WriteFile(f2, []byte("x\ny\n"), 0o600)
	comma := regexp.MustCompile(",")
	for _, c := range []struct {
		name  string
		args  string
		files []string
		stdin string
		null  bool
		colse *regexp.Regexp
		want  string
	}{
		{name: "one source", args: "echo ::: a b", want: "a b"},
		{name: "no values", args: "echo :::", want: ""},
		{name: "product", args: "echo ::: a b ::: x y", want: "a|x a|y b|x b|y"},
		{name: "product with nothing", args: "echo ::: a b :::", want: ""},
		{name: "linked", args: "echo ::: a b :::+ 1 2", want: "a|1 b|2"},
		{name: "linked, the shorter counts", args: "echo ::: a b :::+ 1 2 3 :::+ 8", want: "a|1|8"},
		{name: "linked binds first", args: "echo ::: a b ::: x y :::+ 1 2", want: "a|x|1 a|y|2 b|x|1 b|y|2"},
		{name: "linked, then product", args: "echo ::: a b :::+ 1 2 ::: q", want: "a|1|q b|2|q"},
		{name: "linked to nothing", args: "echo :::+ a b", want: "a b"},
		{name: "file", args: "echo :::: F2", want: "x y"},
		{name: "files multiply", args: "echo :::: F2 F2", want: "x|x x|y y|x y|y"},
		{name: "files linked", args: "echo :::: F1 ::::+ F2", want: "a,b|x c,d|y"},
		{name: "-a comes first", args: "echo ::: 1", files: []string{"F2"}, want: "x|1 y|1"},
		{name: "several -a", args: "echo", files: []string{"F1", "F2"}, want: "a,b|x a,b|y c,d|x c,d|y"},
		{name: "standard input", args: "echo", stdin: "a\n\nb", want: "a  b"},
		{name: "standard input named", args: "echo :::: - ::: x", stdin: "l1\nl2\n", want: "l1|x l2|x"},
		{name: "NUL", args: "echo", stdin: "q\x00r\ns\x00", null: true, want: "q r\ns"},
		{name: "columns", args: "echo :::: F1", colse: comma, want: "a|b c|d"},
		{name: "columns of arguments", args: "echo ::: a,b c", colse: comma, want: "a|b c"},
		{name: "columns multiply", args: "echo", files: []string{"F1", "F2"}, colse: comma, want: "a|b|x a|b|y c|d|x c|d|y"},
	} {
		names := strings.NewReplacer("F1", f1, "F2", f2)
		var files []string
		for _, f := range c.files {
			files = append(files, names.Replace(f))
		}
		r := reading{stdin: strings.NewReader(c.stdin), sep: '\n', columns: c.colse}
		if c.null {
			r.sep = 0
		}
		if got := strings.Join(rows(t, r, strings.Fields(names.Replace(c.args)), files), " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestDryRunAgainstGNUParallel compares whole command lines with the original,
// where it is installed.
func TestDryRunAgainstGNUParallel(t *testing.T) {
	parallel, err := exec.LookPath("parallel")
	if err != nil {
		t.Skip("GNU parallel is not installed")
	}
	if out, err := exec.Command(parallel, "--version").Output(); err != nil || !bytes.HasPrefix(out, []byte("GNU parallel")) {
		t.Skip("parallel is another program")
	}
	for _, args := range [][]string{
		{"echo {} {.} {/} {//} {/.} {#}", ":::", "/tmp/foo.bar.txt", "q/w.e", "plain", "b c", "d'e", "*", "", "é"},
		{"-C", ",", "echo {2}-{1} {3.}", ":::", "a,b", "c,d", ":::", "x.y", "z", ":::+", "1", "2.2"},
	} {
		t.Run(args[0], func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(parallel, append([]string{"-k", "--dry-run"}, args...)...)
			cmd.Env = append(os.Environ(), "PARALLEL_HOME="+t.TempDir())
			want, err := cmd.Output()
			if err != nil {
				t.Fatal(err)
			}
			got, _, code := do(t, nil, append([]string{"run", "--dry-run"}, args...)...)
			if code != 0 || got != string(want) {
				t.Errorf("exit %d, output:\n%swant:\n%s", code, got, want)
			}
		})
	}
}

func TestTooManyInputsAreRefusedBeforeTheyAreMultiplied(t *testing.T) {
	thousand := source{}
	for i := range 1001 {
		thousand.values = append(thousand.values, fmt.Sprint(i))
	}
	r := reading{sep: '\n'}
	if _, err := r.read([]source{thousand, thousand}); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("a million and more: %v", err)
	}
	long := source{values: []string{strings.Repeat("x", 100_000)}}
	if _, err := r.read([]source{thousand, long}); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("a hundred million bytes: %v", err)
	}
	r.stdin = strings.NewReader("ok\n" + strings.Repeat("x", banyan.InputBytesMax+1))
	if _, err := r.read([]source{{path: "-", file: true}}); !banyan.IsKind(err, banyan.Exhausted) || !strings.Contains(err.Error(), "line 2") {
		t.Errorf("a line too long: %v", err)
	}
}

func TestShellOrArguments(t *testing.T) {
	for command, want := range map[string]bool{
		"true":                   false,
		"./my-tool_2.sh":         false,
		"{}":                     false,
		"/usr/bin/{/.}":          false,
		"{2}":                    false,
		"a=b":                    false,
		"gzip -9 {}":             true,
		"{} --version":           true,
		"a;b":                    true,
		"$HOME/x":                true,
		"a|b":                    true,
		"echo\tx":                true,
		"{a,b}":                  true,
		"exit_{#}>f":             true,
		"say 'it'":               true,
		"~/bin/x":                true,
		"exec{%}{1.}{2//}{-1/}":  false,
		"a{%.gz}{//a b/c;}{1..}": false,
		"a{%.gz} {}":             true,
	} {
		if got := isShell([]string{command}); got != want {
			t.Errorf("%q goes to a shell: %v, want %v", command, got, want)
		}
	}
	if isShell([]string{"echo", "a b;c"}) {
		t.Error("a list of arguments goes to a shell")
	}
}

func TestTimeouts(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "0": 0, "5": 5000, "0.25": 250, "1.5m": 90_000, "2h": 7_200_000, "1h30m": 5_400_000, "1d3.5h16.6m4s": 100_000_000, "10S": 10_000,
	} {
		got, err := parseTimeout(text)
		if err != nil || got != want {
			t.Errorf("%q is %d ms (%v), want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"x", "5x", "m", "1..2", "-3", "200%", "1e99", "99999999999d"} {
		if got, err := parseTimeout(text); err == nil {
			t.Errorf("%q is taken as %d ms", text, got)
		}
	}
}

func TestJobsFlag(t *testing.T) {
	for text, want := range map[string]int{"3": 3, "0": 7, "4096": 4096} {
		p, err := parseJobs(text, 7)
		if err != nil || p.embedded() != want {
			t.Errorf("-j %s gives %d slots (%v), want %d", text, p.embedded(), err, want)
		}
	}
	if p, err := parseJobs("1%", 7); err != nil || p.embedded() != 1 {
		t.Errorf("-j 1%% gives %d slots (%v), want 1", p.embedded(), err)
	}
	for _, text := range []string{"x", "-1", "0%", "5000", "%", "1.5"} {
		if _, err := parseJobs(text, 7); err == nil {
			t.Errorf("-j %s is taken", text)
		}
	}
}

func TestEnvFlag(t *testing.T) {
	lookup := func(name string) string { return "value of " + name }
	got, err := parseEnv([]string{"A=1=2", "B", "C="}, lookup)
	if err != nil || !slices.Equal(banyanv1.Strings(got), []string{"A=1=2", "B=value of B", "C="}) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := parseEnv([]string{"=x"}, lookup); err == nil {
		t.Error("a variable without a name is taken")
	}
	if _, err := parseEnv([]string{"A=" + strings.Repeat("x", banyan.EnvBytesMax)}, lookup); !banyan.IsKind(err, banyan.Exhausted) {
		t.Errorf("a variable too large: %v", err)
	}
}
