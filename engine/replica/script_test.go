package replica

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"banyan"
	"banyan/core/mvcc"
	"banyan/engine/store/simdisk"
)

// TestScripts runs testdata/*.txt: Cores, their simulated disks and a network,
// moved by hand. Commands print what happened since the last one.
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		s := &script{w: newWorld(t), watches: map[string]*Watcher{}}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			s.w.t = t
			s.run(t, d)
			out := strings.Join(s.w.lines, "\n")
			s.w.lines = nil
			return out
		})
	})
}

type script struct {
	w       *world
	watches map[string]*Watcher
}

func (s *script) run(t *testing.T, d *datadriven.TestData) {
	w := s.w
	switch d.Cmd {
	case "nodes": // n=3 [keep=N] [acts=PROTOCOL] [grow]
		n := number(t, d, "n", 1)
		w.keep = uint64(number(t, d, "keep", 0))
		w.acts = uint32(number(t, d, "acts", 0))
		w.add(1, 0)
		for id := 2; id <= n; id++ {
			w.add(banyan.NodeID(id))
		}
		if d.HasArg("grow") {
			w.grow(0)
			w.lines = nil
		}
		w.pump()
	case "pump":
		w.pump()
	case "pass": // ms=N
		w.pass(time.Duration(number(t, d, "ms", 0)) * time.Millisecond)
	case "trace": // on | off
		w.trace = d.HasArg("on")
	case "status":
		for line := range strings.Lines(w.status(0)) {
			w.say("%s", strings.TrimSpace(line))
		}
	case "propose", "read", "watch", "events", "age", "reconfigure", "transfer", "remove", "readmit":
		s.ask(t, d)
	case "crash", "start", "step", "fail", "hold", "release", "cut", "heal", "lost":
		s.fault(t, d)
	default:
		t.Fatalf("unknown command %s", d.Cmd)
	}
}

// ask does what a client of a node would.
func (s *script) ask(t *testing.T, d *datadriven.TestData) {
	w, p := s.w, s.node(t, d)
	switch d.Cmd {
	case "propose": // node=1 [count=N] [term=T] [request=R] [nopump], then key=value lines
		count := number(t, d, "count", 1)
		for range count {
			for line := range strings.Lines(d.Input) {
				s.propose(t, d, p, strings.TrimSpace(line))
			}
			if count > 1 && !d.HasArg("nopump") { // an entry each
				w.pump()
			}
		}
	case "read": // node=1 key=k [stale]
		s.read(t, d, p)
	case "watch": // node=1 name=w after=N [lo= hi=]
		watch, err := p.hub.Watch(0, []byte(text(t, d, "lo")), []byte(text(t, d, "hi")), banyan.Revision(number(t, d, "after", 0)))
		if err != nil {
			t.Fatal(err)
		}
		s.watches[text(t, d, "name")] = watch
	case "events": // name=w
		s.events(s.watches[text(t, d, "name")])
		return
	case "age": // node=1
		v := p.views[0]
		w.say("fresh %v, now %v, always %v", v.Fresh, p.now, v.Always)
		return
	case "reconfigure": // node=1 voters=(1,2) learners=(3)
		p.core.Reconfigure(0, nodes(t, d, "voters"), nodes(t, d, "learners"), func(err error) { w.say("reconfigure: %s", result(err)) })
	case "transfer": // node=1 to=2
		p.core.TransferLeader(0, banyan.NodeID(number(t, d, "to", 0)), func(err error) { w.say("transfer: %s", result(err)) })
	case "remove": // node=3
		p.core.Remove(0, p.core.groups[0].heardLast(), func(err error) { w.say("remove: %s", result(err)) })
	case "readmit": // node=3
		b := p.store.NewBatch()
		b.ClearTombstone(0)
		if err := b.Commit(true); err != nil {
			t.Fatal(err)
		}
	}
	if !d.HasArg("nopump") {
		w.pump()
	}
}

func (s *script) propose(t *testing.T, d *datadriven.TestData, p *peer, line string) {
	key, value, _ := strings.Cut(line, "=")
	cmd := put(key, value)
	cmd.Request = banyan.RequestID{}
	if d.HasArg("request") {
		cmd.Request[0] = byte(number(t, d, "request", 0))
	}
	cmd.Term = uint64(number(t, d, "term", 0))
	quiet := number(t, d, "count", 1) > 1
	p.propose(0, cmd, func(res mvcc.Result, err error) {
		switch {
		case err != nil:
			s.w.say("%s: %v", line, err)
		case !quiet:
			s.w.say("%s: ok=%v revision %d%s%s", line, res.OK, res.Revision,
				map[bool]string{true: " duplicate"}[res.Duplicate], map[bool]string{true: " stale"}[res.Stale])
		}
	})
}

