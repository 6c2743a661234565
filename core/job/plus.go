package job

import (
	"regexp"
	"strconv"
	"strings"

	"banyan"
)

// The replacement strings of GNU parallel's --plus. Patterns are regular
// expressions; each stands for a part of the input:
//
//	{+/} {+.} {+..} {+...}  directory, extension, the last two, the last three
//	{..} {...} {/..} {/...} without the last two or three extensions
//	{#P} {##P} {%S} {%%S}   without the shortest or longest prefix P, suffix S
//	{/P/R}                  the first P replaced by R
//	{^P} {^^P} {,P} {,,P}   P at the beginning, or everywhere, in capitals or small
//	{:N} {:N:M}             from the character N on, at most M of them
//	{:-D}                   D where the input is empty
//	{seq+N} {seq-N}         the task's number with N added or taken away
//
// {##}, {choose_k} and {uniq} are about all tasks together and are refused. In ${…} the shell's own expansion is meant.

// isOp says whether op may stand behind a column's number.
func isOp(op string) bool {
	switch op {
	case "", ".", "/", "//", "/.", "+/", "+.", "+..", "+...", "..", "...", "/..", "/...":
		return true
	}
	return isPattern(op)
}

// isPattern says whether op is one with something of the user's in it.
func isPattern(op string) bool {
	if op == "" {
		return false
	}
	switch rest := op[1:]; op[0] {
	case '#', '%':
		return strings.TrimLeft(rest, op[:1]) != "" || len(op) == 2 && op[0] == '%'
	case '/':
		i := strings.IndexByte(rest, '/')
		return i > 0
	case '^', ',':
		return true
	case ':':
		if strings.HasPrefix(rest, "-") {
			return len(rest) > 1
		}
		_, _, ok := window(rest)
		return ok
	}
	return false
}

// window reads N or N:M; M is -1 where it is not given.
func window(s string) (from, n int, ok bool) {
	a, b, both := strings.Cut(s, ":")
	from, err := strconv.Atoi(a)
	if err != nil || from < 0 {
		return 0, 0, false
	}
	if !both {
		return from, -1, true
	}
	n, err = strconv.Atoi(b)
	return from, n, err == nil && n >= 0
}

// seqOffset reads seq+N or seq-N.
func seqOffset(in string) (int, bool) {
	rest, ok := strings.CutPrefix(in, "seq")
	if !ok || rest == "" || rest[0] != '+' && rest[0] != '-' {
		return 0, ok && rest == ""
	}
	n, err := strconv.Atoi(rest)
	return n, err == nil
}

// plus takes the part of s that an op of --plus names.
func plus(s, op string) string {
	switch op {
	case "":
		return s
	case "+/":
		return s[:max(strings.LastIndexByte(s, '/'), 0)]
	case "+.", "+..", "+...":
		cut := trimExts(s, len(op)-1)
		return strings.TrimPrefix(s[len(cut):], ".")
	case "..", "...":
		return trimExts(s, len(op))
	case "/..", "/...":
		return trimExts(s[strings.LastIndexByte(s, '/')+1:], len(op)-1)
	}
	return pattern(s, op)
}

// trimExts takes n extensions off, or nothing if there are fewer.
func trimExts(s string, n int) string {
	cut := s
	for range n {
		shorter := trimExt(cut)
		if len(shorter) == len(cut) {
			return s
		}
		cut = shorter
	}
	return cut
}

// pattern is plus for the ops with something of the user's in them.
func pattern(s, op string) string {
	text, repl, ungreedy := expression(op)
	if op[0] == ':' {
		return slice(s, op)
	}
	re, err := regexp.Compile(ungreedy + text)
	if err != nil {
		return s // Check has refused it
	}
	switch op[0] {
	case '/':
		if at := re.FindStringIndex(s); at != nil {
			return s[:at[0]] + repl + s[at[1]:]
		}
		return s
	case '#', '%':
		if at := re.FindStringSubmatchIndex(s); at != nil {
			return s[:at[2]] + s[at[3]:]
		}
		return s
	}
	change := strings.ToUpper
	if op[0] == ',' {
		change = strings.ToLower
	}
	return re.ReplaceAllStringFunc(s, change)
}

// expression gives the regular expression of an op, and of {/P/R} the R. In
// those that take something away the first group is what goes.
func expression(op string) (text, repl, flags string) {
	p := strings.TrimLeft(op, op[:1])
	twice := len(op) > 1 && op[0] == op[1]
	switch op[0] {
	case '#':
		if !twice {
			flags = "(?U)"
		}
		return "^(" + p + ")", "", flags
	case '%':
		if !twice { // the shortest suffix begins last
			return "^(?s:.*)(" + p + ")$", "", ""
		}
		return "(" + p + ")$", "", ""
	case '/':
		p, r, _ := strings.Cut(op[1:], "/")
		return p, r, ""
	case '^', ',':
		if p == "" {
			p = "(?s:.)"
		}
		if !twice {
			p = "^(?:" + p + ")"
		}
		return p, "", ""
	}
	return "", "", ""
}

// slice is {:N}, {:N:M} and {:-D}.
func slice(s, op string) string {
	if d, ok := strings.CutPrefix(op, ":-"); ok {
		if s == "" {
			return d
		}
		return s
	}
	from, n, _ := window(op[1:])
	s = s[min(from, len(s)):]
	if n >= 0 {
		s = s[:min(n, len(s))]
	}
	return s
}

// checkPattern refuses a pattern that is no regular expression.
func checkPattern(r replacement) error {
	if !isPattern(r.op) || r.op[0] == ':' {
		return nil
	}
	text, _, _ := expression(r.op)
	if _, err := regexp.Compile(text); err != nil {
		return banyan.Errorf(banyan.Invalid, "%s: the pattern is no regular expression: %w: put \\ before characters that stand for themselves", r.text, err)
	}
	return nil
}

// unknown are GNU parallel's replacement strings that are not here, and what is
// there instead.
var unknown = []struct{ text, instead string }{
	{"{##}", "the number of tasks is not told to a task: pass it in with --env"},
	{"{choose_k}", "choose among the inputs before they are given, on standard input"},
	{"{uniq}", "choose among the inputs before they are given, on standard input"},
	{"{0#}", "use {#}, and printf %05d for zeros before it"},
	{"{0%}", "use {%}, and printf %05d for zeros before it"},
	{"{hgrp}", "hosts have no groups here: use hostname in the command"},
	{"{host}", "use hostname in the command"},
	{"{sshlogin}", "use hostname in the command"},
	{"{:}", "give {:N}, {:N:M} or {:-DEFAULT}"},
	{"{slot}", "use {%}"},
}

// checkUnknown refuses what GNU parallel would replace and this does not:
// taken literally it would be a name that all tasks share.
func checkUnknown(s string) error {
	if i := strings.Index(s, "{="); i >= 0 {
		if j := strings.Index(s[i:], "=}"); j >= 0 {
			return banyan.Errorf(banyan.Invalid, "%s: Perl expressions are not supported: use {.} {/} {#} {/P/R} {seq-1} and so on ('banyan help run'), or compute it in the command", s[i:i+j+2])
		}
	}
	for _, u := range unknown {
		if i := strings.Index(s, u.text); i >= 0 && (i == 0 || s[i-1] != '$') {
			return banyan.Errorf(banyan.Invalid, "%s is not supported here: %s", u.text, u.instead)
		}
	}
	return nil
}
