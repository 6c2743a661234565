package cli

import (
	archive "archive/zip"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/node/server"
)

// TestFilesGoToStandardOutput: there is nothing beside them then.
func TestFilesGoToStandardOutput(t *testing.T) {
	t.Chdir(t.TempDir()) // where a mistake leaves a file called "-"
	if out, errs, code := do(t, fakeDebug{data: "a profile"}.session(t), "debug", "profile", "-f", "-"); code != 0 || out != "a profile" {
		t.Errorf("profile: exit %d, %q: %s", code, out, errs)
	}
	out, errs, code := do(t, fakeDebug{}.session(t), "debug", "bundle", "-f", "-")
	if _, err := archive.NewReader(strings.NewReader(out), int64(len(out))); code != 0 || err != nil {
		t.Errorf("bundle: exit %d, %v, %q: %s", code, err, out, errs)
	}
	dir := filepath.Join(t.TempDir(), "node")
	n, err := server.New(server.Config{Dir: dir, Embedded: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	var survey server.Survey
	out, errs, code = do(t, nil, "recover", "--dir", dir, "--survey", "-")
	if err := json.Unmarshal([]byte(out), &survey); code != 0 || err != nil || survey.Node != 1 {
		t.Errorf("survey: exit %d, %v, %q: %s", code, err, out, errs)
	}
}

func TestParseGoroutines(t *testing.T) {
	var text bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&text, 1); err != nil {
		t.Fatal(err)
	}
	all := parseGoroutines(text.String())
	found := 0
	for _, g := range all {
		if strings.Contains(strings.Join(g.Stack, "\n"), "TestParseGoroutines ") {
			found += g.Count
		}
	}
	if found != 1 {
		t.Errorf("this test runs in %d goroutines:\n%s\n%+v", found, text.String(), all)
	}
}

func TestAnInterruptedBundleIsNone(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	b := &bundle{a: &app{now: time.Now}, s: fakeDebug{then: cancel}.session(t)}
	if err := b.collect(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted after the slow log: %v", err)
	}
}

// TestABundleDoesNotWaitForASilentNodeAgainAndAgain, and says what it lacks.
func TestABundleDoesNotWaitForASilentNodeAgainAndAgain(t *testing.T) {
	t.Chdir(t.TempDir())
	var asked atomic.Int32 // of n2
	f := fakeDebug{data: "x", nodes: []*banyanv1.Node{{Id: 1, State: "alive"}, {Id: 2, State: "alive"}, {Id: 3, State: "dead"}}}
	f.dumps = func(req *banyanv1.DumpRequest) error {
		switch {
		case req.Node == 2 && asked.Add(1) > 1:
			return banyan.Errorf(banyan.Conflict, "it hangs")
		case req.Node == 1 && req.Kind == banyanv1.DumpKind_DUMP_KIND_METRICS:
			return banyan.Errorf(banyan.Invalid, "what is that?")
		}
		return nil
	}
	out, errs, code := do(t, f.session(t), "debug", "bundle")
	if code != 0 || asked.Load() != 2 {
		t.Errorf("exit %d, the silent node was asked %d times: %s", code, asked.Load(), errs)
	}
	_, missing, _ := strings.Cut(out, "Not to be had:\n")
	if want := `slow.json: without node n2: no way there
nodes/n1/metrics.txt: what is that?
nodes/n2/metrics.txt, nodes/n2/log.txt, nodes/n2/goroutines.txt, nodes/n2/heap.pprof: it hangs
nodes/n3/config.json, nodes/n3/metrics.txt, nodes/n3/log.txt, nodes/n3/goroutines.txt, nodes/n3/heap.pprof: node n3 is dead
`; missing != want || !strings.Contains(out, "nodes/n1/heap.pprof") || !strings.Contains(out, "nodes/n2/config.json") {
		t.Errorf("%s\nwant missing:\n%s", out, want)
	}
}

func TestSlowOfANodeThatDoesNotAnswer(t *testing.T) {
	if out, errs, code := do(t, fakeDebug{}.session(t), "debug", "slow", "--node", "n3"); code != 1 || out != "" || !strings.Contains(errs, "n3 did not answer: no way there") {
		t.Errorf("of the one: exit %d, %q: %s", code, out, errs)
	}
	if out, errs, code := do(t, fakeDebug{}.session(t), "debug", "slow"); code != 0 || !strings.Contains(out, "WAITED FOR") || !strings.Contains(errs, "n2 did not answer: no way there") {
		t.Errorf("of all: exit %d, %q: %s", code, out, errs)
	}
}

func TestPrintSlow(t *testing.T) {
	var out bytes.Buffer
	a := &app{IO: IO{Out: &out}}
	ops := []*banyanv1.SlowOperation{
		{Node: 2, EndMs: 1795240931484, What: "proposal", Shard: 4, DurationUs: 402_000, Waits: []*banyanv1.SlowWait{
			{For: "its place in the log", DurationUs: 100}, {For: "a majority to write it", DurationUs: 399_000}, {For: "being applied", DurationUs: 2_900},
		}},
		{Node: 3, EndMs: 1795240931485, What: "KV.Put", Shard: -1, DurationUs: 404_000, Failed: "timeout"},
	}
	if err := a.printSlow(format{name: "text"}, ops); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"n2    proposal      4  402 ms  -        a majority to write it 399 ms, being applied 3 ms\n",
		"n3    KV.Put        -  404 ms  timeout  -\n",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in:\n%s", want, out.String())
		}
	}
	out.Reset()
	if err := a.printSlow(format{name: "json"}, ops[1:]); err != nil {
		t.Fatal(err)
	}
	if want := `{"end_ms":1795240931485,"node":"n3","what":"KV.Put","shard":-1,"duration_us":404000,"waits":[],"failed":"timeout"}` + "\n"; out.String() != want {
		t.Errorf("got %swant %s", out.String(), want)
	}
}
