package job

import (
	"strings"
	"testing"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// TestPlusStrings: expectations are those of GNU parallel's manual for --plus.
func TestPlusStrings(t *testing.T) {
	for _, c := range []struct{ text, in, want string }{
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
		{"{+.}", "d.x/a", ""},
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
		{"{^}", "xyz", "Xyz"},
		{"{,,}", "XYZ", "xyz"},
		{"{:-none}", "", "none"},
		{"{:-none}", "x", "x"},
		{"{:2}", "abcde", "cde"},
		{"{:1:3}", "abcde", "bcd"},
		{"{:9}", "abc", ""},
		{"{seq-1} {seq+2} {seq}", "x", "4 7 5"},
		{"{1..} {1%.gz}", "a.tar.gz", "a a.tar"},
		{"${#x} ${x%.gz} ${x:-d} ${/a/b}", "q", "${#x} ${x%.gz} ${x:-d} ${/a/b}"},
		{"{1..5} {x} {print $1} {\"a\":1}", "q", "{1..5} {x} {print $1} {\"a\":1}"},
	} {
		if err := CheckString(c.text, 1); err != nil {
			t.Errorf("%s: %v", c.text, err)
		}
		if got := ExpandString(c.text, Vars{Columns: []string{c.in}, Seq: 5, Slot: 1}); got != c.want {
			t.Errorf("%s of %q is %q, want %q", c.text, c.in, got, c.want)
		}
	}
}

// TestWhatIsNotSupportedIsRefused: taken literally, all tasks would write to one name.
func TestWhatIsNotSupportedIsRefused(t *testing.T) {
	for _, text := range []string{"log.{= $_++ =}", "{0#}", "{hgrp}", "{:}", "{uniq}", "{choose_k}", "{##}", "{%(}", "x{slot}"} {
		err := Check(&banyanv1.Command{Args: []string{"mv", "log.{}", text}}, 1)
		if !banyan.IsKind(err, banyan.Invalid) || !strings.Contains(err.Error(), ": ") {
			t.Errorf("%s: %v", text, err)
		}
	}
}
