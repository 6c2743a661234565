//go:build breaks

package sim

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

var (
	only   = flag.String("break", "", "try only breaks whose name contains this")
	update = flag.Bool("update", false, "write the table of docs/testing.md")
)

// edit replaces one passage of one file.
type edit struct{ file, old, new string }

// breaks are deliberate mistakes in the engine, made in copies of its files
// that only this build sees. The simulation must find each within so many
// seeds, from 1 on. docs/testing.md lists them; run them with
//
//	go test -tags breaks ./sim -run TestBreaks -v -timeout 2h
var breaks = []struct {
	name   string
	within int
	edits  []edit
}{
	{"acknowledge before fsync", 2000, []edit{{"engine/replica/effects.go",
		"	if err := WriteAppends(batch, appends); err != nil {\n		return err\n	}\n	for _, a := range appends {\n		for _, e := range a.After {\n			send(e)\n		}\n	}\n	return nil\n",
		"	for _, a := range appends {\n		for _, e := range a.After {\n			send(e)\n		}\n	}\n	return WriteAppends(batch, appends)\n"}}},
	{"do not wait for the disk", 2000, []edit{{"engine/replica/effects.go", "return batch.Commit(s)", "_ = s\n		return batch.Commit(false)"}}},
	{"skip the term fence", 2000, []edit{
		{"engine/replica/effects.go", "if own.Term != v.Term {", "if false {"},
		{"engine/replica/group.go", "if p.Term != g.term {", "if false {"},
		{"core/mvcc/machine.go", "if cmd.Term != 0 && cmd.Term != entryTerm {", "if false {"}}},
	{"read without a quorum", 2000, []edit{{"engine/replica/core.go",
		"	g.reads = append(g.reads, done)\n",
		"	if g.leader {\n		done(nil)\n		return\n	}\n	g.reads = append(g.reads, done)\n"}}},
	{"applied index beside the batch", 2000, []edit{
		{"engine/replica/apply.go", "		a.batch.SetApplied(m.shard, m.applied, m.term)\n", ""},
		{"engine/replica/apply.go", "	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n",
			"	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n	for _, m := range a.used {\n		a.batch.SetApplied(m.shard, m.applied, m.term)\n	}\n	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n"}}},
	{"drop the hard state", 2000, []edit{{"engine/replica/effects.go", "		if a.Hard != nil {\n			batch.", "		if false {\n			batch."}}},
	{"ignore request ids", 2000, []edit{{"core/mvcc/machine.go", "if at, ok := m.window.find(cmd.Request); ok {", "if at, ok := m.window.find(cmd.Request); ok && false {"}}},
	{"keep a proof over a change of voters", 2000, []edit{{"engine/replica/tenure.go", "	g.proveAgain()\n", ""}}},
	{"carry out what may be forgotten", 2000, []edit{{"core/mvcc/machine.go", "if e := cmd.Earliest; e > m.revision+1 || e != 0 && !m.window.reaches(e) {", "if false {"}}},
	{"forget request ids at a restart", 2000, []edit{{"core/mvcc/machine.go", "	if m.unread == (place{}) {\n", "	if m.unread = (place{}); true {\n"}}},
	{"lead before the term's first entry is applied", 2000, []edit{{"engine/replica/group.go", "if leader && !g.announced && g.appliedTerm == g.term {", "if leader && !g.announced {"}}},
	{"keep a state that a snapshot has replaced", 2000, []edit{{"engine/replica/incoming.go", "g.reload = true", "g.reload = false"}}},
	{"send a snapshot as of the wrong index", 2000, []edit{{"engine/replica/snapshot.go",
		"index, term := view.AppliedIndex(), view.Term()", "index, term := m.GetSnapshot().GetMetadata().GetIndex(), m.GetSnapshot().GetMetadata().GetTerm()"}}},
	{"leave a conflicting suffix in the log", 2000, []edit{{"engine/store/batch.go", "	b.deleteLog(kv, c.sh.id, c.m.last+1, c.was.last)\n", ""}}},
	{"do not store configurations", 2000, []edit{{"engine/replica/apply.go", "	a.batch.SetConfState(m.shard, conf)\n", ""}}},
	{"let watchers miss a snapshot", 2000, []edit{{"engine/replica/hub.go", "		w.fallBehind()\n		w.signal()\n", "		w.sent = max(w.sent, revision)\n		w.signal()\n"}}},
	{"call a state fresh before it is applied", 2000, []edit{{"engine/replica/age.go", "for a.wait.set && a.wait.commit <= applied {", "for a.wait.set {"}}},
	{"take acknowledgements of a former replica", 10000, []edit{{"engine/replica/tenure.go", "m.GetVote() != g.tenure.began[m.GetFrom()]", "false"}}},
	{"write results without term and condition", 5000, []edit{
		{"layer/work/core_commit.go", "	b.Cmd.Term = s.term\n", ""},
		{"layer/work/core_commit.go", "		cmd.Conds = append(cmd.Conds, mvcc.Cond{Key: key, Test: mvcc.Missing})\n", ""}}},
	{"forget a result before it is recorded", 2000, []edit{{"node/worker/message.go", "	for _, k := range x.rejected {\n", "	for _, f := range m.Finished {\n		c.unwanted(keyOf(f.Key), 0)\n	}\n	for _, k := range x.rejected {\n"}}},
	{"leave a dead node its tasks", 2000, []edit{{"layer/work/core_node.go", "	c.lose(n, func(Key, uint64) bool { return true })\n", ""}}},
	{"take over jobs without their results", 2000, []edit{{"layer/work/load.go", "		l.Run.Result(uint32(task), m)\n", "		_ = m\n"}}},
	{"never truncate the log", 1000, []edit{{"engine/replica/group.go", "	if g.truncating || n <= 2*keep {", "	if true || g.truncating || n <= 2*keep {"}}},
	{"truncate the log past a learner", 2000, []edit{{"engine/replica/group.go",
		"	g.rn.WithProgress(func(_ uint64, _ raft.ProgressType, pr progress) {\n		floor",
		"	g.rn.WithProgress(func(_ uint64, typ raft.ProgressType, pr progress) {\n		if typ == raft.ProgressTypeLearner {\n			return\n		}\n		floor"}}},
	{"answer nobody when leadership is lost", 2000, []edit{{"engine/replica/group.go",
		"	for _, p := range g.flight {\n		p.done(", "	for _, p := range g.flight[:0] {\n		p.done("}}},
	{"believe a log without its checksum", 20000, []edit{{"engine/store/format.go", "	if sum != binary.LittleEndian.Uint32(row[1:]) {", "	if _ = sum; false {"}}},
	{"leave rows attached to a lease that has ended", 2000, []edit{{"core/mvcc/plan.go", "		return p.revoke(u.Lease)\n", "		return nil\n"}}},
	{"take a lock's token unseen", 2000, []edit{{"core/mvcc/plan.go", "		return t.row.Mod == c.Mod, nil", "		return true, nil"}}},
	{"let leases end when leadership moves", 2000, []edit{{"layer/coord/core.go", "			c.addLease(p.number, p.name, ttl)\n", "			c.addLease(p.number, p.name, ttl).ttl = 1\n			c.leases[p.number].deadline, c.leases[p.number].at = 0, 0\n"}}},
	{"let two hold a lock", 1000, []edit{{"layer/coord/lock.go", "	case len(l.holders) == 0:\n		return true\n", "	case len(l.holders) <= 1:\n		return true\n"}}},
	{"forget that a lease was kept alive", 1000, []edit{{"layer/coord/core.go", "		if le := c.leases[id]; le != nil {\n			le.deadline = c.clock + le.ttl\n", "		if le := c.leases[id]; le != nil {\n"}}},
	{"leave a shard whose voters all leave where it is", 5000, []edit{{"core/placement/plan.go", "return p.moveAll(s, good, want)", "return p.moveAlone(s)"}}},
	{"drop what one controller does not know", 5000, []edit{{"node/worker/core.go", "c.unwanted(keyOf(k), node)", "c.unwanted(keyOf(k), 0)"}}},
	{"claim what was handed back", 5000, []edit{{"layer/work/core_node.go", "	n.claimed = slices.DeleteFunc(n.claimed, func(o Key) bool { return o == k })\n", ""}}},
	{"wait for ever for a leader at rest", 2000, []edit{{"engine/replica/quiet.go", "b.unheard >= c.patience() {", "false {"}}},
	{"call a configuration settled when it is applied", 5000, []edit{
		{"engine/replica/settle.go", "!joint(g.conf) && g.applied > g.settles", "!joint(g.conf)"},
		{"engine/replica/core.go", "			_ = g.rn.Propose(nil) // if it is not taken now, settle tries again\n", ""}}},
	{"acknowledge before the entry is applied", 2000, []edit{{"engine/replica/apply.go", "	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n",
		"	for _, o := range outcomes {\n		o.p.Done(o.res, nil)\n	}\n	outcomes = nil\n	if err := a.batch.Commit(false); err != nil {\n		return err\n	}\n"}}},
	{"move a leader that has just moved", 200, []edit{{"core/placement/plan.go", "	if s.LedMs < p.policy.LeadRestMs {", "	if s.LedMs < p.policy.LeadRestMs/10 {"}}},
	{"start what does not fit", 200, []edit{{"node/worker/core.go", "!a.demand.FitsIn(room.Minus(c.taken)) && c.taken.Slots > 0", "!a.demand.FitsIn(room)"}}},
	{"refer to chunks whenever they were touched", 2000, []edit{{"layer/work/fence.go", "Test: mvcc.ValueLess, Value: job.FenceBelow(touched)}", "Test: mvcc.ValueLess, Value: job.FenceBelow(touched + 1<<40)}"}}},
	{"sweep though one shard could not be read", 300, []edit{{"core/sweep/sweep.go", "func (r *Round) Whole() bool { return len(r.left) == 0 }", "func (r *Round) Whole() bool { return true }"}}},
	{"remove chunks an epoch too early", 1000, []edit{{"core/sweep/sweep.go", "	case since+2 <= epoch:", "	case since+1 <= epoch:"}}},
	{"call a job removed before its rows are", 300, []edit{{"layer/work/remove.go", "		if len(rows) > 0 {\n			cmd.Muts", "		if len(rows) > 1 {\n			cmd.Muts"}}},
	{"fail a task at its first loss", 500, []edit{{"layer/work/losses.go", "	if l.Count == 1 {", "	if l.Count == 0 {"}}},
	{"take writes while all disks are low", 200, []edit{{"core/placement/disk.go", "return n > len(voters)/2", "return true"}}},
}

