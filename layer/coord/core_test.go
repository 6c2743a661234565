package coord

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// TestCoreScripts runs the scripts of testdata against a core on the real
// machine in memory. Each line of input is one of
//
//	lead 5                          in a term; opens a core on the rows
//	term 6                          another leader commits from now on; ours does not know
//	at 1500                         sets the clock (ms)
//	tick 1500                       lets time pass; the core has its ticks when it wants them
//	late 1500                       the core has a tick only now
//	deadline                        when the core wants a tick
//	acquire L a1 [ttl=5000] [shared] [permits=2] [try] [wait]     lock L for lease a1 (hexadecimal)
//	release a1 [L]
//	forget 3 a1 L                   nobody waits for answer 3
//	keep a1 a2 …                    keeps leases alive; says which have ended
//	take / ack / lose               takes a command; commits the oldest; it is lost
//	commit                          takes and commits until nothing is left
//	rows                            what is durable
func TestCoreScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		x := newScript(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			x.t = t
			for line := range strings.Lines(d.Input) {
				if words := strings.Fields(line); len(words) > 0 && words[0] != "#" {
					x.do(words)
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
	t    *testing.T
	disk *disk
	core *Core
	cmds []*mvcc.Command
	life uint64
	out  strings.Builder
	now  int64
	op   uint64
}

// disk is the replicated machine of one shard in memory.
type disk struct {
	term    uint64
	rows    *memrows.Rows
	machine *mvcc.Machine
}

func newDisk(t testing.TB) *disk {
	t.Helper()
	d := &disk{rows: memrows.New()}
	var err error
	if d.machine, err = mvcc.Open(d.rows); err != nil {
		t.Fatal(err)
	}
	return d
}

// apply commits a command as a replica does, through its encoding.
func (d *disk) apply(cmd *mvcc.Command) (mvcc.Result, error) {
	again, err := mvcc.Decode(cmd.Encode(nil))
	if err == nil {
		err = again.Validate()
	}
	if err != nil {
		return mvcc.Result{}, err
	}
	res, _, err := d.machine.Apply(d.rows, d.term, again)
	d.machine.Flush(d.rows)
	return res, err
}

// all gives the rows of the layer.
func (d *disk) all() ([]mvcc.Row, error) {
	q := All()
	q.Limit, q.BytesMax = 1<<20, 1<<30
	rows, _, err := mvcc.Range(d.rows, q)
	return rows, err
}

func newScript(t *testing.T) *script { return &script{disk: newDisk(t)} }

func (x *script) do(w []string) {
	switch w[0] {
	case "lead":
		x.disk.term = number(x.t, w[1], 10)
		rows, err := x.disk.all()
		if err == nil {
			x.life++
			x.core, err = Open(x.now, x.disk.term, x.life, rows)
		}
		if err != nil {
			x.t.Fatal(err)
		}
		x.cmds = nil
	case "term":
		x.disk.term = number(x.t, w[1], 10)
	case "at":
		x.now = int64(number(x.t, w[1], 10))
	case "tick":
		for to := int64(number(x.t, w[1], 10)); x.now < to; {
			x.now = to
			if at, ok := x.core.Deadline(); ok {
				x.now = min(at, to)
			}
			x.core.Tick(x.now)
		}
	case "late":
		x.now = int64(number(x.t, w[1], 10))
		x.core.Tick(x.now)
	case "deadline":
		at, ok := x.core.Deadline()
		fmt.Fprintln(&x.out, "deadline", at, ok)
	case "acquire":
		x.acquire(w)
	case "release":
		x.op++
		x.core.Release(x.now, x.op, number(x.t, w[1], 16), strings.Join(w[2:], ""))
	case "forget":
		x.core.Forget(number(x.t, w[1], 10), number(x.t, w[2], 16), w[3])
	case "keep":
		x.keep(w[1:])
	case "take":
		x.take()
	case "ack":
		x.ack()
	case "lose":
		x.cmds = x.cmds[1:]
	case "commit":
		for x.take(); len(x.cmds) > 0; x.take() {
			x.ack()
		}
	case "rows":
		x.show()
	default:
		x.t.Fatalf("unknown line %q", w)
	}
	x.tell()
}

func (x *script) acquire(w []string) {
	req := &banyanv1.AcquireRequest{Name: w[1], Lease: number(x.t, w[2], 16), TtlMs: 5000, Owner: w[2]}
	wait := false
	for _, flag := range w[3:] {
		name, v, _ := strings.Cut(flag, "=")
		switch name {
		case "ttl":
			req.TtlMs = int64(number(x.t, v, 10))
		case "permits":
			req.Permits = uint32(number(x.t, v, 10))
		case "shared":
			req.Shared = true
		case "try":
			req.Try = true
		case "wait":
			wait = true
		default:
			x.t.Fatalf("unknown word %q", flag)
		}
	}
	x.op++
	x.core.Acquire(x.now, x.op, req, 0, wait)
}

func (x *script) keep(names []string) {
	var ids []uint64
	for _, n := range names {
		ids = append(ids, number(x.t, n, 16))
	}
	if gone := x.core.KeepAlive(x.now, ids); len(gone) > 0 {
		fmt.Fprintf(&x.out, "ended: %x\n", gone)
	}
}

func (x *script) take() {
	cmd := x.core.Next()
	if cmd == nil {
		return
	}
	x.cmds = append(x.cmds, cmd)
	fmt.Fprintf(&x.out, "command:")
	for _, m := range cmd.Muts[1:] { // the first is the chain
		fmt.Fprintf(&x.out, " %s", describe(m))
	}
	fmt.Fprintln(&x.out)
}

func (x *script) ack() {
	res, err := x.disk.apply(x.cmds[0])
	x.cmds = x.cmds[1:]
	switch {
	case err != nil:
		x.t.Fatal(err)
	case res.Stale:
		fmt.Fprintln(&x.out, "refused: the term is over")
	case !res.OK:
		fmt.Fprintln(&x.out, "refused: not what it was decided on")
	default:
		fmt.Fprintln(&x.out, "committed at", res.Revision)
		x.core.Committed(res.Revision)
	}
	x.tell()
}

// tell prints the answers.
func (x *script) tell() {
	for _, a := range x.core.answersOrNone() {
		fmt.Fprintf(&x.out, "%d: %s", a.Op, outcome(a))
		if a.Confirm {
			fmt.Fprint(&x.out, " (confirm)")
		}
		fmt.Fprintln(&x.out)
	}
}

func (c *Core) answersOrNone() []Answer {
	if c == nil {
		return nil
	}
	return c.Answers()
}

func outcome(a Answer) string {
	switch {
	case a.Err != nil:
		return fmt.Sprintf("%v: %v", banyan.KindOf(a.Err), a.Err)
	case a.Claim == nil && a.Released:
		return "released"
	case a.Claim == nil:
		return "nothing to release"
	case a.Claim.Token == 0:
		return fmt.Sprintf("waits behind %d for %s", a.Claim.Ahead, a.Holder)
	}
	return fmt.Sprintf("holds permit %d, token %d", a.Claim.Permit, a.Claim.Token)
}

func (x *script) show() {
	rows, err := x.disk.all()
	if err != nil {
		x.t.Fatal(err)
	}
	for _, r := range rows {
		fmt.Fprintf(&x.out, "%s lease %x at %d\n", readable(r.Key), r.Lease, r.Mod)
	}
}

func describe(m mvcc.Mutation) string {
	switch m.Op {
	case mvcc.Put:
		return "+" + readable(m.Key)
	case mvcc.Delete:
		return "-" + readable(m.Key)
	case mvcc.Revoke:
		return fmt.Sprintf("revoke %x", m.Lease)
	}
	return fmt.Sprint(m.Op)
}

// readable is a row's key without zeros.
func readable(key []byte) string {
	p, err := parseKey(key)
	if err != nil {
		return err.Error()
	}
	switch {
	case p.lease:
		return fmt.Sprintf("lease(%s,%x)", p.name, p.number)
	case p.held:
		return fmt.Sprintf("held(%s,%d)", p.name, p.number)
	}
	return fmt.Sprintf("waits(%s,%d)", p.name, p.number)
}

func number(t *testing.T, s string, base int) uint64 {
	t.Helper()
	v, err := strconv.ParseUint(s, base, 64)
	if err != nil {
		t.Fatal(err)
	}
	return v
}
