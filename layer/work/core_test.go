package work

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/job"
	"banyan/core/mvcc"
)

// TestCoreScripts runs the scripts of testdata against a core whose shard is
// the real machine in memory. Each line of input is one of
//
//	members n1 n2=4 n3=dead n4=draining    all members; slots after =, 2 if not said
//	at 1500                                sets the clock (ms)
//	lead 5 / lead 5 hold / lose            of shard 1, in a term; loads the rows
//	submit a tasks=3 then tries=2 per-node=1
//	hold a / resume a / resume a retry / cancel a
//	hello n1 credit=2 leads=1 a/0#5.1 …    on a new stream; again: on the present one
//	gone n1                                its stream is lost
//	credit n1 3
//	hello n1 lost=a/0#5.1*                 that ran when the node ended; *: as a suspect
//	n1 begins a/0#5.1                      a suspect's turn has come
//	n1 ok a/0#5.1 … / fail / timeout / canceled / reject
//	tick 2000
//	batch                                  takes a command, does not commit it
//	ack                                    commits the command taken
//	commit                                 both, until nothing is left
//	show a                                 progress; rows: what is durable
func TestCoreScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		x := newScript()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			for line := range strings.Lines(d.Input) {
				words := strings.Fields(line)
				if len(words) > 0 && !strings.HasPrefix(words[0], "#") {
					x.do(t, words)
				}
			}
			out := x.out.String()
			x.out.Reset()
			if out == "" {
				out = "nothing\n"
			}
			return out
		})
	})
}

type script struct {
	core     *Core
	rows     *fakeShards
	out      strings.Builder
	now      int64
	op       uint64
	sessions map[banyan.NodeID]Session
	batch    *Batch
	session  uint64
}

func newScript() *script {
	return &script{
		core: NewCore(func([]byte) banyan.ShardID { return 1 }), rows: newFakeShards(1),
		sessions: map[banyan.NodeID]Session{},
	}
}

func (x *script) do(t *testing.T, w []string) {
	switch w[0] {
	case "at":
		x.now = int64(atoi(w[1]))
	case "tick":
		x.now = int64(atoi(w[1]))
		x.core.Tick(x.now)
	case "members":
		x.members(w[1:])
	case "lead":
		x.lead(t, uint64(atoi(w[1])), len(w) > 2)
	case "lose":
		x.core.Lose(1)
	case "submit", "hold", "resume", "cancel":
		x.ask(w)
	case "hello", "again":
		x.hello(w)
	case "gone":
		s := x.sessions[nodeNamed(w[1])]
		delete(x.sessions, s.Node)
		x.core.Disconnect(x.now, s)
	case "credit":
		x.core.Receive(x.now, x.sessions[nodeNamed(w[1])], &peerv1.WorkerMessage{Credit: resources(w[2])})
	case "batch":
		x.take(t)
	case "ack":
		x.ack(t)
	case "commit":
		for x.take(t); x.batch != nil; x.take(t) {
			x.ack(t)
		}
	case "show":
		x.show(banyan.JobID(w[1]))
	case "rows":
		x.showRows(t)
	default:
		if len(w) < 3 || w[0][0] != 'n' {
			t.Fatalf("unknown line %q", w)
		}
		x.report(t, w)
	}
	x.effects()
}

func (x *script) members(words []string) {
	var nodes []NodeInfo
	for _, w := range words {
		name, v, said := strings.Cut(w, "=")
		n := NodeInfo{ID: nodeNamed(name), Name: name, Alive: true, State: "alive", Slots: 2}
		switch {
		case v == "dead":
			n.Alive, n.State = false, v
		case v == "draining":
			n.Draining, n.State = true, v
		case said:
			n.Slots = atoi(v)
		}
		nodes = append(nodes, n)
	}
	x.core.Members(x.now, nodes)
}

func (x *script) lead(t *testing.T, term uint64, hold bool) {
	x.rows.setTerm(1, term)
	loaded, err := Load(context.Background(), x.rows, 1)
	if err != nil {
		t.Fatal(err)
	}
	var runs []*Run
	for _, l := range loaded {
		runs = append(runs, l.Run)
	}
	x.batch = nil
	x.core.Lead(x.now, 1, term, x.now, runs, func(banyan.JobID) bool { return hold })
}

