package mvcc_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/cockroachdb/datadriven"

	"banyan"
	"banyan/core/mvcc"
	"banyan/core/mvcc/memrows"
)

// script is one testdata file's machine. Keys and values in scripts are Go
// string bodies: \x00 stands for a zero byte.
type script struct {
	rows    *memrows.Rows
	machine *mvcc.Machine
	window  int
}

// cut narrows the bounds of the script's shard to slots, of which a child gets
// the rest; nothing is kept of the child.
func (s *script) cut(t *testing.T, d *datadriven.TestData) string {
	var lo, hi int
	d.ScanArgs(t, "lo", &lo)
	d.ScanArgs(t, "hi", &hi)
	if err := s.machine.Cut(s.rows, banyan.SlotKey(lo), banyan.SlotKey(hi)); err != nil {
		return fmt.Sprintf("%v: %v\n", banyan.KindOf(err), err)
	}
	s.machine.Flush(s.rows)
	return s.state()
}

func (s *script) counts(t *testing.T) string {
	counts, err := s.machine.Counts(s.rows)
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, c := range counts {
		fmt.Fprintf(&b, "slot %d space %d: %d rows %d bytes\n", c.Slot, c.Space, c.Rows, c.Bytes)
	}
	return b.String()
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		if !strings.HasSuffix(path, ".txt") {
			t.Skip("the fuzzer's corpus")
		}
		s := &script{rows: memrows.New(), window: banyan.DedupWindowMax}
		s.restart(t)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			switch d.Cmd {
			case "window":
				d.ScanArgs(t, "max", &s.window)
				s.restart(t)
				return ""
			case "restart":
				s.restart(t)
				return s.state()
			case "cut":
				return s.cut(t, d)
			case "counts":
				return s.counts(t)
			case "history":
				return fmt.Sprintf("%d bytes\n", s.machine.HistoryBytes())
			case "apply":
				return s.apply(t, d)
			case "get":
				return s.get(t, d)
			case "range":
				return s.rangeRows(t, d)
			case "events":
				return s.events(t, d)
			case "rows":
				return s.dump(t, d)
			}
			t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
			return ""
		})
	})
}

func (s *script) restart(t *testing.T) {
	m, err := mvcc.OpenWindow(s.rows, s.window)
	if err != nil {
		t.Fatal(err)
	}
	s.machine = m
}

func (s *script) state() string {
	return fmt.Sprintf("revision %d horizon %d\n", s.machine.Revision(), s.machine.Horizon())
}

func (s *script) apply(t *testing.T, d *datadriven.TestData) string {
	cmd := &mvcc.Command{}
	var entryTerm uint64 = 1
	var request byte
	var earliest, now uint64
	d.MaybeScanArgs(t, "time", &now)
	cmd.Time = banyan.Timestamp(now)
	d.MaybeScanArgs(t, "term", &cmd.Term)
	d.MaybeScanArgs(t, "entry-term", &entryTerm)
	d.MaybeScanArgs(t, "earliest", &earliest)
	cmd.Earliest = banyan.Revision(earliest)
	if d.MaybeScanArgs(t, "request", &request) {
		cmd.Request[0] = request
	}
	to := &cmd.Muts
	for line := range strings.Lines(d.Input) {
		if strings.TrimSpace(line) == "else" {
			to = &cmd.Else
			continue
		}
		parseLine(t, cmd, to, strings.Fields(line))
	}
	if err := cmd.Validate(); err != nil {
		return fmt.Sprintf("invalid: %v\n", err)
	}
	cmd, err := mvcc.Decode(cmd.Encode(nil))
	if err != nil {
		t.Fatal(err)
	}
	res, evs, err := s.machine.Apply(s.rows, entryTerm, cmd)
	s.machine.Flush(s.rows)
	if err != nil {
		return fmt.Sprintf("error: %v\n", err)
	}
	if d.HasArg("time") {
		return fmt.Sprintf("time %d ", res.Time) + formatResult(res) + formatEvents(evs)
	}
	return formatResult(res) + formatEvents(evs)
}

