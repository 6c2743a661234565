package job

import (
	"strconv"
	"strings"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// Vars is what the replacement strings of a template stand for.
type Vars struct {
	Columns []string // {1} {2} …; none (the then step): a template is taken literally
	Seq     int      // {#}, from 1
	Slot    int      // {%}, from 1
	Tasks   int      // {##}, how many tasks the job has
}

// Expand turns a command template into an argument list ready to be executed.
// The replacement strings are GNU parallel's: {} {.} {/} {//} {/.} {#} {%},
// those of its --plus (plus.go), and with a column number {2} {2.} {2/} {2//}
// {2/.}; a negative number counts from the last column. A command with no
// replacement string gets {} appended.
//
// Without shell every argument is executed as it is, so no input can be taken
// for syntax; an argument that is exactly {} becomes one argument per column.
// With shell the one string is run by /bin/sh -c, with every replacement quoted
// as GNU parallel quotes it. With several columns {} inside a string is the
// columns with blanks between them.
func Expand(cmd *banyanv1.Command, v Vars) ([]string, error) {
	if err := Check(cmd, len(v.Columns)); err != nil {
		return nil, err
	}
	found := len(v.Columns) == 0
	for _, a := range cmd.Args {
		found = found || hasReplacement(string(a))
	}
	if cmd.Shell {
		text := string(cmd.Args[0])
		if !found {
			text += " {}"
		}
		return []string{"/bin/sh", "-c", expand(text, v, Quote)}, nil
	}
	args := make([]string, 0, len(cmd.Args)+1)
	for _, a := range cmd.Args {
		args = appendArg(args, string(a), v)
	}
	if !found {
		args = append(args, v.Columns...)
	}
	return args, nil
}

// ExpandString expands one string, such as the name of a returned file,
// without quoting and without appending anything. Columns that do not exist
// become nothing; Check tells beforehand.
func ExpandString(s string, v Vars) string {
	return expand(s, v, func(s string) string { return s })
}

// Check says whether a command may be expanded with so many columns. The error
// is banyan.Invalid and names the replacement string and the columns there are.
func Check(cmd *banyanv1.Command, columns int) error {
	switch {
	case cmd == nil || len(cmd.Args) == 0:
		return banyan.Errorf(banyan.Invalid, "no command: give one, as in 'banyan run -- gzip {} ::: a b'")
	case cmd.Shell && len(cmd.Args) != 1:
		return banyan.Errorf(banyan.Invalid, "a shell command is one string, got %d: quote it, or leave out the shell", len(cmd.Args))
	case len(cmd.Args[0]) == 0:
		return banyan.Errorf(banyan.Invalid, "the command is empty: give the program to run")
	}
	for _, a := range cmd.Args {
		if err := CheckString(string(a), columns); err != nil {
			return err
		}
	}
	return nil
}

// CheckString is Check for one string.
func CheckString(s string, columns int) error {
	if columns == 0 {
		return nil
	}
	if err := checkUnknown(s); err != nil {
		return err
	}
	for s != "" {
		_, r, rest := next(s)
		if err := checkPattern(r); err != nil {
			return err
		}
		if r.what == column && (r.n > columns || -r.n > columns) {
			have := "inputs have " + strconv.Itoa(columns) + " columns"
			if columns == 1 {
				have = "inputs have one column"
			}
			return banyan.Errorf(banyan.Invalid,
				"%s names column %d, but the %s: use a smaller number or give more inputs with another ':::'", r.text, max(r.n, -r.n), have)
		}
		s = rest
	}
	return nil
}

// Quote quotes s for a POSIX shell, as GNU parallel does.
func Quote(s string) string {
	if s == "" {
		return "''"
	}
	plain := func(c byte) bool {
		return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.+/", c) >= 0
	}
	for i := range len(s) {
		if !plain(s[i]) {
			q := "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'"
			return strings.TrimSuffix(strings.TrimPrefix(q, "''"), "''")
		}
	}
	return s
}

// Literal is s without its replacement strings.
func Literal(s string) string {
	var b strings.Builder
	for s != "" {
		before, _, rest := next(s)
		b.WriteString(before)
		s = rest
	}
	return b.String()
}

// NamesSlot says whether s depends on the slot, which is known only when the task runs.
func NamesSlot(s string) bool {
	for s != "" {
		_, r, rest := next(s)
		if r.what == slot {
			return true
		}
		s = rest
	}
	return false
}

func hasReplacement(s string) bool {
	for s != "" {
		_, r, rest := next(s)
		if r.what != none {
			return true
		}
		s = rest
	}
	return false
}

// appendArg expands one argument; a bare {} gives as many as there are columns.
func appendArg(args []string, a string, v Vars) []string {
	if before, r, rest := next(a); before == "" && rest == "" && r.what == all && len(v.Columns) > 0 {
		for _, c := range v.Columns {
			args = append(args, part(c, r.op))
		}
		return args
	}
	return append(args, ExpandString(a, v))
}

func expand(s string, v Vars, quote func(string) string) string {
	if len(v.Columns) == 0 {
		return s
	}
	var b strings.Builder
	for s != "" {
		before, r, rest := next(s)
		b.WriteString(before)
		switch r.what {
		case seq:
			b.WriteString(strconv.Itoa(v.Seq + r.n))
		case slot:
			b.WriteString(strconv.Itoa(v.Slot + r.n))
		case tasks:
			b.WriteString(strconv.Itoa(v.Tasks))
		case padded:
			n := strconv.Itoa(v.Seq)
			b.WriteString(strings.Repeat("0", max(0, len(strconv.Itoa(v.Tasks))-len(n))) + n)
		case all:
			for i, c := range v.Columns {
				if i > 0 {
					b.WriteByte(' ')
				}
				b.WriteString(quote(part(c, r.op)))
			}
		case column:
			b.WriteString(quote(part(r.pick(v.Columns), r.op)))
		}
		s = rest
	}
	return b.String()
}

type what uint8

const (
	none what = iota
	all
	column
	seq
	slot
	tasks
	padded
)

// replacement is one replacement string of a template.
type replacement struct {
	what what
	n    int    // of column: from 1, or negative from the end; of seq and slot: what is added
	op   string // what part makes of the input
	text string
}

func (r replacement) pick(columns []string) string {
	i := r.n - 1
	if r.n < 0 {
		i = len(columns) + r.n
	}
	if i < 0 || i >= len(columns) {
		return ""
	}
	return columns[i]
}

// next cuts s at its first replacement string.
func next(s string) (before string, r replacement, rest string) {
	for at := 0; ; at++ {
		i := strings.IndexByte(s[at:], '{')
		if i < 0 {
			return s, replacement{}, ""
		}
		at += i
		if end := strings.IndexByte(s[at:], '}'); end > 0 {
			if r, ok := parse(s[at+1 : at+end]); ok && !(at > 0 && s[at-1] == '$' && isPattern(r.op)) {
				r.text = s[at : at+end+1]
				return s[:at], r, s[at+end+1:]
			}
		}
	}
}

// parse reads what stands between the braces.
func parse(in string) (replacement, bool) {
	switch in {
	case "#":
		return replacement{what: seq}, true
	case "%":
		return replacement{what: slot}, true
	case "##":
		return replacement{what: tasks}, true
	case "0#":
		return replacement{what: padded}, true
	}
	if n, ok := offset(in, "seq"); ok {
		return replacement{what: seq, n: n}, true
	}
	if n, ok := offset(in, "slot"); ok {
		return replacement{what: slot, n: n}, true
	}
	digits := 0 // of a column's number; a hyphen that is alone begins no number
	for digits < len(in) && (in[digits] >= '0' && in[digits] <= '9' || digits == 0 && in[0] == '-') {
		digits++
	}
	op := in[digits:]
	if !isOp(op) {
		return replacement{}, false
	}
	if digits == 0 {
		return replacement{what: all, op: op}, true
	}
	n, err := strconv.Atoi(in[:digits])
	return replacement{what: column, n: n, op: op}, err == nil && n != 0
}

// part takes the part of an input that op names: "." without extension, "/" the
// base name, "//" the directory, "/." the base name without extension.
func part(s, op string) string {
	switch op {
	case ".":
		return trimExt(s)
	case "/":
		return s[strings.LastIndexByte(s, '/')+1:]
	case "//":
		return dir(s)
	case "/.":
		return trimExt(s[strings.LastIndexByte(s, '/')+1:])
	}
	return plus(s, op)
}

func trimExt(s string) string {
	if i := strings.LastIndexByte(s, '.'); i > strings.LastIndexByte(s, '/') {
		return s[:i]
	}
	return s
}

// dir is dirname: "." without a slash, trailing slashes not counted.
func dir(s string) string {
	trimmed := strings.TrimRight(s, "/")
	i := strings.LastIndexByte(trimmed, '/')
	switch {
	case trimmed == "" && s != "":
		return "/"
	case i < 0:
		return "."
	}
	if d := strings.TrimRight(trimmed[:i], "/"); d != "" {
		return d
	}
	return "/"
}
