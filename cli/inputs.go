package cli

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"iter"
	"os"
	"regexp"
	"slices"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
)

// source is one input source of a job, as on GNU parallel's command line.
type source struct {
	values []string // after ':::'
	path   string   // after '::::' or -a; "-" is standard input
	file   bool
	linked bool // ':::+' or '::::+': walks along with the source before it
}

// splitArgs parts what follows the flags into the command and its sources.
// Files named by -a come first; standard input is used when there is no other.
func splitArgs(args, files []string) (command []string, sources []source) {
	for _, f := range files {
		sources = append(sources, source{path: f, file: true})
	}
	start := slices.IndexFunc(args, isSeparator)
	if start < 0 {
		start = len(args)
	}
	command = args[:start]
	for rest := args[start:]; len(rest) > 0; {
		sep := rest[0]
		rest = rest[1:]
		end := slices.IndexFunc(rest, isSeparator)
		if end < 0 {
			end = len(rest)
		}
		linked := sep == ":::+" || sep == "::::+"
		if sep == ":::" || sep == ":::+" {
			sources = append(sources, source{values: rest[:end], linked: linked})
		} else {
			for _, f := range rest[:end] {
				sources = append(sources, source{path: f, file: true, linked: linked})
			}
		}
		rest = rest[end:]
	}
	if len(sources) == 0 {
		sources = []source{{path: "-", file: true}}
	}
	sources[0].linked = false
	return command, sources
}

func isSeparator(s string) bool {
	return s == ":::" || s == ":::+" || s == "::::" || s == "::::+"
}

// reading says how the values of sources are read.
type reading struct {
	stdin   io.Reader
	sep     byte           // that ends a value in a file
	columns *regexp.Regexp // splits a value into columns; nil: a value is one column
}

// inputs is the cartesian product of sources, linked ones walking together.
// It holds the values of each source, not their product.
type inputs struct {
	groups  [][][]string // of each group of linked sources: its rows of columns
	columns int          // of a row; the smallest, where rows differ
	least   []string     // where they differ, the first row with the fewest
	count   int
}

// read reads all sources. It refuses more than banyan.JobTasksMax rows and
// banyan.JobInputBytesMax bytes before anything is multiplied out.
func (r reading) read(sources []source) (*inputs, error) {
	var groups [][][]string
	for _, s := range sources {
		values, err := r.values(s)
		if err != nil {
			return nil, err
		}
		if n := len(groups); s.linked && n > 0 {
			groups[n-1] = zip(groups[n-1], values)
		} else {
			groups = append(groups, values)
		}
	}
	return newInputs(groups)
}

// newInputs makes the product of groups.
func newInputs(groups [][][]string) (*inputs, error) {
	in := &inputs{count: 1, groups: groups}
	total := 0
	for _, g := range in.groups {
		in.count *= len(g)
		size, columns, least := measure(g)
		in.columns += columns
		if least != nil && in.least == nil {
			in.least = least
		}
		if in.count > banyan.JobTasksMax {
			return nil, banyan.Errorf(banyan.Exhausted, "too many inputs: the sources multiply to more than %d tasks: split the job", banyan.JobTasksMax)
		}
		total = max(total*len(g), 0) + size*(in.count/max(len(g), 1))
	}
	if total > banyan.JobInputBytesMax {
		return nil, banyan.Errorf(banyan.Exhausted, "too many inputs: they hold %d bytes, a job at most %d: split the job", total, banyan.JobInputBytesMax)
	}
	return in, nil
}

func measure(rows [][]string) (size, columns int, least []string) {
	most := 0
	for i, row := range rows {
		for _, c := range row {
			size += len(c)
		}
		if i == 0 || len(row) < columns {
			columns, least = len(row), row
		}
		most = max(most, len(row))
	}
	if most == columns {
		least = nil
	}
	return size, columns, least
}

func zip(a, b [][]string) [][]string {
	n := min(len(a), len(b))
	out := make([][]string, n)
	for i := range n {
		out[i] = slices.Concat(a[i], b[i])
	}
	return out
}

