package worker

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
)

func TestTheLedgerOutlivesItsProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "running")
	log := slog.New(slog.DiscardHandler)
	k := func(task uint32) Key { return Key{banyan.NewJobID(1, 1), task, 7<<32 | uint64(task)} }
	begin := func(l *ledger, task uint32, suspect bool) {
		l.begin([]Start{{Key: k(task), Attempt: &peerv1.Attempt{Suspect: suspect}}})
	}
	read := func() []Lost {
		t.Helper()
		l, lost := openLedger(path, log)
		l.close()
		return lost
	}
	l, lost := openLedger(path, log)
	if len(lost) != 0 {
		t.Fatal(lost)
	}
	for task := range uint32(4) {
		begin(l, task, task == 2)
	}
	l.end(k(1)) // no word more: the process is killed
	want := []Lost{{k(0), false}, {k(2), true}, {k(3), false}}
	if lost = read(); !slices.Equal(lost, want) {
		t.Errorf("%v, want %v", lost, want)
	}
	sorted := func(ls []Lost) []Lost {
		slices.SortFunc(ls, func(a, b Lost) int { return int(a.Key.Task) - int(b.Key.Task) })
		return ls
	}
	if lost = sorted(read()); !slices.Equal(lost, want) { // killed again before anybody was told
		t.Errorf("the second time: %v, want %v", lost, want)
	}
	l, _ = openLedger(path, log)
	l.end(k(0))
	begin(l, 9, false)
	l.planned([]Lost{want[1]})
	if lost = read(); !slices.Equal(lost, want[1:2]) {
		t.Errorf("after a planned end: %v, want %v", lost, want[1:2])
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	spoiled := strings.Repeat(string(text[:len(text)-9])+"\n", 2) + formatLine('+', want[0]) + "00"
	if err := os.WriteFile(path, []byte(spoiled), 0o600); err != nil {
		t.Fatal(err)
	}
	if lost = read(); !slices.Equal(lost, want[:1]) {
		t.Errorf("of a file with lines that are cut short: %v, want %v", lost, want[:1])
	}
}

func TestTheLedgerStaysSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "running")
	l, _ := openLedger(path, slog.New(slog.DiscardHandler))
	k := Key{banyan.NewJobID(1, 1), 0, 1}
	l.begin([]Start{{Key: k, Attempt: &peerv1.Attempt{}}})
	for k.Attempt < 30_000 {
		k.Attempt++
		l.begin([]Start{{Key: k, Attempt: &peerv1.Attempt{}}})
		l.end(k)
	}
	l.close()
	if st, err := os.Stat(path); err != nil || st.Size() > 2*ledgerMost {
		t.Error(st.Size(), err)
	}
	if _, lost := openLedger(path, slog.New(slog.DiscardHandler)); len(lost) != 1 || lost[0].Key.Attempt != 1 {
		t.Error(lost)
	}
}