func (x *script) ask(w []string) {
	x.op++
	op := &Op{ID: x.op, Shard: 1, Job: banyan.JobID(w[1])}
	switch w[0] {
	case "submit":
		h := header(op.Job, 1, func(s *banyanv1.JobSpec) {
			for _, o := range w[2:] {
				k, v, _ := strings.Cut(o, "=")
				switch k {
				case "then":
					s.Then = s.Command
				case "tries":
					s.AttemptsMax = uint32(atoi(v))
				case "per-node":
					s.PerNodeMax = uint32(atoi(v))
				case "needs":
					s.Demand = resources(v)
				}
			}
		})
		for _, o := range w[2:] {
			if v, ok := strings.CutPrefix(o, "tasks="); ok {
				h.Tasks = uint32(atoi(v))
			}
		}
		op.Kind, op.Cmd, op.Run = OpSubmit, submitCommand(h), NewRun(h, 0)
	case "hold":
		op.Kind = OpHold
	case "resume":
		op.Kind, op.Retry = OpResume, len(w) > 2
		x.restore(op.Job)
	case "cancel":
		op.Kind = OpCancel
	}
	x.core.Do(op)
}

// restore does as Service does before it resumes a job that has failed.
func (x *script) restore(id banyan.JobID) {
	ctx := context.Background()
	if x.core.Run(id) != nil {
		return
	}
	h, mod, err := readHeader(ctx, x.rows, 1, id)
	if err != nil {
		return
	}
	if l, err := load(ctx, x.rows, 1, h, mod); err == nil {
		x.core.Restore(l.Run)
	}
}

func (x *script) hello(w []string) {
	n := nodeNamed(w[1])
	m := &peerv1.WorkerMessage{Hello: &peerv1.Hello{Node: uint64(n), Offer: &banyanv1.Resources{Slots: 2}}}
	for _, o := range w[2:] {
		switch k, v, _ := strings.Cut(o, "="); k {
		case "credit":
			m.Credit = resources(v)
		case "offer":
			m.Hello.Offer = resources(v)
		case "leads":
			m.Hello.Leads = append(m.Hello.Leads, uint32(atoi(v)))
		case "lost":
			key, suspect := strings.CutSuffix(v, "*")
			m.Hello.Lost = append(m.Hello.Lost, &peerv1.Lost{Key: keyFrom(key), Suspect: suspect})
		default:
			m.Hello.Running = append(m.Hello.Running, keyFrom(o))
		}
	}
	if w[0] == "hello" {
		x.session++
		x.sessions[n] = Session{n, x.session}
		x.core.Connect(x.now, x.sessions[n])
	}
	x.core.Receive(x.now, x.sessions[n], m)
}

func (x *script) report(t *testing.T, w []string) {
	states := map[string]banyanv1.TaskState{
		"ok": banyanv1.TaskState_TASK_STATE_SUCCEEDED, "fail": banyanv1.TaskState_TASK_STATE_FAILED,
		"timeout": banyanv1.TaskState_TASK_STATE_TIMED_OUT, "canceled": banyanv1.TaskState_TASK_STATE_CANCELED,
		"strange": banyanv1.TaskState_TASK_STATE_RUNNING,
	}
	s := x.sessions[nodeNamed(w[0])]
	m := &peerv1.WorkerMessage{}
	if n := x.core.find(s.Node); n != nil {
		m.Credit = job.ResourcesProto(n.window)
	}
	for _, k := range w[2:] {
		if w[1] == "reject" {
			m.Rejected = append(m.Rejected, keyFrom(k))
			continue
		}
		if w[1] == "begins" {
			m.Begins = append(m.Begins, keyFrom(k))
			continue
		}
		state, ok := states[w[1]]
		if !ok {
			t.Fatalf("unknown line %q", w)
		}
		m.Finished = append(m.Finished, &peerv1.Finished{Key: keyFrom(k), Result: &banyanv1.TaskResult{State: state}})
	}
	x.core.Receive(x.now, s, m)
}

func (x *script) take(t *testing.T) {
	if x.batch != nil {
		if x.core.NextBatch(x.now, x.now, 1) != nil {
			t.Fatal("two batches at once")
		}
		return
	}
	x.batch = x.core.NextBatch(x.now, x.now, 1)
	if x.batch == nil {
		x.effects()
		return
	}
	fmt.Fprintf(&x.out, "command:")
	for _, m := range x.batch.Cmd.Muts {
		if r, _ := banyan.ParseRowKey(m.Key); r.Layer != banyan.LayerJob || !strings.Contains("ae", string(r.Key[:1])) { // those rows go with the header
			x.out.WriteString(" " + mutation(m))
		}
	}
	x.out.WriteString("\n")
}

