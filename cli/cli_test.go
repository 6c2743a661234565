package cli

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	banyanv1 "banyan/api/banyan/v1"
)

// TestMain ends a test binary that was started as if it were banyan, such as
// for a node of the demo: it would run the tests, and start itself again.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-") {
		os.Exit(exitUsage)
	}
	os.Exit(m.Run())
}

var update = flag.Bool("update", false, "rewrite testdata")

// do runs a command line with a home of its own. With s it talks to that.
func do(t testing.TB, s *session, args ...string) (out, errs string, code int) {
	t.Helper()
	return doWith(t, s, "", args...)
}

func doWith(t testing.TB, s *session, stdin string, args ...string) (out, errs string, code int) {
	t.Helper()
	return doIn(t, t.TempDir(), s, stdin, args...)
}

// doIn is doWith for a user whose files are in home.
func doIn(t testing.TB, home string, s *session, stdin string, args ...string) (out, errs string, code int) {
	t.Helper()
	env := map[string]string{"BANYAN_CONFIG": filepath.Join(home, "config"), "XDG_STATE_HOME": filepath.Join(home, "state")}
	var o, e bytes.Buffer
	a := &app{
		IO:    IO{In: strings.NewReader(stdin), Out: &o, Err: &e, Env: func(name string) string { return env[name] }},
		now:   time.Now,
		leave: func(code int) { t.Errorf("the process was left with %d", code) },
	}
	a.opens = a.open
	if s != nil {
		a.opens = func(context.Context, need) (*session, error) { return s, nil }
	}
	root := a.root()
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(t.Context())
	code = a.finish(cmd, err)
	return o.String(), e.String(), code
}

// helpWidth is that of the terminals that help is wrapped for where it is text.
const helpWidth = 80

