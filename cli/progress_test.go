package cli

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	banyanv1 "banyan/api/banyan/v1"
)

func fixedClock() func() time.Time {
	return func() time.Time { return time.UnixMilli(1_800_000_000_000) }
}

func halfDone() *banyanv1.Progress {
	return &banyanv1.Progress{
		Tasks: 40, Succeeded: 18, Failed: 2, Running: 3, RatePerS: 2,
		Nodes: []*banyanv1.NodeProgress{
			{Node: 1, Name: "one", Running: 3, Done: 12, Slots: 4, State: "alive"},
			{Node: 2, Name: "two", Done: 8, Slots: 4, State: "dead"},
		},
	}
}

func TestBar(t *testing.T) {
	var w bytes.Buffer
	now := time.Unix(0, 0)
	b := &bar{w: &w, now: func() time.Time { return now }, start: now, width: func() int { return 100 }}
	b.show(halfDone())
	if w.Len() > 0 {
		t.Error("a job that has hardly begun shows a bar")
	}
	now = now.Add(time.Second)
	b.show(halfDone())
	want := " " + strings.Repeat("█", 18) + strings.Repeat("█", 2) + strings.Repeat("▒", 3) + strings.Repeat("░", 17) +
		"  50%  20 of 40 done  3 running  2 failed  2.0/s  10s left\x1b[K\n" +
		"  ● n1   one               3 of  4 running      12 done\x1b[K\n" +
		"  ✕ n2   two               0 of  4 running       8 done  dead\x1b[K\n\x1b[J"
	if w.String() != want {
		t.Errorf("the bar is\n%q, want\n%q", w.String(), want)
	}
	w.Reset()
	b.clear()
	b.clear()
	if w.String() != "\r\x1b[3A\x1b[J" {
		t.Errorf("it is cleared by %q", w.String())
	}
}

func TestBarFitsTheTerminal(t *testing.T) {
	for width := 20; width < 200; width += 7 {
		b := &bar{width: func() int { return width }}
		for _, line := range append([]string{b.first(halfDone(), width)}, b.node(halfDone().Nodes[1], width)) {
			if n := len([]rune(line)); n >= width {
				t.Errorf("at width %d a line has %d characters: %q", width, n, line)
			}
		}
	}
}

func TestColorOnlyWhereItIsWanted(t *testing.T) {
	b := &bar{color: true}
	if s := b.paint("2", "x"); !strings.Contains(s, "\x1b[") {
		t.Errorf("no colour: %q", s)
	}
	b.color = false
	if s := b.paint("2", "x"); s != "x" {
		t.Errorf("colour in spite of NO_COLOR: %q", s)
	}
}

func TestPlainProgressIsQuietForShortJobs(t *testing.T) {
	var w bytes.Buffer
	now := time.Unix(0, 0)
	a := &app{IO: IO{Err: &w, Env: func(string) string { return "" }}, now: func() time.Time { return now }}
	p := a.newProgress("auto")
	for range 49 {
		now = now.Add(100 * time.Millisecond)
		p.show(halfDone())
	}
	if w.Len() > 0 {
		t.Errorf("a short job says %q", w.String())
	}
	for range 51 {
		now = now.Add(100 * time.Millisecond)
		p.show(halfDone())
	}
	line := "banyan: 20 of 40 done, 3 running, 2 failed, 2.0/s, 10s left\n"
	if w.String() != line+line {
		t.Errorf("a job of ten seconds says\n%s", w.String())
	}
}

// TestAJobThatWaitsSaysWhy: once, when no node has taken work for a while.
func TestAJobThatWaitsSaysWhy(t *testing.T) {
	var w bytes.Buffer
	now := time.Unix(0, 0)
	a := &app{IO: IO{Out: io.Discard, Err: &w, Env: func(string) string { return "" }}, now: func() time.Time { return now }}
	f := a.newFollower(&session{}, follow{})
	f.bar = silent{}
	see := func(pending uint32, states ...string) {
		t.Helper()
		p := &banyanv1.Progress{Tasks: 5, Pending: pending}
		for i, s := range states {
			p.Nodes = append(p.Nodes, &banyanv1.NodeProgress{Node: uint64(i + 1), State: s})
		}
		f.nodes = map[uint64]string{} // who drains when is not the matter here
		if err := f.take(t.Context(), &banyanv1.FollowResponse{State: active, Progress: p}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(idleAfter / 2)
	}
	for _, states := range [][]string{{}, {}, {}, {"draining"}, {"draining", "alive"}, {"draining", "draining"}, {"draining", "draining"}, {"suspect", "draining"}, {"draining", "dead"}, {"draining", "dead"}} {
		see(5, states...)
	}
	see(0, "draining")
	see(5, "draining")
	see(5, "draining")
	if w.Len() > 0 {
		t.Errorf("it says too soon %q", w.String())
	}
	for range 5 {
		see(5, "draining", "dead")
	}
	if got := w.String(); strings.Count(got, "the job is waiting because") != 1 || !strings.Contains(got, "banyan drain --undo") {
		t.Errorf("a job that waits says %q", got)
	}
}

func TestNodeChangesAreTold(t *testing.T) {
	before, after := halfDone(), halfDone()
	before.Nodes[1].State = "alive"
	f := &fakeJobs{follow: []*banyanv1.FollowResponse{
		{State: active, Progress: before}, {State: active, Progress: after}, {State: active, Progress: after}, {State: succeeded, Progress: after},
	}}
	_, errs, _ := do(t, f.session(t), "run", "x", ":::", "1")
	if errs != "banyan: node n2 (two) is dead: its tasks go to others\nbanyan: 2 of 40 tasks failed" && !strings.HasPrefix(errs, "banyan: node n2 (two) is dead: its tasks go to others\n") || strings.Count(errs, "is dead") != 1 {
		t.Errorf("standard error:\n%s", errs)
	}
}

func TestTagsStandBeforeLinesNotBeforePieces(t *testing.T) {
	var w bytes.Buffer
	tag := &tagger{w: &w, tag: []byte("T\t"), start: true}
	for _, piece := range []string{"on", "e\ntw", "", "o\n", "\n", "three"} {
		if n, err := tag.Write([]byte(piece)); n != len(piece) || err != nil {
			t.Fatal(n, err)
		}
	}
	if want := "T\tone\nT\ttwo\nT\t\nT\tthree"; w.String() != want {
		t.Errorf("%q, want %q", w.String(), want)
	}
}
