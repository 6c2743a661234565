package worker

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	banyanv1 "banyan/api/banyan/v1"

	"github.com/cockroachdb/datadriven"
)

// TestCore runs the scripts in testdata. A job is named by letters, the first of
// which is its shard (a is 1, b is 2 …); an attempt is job/task#attempt. After
// each command come the effects and every message that is due. The commands:
//
//	new slots=2 [memory=8]
//	lead a=1 b=2           who leads which shard
//	connect N, disconnect N
//	recv N [demand=D] [say-hello]  lines: job NAME tasks=T [per-node=P] [needs=S+M], start K… [suspect], begin K…, stop K…, recorded K…, unknown K…
//	finish K… took=MS      the attempts ended by themselves, one after another
//	handback K             it was killed because the worker stops
//	scarce K               it could not begin for want of something
//	lost K                 it ran when the node before ended
//	tick MS                time passes
//	drain, undrain, shutdown, held
//	quiet                  like the rest of the line, but without the messages
func TestCore(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		var s script
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			return s.run(t, d)
		})
	})
}

type script struct {
	core  *Core
	now   int64
	moved map[byte]banyan.ShardID // jobs whose shard was split
}

func (s *script) run(t *testing.T, d *datadriven.TestData) string {
	var b strings.Builder
	quiet := d.HasArg("quiet")
	switch d.Cmd {
	case "new":
		offer := banyan.Resources{}
		d.ScanArgs(t, "slots", &offer.Slots)
		d.MaybeScanArgs(t, "memory", &offer.Memory)
		s.moved = map[byte]banyan.ShardID{}
		s.core, s.now = NewCore(9, offer, func(p []byte) banyan.ShardID {
			if to := s.moved[p[0]]; to != 0 {
				return to
			}
			return banyan.ShardID(p[0] - 'a' + 1)
		}), 0
	case "split": // the job's shard: it is in another one now
		s.moved[d.CmdArgs[0].Key[0]] = banyan.ShardID(d.CmdArgs[0].Vals[0][0] - 'a' + 1)
	case "lead":
		view := map[banyan.ShardID]banyan.NodeID{}
		for _, a := range d.CmdArgs {
			view[banyan.ShardID(a.Key[0]-'a'+1)] = node(a.Vals[0])
		}
		s.core.Lead(view)
	case "connect":
		s.core.Connect(node(d.CmdArgs[0].Key))
	case "disconnect":
		s.core.Disconnect(node(d.CmdArgs[0].Key))
	case "recv":
		m := parse(d)
		if err := s.core.Receive(s.now, node(d.CmdArgs[0].Key), m); err != nil {
			fmt.Fprintf(&b, "error: %v\n", err)
		}
	case "finish":
		s.finish(d)
	case "handback":
		s.core.Finish(s.now, key(d.CmdArgs[0].Key), nil)
	case "scarce":
		s.core.Scarce(s.now)
		s.core.Finish(s.now, key(d.CmdArgs[0].Key), nil)
	case "tick":
		ms, _ := strconv.Atoi(d.CmdArgs[0].Key)
		s.now += int64(ms) * 1000
		s.core.Tick(s.now)
	case "lost":
		s.core.Lost([]Lost{{key(d.CmdArgs[0].Key), false}})
	case "drain", "undrain":
		s.core.Drain(d.Cmd == "drain")
	case "shutdown":
		s.core.Stop()
	case "held":
		w, r, u := s.core.Holds()
		fmt.Fprintf(&b, "waiting %d, running %d, unrecorded %d\n", w, r, u)
	default:
		return "unknown command"
	}
	s.effects(&b)
	if !quiet {
		s.messages(&b)
	}
	return b.String()
}

func (s *script) finish(d *datadriven.TestData) {
	took := 1
	var keys []Key
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "took":
			took, _ = strconv.Atoi(a.Vals[0])
		case "quiet":
		default:
			keys = append(keys, key(a.Key))
		}
	}
	for _, k := range keys {
		s.now += int64(took) * 1000
		s.core.Finish(s.now, k, &banyanv1.TaskResult{Task: k.Task, State: banyanv1.TaskState_TASK_STATE_SUCCEEDED})
	}
}

func (s *script) effects(b *strings.Builder) {
	e := s.core.Take()
	for _, k := range e.Stop {
		fmt.Fprintf(b, "stop %s\n", show(k.proto()))
	}
	for _, st := range e.Start {
		fmt.Fprintf(b, "start %s slot=%d\n", show(st.Key.proto()), st.Slot)
	}
}

