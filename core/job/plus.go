package job

import (
	"regexp"
	"strconv"
	"strings"

	"banyan"
)

// The replacement strings of GNU parallel's --plus. P is a regular expression;
// each stands for a part of the input:
//
//	{+/} {+.} {+..} {+...}  directory, extension, the last two, the last three
//	{..} {...} {/..} {/...} without the last two or three extensions
//	{#P} {##P} {%P} {%%P}   without the shortest or longest P at its beginning, at its end
//	{/P/R} {//P/R}          the first P, every P replaced by the text R
//	{/#P/R} {/%P/R}         P at its beginning, at its end replaced by R
//	{^P} {^^P} {,P} {,,P}   P at the beginning, or everywhere, in capitals or small
//	{:N} {:N:M}             from the byte N on, at most M of them
//	{:-D}                   D where the input is empty
//
// and for a part of the task:
//
//	{##} {0#}               the number of tasks; the task's number with zeros before it
//	{slot} {slot+N} {slot-N} {seq} {seq+N} {seq-N}
//	                        the slot, the task's number, with N added or taken away
//
// What GNU parallel also replaces is refused (checkUnknown). In ${…} the shell's own expansion is meant.

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
	case '#':
		p := strings.TrimPrefix(rest, "#")
		return p != "" && p[0] != '#'
	case '%':
		return rest != ""
	case '/':
		_, p, _, ok := replacing(op)
		return ok && p != ""
	case '^':
		return true
	case ',':
		return rest == "" || strings.Trim(rest, "0123456789") != "" // {,3} counts in regular expressions
	case ':':
		if strings.HasPrefix(rest, "-") {
			return len(rest) > 1
		}
		_, _, ok := window(rest)
		return ok
	}
	return false
}

// replacing reads /P/R with what may stand before P: another slash, # or %.
func replacing(op string) (how byte, p, r string, ok bool) {
	p = op[1:]
	if p != "" && strings.IndexByte("/#%", p[0]) >= 0 {
		how, p = p[0], p[1:]
	}
	p, r, ok = strings.Cut(p, "/")
	return how, p, r, ok
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

// offset reads NAME, NAME+N or NAME-N.
func offset(in, name string) (int, bool) {
	rest, ok := strings.CutPrefix(in, name)
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
	if op[0] == ':' {
		return slice(s, op)
	}
	re, err := regexp.Compile(expression(op))
	if err != nil {
		return s // Check has refused it
	}
	switch op[0] {
	case '/':
		how, _, repl, _ := replacing(op)
		if how == '/' {
			return re.ReplaceAllLiteralString(s, repl)
		}
		if at := re.FindStringIndex(s); at != nil {
			return s[:at[0]] + repl + s[at[1]:]
		}
		return s
	case '#', '%':
		if at := re.FindStringSubmatchIndex(s); at != nil {
			return s[:at[2]] + s[at[3]:]
		}
		return s
	case '^':
		return change(s, re, 'a', 'z')
	}
	return change(s, re, 'A', 'Z')
}

// change turns the letters from a to z that re finds into the other case. It
// knows ASCII, as GNU parallel does, and leaves all other bytes as they are.
func change(s string, re *regexp.Regexp, a, z byte) string {
	b := []byte(s)
	for _, at := range re.FindAllStringIndex(s, -1) {
		for i := at[0]; i < at[1]; i++ {
			if a <= b[i] && b[i] <= z {
				b[i] ^= 0x20
			}
		}
	}
	return string(b)
}

// expression gives the regular expression of an op. In those that take
// something away the first group is what goes.
func expression(op string) string {
	p, twice := op[1:], len(op) > 2 && op[0] == op[1]
	if twice || op == "^^" || op == ",," {
		p, twice = op[2:], true
	}
	switch op[0] {
	case '#':
		if twice {
			return "^(" + p + ")"
		}
		return "^(" + ungreedy(p) + ")"
	case '%':
		if twice {
			return "(" + p + ")$"
		}
		return "^(?s:.*)(" + p + ")$" // the shortest suffix begins last
	case '/':
		switch how, p, _, _ := replacing(op); how {
		case '#':
			return "^(?:" + p + ")"
		case '%':
			return "(?:" + p + ")$"
		default:
			return p
		}
	}
	if p == "" {
		p = "(?s:.)"
	}
	if twice {
		return p
	}
	return "^(?:" + p + ")"
}

// ungreedy makes the quantifiers of a regular expression take as little as they
// can. As in GNU parallel, .+? and .+ are the same then.
func ungreedy(p string) string {
	var b strings.Builder
	class := false
	for i := 0; i < len(p); i++ {
		b.WriteByte(p[i])
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p):
			i++
			b.WriteByte(p[i])
		case c == '[':
			class = true
		case c == ']':
			class = false
		case !class && (c == '*' || c == '+') && !strings.HasPrefix(p[i+1:], "?"):
			b.WriteByte('?')
		}
	}
	return b.String()
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
	if _, err := regexp.Compile(expression(r.op)); err != nil {
		return banyan.Errorf(banyan.Invalid, "%s: the pattern is no regular expression: %w: put \\ before characters that stand for themselves", r.text, err)
	}
	return nil
}

// unknown are GNU parallel's replacement strings that are not here, and what is
// there instead.
var unknown = []struct{ text, instead string }{
	{"{choose_k}", "choose among the inputs before they are given, on standard input"},
	{"{uniq}", "choose among the inputs before they are given, on standard input"},
	{"{0%}", "use {%}, and printf %05d for zeros before it"},
	{"{hgrp}", "hosts have no groups here: use hostname in the command"},
	{"{agrp}", "hosts have no groups here: use hostname in the command"},
	{"{host}", "use hostname in the command"},
	{"{sshlogin}", "use hostname in the command"},
	{"{:}", "give {:N}, {:N:M} or {:-DEFAULT}"},
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
		for at := 0; ; {
			i := strings.Index(s[at:], u.text)
			if i < 0 {
				break
			}
			if at += i; at == 0 || s[at-1] != '$' {
				return banyan.Errorf(banyan.Invalid, "%s is not supported here: %s; a command that needs this text itself can have it from a script or from --env", u.text, u.instead)
			}
			at += len(u.text)
		}
	}
	return nil
}
