package job

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// plusCases are what GNU parallel 20221122 makes of the strings of --plus;
// TestPlusAsParallel asks the one that is installed.
var plusCases = []struct{ text, in, want string }{
	{"{%.gz}", "f.gz", "f"},
	{"{%.gz}", "f.bz", "f.bz"},
	{"{..}", "d.x/a.tar.gz", "d.x/a"},
	{"{..}", "a.gz", "a.gz"},
	{"{...}", "a.b.c.d", "a"},
	{"{/..}", "d/a.tar.gz", "a"},
	{"{/...}", "d/a.b.c.d", "a"},
	{"{+/}", "d/e/f", "d/e"},
	{"{+/}", "f", ""},
	{"{+.}", "a.tar.gz", "gz"},
	{"{+..}", "a.tar.gz", "tar.gz"},
	{"{+...}", "a.b.c.d", "b.c.d"},
	{"{#a.*c}", "abcabcd", "abcd"},
	{"{##a.*c}", "abcabcd", "d"},
	{"{%c.*}", "abcabcd", "abcab"},
	{"{%%c.*}", "abcabcd", "ab"},
	{"{/b/X}", "abab", "aXab"},
	{"{/b/}", "abab", "aab"},
	{"{^a}", "aba", "Aba"},
	{"{^^a}", "aba", "AbA"},
	{"{,A}", "ABA", "aBA"},
	{"{,,A}", "ABA", "aBa"},
	{"{:-none}", "", "none"},
	{"{:-none}", "x", "x"},
	{"{:2}", "abcde", "cde"},
	{"{:1:3}", "abcde", "bcd"},
	{"{1..} {1%.gz}", "a.tar.gz", "a a.tar"},
	{"{//b/X}", "abab", "aXaX"},
	{"{//a(.)/<$1>}", "abab", "<$1><$1>"},
	{"{/#a/X}", "aba", "Xba"},
	{"{/#b/X}", "aba", "aba"},
	{"{/%a/X}", "aba", "abX"},
	{"{/b/x/y}", "abab", "ax/yab"},
	{"{%%}", "a%", "a"},
	{"{%%%z}", "a%z", "a"},
	{"{#a*}", "aab", "aab"},
	{"{##a*}", "aab", "b"},
	{"{#.+?a}", "banana", "nana"},
	{"{%[a-z]*}", "a.tar", "a.tar"},
	{"{%%[a-z]*}", "a.tar", "a."},
	{"{^^[a-c]}", "abcd", "ABCd"},
	{"{^^.}", "\xc3\xbca", "\xc3\xbcA"},
	{"{:1}", "\xc3\xbc", "\xbc"},
	{"{1^a}{-1/a/X}{1:1:1}", "ab", "AbXbb"},
	{"{###a} {///X} {:x} {x", "ab", "{###a} {///X} {:x} {x"},
	{"{..}{+/}{%b}", "\xff\xfeb", "\xff\xfeb\xff\xfe"},
}

// ownCases are not as GNU parallel has them: it knows no {seq-1}, {^} or {,,},
// {+.} of a directory's extension is not empty there, and {:9} past the end fails.
var ownCases = []struct{ text, in, want string }{
	{"{+.}", "d.x/a", ""},
	{"{^}", "xyz", "Xyz"},
	{"{,,}", "XYZ", "xyz"},
	{"{:9}", "abc", ""},
	{"{seq-1} {seq+2} {seq}", "x", "4 7 5"},
	{"${#x} ${x%.gz} ${x:-d} ${/a/b}", "q", "${#x} ${x%.gz} ${x:-d} ${/a/b}"},
	{"{1..5} {x} {print $1} {\"a\":1}", "q", "{1..5} {x} {print $1} {\"a\":1}"},
	{"{slot} {slot+1} {0#} {##}", "x", "1 2 005 100"},
	{"a{,3} {,9}", "q", "a{,3} {,9}"},
	{"{:-d}", "0", "0"},
}

func TestPlusStrings(t *testing.T) {
	for _, c := range slices.Concat(plusCases, ownCases) {
		if err := CheckString(c.text, 1); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
		if got := ExpandString(c.text, Vars{Columns: []string{c.in}, Seq: 5, Slot: 1, Tasks: 100}); got != c.want {
			t.Errorf("%s of %q is %q, want %q", c.text, c.in, got, c.want)
		}
	}
}

// TestWhatIsNotSupportedIsRefused: taken literally, all tasks would write to one name.
func TestWhatIsNotSupportedIsRefused(t *testing.T) {
	for _, text := range []string{"log.{= $_++ =}", "{0%}", "${host}{host}", "{hgrp}", "{:}", "{uniq}", "{choose_k}", "{%(}", "{//[/}"} {
		err := Check(banyanv1.NewCommand("mv", "log.{}", text), 1)
		if !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), ": ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// TestPlusAsParallel expands every template with every input in one run of GNU parallel.
func TestPlusAsParallel(t *testing.T) {
	bin, err := exec.LookPath("parallel")
	if err != nil {
		t.Skip("GNU parallel is not installed; TestPlusStrings holds what it said")
	}
	var templates []string
	inputs := []string{"d.x/a.tar.gz", "abcabcd.b", "banana%", "\xc3\xbcABz.b.c.d"}
	for _, c := range plusCases {
		if !slices.Contains(templates, c.text) && c.text != "{+.}" {
			templates = append(templates, c.text)
		}
	}
	text := strings.Join(append(templates, "{##} {0#}"), " ;; ")
	cmd := exec.Command(bin, slices.Concat([]string{"--will-cite", "--plus", "--dry-run", "-k", "-j1", text, ":::"}, inputs)...)
	cmd.Env = append(cmd.Environ(), "PARALLEL_HOME="+t.TempDir(), "SHELL=/bin/sh")
	out, err := cmd.Output()
	if err != nil {
		t.Skipf("parallel does not run here: %v", err)
	}
	lines := strings.Split(strings.TrimSuffix(string(out), "\n"), "\n")
	if len(lines) != len(inputs) {
		t.Fatalf("parallel gave %d lines for %d inputs: %q", len(lines), len(inputs), lines)
	}
	for i, in := range inputs {
		theirs := strings.Split(lines[i], " ;; ")
		for j, c := range strings.Split(text, " ;; ") {
			if got := expand(c, Vars{Columns: []string{in}, Seq: i + 1, Slot: 1, Tasks: len(inputs)}, func(s string) string { return s }); Quote(got) != Quote(unquoted(theirs[j])) {
				t.Errorf("%s of %q\nwe say        %q\nparallel says %q", c, in, got, theirs[j])
			}
		}
	}
}

// unquoted takes the shell's quotes off.
func unquoted(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "'", ""), "\\", "") }