func (x *script) ack(t *testing.T) {
	b := x.batch
	x.batch = nil
	res, err := x.rows.commit(1, b.Cmd)
	if err != nil {
		fmt.Fprintf(&x.out, "commit: %v\n", err)
		return
	}
	if !x.core.Committed(x.now, b, res) {
		fmt.Fprintf(&x.out, "condition %d did not hold: load anew\n", res.FailedCond)
	}
	x.effects()
}

func mutation(m mvcc.Mutation) string {
	op := "put"
	if m.Op == mvcc.Delete {
		op = "delete"
	}
	r, _ := banyan.ParseRowKey(m.Key)
	if id, ok := strings.CutPrefix(string(r.Key), "h"); ok && r.Layer == banyan.LayerJob {
		h, err := job.DecodeHeader(m.Value)
		if err != nil {
			return err.Error()
		}
		return fmt.Sprintf("%s %s:%s", op, id, job.Word(h.State))
	}
	k := string(r.Key)
	if r.Layer == banyan.LayerJob {
		k = k[1:]
	}
	id, rest, _ := strings.Cut(k, "/")
	task, _ := job.Number(m.Key)
	what := fmt.Sprintf("%s %s/%c%d", op, id, rest[0], task)
	switch {
	case m.Op == mvcc.Delete:
	case rest[0] == 'r':
		meta, _, _ := job.DecodeMeta(m.Value)
		what += fmt.Sprintf("=%s@%s", short(meta.State), meta.Node)
		if meta.Repeats > 0 {
			what += fmt.Sprintf("+%d", meta.Repeats)
		}
	case rest[0] == 'f':
		f, _ := job.DecodeFailure(m.Value)
		what += fmt.Sprintf("=%d", f.Count)
		if f.Final {
			what += "!"
		}
	case rest[0] == 'l':
		l, _ := job.DecodeLoss(m.Value)
		what += fmt.Sprintf("=%d", l.Count)
		if l.Pending() {
			what += fmt.Sprintf(" (#%d.%d on %v)", l.Begun>>32, l.Begun&(1<<32-1), l.Node)
		}
	}
	return what
}

func short(s banyanv1.TaskState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "TASK_STATE_"))
}

// effects prints what the core wants done, and takes every message.
func (x *script) effects() {
	e := x.core.Effects()
	for _, r := range e.Results {
		fmt.Fprintf(&x.out, "recorded %s at %d:", r.Job, r.Revision)
		for _, res := range r.Results {
			fmt.Fprintf(&x.out, " %d=%s", res.Task, short(res.State))
		}
		x.out.WriteString("\n")
	}
	for _, ch := range e.Changes {
		fmt.Fprintf(&x.out, "%s is %s\n", ch.Job, job.Word(ch.Header.State))
	}
	for _, a := range e.Answers {
		switch {
		case a.Err != nil:
			fmt.Fprintf(&x.out, "answer %d: %v: %v\n", a.Op, banyan.KindOf(a.Err), a.Err)
		case a.Job != nil:
			fmt.Fprintf(&x.out, "answer %d: %s is %s\n", a.Op, a.Job.Id, job.Word(a.Job.State))
		default:
			fmt.Fprintf(&x.out, "answer %d: ok=%v\n", a.Op, a.Result.OK)
		}
	}
	for _, s := range e.Close {
		fmt.Fprintf(&x.out, "close %s\n", s.Node)
	}
	for _, s := range e.Wake {
		if m, ok := x.core.Take(s); ok {
			x.message(s.Node, m)
		}
	}
}

func (x *script) message(n banyan.NodeID, m Message) {
	fmt.Fprintf(&x.out, "→%s", n)
	keys := func(what string, ks []Key) {
		if len(ks) > 0 {
			x.out.WriteString(" " + what)
			for _, k := range ks {
				x.out.WriteString(" " + keyText(k))
			}
		}
	}
	if len(m.Start) > 0 {
		x.out.WriteString(" start")
		for _, s := range m.Start {
			x.out.WriteString(" " + keyText(s.Key))
			if s.Try > 1 {
				fmt.Fprintf(&x.out, "(try %d)", s.Try)
			}
			if s.Suspect {
				x.out.WriteString("*")
			}
		}
	}
	keys("begin", m.Begin)
	keys("stop", m.Stop)
	keys("recorded", m.Recorded)
	keys("unknown", m.Unknown)
	if m.SayHello {
		x.out.WriteString(" say-hello")
	}
	fmt.Fprintf(&x.out, " demand=%s\n", demands(m.Demand))
}

