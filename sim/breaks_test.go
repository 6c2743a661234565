//go:build breaks

package sim

import (
	"flag"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var only = flag.String("break", "", "try only breaks whose name contains this")

// edit replaces one passage of one file.
type edit struct{ file, old, new string }

// breaks are deliberate mistakes in the engine, each of which the simulation
// must find within so many seeds. docs/testing.md lists them; run them with
//
//	go test -tags breaks ./sim -run TestBreaks -v -timeout 2h
var breaks = []struct {
	name   string
	within int
	edits  []edit
}{
	{"acknowledge before fsync", 2000, []edit{{"replica/effects.go",
		"	if err := WriteAppends(batch, appends); err != nil {\n		return err\n	}\n	for _, a := range appends {\n		for _, e := range a.After {\n			send(e)\n		}\n	}\n	return nil\n",
		"	for _, a := range appends {\n		for _, e := range a.After {\n			send(e)\n		}\n	}\n	return WriteAppends(batch, appends)\n"}}},
	{"do not wait for the disk", 2000, []edit{{"replica/effects.go", "return batch.Commit(s)", "_ = s\n		return batch.Commit(false)"}}},
	{"skip the term fence", 2000, []edit{
		{"replica/effects.go", "if own.Term != v.Term {", "if false {"},
		{"replica/group.go", "if p.Term != g.term {", "if false {"},
		{"mvcc/machine.go", "if cmd.Term != 0 && cmd.Term != entryTerm {", "if false {"}}},
	{"read without a quorum", 2000, []edit{{"replica/core.go",
		"	g.reads = append(g.reads, done)\n",
		"	if g.leader {\n		done(nil)\n		return\n	}\n	g.reads = append(g.reads, done)\n"}}},
	{"applied index beside the batch", 2000, []edit{
		{"replica/apply.go", "		a.batch.SetApplied(m.shard, m.applied, m.term)\n", ""},
		{"replica/apply.go", "	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n",
			"	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n	for _, m := range a.used {\n		a.batch.SetApplied(m.shard, m.applied, m.term)\n	}\n	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n"}}},
	{"drop the hard state", 2000, []edit{{"replica/effects.go", "		if a.Hard != nil {\n			batch.", "		if false {\n			batch."}}},
	{"ignore request ids", 2000, []edit{{"mvcc/machine.go", "if at, ok := m.window.find(cmd.Request); ok {", "if at, ok := m.window.find(cmd.Request); ok && false {"}}},
	{"forget request ids at a restart", 2000, []edit{{"mvcc/machine.go", "	if m.unread == (place{}) {\n", "	if m.unread = (place{}); true {\n"}}},
	{"lead before the term's first entry is applied", 2000, []edit{{"replica/group.go", "if leader && !g.announced && g.appliedTerm == g.term {", "if leader && !g.announced {"}}},
	{"keep a state that a snapshot has replaced", 2000, []edit{{"replica/incoming.go", "g.reload = true", "g.reload = false"}}},
	{"send a snapshot as of the wrong index", 2000, []edit{{"replica/snapshot.go",
		"index, term := view.AppliedIndex(), view.Term()", "index, term := m.GetSnapshot().GetMetadata().GetIndex(), m.GetSnapshot().GetMetadata().GetTerm()"}}},
	{"leave a conflicting suffix in the log", 2000, []edit{{"store/batch.go", "	b.deleteLog(kv, c.sh.id, c.m.last+1, c.was.last)\n", ""}}},
	{"do not store configurations", 2000, []edit{{"replica/apply.go", "	a.batch.SetConfState(m.shard, conf)\n", ""}}},
	{"let watchers miss a snapshot", 2000, []edit{{"replica/hub.go", "		w.fallBehind()\n		w.signal()\n", "		w.sent = max(w.sent, revision)\n		w.signal()\n"}}},
	{"call a state fresh before it is applied", 2000, []edit{{"replica/age.go", "for a.wait.set && a.wait.commit <= applied {", "for a.wait.set {"}}},
	{"take acknowledgements of a former replica", 10000, []edit{{"replica/tenure.go", "m.GetVote() != g.tenure.began[m.GetFrom()]", "false"}}},
	{"let an empty replica vote", 10000, []edit{
		{"replica/tenure.go", "	case raftpb.MsgVote, raftpb.MsgPreVote:\n		if g.applied == 0 {\n			return nil\n		}\n", ""}}},
	{"write results without term and condition", 5000, []edit{
		{"work/core_commit.go", "	b.Cmd.Term = s.term\n", ""},
		{"work/core_commit.go", "		cmd.Conds = append(cmd.Conds, mvcc.Cond{Key: key, Test: mvcc.Missing})\n", ""}}},
	{"forget a result before it is recorded", 2000, []edit{{"worker/message.go", "	for _, k := range x.rejected {\n", "	for _, f := range m.Finished {\n		c.unwanted(keyOf(f.Key))\n	}\n	for _, k := range x.rejected {\n"}}},
	{"leave a dead node its tasks", 2000, []edit{{"work/core_node.go", "	c.lose(n, func(Key, uint64) bool { return true })\n", ""}}},
	{"take over jobs without their results", 2000, []edit{{"work/load.go", "		l.Run.Result(uint32(task), m)\n", "		_ = m\n"}}},
	{"forget a removed replica's vote", 20000, []edit{{"store/batch.go", "moves: c.m.moves, term: c.m.term, vote: c.m.vote}", "moves: c.m.moves}"}}},
	{"remove a replica whatever it has heard", 20000, []edit{{"replica/core.go", "case seen != g.heardLast():", "case false:"}}},
	{"acknowledge before the entry is applied", 2000, []edit{{"replica/apply.go", "	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n",
		"	for _, o := range outcomes {\n		o.p.Done(o.res, nil)\n	}\n	outcomes = nil\n	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n"}}},
}

var foundAt = regexp.MustCompile(`(?m)^seed (\d+) FAILED: (.*)`)

func TestBreaks(t *testing.T) {
	for _, b := range breaks {
		if !strings.Contains(b.name, *only) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			dir := t.TempDir()
			copyModule(t, dir)
			for _, e := range b.edits {
				path := filepath.Join(dir, e.file)
				text, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				if n := strings.Count(string(text), e.old); n != 1 {
					t.Fatalf("%s has the passage %d times, not once: the break must follow the code\n%s", e.file, n, e.old)
				}
				if err := os.WriteFile(path, []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.Command("go", "run", "./sim/banyansim", "-seeds", strconv.Itoa(b.within))
			cmd.Dir = dir
			out, err := cmd.CombinedOutput()
			m := foundAt.FindSubmatch(out)
			if m == nil {
				t.Fatalf("not found within %d seeds (%v):\n%.2000s", b.within, err, out)
			}
			t.Logf("found by seed %s: %.200s", m[1], m[2])
		})
	}
}

// copyModule copies what a build of the simulation needs.
func copyModule(t *testing.T, dir string) {
	t.Helper()
	for _, name := range []string{".", "mvcc", "job", "store", "replica", "placement", "sim", "api", "sched", "work", "worker", "pki", "transport", "blob", "exec", "obs"} {
		root := filepath.Join("..", name)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				if name == "." && path != root && d != nil && d.IsDir() {
					return fs.SkipDir
				}
				return err
			}
			if strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			to := filepath.Join(dir, strings.TrimPrefix(path, ".."))
			if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
				return err
			}
			return os.WriteFile(to, text, 0o644)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}
