package cli

import (
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table prints rows in columns, as wide as their widest cell.
type table struct {
	rows  [][]string
	right map[int]bool // columns of numbers
}

func newTable(header ...string) *table {
	return &table{rows: [][]string{header}, right: map[int]bool{}}
}

// numbers aligns columns to the right.
func (t *table) numbers(columns ...int) *table {
	for _, c := range columns {
		t.right[c] = true
	}
	return t
}

// add adds a row; its cells may be text from outside.
func (t *table) add(cells ...string) {
	for i, c := range cells {
		cells[i] = inLine(c)
	}
	t.rows = append(t.rows, cells)
}

// print writes the table, the header alone when there are no rows.
func (t *table) print(w io.Writer) error {
	var width []int
	for _, row := range t.rows {
		for i, c := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var b strings.Builder
	for _, row := range t.rows {
		var line strings.Builder
		for i, c := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(c))
			if t.right[i] {
				line.WriteString(pad + c + "  ")
			} else {
				line.WriteString(c + pad + "  ")
			}
		}
		b.WriteString(strings.TrimRight(line.String(), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// when prints a time of the past as a person says it.
func when(ms int64, now time.Time) string {
	if ms == 0 {
		return "-"
	}
	t := time.UnixMilli(ms)
	if d := now.Sub(t); d < 24*time.Hour && d > -time.Minute {
		return duration(max(d, 0).Truncate(time.Second)) + " ago"
	}
	return t.Format("2006-01-02 15:04")
}

// dash stands for an empty cell.
func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