func (s *script) messages(b *strings.Builder) {
	for _, x := range s.core.controllers {
		_, urgent := s.core.Due(x.node)
		m := s.core.Message(s.now, x.node)
		if m == nil {
			continue
		}
		fmt.Fprintf(b, "to n%d: credit=%s", x.node, amount(m.Credit))
		if m.Hello != nil {
			fmt.Fprintf(b, " hello%s of shards %d", keys(m.Hello.Running), m.Hello.Leads)
		}
		for _, l := range m.GetHello().GetLost() {
			fmt.Fprintf(b, " lost %s", show(l.Key))
		}
		if m.Draining {
			b.WriteString(" draining")
		}
		if len(m.Begins) > 0 {
			fmt.Fprintf(b, " begins%s", keys(m.Begins))
		}
		var finished []*peerv1.AttemptKey
		for _, f := range m.Finished {
			finished = append(finished, f.Key)
		}
		if len(finished) > 0 {
			fmt.Fprintf(b, " finished%s", keys(finished))
		}
		for _, f := range m.Finished {
			if f.Result.State == banyanv1.TaskState_TASK_STATE_CANCELED {
				b.WriteString(" (canceled)")
			}
		}
		if len(m.Rejected) > 0 {
			fmt.Fprintf(b, " rejected%s", keys(m.Rejected))
		}
		if !urgent {
			b.WriteString(" at leisure")
		}
		b.WriteByte('\n')
	}
}

// amount shows resources: slots, and memory if there is any, as in 3+8.
func amount(r *banyanv1.Resources) string {
	if r.GetMemory() == 0 {
		return fmt.Sprint(r.GetSlots())
	}
	return fmt.Sprintf("%d+%d", r.GetSlots(), r.GetMemory())
}

// resources reads what amount shows.
func resources(text string) *banyanv1.Resources {
	slots, memory, _ := strings.Cut(text, "+")
	s, _ := strconv.Atoi(slots)
	m, _ := strconv.Atoi(memory)
	return &banyanv1.Resources{Slots: uint32(s), Memory: uint64(m)}
}

func parse(d *datadriven.TestData) *peerv1.ControllerMessage {
	m := &peerv1.ControllerMessage{}
	for _, a := range d.CmdArgs {
		switch a.Key {
		case "demand":
			for _, v := range a.Vals { // such as 10, or 2*3+8 for two that need three slots and 8 bytes
				n, each, _ := strings.Cut(v, "*")
				attempts, _ := strconv.Atoi(n)
				m.Demand = append(m.Demand, &peerv1.Demand{Each: resources(each), Attempts: uint32(attempts)})
			}
		case "say-hello":
			m.SayHello = true
		}
	}
	for line := range strings.Lines(d.Input) {
		f := strings.Fields(line)
		if f[0] == "job" {
			h := &peerv1.JobHeader{JobId: f[1], Spec: &banyanv1.JobSpec{}}
			for _, o := range f[2:] {
				name, v, _ := strings.Cut(o, "=")
				n, _ := strconv.Atoi(v)
				switch name {
				case "tasks":
					h.Tasks = uint32(n)
				case "needs":
					h.Spec.Demand = resources(v)
				default:
					h.Spec.PerNodeMax = uint32(n)
				}
			}
			m.Jobs = append(m.Jobs, h)
			continue
		}
		suspects := f[len(f)-1] == "suspect"
		if suspects {
			f = f[:len(f)-1]
		}
		for _, w := range f[1:] {
			for _, k := range span(w) {
				switch f[0] {
				case "start":
					m.Start = append(m.Start, &peerv1.Attempt{Key: k.proto(), Try: 1, Suspect: suspects})
				case "begin":
					m.Begin = append(m.Begin, k.proto())
				case "stop":
					m.Stop = append(m.Stop, k.proto())
				case "recorded":
					m.Recorded = append(m.Recorded, k.proto())
				case "unknown":
					m.Unknown = append(m.Unknown, k.proto())
				}
			}
		}
	}
	return m
}

// span reads a/3#7, or a/3..9#7 for several tasks.
func span(w string) []Key {
	job, rest, _ := strings.Cut(w, "/")
	tasks, attempt, _ := strings.Cut(rest, "#")
	lo, hi, many := strings.Cut(tasks, "..")
	from, _ := strconv.Atoi(lo)
	to := from
	if many {
		to, _ = strconv.Atoi(hi)
	}
	n, _ := strconv.ParseUint(attempt, 10, 64)
	var ks []Key
	for t := from; t <= to; t++ {
		ks = append(ks, Key{banyan.JobID(job), uint32(t), n})
	}
	return ks
}

func key(w string) Key { return span(w)[0] }

func node(w string) banyan.NodeID {
	n, _ := strconv.Atoi(w)
	return banyan.NodeID(n)
}

func show(k *peerv1.AttemptKey) string {
	return fmt.Sprintf("%s/%d#%d", k.JobId, k.Task, k.Attempt)
}

func keys(ks []*peerv1.AttemptKey) string {
	if len(ks) > 6 {
		return fmt.Sprintf("[%s … %s: %d]", show(ks[0]), show(ks[len(ks)-1]), len(ks))
	}
	var out []string
	for _, k := range ks {
		out = append(out, show(k))
	}
	return "[" + strings.Join(out, " ") + "]"
}