// values reads one source into rows of columns.
func (r reading) values(s source) ([][]string, error) {
	var rows [][]string
	add := func(v string) bool { rows = append(rows, r.row(v)); return true }
	if !s.file {
		for _, v := range s.values {
			add(v)
		}
		return rows, nil
	}
	file, name, err := r.open(s)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	br := bufio.NewReaderSize(file, banyan.InputBytesMax+1)
	return rows, r.lines(br, name, banyan.JobTasksMax, add)
}

func (r reading) row(value string) []string {
	if r.columns != nil {
		return r.columns.Split(value, -1)
	}
	return []string{value}
}

// open opens a file, or gives standard input, with its name for people.
func (r reading) open(s source) (file io.ReadCloser, name string, err error) {
	if s.path == "-" {
		return io.NopCloser(r.stdin), "standard input", nil
	}
	f, err := os.Open(s.path)
	if err != nil {
		return nil, "", banyan.Errorf(banyan.NotFound, "input file %s cannot be read: %w: give -a or '::::' a file that is there", s.path, unwrapPath(err))
	}
	return f, s.path, nil
}

// lines calls add for every value of a file, until that gives false. Of at most
// linesMax lines they hold at most banyan.JobInputBytesMax; 0: without end.
func (r reading) lines(br *bufio.Reader, name string, linesMax int, add func(string) bool) error {
	total := 0
	for n := 1; ; n++ {
		line, err := br.ReadSlice(r.sep)
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			return banyan.Errorf(banyan.Exhausted, "%s: line %d is longer than %d bytes, the most an input may have: put it into a file and give the file's name", name, n, banyan.InputBytesMax)
		case err != nil && err != io.EOF:
			return banyan.Errorf(banyan.Invalid, "input %s cannot be read: %w: give -a or '::::' a file of lines", name, unwrapPath(err))
		}
		last := err == io.EOF
		if last && len(line) == 0 {
			return nil
		}
		if !last {
			line = line[:len(line)-1]
		}
		if total += len(line); linesMax > 0 && (total > banyan.JobInputBytesMax || n > linesMax) {
			return banyan.Errorf(banyan.Exhausted, "%s: too many inputs: a job has at most %d, with %d bytes together: split the job", name, banyan.JobTasksMax, banyan.JobInputBytesMax)
		}
		if bytes.IndexByte(line, 0) >= 0 {
			return banyan.Errorf(banyan.Invalid, "%s: line %d holds a NUL byte, which no argument can: give -0 if the inputs end with NUL", name, n)
		}
		if !add(string(line)) || last {
			return nil
		}
	}
}

// all gives the rows in GNU parallel's order: the last source turns fastest.
// A row may be kept by the caller.
func (in *inputs) all() iter.Seq[[]string] {
	return func(yield func([]string) bool) {
		if in.count == 0 {
			return
		}
		at := make([]int, len(in.groups))
		for {
			var row []string
			for i, g := range in.groups {
				row = append(row, g[at[i]]...)
			}
			if !yield(row) {
				return
			}
			i := len(at) - 1
			for ; i >= 0; i-- {
				if at[i]++; at[i] < len(in.groups[i]) {
					break
				}
				at[i] = 0
			}
			if i < 0 {
				return
			}
		}
	}
}

// row is the i-th row of all, nil where there is none.
func (in *inputs) row(i uint32) []string {
	if int(i) >= in.count {
		return nil
	}
	parts, left := make([][]string, len(in.groups)), int(i)
	for g := len(parts) - 1; g >= 0; g-- {
		n := len(in.groups[g])
		parts[g] = in.groups[g][left%n]
		left /= n
	}
	return slices.Concat(parts...)
}

// messages is all, as a job takes them.
func (in *inputs) messages() iter.Seq[*banyanv1.Input] {
	return func(yield func(*banyanv1.Input) bool) {
		for row := range in.all() {
			if !yield(banyanv1.NewInput(row...)) {
				return
			}
		}
	}
}

// unwrapPath takes the operation and the path off a file error: the message
// around it names the file.
func unwrapPath(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