var foundAt = regexp.MustCompile(`(?m)^seed (\d+) FAILED: at (\S+): (.*)`)

func TestBreaks(t *testing.T) {
	var table strings.Builder
	for _, b := range breaks {
		if !strings.Contains(b.name, *only) {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			program := build(t, b.edits)
			out, err := exec.Command(program, "-seeds", strconv.Itoa(b.within)).CombinedOutput()
			m := foundAt.FindSubmatch(out)
			if m == nil {
				t.Fatalf("not found within %d seeds (%v):\n%.2000s", b.within, err, out)
			}
			t.Logf("found by seed %s: %.200s", m[1], m[3])
			fmt.Fprintf(&table, "| %s | %s | %d |\n", b.name, m[1], b.within)
		})
	}
	if *only != "" || t.Failed() {
		return
	}
	const doc = "../docs/testing.md"
	text, err := os.ReadFile(doc)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(text), "|---|---|---|\n")
	_, tail, _ := strings.Cut(rest, "\n\n")
	if got := head + "|---|---|---|\n" + table.String() + "\n" + tail; *update {
		err = os.WriteFile(doc, []byte(got), 0o644)
	} else if got != string(text) {
		t.Errorf("other seeds find the breaks than %s says: go test -tags breaks ./sim -run TestBreaks -timeout 2h -update\n%s", doc, table.String())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// build makes the simulator with edits made to copies of the files.
func build(t *testing.T, edits []edit) (program string) {
	t.Helper()
	dir := t.TempDir()
	overlay := struct{ Replace map[string]string }{map[string]string{}}
	for i, e := range edits {
		path, err := filepath.Abs(filepath.Join("..", e.file))
		if err != nil {
			t.Fatal(err)
		}
		from := path
		if earlier, ok := overlay.Replace[path]; ok {
			from = earlier
		}
		text, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), e.old); n != 1 {
			t.Fatalf("%s has the passage %d times, not once: the break must follow the code\n%s", e.file, n, e.old)
		}
		overlay.Replace[path] = filepath.Join(dir, strconv.Itoa(i)+".go")
		if err := os.WriteFile(overlay.Replace[path], []byte(strings.Replace(string(text), e.old, e.new, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	list, err := json.Marshal(overlay)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, list, 0o644); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "banyansim")
	if out, err := exec.Command("go", "build", "-overlay", file, "-o", program, "./banyansim").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}