func formatResult(r mvcc.Result) string {
	var b strings.Builder
	switch {
	case r.Stale:
		b.WriteString("stale")
	case r.Forgotten:
		b.WriteString("forgotten")
	case r.Moved:
		b.WriteString("moved")
	case r.NotNumber:
		b.WriteString("refused: no number")
	case r.OK:
		b.WriteString("ok")
	default:
		fmt.Fprintf(&b, "condition %d failed", r.FailedCond)
	}
	fmt.Fprintf(&b, " at %d", r.Revision)
	if r.Deleted > 0 {
		fmt.Fprintf(&b, " deleted %d", r.Deleted)
	}
	if len(r.Sequences) > 0 {
		fmt.Fprintf(&b, " sequences %v", r.Sequences)
	}
	if len(r.Numbers) > 0 {
		fmt.Fprintf(&b, " numbers %v", r.Numbers)
	}
	if r.More {
		b.WriteString(" more")
	}
	if r.Duplicate {
		b.WriteString(" (duplicate)")
	}
	return b.String() + "\n"
}

func formatEvents(evs []mvcc.Event) string {
	var b strings.Builder
	for _, e := range evs {
		switch {
		case e.End != nil:
			fmt.Fprintf(&b, "  delete %q to %q at %d\n", mvcc.ShowKey(e.Row.Key), mvcc.ShowKey(e.End), e.Row.Mod)
		case e.Deleted:
			fmt.Fprintf(&b, "  delete %q at %d\n", mvcc.ShowKey(e.Row.Key), e.Row.Mod)
		default:
			fmt.Fprintf(&b, "  put %s\n", formatRow(e.Row))
		}
	}
	return b.String()
}

func formatRow(r mvcc.Row) string {
	s := fmt.Sprintf("%q=%q create %d mod %d version %d", mvcc.ShowKey(r.Key), r.Value, r.Create, r.Mod, r.Version)
	if r.Lease != 0 {
		s += fmt.Sprintf(" lease %d", r.Lease)
	}
	return s
}

func unquote(t *testing.T, s string) []byte {
	u, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		t.Fatalf("%q: %v", s, err)
	}
	return []byte(u)
}

func key(t *testing.T, s string) []byte {
	if s == "" {
		return nil
	}
	return mvcc.ScriptKey(unquote(t, s))
}

