package job

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// shellCases are commands given as one string; the expectations were made with
// GNU parallel 20221122, and TestSameAsParallel asks the one that is installed.
var shellCases = []struct {
	text    string
	columns []string
	want    string
}{
	{"echo", []string{"a"}, "echo a"},
	{"echo", []string{"a", "b c"}, "echo a 'b c'"},
	{"echo {}", []string{"it's"}, `echo 'it'"'"'s'`},
	{"echo {}", []string{"a b"}, "echo 'a b'"},
	{"echo {}", []string{"'"}, `echo "'"`},
	{"echo {}", []string{"$HOME; rm -rf /"}, "echo '$HOME; rm -rf /'"},
	{"echo {}", []string{"-_.+a/Z09"}, "echo -_.+a/Z09"},
	{"echo {}", []string{"a@b"}, "echo 'a@b'"},
	{"echo {}", []string{"ü"}, "echo 'ü'"},
	{"echo {}", []string{"tab\t"}, "echo 'tab\t'"},
	{`echo "{}"`, []string{"a b"}, `echo "'a b'"`},
	{"echo {}{} {{}} {1}{", []string{"a"}, "echo aa {a} a{"},
	{"echo pre{}post", []string{"a", "c"}, "echo prea cpost"},
	{"echo {.}", []string{"a.x", "b.y"}, "echo a b"},
	{"echo {2/.} {1//} {-1} {-2.}", []string{"a/a.x", "b/b.y"}, "echo b a b/b.y a/a"},
	{"echo {2}", []string{"a", "b"}, "echo b"},
	{"echo {#} {+1} {1/.} {x}", []string{"a"}, "echo 1 {+1} a {x}"},
	{"echo {%}", []string{"a"}, "echo 1"},
	{"echo {.}", []string{"a.x/b"}, "echo a.x/b"},
	{"echo {.}", []string{".bashrc"}, "echo ''"},
	{"echo {.}", []string{"foo."}, "echo foo"},
	{"echo {.}", []string{"a.tar.gz"}, "echo a.tar"},
	{"echo {.}", []string{"a/.b"}, "echo a/"},
	{"echo {/}", []string{"a.x/b"}, "echo b"},
	{"echo {/}", []string{"b/"}, "echo ''"},
	{"echo {//}", []string{"a.x/b"}, "echo a.x"},
	{"echo {//}", []string{"b/"}, "echo ."},
	{"echo {//}", []string{"/"}, "echo /"},
	{"echo {//}", []string{"///"}, "echo /"},
	{"echo {//}", []string{"//a"}, "echo /"},
	{"echo {//}", []string{"a//b"}, "echo a"},
	{"echo {//}", []string{"a/b//"}, "echo a"},
	{"echo {//}", []string{"a"}, "echo ."},
	{"echo {/.}", []string{"a.x/b.c.d"}, "echo b.c"},
	{"echo {/.}", []string{"x/.b"}, "echo ''"},
}

func TestShellExpansion(t *testing.T) {
	for _, c := range shellCases {
		got, err := Expand(banyanv1.NewShell(c.text), Vars{Columns: c.columns, Seq: 1, Slot: 1})
		if err != nil {
			t.Errorf("%q with %q: %v", c.text, c.columns, err)
			continue
		}
		if want := []string{"/bin/sh", "-c", c.want}; !slices.Equal(got, want) {
			t.Errorf("%q with %q: got %q, want %q", c.text, c.columns, got, want)
		}
	}
}