func (s *script) read(t *testing.T, d *datadriven.TestData, p *peer) {
	key := text(t, d, "key")
	done := func(err error) {
		if err != nil {
			s.w.say("read %s at %v: %v", key, p.id, err)
			return
		}
		row, err := mvcc.Get(p.store.Shard(0).Latest(), []byte(key), 0)
		switch {
		case err != nil:
			t.Fatal(err)
		case row == nil:
			s.w.say("read %s at %v: none", key, p.id)
		default:
			s.w.say("read %s at %v: %s, revision %d", key, p.id, row.Value, row.Mod)
		}
	}
	if d.HasArg("stale") {
		done(nil)
		return
	}
	p.core.Read(0, done)
}

func (s *script) events(watch *Watcher) {
	for {
		events, upTo, ok, err := watch.TryNext()
		if err != nil {
			s.w.say("watch: %v", err)
			return
		}
		if !ok {
			return
		}
		var b strings.Builder
		for _, e := range events {
			fmt.Fprintf(&b, " %s=%s@%d", e.Row.Key, e.Row.Value, e.Row.Mod)
		}
		s.w.say("up to %d:%s", upTo, b.String())
	}
}

// fault does what the world does to a node.
func (s *script) fault(t *testing.T, d *datadriven.TestData) {
	w := s.w
	switch d.Cmd {
	case "crash": // node=1 [all]
		s.node(t, d).crash(d.HasArg("all"))
	case "fail": // node=1 sync|write: every one of these from now on
		op := map[bool]simdisk.Op{true: simdisk.Sync, false: simdisk.Write}[d.HasArg("sync")]
		s.node(t, d).disk.Inject(func(o simdisk.Op) error {
			if o == op {
				return errors.New("the disk is broken")
			}
			return nil
		})
	case "start": // node=1 [nopump]
		s.node(t, d).disk.Inject(nil)
		s.node(t, d).restart()
		if !d.HasArg("nopump") {
			w.pump()
		}
	case "step": // node=1: one round of it alone
		s.node(t, d).round()
	case "hold": // node=1 disk|apply|snapshots
		p := s.node(t, d)
		p.holdDisk, p.holdApply, p.holdSnaps = p.holdDisk || d.HasArg("disk"), p.holdApply || d.HasArg("apply"), p.holdSnaps || d.HasArg("snapshots")
	case "release": // node=1
		p := s.node(t, d)
		p.holdDisk, p.holdApply, p.holdSnaps = false, false, false
		w.pump()
	case "cut": // node=1: from all others; from=1 to=2: one way
		if d.HasArg("from") {
			w.cut[[2]banyan.NodeID{banyan.NodeID(number(t, d, "from", 0)), banyan.NodeID(number(t, d, "to", 0))}] = true
			return
		}
		id := banyan.NodeID(number(t, d, "node", 0))
		for _, other := range w.ids() {
			w.cut[[2]banyan.NodeID{id, other}], w.cut[[2]banyan.NodeID{other, id}] = true, true
		}
	case "heal":
		clear(w.cut)
	case "lost": // node=1: the others hear that its process is gone
		id := banyan.NodeID(number(t, d, "node", 0))
		for _, other := range w.ids() {
			if p := w.nodes[other]; other != id && p.core != nil {
				p.core.PeerLost(id)
			}
		}
		w.pump()
	}
}

func (s *script) node(t *testing.T, d *datadriven.TestData) *peer {
	t.Helper()
	if !d.HasArg("node") {
		return nil
	}
	p := s.w.nodes[banyan.NodeID(number(t, d, "node", 0))]
	if p == nil {
		t.Fatalf("%s: no such node", d.Pos)
	}
	return p
}

func number(t *testing.T, d *datadriven.TestData, name string, otherwise int) int {
	t.Helper()
	if !d.HasArg(name) {
		return otherwise
	}
	n, err := strconv.Atoi(text(t, d, name))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func text(t *testing.T, d *datadriven.TestData, name string) string {
	t.Helper()
	if !d.HasArg(name) {
		return ""
	}
	var v string
	d.ScanArgs(t, name, &v)
	return v
}

func nodes(t *testing.T, d *datadriven.TestData, name string) []banyan.NodeID {
	t.Helper()
	if !d.HasArg(name) {
		return nil
	}
	var out []banyan.NodeID
	for _, a := range d.CmdArgs {
		if a.Key == name {
			for _, v := range a.Vals {
				id, err := banyan.ParseNodeID(v)
				if err != nil {
					t.Fatal(err)
				}
				out = append(out, id)
			}
		}
	}
	return out
}