func parseNumber(t *testing.T, s string) uint64 {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// parseLine adds "if exists K", "put K V [LEASE]" and the like to a command.
func parseLine(t *testing.T, cmd *mvcc.Command, to *[]mvcc.Mutation, f []string) {
	arg := func(i int) []byte {
		if i >= len(f) {
			return nil
		}
		return unquote(t, f[i])
	}
	keyArg := func(i int) []byte {
		if i >= len(f) {
			return nil
		}
		return key(t, f[i])
	}
	number := func(i int) uint64 {
		if i >= len(f) {
			return 0
		}
		return parseNumber(t, f[i])
	}
	mut := func(m mvcc.Mutation) { *to = append(*to, m) }
	switch f[0] {
	case "if":
		cmd.Conds = append(cmd.Conds, parseCond(t, f[1:], arg))
	case "add", "max":
		n, err := strconv.ParseInt(f[2], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		mut(mvcc.Mutation{Op: map[string]mvcc.Op{"add": mvcc.Add, "max": mvcc.Max}[f[0]], Key: keyArg(1), Number: n})
	case "put":
		mut(mvcc.Mutation{Op: mvcc.Put, Key: keyArg(1), Value: arg(2), Lease: number(3)})
	case "delete":
		mut(mvcc.Mutation{Op: mvcc.Delete, Key: keyArg(1)})
	case "delete-range":
		mut(mvcc.Mutation{Op: mvcc.DeleteRange, Key: keyArg(1), End: keyArg(2)})
	case "append":
		mut(mvcc.Mutation{Op: mvcc.Append, Key: keyArg(1), Value: arg(2), Lease: number(3)})
	case "revoke":
		mut(mvcc.Mutation{Op: mvcc.Revoke, Key: banyan.SlotKey(int(number(2))), Lease: number(1)})
	case "compact":
		mut(mvcc.Mutation{Op: mvcc.Compact, Rev: banyan.Revision(number(1))})
	default:
		t.Fatalf("unknown line %q", f)
	}
}

// parseCond reads "exists K", "missing K", "value K V" or "mod K N", with != or
// < or > behind the word for another comparison, and "K..L" for a range.
func parseCond(t *testing.T, f []string, arg func(int) []byte) mvcc.Cond {
	lo, hi, _ := strings.Cut(f[1], "..")
	c := mvcc.Cond{Key: key(t, lo), End: key(t, hi)}
	what, how := strings.TrimRight(f[0], "!=<>"), mvcc.Test(0)
	switch f[0][len(what):] {
	case "!=":
		how = 1
	case "<":
		how = 2
	case ">":
		how = 3
	}
	switch what {
	case "exists":
		c.Test = mvcc.Exists
	case "missing":
		c.Test = mvcc.Missing
	case "value":
		c.Test, c.Value = mvcc.ValueEquals+how, arg(3)
	default:
		c.Test = map[string]mvcc.Test{
			"mod": mvcc.ModEquals, "create": mvcc.CreateEquals, "version": mvcc.VersionEquals, "lease": mvcc.LeaseEquals,
		}[what] + how
		c.Number = parseNumber(t, f[2])
	}
	return c
}

func (s *script) get(t *testing.T, d *datadriven.TestData) string {
	var at uint64
	var name string
	d.ScanArgs(t, "key", &name)
	d.MaybeScanArgs(t, "at", &at)
	row, err := mvcc.Get(s.rows, key(t, name), banyan.Revision(at))
	switch {
	case err != nil:
		return fmt.Sprintf("%v: %v\n", banyan.KindOf(err), err)
	case row == nil:
		return "none\n"
	}
	return formatRow(*row) + "\n"
}

func (s *script) rangeRows(t *testing.T, d *datadriven.TestData) string {
	var q mvcc.Query
	var at uint64
	var lo, hi string
	d.MaybeScanArgs(t, "lo", &lo)
	d.MaybeScanArgs(t, "hi", &hi)
	d.MaybeScanArgs(t, "at", &at)
	d.MaybeScanArgs(t, "limit", &q.Limit)
	d.MaybeScanArgs(t, "bytes", &q.BytesMax)
	if q.EachSlot = d.HasArg("each-slot"); q.EachSlot {
		q.Lo, q.Hi, q.KeysOnly = key(t, lo)[2:], key(t, hi)[2:], d.HasArg("keys-only")
		return s.list(q)
	}
	q.Lo, q.Hi, q.At, q.KeysOnly = key(t, lo), key(t, hi), banyan.Revision(at), d.HasArg("keys-only")
	return s.list(q)
}

func (s *script) list(q mvcc.Query) string {
	rows, more, err := mvcc.Range(s.rows, q)
	if err != nil {
		return fmt.Sprintf("%v: %v\n", banyan.KindOf(err), err)
	}
	var b strings.Builder
	for _, r := range rows {
		b.WriteString(formatRow(r) + "\n")
	}
	if more {
		b.WriteString("more\n")
	}
	return b.String()
}

func (s *script) events(t *testing.T, d *datadriven.TestData) string {
	var after uint64
	var lo, hi string
	var limit int
	d.ScanArgs(t, "after", &after)
	d.MaybeScanArgs(t, "lo", &lo)
	d.MaybeScanArgs(t, "hi", &hi)
	d.MaybeScanArgs(t, "limit", &limit)
	evs, upTo, err := mvcc.EventsSince(s.rows, banyan.Revision(after), key(t, lo), key(t, hi), limit)
	if err != nil {
		return fmt.Sprintf("%v: %v\n", banyan.KindOf(err), err)
	}
	return formatEvents(evs) + fmt.Sprintf("up to %d\n", upTo)
}

func (s *script) dump(t *testing.T, d *datadriven.TestData) string {
	var prefix string
	d.MaybeScanArgs(t, "prefix", &prefix)
	var b strings.Builder
	err := s.rows.Scan([]byte(prefix), mvcc.PrefixEnd([]byte(prefix)), func(k, v []byte) bool {
		b.WriteString(mvcc.DescribeRow(k, v) + "\n")
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