func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		name := strings.ReplaceAll(c.CommandPath(), " ", "-")
		if c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" || c.Name() == "help" {
			return
		}
		args := append(strings.Fields(c.CommandPath())[1:], "--help")
		if !c.Runnable() {
			args = append([]string{"help"}, args[:len(args)-1]...)
		}
		out, errs, code := do(t, nil, args...)
		if code != 0 || errs != "" {
			t.Errorf("%s: exit %d: %s", name, code, errs)
		}
		for line := range strings.Lines(out) {
			if n := utf8.RuneCountInString(strings.TrimRight(line, "\n")); n > helpWidth {
				t.Errorf("%s: a line of %d characters, more than %d: %s", name, n, helpWidth, line)
			}
		}
		file := filepath.Join("testdata", "help", name+".txt")
		if *update {
			if err := os.WriteFile(file, []byte(out), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if out != string(want) {
			t.Errorf("%s has changed; go test ./cli -update rewrites it:\n%s", file, out)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
}

func TestOutputTopicKnowsEveryCommand(t *testing.T) {
	known := map[string]bool{}
	for line := range strings.Lines(outputHelp()) {
		line, _, _ = strings.Cut(line, "\n")
		for name := range strings.SplitSeq(regexp.MustCompile(` \(.*\)`).ReplaceAllString(line, ""), ", ") {
			known["banyan "+name] = true
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Flags().Lookup("output") != nil && !known[c.CommandPath()] {
			t.Errorf("'banyan help output' does not say what '%s -o json' prints", c.CommandPath())
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk((&app{}).root())
}

func TestErrorsAreOneLineWithARemedy(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"frobnicate", 2, `unknown command "frobnicate": 'banyan help' lists the commands`},
		{"nodes --wat", 2, "unknown flag: --wat: 'banyan help nodes' lists the flags"},
		{"run --wat", 255, "unknown flag: --wat: 'banyan help run' lists the flags"},
		{"run", 255, "no command: give one"},
		{"run ::: a", 255, "no command: give one"},
		{"run true :::", 255, "no inputs: give some after ':::'"},
		{"run echo {3} ::: a ::: b", 255, "{3} names column 3, but the inputs have 2 columns"},
		{"run --return {2}.o echo ::: a", 255, "{2} names column 2"},
		{"run -a /no/such/file echo", 255, "input file /no/such/file cannot be read: no such file or directory"},
		{"run --send /no/such/file echo ::: a", 255, "--send /no/such/file cannot be read: no such file"},
		{"run --send {} cat ::: no-such-file", 255, "--send no-such-file cannot be read"},
		{"run --send {} cat ::: /etc/passwd", 255, "must lie below the current directory"},
		{"run --return ../x true ::: 1", 255, `bad --return "../x"`},
		{"run --timeout 50% true ::: 1", 255, "a percentage of the median runtime is not supported"},
		{"run -j x true ::: 1", 255, `bad -j "x": give a number`},
		{"run --colsep ( true ::: 1", 255, "bad --colsep"},
		{"run --retries -1 true ::: 1", 255, "bad --retries -1"},
		{"run -o yaml true ::: 1", 255, `bad -o "yaml": give text or json`},
		{"run --progress wild true ::: 1", 255, `bad --progress "wild"`},
		{"run --local --context x true ::: 1", 255, "--local and --context x exclude each other"},
		{"resume", 255, "JOB is missing"},
		{"resume nonsense", 255, `bad job id "nonsense": it is 'j' and 13 letters or digits`},
		{"wait j0123456789abc", 255, "there is no job j0123456789abc here: 'banyan jobs --local' lists"},
		{"cancel x", 1, `bad job id "x"`},
		{"logs j0123456789abc -f", 2, "-f wants a TASK to follow"},
		{"nodes", 1, "there is no cluster to ask: 'banyan up' starts one"},
		{"nodes --context nowhere", 1, "nowhere"},
		{"nodes extra", 2, `unexpected argument "extra"`},
		{"context use nowhere", 1, `there is no context "nowhere"`},
		{"token --ttl 1ms", 2, "bad --ttl"},
		{"kv txn", 2, "nothing to do: give --do"},
		{"kv txn --do put", 2, `bad --do "put": give 'put KEY VALUE'`},
		{"film frame --frame 3 --of 2", 1, "frame 3 of a film of 2: give 1 to 2"},
		{"demo --nodes 99", 2, "bad --nodes 99"},
		{"demo --nodes 2", 2, "bad --nodes 2: give 3 to 9, or 1"},
		{"up --slots 0", 2, "bad --slots 0: give 1 to"},
		{"up --slots 2 --no-work", 2, "exclude each other"},
		{"join h:1 --token t --slots -1", 2, "bad --slots -1: give 1 to"},
		{"up --shards 0", 2, "bad --shards 0: give 1 to"},
		{"up --disk-reserve 5x", 2, "bad --disk-reserve \"5x\": give a size"},
		{"up --dead-after 0s", 2, "bad --dead-after 0s: give a time"},
		{"run --retries 0 true ::: 1", 255, "bad --retries 0: give 1 to"},
		{"jobs -n -1", 2, "bad --limit -1: give 0 or more"},
		{"kv list -n -1", 2, "bad --limit -1: give 0 or more"},
		{"lock x --ttl 0s -- true", 2, "bad --ttl 0s: give a time"},
		{"lock x --timeout -1s -- true", 2, "bad --timeout -1s: give 0s to not wait"},
		{"elect x --ttl 0s -- true", 2, "bad --ttl 0s: give a time"},
		{"node remove n1 --wait 0s", 2, "bad --wait 0s: give a time"},
	} {
		_, errs, code := do(t, nil, strings.Fields(c.args)...)
		if code != c.code || !strings.HasPrefix(errs, "banyan: ") || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, c.want) {
			t.Errorf("banyan %s: exit %d, want %d, and %q in one line:\n%s", c.args, code, c.code, c.want, errs)
		}
	}
}

func TestBadLinesAreNamed(t *testing.T) {
	for _, c := range []struct{ args, stdin, want string }{
		{"run echo", "a\nb\x00c\n", "standard input: line 2 holds a NUL byte"},
		{"run -C , echo {2}", "a,b\nc\nd,e\n", `inputs differ, this one has the fewest columns: "c"`},
	} {
		if _, errs, code := doWith(t, nil, c.stdin, strings.Fields(c.args)...); code != 255 || !strings.Contains(errs, c.want) {
			t.Errorf("banyan %s: exit %d, want %q:\n%s", c.args, code, c.want, errs)
		}
	}
}

// TestOneBadThingDoesNotHideTheOthers: damage is told, what is whole is shown.
func TestOneBadThingDoesNotHideTheOthers(t *testing.T) {
	home := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(home, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) (string, string, int) {
		var o, e bytes.Buffer
		env := map[string]string{"BANYAN_CONFIG": filepath.Join(home, "config"), "XDG_STATE_HOME": home}
		code := Main(t.Context(), args, IO{In: strings.NewReader(""), Out: &o, Err: &e, Env: func(n string) string { return env[n] }})
		return o.String(), e.String(), code
	}
	write("banyan/local/lane-0/node.json", `{"version": 1, "clu`)
	if out, errs, code := run("jobs"); code != 0 || !strings.HasPrefix(out, "JOB") || !strings.Contains(errs, "lane-0 are left out") {
		t.Errorf("jobs: exit %d, %q, %s", code, out, errs)
	}
	if _, errs, code := run("run", "true", ":::", "1"); code != 255 || !strings.Contains(errs, "to go on without these, move ") {
		t.Errorf("run: exit %d, %s", code, errs)
	}
	write("config/contexts/junk.json", "{")
	if out, errs, code := run("context", "list"); code != 0 || !strings.Contains(out, "ADDRESSES") || !strings.Contains(errs, "junk.json") {
		t.Errorf("context list: exit %d, %q, %s", code, out, errs)
	}
}

// TestTheFilmsPlaceIsTriedFirst never runs the demo: its nodes would be this
// test binary, and run the tests again.
func TestTheFilmsPlaceIsTriedFirst(t *testing.T) {
	d := &demo{out: filepath.Join(t.TempDir(), "missing", "film.png")}
	if err := d.prepare(); err == nil || !strings.Contains(err.Error(), "the film cannot be written to "+d.out+": no such file or directory") {
		t.Errorf("%v", err)
	}
	if d.dir != "" {
		os.RemoveAll(d.dir)
	}
}

func TestTokensAreShownAsWhatToType(t *testing.T) {
	var o, e bytes.Buffer
	a := &app{IO: IO{Out: &o, Err: &e}}
	for address, want := range map[string]string{
		"192.0.2.1:7117": "  banyan join 192.0.2.1:7117 --token T --listen 0.0.0.0:7117\n",
		"127.0.0.1:7117": "  banyan join 127.0.0.1:7117 --token T\n",
	} {
		o.Reset()
		if err := a.showToken(&banyanv1.CreateTokenResponse{Token: "T", Address: address}, 1); err != nil || o.String() != want {
			t.Errorf("%q, %v, want %q", o.String(), err, want)
		}
	}
}

func TestNoInputsMayBeASuccess(t *testing.T) {
	if _, errs, code := do(t, nil, "run", "-r", "true", ":::"); code != 0 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
}

func TestFlagsEndAtTheCommand(t *testing.T) {
	for _, args := range [][]string{
		{"run", "--dry-run", "ls", "-k", "--tag", ":::", "x"},
		{"run", "--dry-run", "--", "ls", "-k", "--tag", ":::", "x"},
	} {
		if out, errs, code := do(t, nil, args...); code != 0 || out != "ls -k --tag x\n" {
			t.Errorf("%v: exit %d, %q, %s", args, code, out, errs)
		}
	}
}

func TestTransactionSyntax(t *testing.T) {
	for _, text := range []string{"a/b exists", "a/b missing", "a/b = two words", "a/b = ", "a/b @ 7", "a/b held 7", "a/b held 7 1"} {
		if c, err := parseCondition(text); err != nil || string(c.Key) != "a/b" {
			t.Errorf("%q: %v, %v", text, c, err)
		}
	}
	for _, text := range []string{"", "a/b", "a/b exists 1", "a/b @ x", " = 1", "a/b > 1", "a/b held", "a/b held x", "a/b held 7 x", "a/b held 7 1 1"} {
		if c, err := parseCondition(text); err == nil {
			t.Errorf("%q is taken as %v", text, c)
		}
	}
	if m, err := parseAction("put a/b two words"); err != nil || string(m.GetPut().Value) != "two words" {
		t.Errorf("%v, %v", m, err)
	}
	for _, text := range []string{"", "put", "put a/b", "del", "del a b", "get a", "append a/"} {
		if m, err := parseAction(text); err == nil {
			t.Errorf("%q is taken as %v", text, m)
		}
	}
}

func TestLanes(t *testing.T) {
	l := lanes{filepath.Join(t.TempDir(), "local")}
	first, err := l.takeFree()
	if err != nil {
		t.Fatal(err)
	}
	second, err := l.takeFree()
	if err != nil || second.n == first.n {
		t.Fatalf("two commands share lane %d (%v)", first.n, err)
	}
	const id = "j0123456789abc"
	if err := second.remember(id); err != nil {
		t.Fatal(err)
	}
	if !l.knows(id) || l.knows("j0000000000000") {
		t.Error("the lanes do not know their job")
	}
	if n, ok := l.find(id); !ok || n != second.n {
		t.Errorf("the job lives in lane %d, %v", n, ok)
	}
	if _, err := l.take(second.n); !errors.Is(err, errBusy) {
		t.Errorf("the lane of a running command was given away: %v", err)
	}
	if err := second.release(); err != nil {
		t.Fatal(err)
	}
	again, err := l.take(second.n)
	if err != nil || again.n != second.n {
		t.Errorf("the job's lane is not found again: %v", err)
	}
}