// demands shows a number of attempts of one slot as the number, others as in
// 2*3+8: two that need three slots and 8 bytes of memory.
func demands(all []Demand) string {
	if len(all) == 0 {
		return "0"
	}
	var texts []string
	for _, d := range all {
		text := fmt.Sprint(d.Attempts)
		if d.Each != (banyan.Resources{Slots: 1}) {
			text += fmt.Sprintf("*%d+%d", d.Each.Slots, d.Each.Memory)
		}
		texts = append(texts, text)
	}
	return strings.Join(texts, ",")
}

func resources(text string) *banyanv1.Resources {
	slots, memory, _ := strings.Cut(text, "+")
	r := &banyanv1.Resources{Slots: uint32(atoi(slots))}
	if memory != "" {
		r.Memory = uint64(atoi(memory))
	}
	return r
}

func (x *script) show(id banyan.JobID) {
	r := x.core.Run(id)
	if r == nil {
		fmt.Fprintf(&x.out, "%s is not in memory\n", id)
		return
	}
	p := x.core.Progress(x.now, r)
	fmt.Fprintf(&x.out, "%s %s: pending=%d running=%d succeeded=%d failed=%d retried=%d repeated=%d then=%v",
		id, job.Word(r.header.State), p.Pending, p.Running, p.Succeeded, p.Failed, p.Retried, p.Repeated, p.ThenRunning)
	for _, n := range p.Nodes {
		fmt.Fprintf(&x.out, " %s:%d/%d", n.Name, n.Running, n.Done)
	}
	x.out.WriteString("\n")
}

func (x *script) showRows(t *testing.T) {
	rows, _, err := x.rows.Range(context.Background(), 1, mvcc.Query{})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if k, _ := banyan.ParseRowKey(r.Key); k.Layer == banyan.LayerJob && strings.Contains("ae", string(k.Key[:1])) {
			continue
		}
		fmt.Fprintf(&x.out, "%s v%d\n", strings.TrimPrefix(mutation(mvcc.Mutation{Op: mvcc.Put, Key: r.Key, Value: r.Value}), "put "), r.Version)
	}
}

func nodeNamed(s string) banyan.NodeID {
	n, err := banyan.ParseNodeID(s)
	if err != nil {
		panic(err)
	}
	return n
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// keyText is job/task#term.counter.
func keyText(k Key) string {
	return fmt.Sprintf("%s/%d#%d.%d", k.Job, k.Task, k.Attempt>>32, k.Attempt&(1<<32-1))
}

func keyFrom(s string) *peerv1.AttemptKey {
	id, rest, _ := strings.Cut(s, "/")
	task, rest, _ := strings.Cut(rest, "#")
	term, n, _ := strings.Cut(rest, ".")
	return &peerv1.AttemptKey{JobId: id, Task: uint32(atoi(task)), Attempt: uint64(atoi(term))<<32 | uint64(atoi(n))}
}

func TestBitmapFindsWhatIsClear(t *testing.T) {
	var b bitmap
	for i := range uint32(200) {
		b.set(i)
	}
	for _, i := range []uint32{0, 63, 64, 130, 199} {
		b.clear(i)
	}
	var got []uint32
	for i := b.firstClear(0, 200); i < 200; i = b.firstClear(i+1, 200) {
		got = append(got, i)
	}
	if want := []uint32{0, 63, 64, 130, 199}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if b.firstClear(0, 0) != 0 || b.firstClear(131, 199) != 199 {
		t.Error("bounds")
	}
}

// TestTheRateCountsFromTheFirstAttempt, and from the next one after a pause.
func TestTheRateCountsFromTheFirstAttempt(t *testing.T) {
	x := newScript()
	run := func(lines ...string) {
		for _, l := range lines {
			x.do(t, strings.Fields(l))
		}
	}
	rate := func() float64 { return x.core.Progress(x.now, x.core.Run("a")).RatePerS }
	run("at 10000", "members n1", "lead 2", "hello n1 credit=2 leads=1", "submit a tasks=6", "commit")
	run("at 12000", "n1 ok a/0#2.1", "n1 ok a/1#2.2", "commit")
	if got := rate(); got != 1 {
		t.Errorf("2 results in 2 s: %v/s", got)
	}
	run("hold a", "n1 canceled a/2#2.3", "n1 canceled a/3#2.4", "commit", "at 60000", "resume a", "commit")
	run("at 61000", "n1 ok a/2#2.5", "n1 ok a/3#2.6", "commit")
	if got := rate(); got != 2 {
		t.Errorf("2 results in the second after a pause: %v/s", got)
	}
}