// TestSameAsParallel expands every template with every input, in two runs of
// GNU parallel (starting it takes long).
func TestSameAsParallel(t *testing.T) {
	bin, err := exec.LookPath("parallel")
	if err != nil {
		t.Skip("GNU parallel is not installed; TestShellExpansion holds what it said")
	}
	for columns := 1; columns <= 2; columns++ {
		var templates []string
		var inputs [][]string
		for _, c := range shellCases {
			if len(c.columns) == columns {
				inputs = append(inputs, c.columns)
				if hasReplacement(c.text) {
					templates = append(templates, c.text)
				}
			}
		}
		text := strings.Join(templates, " ;; ")
		args := []string{"--will-cite", "--dry-run", "-k", "-j1", text}
		for i := range columns {
			args = append(args, ":::"+strings.Repeat("+", min(i, 1)))
			for _, in := range inputs {
				args = append(args, in[i])
			}
		}
		cmd := exec.Command(bin, args...)
		cmd.Env = append(cmd.Environ(), "PARALLEL_HOME="+t.TempDir(), "SHELL=/bin/sh")
		out, err := cmd.Output()
		if err != nil {
			t.Skipf("parallel does not run here: %v", err)
		}
		lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
		if len(lines) != len(inputs) {
			t.Fatalf("parallel gave %d lines for %d inputs", len(lines), len(inputs))
		}
		for i, in := range inputs {
			if got := expand(text, Vars{Columns: in, Seq: i + 1, Slot: 1}, Quote); got != lines[i] {
				t.Errorf("with %q\nwe say        %s\nparallel says %s", in, got, lines[i])
			}
		}
	}
}

func TestArgumentsAreExact(t *testing.T) {
	for _, c := range []struct{ args, columns, want []string }{
		{[]string{"gzip"}, []string{"a b"}, []string{"gzip", "a b"}},
		{[]string{"gzip"}, []string{"a", "b"}, []string{"gzip", "a", "b"}},
		{[]string{"cp", "{}", "{.}.bak"}, []string{"$(x);'.y"}, []string{"cp", "$(x);'.y", "$(x);'.bak"}},
		{[]string{"x", "{}"}, []string{"a", ""}, []string{"x", "a", ""}},
		{[]string{"x", "{/}"}, []string{"q/a", "q/b"}, []string{"x", "a", "b"}},
		{[]string{"x", "p{}s"}, []string{"a", "b"}, []string{"x", "pa bs"}},
		{[]string{"x", "{#}-{%}"}, []string{"a"}, []string{"x", "7-3"}},
		{[]string{"{2}", "{1}"}, []string{"a", "b"}, []string{"b", "a"}},
		{[]string{"find", "{}", "{3}"}, nil, []string{"find", "{}", "{3}"}},
	} {
		got, err := Expand(&banyanv1.Command{Args: banyanv1.Bytes(c.args...)}, Vars{Columns: c.columns, Seq: 7, Slot: 3})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%q with %q: got %q, %v; want %q", c.args, c.columns, got, err, c.want)
		}
	}
}

func TestCheckNamesTheColumn(t *testing.T) {
	for _, c := range []struct {
		cmd  *banyanv1.Command
		want string
	}{
		{banyanv1.NewCommand("cp", "{1}", "{3/.}"), "{3/.} names column 3"},
		{banyanv1.NewShell("cp {-4}"), "{-4} names column 4"},
		{&banyanv1.Command{}, "no command"},
		{nil, "no command"},
		{&banyanv1.Command{Args: banyanv1.Bytes("a", "b"), Shell: true}, "one string"},
		{banyanv1.NewCommand(""), "empty"},
	} {
		err := Check(c.cmd, 2)
		if !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: got %v, want an invalid error with %q", c.cmd, err, c.want)
		}
		if _, err := Expand(c.cmd, Vars{Columns: []string{"a", "b"}}); !banyan.IsKind(err, banyan.Invalid) {
			t.Errorf("Expand %v: got %v", c.cmd, err)
		}
	}
	if err := Check(banyanv1.NewCommand("cp", "{1}", "{-2}"), 2); err != nil {
		t.Error(err)
	}
}

func FuzzExpand(f *testing.F) {
	for _, c := range shellCases {
		f.Add(c.text, c.columns[0])
	}
	f.Add("{{{}}{", "{}")
	f.Add("{99999999999999999999}", "x")
	f.Fuzz(func(t *testing.T, text, in string) {
		cmd := banyanv1.NewShell(text)
		args, err := Expand(cmd, Vars{Columns: []string{in}, Seq: 1, Slot: 1})
		if (err == nil) != (Check(cmd, 1) == nil) {
			t.Fatalf("Check and Expand disagree: %v", err)
		}
		if err == nil && len(args) != 3 {
			t.Fatalf("got %q", args)
		}
	})
}
