package worker

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
)

// ledger is a file of what runs here. A line is added when an attempt begins and
// when it ends; none is synced, for what has been written outlives the process
// however that ends, and a machine that loses power may forget it. A node that
// ends as planned leaves only losses that no controller has recorded yet.
//
// A line is a checksum, a sign (+ runs, - is over, ! was lost before) and the
// attempt. A line that does not match its checksum was cut short and is left out.
type ledger struct {
	path    string
	file    *os.File
	log     *slog.Logger
	now     map[Key]Lost // what the file says
	size    int
	failing bool
}

// ledgerMost is the size at which the file is written anew.
const ledgerMost = 1 << 20

// openLedger reads what ran when the node before ended without warning. What
// cannot be read or written is logged: work goes on without.
func openLedger(path string, log *slog.Logger) (*ledger, []Lost) {
	l := &ledger{path: path, log: log, now: map[Key]Lost{}}
	if path == "" {
		return l, nil
	}
	text, err := os.ReadFile(path)
	if err != nil && !os.IsNotExist(err) {
		log.Warn("what ran here before cannot be read: what was lost is not counted", "error", err)
	}
	var order []Key
	for line := range bytes.Lines(text) {
		sign, e, ok := parseLine(strings.TrimSuffix(string(line), "\n"))
		switch _, have := l.now[e.Key]; {
		case !ok:
		case sign == '-':
			delete(l.now, e.Key)
		default:
			if !have {
				order = append(order, e.Key)
			}
			l.now[e.Key] = e
		}
	}
	var lost []Lost
	for _, k := range order {
		if e, ok := l.now[k]; ok {
			lost = append(lost, e)
			delete(l.now, k)
		}
	}
	for _, e := range lost {
		l.now[e.Key] = e
	}
	l.rewrite()
	return l, lost
}

func formatLine(sign byte, e Lost) string {
	body := fmt.Sprintf("%c %s %d %d %t", sign, e.Key.Job, e.Key.Task, e.Key.Attempt, e.Suspect)
	return fmt.Sprintf("%08x %s\n", crc32.ChecksumIEEE([]byte(body)), body)
}

func parseLine(line string) (sign byte, e Lost, ok bool) {
	var sum uint32
	head, body, _ := strings.Cut(line, " ")
	if _, err := fmt.Sscanf(head, "%08x", &sum); err != nil || sum != crc32.ChecksumIEEE([]byte(body)) {
		return 0, e, false
	}
	_, err := fmt.Sscanf(body, "%c %s %d %d %t", &sign, &e.Key.Job, &e.Key.Task, &e.Key.Attempt, &e.Suspect)
	return sign, e, err == nil
}

// begin notes what is about to run.
func (l *ledger) begin(starts []Start) {
	var b strings.Builder
	for _, s := range starts {
		e := Lost{s.Key, s.Attempt.GetSuspect()}
		l.now[s.Key] = e
		b.WriteString(formatLine('+', e))
	}
	l.write(b.String())
}

// end notes what is over, or need not be told any more.
func (l *ledger) end(k Key) {
	if e, ok := l.now[k]; ok {
		delete(l.now, k)
		l.write(formatLine('-', e))
	}
}

// planned says that this node ends as planned: only what was lost before is kept.
func (l *ledger) planned(lost []Lost) {
	clear(l.now)
	for _, e := range lost {
		l.now[e.Key] = e
	}
	l.rewrite()
}

func (l *ledger) write(text string) {
	if l.path == "" || text == "" {
		return
	}
	if l.size += len(text); l.size > ledgerMost {
		l.rewrite()
		return
	}
	err := os.ErrClosed
	if l.file != nil {
		_, err = l.file.WriteString(text)
	}
	l.failed(err)
}

// rewrite replaces the file by one of what runs now. A reader finds the old one
// or the new one.
func (l *ledger) rewrite() {
	if l.path == "" {
		return
	}
	var b strings.Builder
	for _, e := range l.now { // their order is no matter
		b.WriteString(formatLine('!', e))
	}
	l.size = b.Len()
	file, err := os.CreateTemp(filepath.Dir(l.path), filepath.Base(l.path)+".*.tmp")
	if err == nil {
		_, err = file.WriteString(b.String())
		if closed := file.Close(); err == nil {
			err = closed
		}
		if l.close(); err == nil {
			err = os.Rename(file.Name(), l.path)
		}
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}
	if opened, e := os.OpenFile(l.path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600); e == nil {
		l.close()
		l.file = opened
	} else if err == nil {
		err = e
	}
	l.failed(err)
}

// failed says once that the file cannot be written.
func (l *ledger) failed(err error) {
	if err != nil && !l.failing {
		l.log.Warn("what runs here cannot be noted: should this node end without warning, it is not counted", "error", err)
	}
	l.failing = err != nil
}

func (l *ledger) close() {
	if l.file != nil {
		_ = l.file.Close()
		l.file = nil
	}
}
