//go:build linux

package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
)

// sshFake stands for ssh: a host is a directory, which is the home there. Its
// bin comes first on the path, so that a test says what the machine is. What runs
// there goes on when ssh is killed.
const sshFake = `#!/bin/sh
while :; do case "$1" in -o|-O) shift 2;; -*) shift;; *) break;; esac; done
home=%s/$1
[ -d "$home" ] || { echo "ssh: Could not resolve hostname $1" >&2; exit 255; }
shift
cd "$home" || exit 255
setsid env -i HOME="$home" PATH="$home/bin:/usr/bin:/bin" sh -c "echo Welcome; $*"
`

// banyanFake stands for the binary that is copied. number is the node it becomes.
const banyanFake = `#!/bin/sh
case $1 in
version) echo '{"version":"0.0","commit":"%s","protocol":%d}';;
join)
  read -r token
  echo "$token" >"$HOME/token"
  while [ -e "$HOME/slow" ]; do sleep 0.02; done
  [ ! -e "$HOME/shut" ] || { echo "banyan: the door is shut: knock" >&2; exit 1; }
  while [ "$1" != --dir ]; do shift; done
  mkdir -p "$2"; printf '{\n  "version": 2,\n  "node": %%s,\n  "slots": 1\n}\n' "$(cat "$HOME/number")" >"$2/node.json"
  echo "node n$(cat "$HOME/number") of cluster C has joined, at x; it is not started";;
up)
  [ ! -e "$HOME/sick" ] || { echo "disk on fire"; exit 1; }
  echo "node is up at x"; exec sleep 1000;;
service) echo "$@" >>"$HOME/calls";;
esac
`

// hostsCluster is a cluster whose nodes are those that a directory of hosts holds.
type hostsCluster struct {
	banyanv1connect.UnimplementedClusterHandler
	hosts string

	mu      sync.Mutex
	tokens  map[string]bool
	left    map[uint64]bool
	drained []string
	problem *banyanv1.Problem
}

func (f *hostsCluster) list() []*banyanv1.Node {
	f.mu.Lock()
	defer f.mu.Unlock()
	nodes := []*banyanv1.Node{{Id: 1, Name: "first", State: "alive", Version: "v"}}
	files, _ := filepath.Glob(filepath.Join(f.hosts, "*", "number"))
	for _, file := range files {
		text, _ := os.ReadFile(file)
		id, _ := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if _, err := os.Stat(filepath.Join(filepath.Dir(file), "node", "node.json")); err == nil && !f.left[id] {
			nodes = append(nodes, &banyanv1.Node{Id: id, State: "alive", Version: "v", Address: "x"})
		}
	}
	return nodes
}

func (f *hostsCluster) Nodes(context.Context, *connect.Request[banyanv1.NodesRequest]) (*connect.Response[banyanv1.NodesResponse], error) {
	return connect.NewResponse(&banyanv1.NodesResponse{Nodes: f.list()}), nil
}

func (f *hostsCluster) Status(context.Context, *connect.Request[banyanv1.StatusRequest]) (*connect.Response[banyanv1.StatusResponse], error) {
	res := &banyanv1.StatusResponse{ClusterId: "C", Nodes: f.list()}
	f.mu.Lock()
	defer f.mu.Unlock()
	drains := map[string]bool{}
	for _, d := range f.drained {
		id, undo := strings.CutPrefix(d, "undo ")
		drains[id] = !undo
	}
	for _, n := range res.Nodes {
		if drains[banyan.NodeID(n.Id).String()] {
			n.State = "draining"
		}
	}
	if f.problem != nil {
		res.Problems = append(res.Problems, f.problem)
	}
	return connect.NewResponse(res), nil
}

func (f *hostsCluster) Drain(_ context.Context, req *connect.Request[banyanv1.DrainRequest]) (*connect.Response[banyanv1.DrainResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drained = append(f.drained, map[bool]string{true: "undo "}[req.Msg.Undo]+banyan.NodeID(req.Msg.Node).String())
	return connect.NewResponse(&banyanv1.DrainResponse{}), nil
}

func (f *hostsCluster) CreateToken(context.Context, *connect.Request[banyanv1.CreateTokenRequest]) (*connect.Response[banyanv1.CreateTokenResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	id := fmt.Sprintf("t%d", len(f.tokens))
	f.tokens[id] = true
	return connect.NewResponse(&banyanv1.CreateTokenResponse{Token: "secret-" + id, Id: id, Address: "192.0.2.1:7117"}), nil
}

func (f *hostsCluster) RevokeToken(_ context.Context, req *connect.Request[banyanv1.RevokeTokenRequest]) (*connect.Response[banyanv1.RevokeTokenResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens[req.Msg.Id] = false
	return connect.NewResponse(&banyanv1.RevokeTokenResponse{Token: &banyanv1.Token{Id: req.Msg.Id}}), nil
}

func (f *hostsCluster) RemoveNode(_ context.Context, req *connect.Request[banyanv1.RemoveNodeRequest]) (*connect.Response[banyanv1.RemoveNodeResponse], error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.left[req.Msg.Node] = true
	return connect.NewResponse(&banyanv1.RemoveNodeResponse{Removed: true}), nil
}

// lab is a user with a cluster and machines.
type lab struct {
	*app
	t         *testing.T
	f         *hostsCluster
	out, errs *bytes.Buffer
}

func newLab(t *testing.T) *lab {
	t.Helper()
	dir := t.TempDir()
	l := &lab{t: t, f: &hostsCluster{hosts: filepath.Join(dir, "hosts"), tokens: map[string]bool{}, left: map[uint64]bool{}}, out: &bytes.Buffer{}, errs: &bytes.Buffer{}}
	t.Setenv("BANYAN_CONFIG", filepath.Join(dir, "config"))
	t.Setenv("PATH", filepath.Join(dir, "bin")+":"+os.Getenv("PATH"))
	l.write(filepath.Join(dir, "bin", "ssh"), fmt.Sprintf(sshFake, l.f.hosts))
	l.app = &app{IO: IO{Out: l.out, Err: l.errs, Env: os.Getenv}, now: time.Now, binary: filepath.Join(dir, "banyan")}
	l.build("one")
	_, h := banyanv1connect.NewClusterHandler(l.f, connect.WithInterceptors(wireErrors{}))
	l.opens = func(context.Context, need) (*session, error) { return sessionAt(t, h), nil }
	t.Cleanup(func() {
		pids, _ := filepath.Glob(filepath.Join(l.f.hosts, "*", "base", "pid"))
		for _, file := range pids {
			text, _ := os.ReadFile(file)
			if pid, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	})
	return l
}

// build makes the binary that is copied anew.
func (l *lab) build(commit string) {
	l.write(l.binary, fmt.Sprintf(banyanFake, commit, banyan.ProtocolVersion))
}

func (l *lab) write(path, text string) {
	l.t.Helper()
	err := os.MkdirAll(filepath.Dir(path), 0o755)
	if err == nil {
		err = os.WriteFile(path, []byte(text), 0o755)
	}
	if err != nil {
		l.t.Fatal(err)
	}
}

// host makes a machine; files are what it has.
func (l *lab) host(number int, files ...string) string {
	l.t.Helper()
	name := fmt.Sprintf("ada@lab%d", number)
	at := func(file string) string { return filepath.Join(l.f.hosts, name, file) }
	l.write(at("number"), fmt.Sprint(number))
	l.write(at("bin/id"), "#!/bin/sh\necho 1000\n")
	l.write(at("bin/systemctl"), "#!/bin/sh\nexit 1\n")
	for i := 0; i+1 < len(files); i += 2 {
		l.write(at(files[i]), files[i+1])
	}
	return name
}

func (l *lab) has(host, file string) bool {
	_, err := os.Stat(filepath.Join(l.f.hosts, host, file))
	return err == nil
}

func (l *lab) read(host, file string) string {
	text, _ := os.ReadFile(filepath.Join(l.f.hosts, host, file))
	return string(text)
}

// do runs a command and gives what it said of each host.
func (l *lab) do(ctx context.Context, args ...string) (map[string]addJSON, error) {
	l.t.Helper()
	l.out.Reset()
	root := l.root()
	if args[0] == "add" {
		args = append(args, "--to", "base", "--dir", "node")
	}
	root.SetArgs(append(args, "-o", "json"))
	err := root.ExecuteContext(ctx)
	got := map[string]addJSON{}
	for line := range strings.Lines(l.out.String()) {
		var j addJSON
		if err := json.Unmarshal([]byte(line), &j); err != nil {
			l.t.Fatalf("%v: %s", err, line)
		}
		got[j.Host] = j
	}
	return got, err
}

func TestAddGoesOnWithOtherHosts(t *testing.T) {
	l := newLab(t)
	plain, shut := l.host(2), l.host(3, "shut", "")
	unit := l.host(4, "bin/systemctl", "#!/bin/sh\n", "bin/loginctl", "#!/bin/sh\n[ \"$1\" = show-user ] && echo no\ntrue\n")
	arm, full := l.host(5, "bin/uname", "#!/bin/sh\n[ \"$1\" = -s ] && echo Linux || echo riscv64\n"), l.host(6, "node/mine", "precious")
	sick := l.host(7, "sick", "")
	got, err := l.do(t.Context(), "add", "ada@nowhere", shut, arm, full, sick, plain, unit)
	var e *exit
	if !errors.As(err, &e) || e.code != exitError || !strings.Contains(err.Error(), "5 of 7 hosts not added") {
		t.Errorf("the end: %v", err)
	}
	for host, want := range map[string]string{
		"ada@nowhere": "try 'ssh ada@nowhere'", shut: "the door is shut: knock (undone)", arm: "GOARCH=riscv64 go build", full: "is not empty", sick: "disk on fire",
	} {
		if !strings.Contains(got[host].Error, want) {
			t.Errorf("%s: %q lacks %q", host, got[host].Error, want)
		}
		if l.has(host, "base") || l.has(host, "node/node.json") {
			t.Errorf("%s: something was left", host)
		}
	}
	if !l.has(full, "node/mine") {
		t.Error("what was on a host before is gone")
	}
	if l.f.tokens["t0"] || !l.f.left[7] {
		t.Errorf("a token or a node was left: %v, %v", l.f.tokens, l.f.left)
	}
	if j := got[plain]; j.Done != "added" || j.Node != "n2" || j.Service != managerNone || !l.has(plain, "base/pid") {
		t.Errorf("without systemd: %+v", j)
	}
	if j := got[unit]; j.Done != "added" || j.Service != managerUser || !strings.Contains(l.read(unit, "calls"), "service install --dir "+j.Dir+" --unit banyan") {
		t.Errorf("with systemd: %+v, %q", j, l.read(unit, "calls"))
	}
	if !strings.Contains(l.read(unit, "base/added"), "linger=1") {
		t.Errorf("what is to be undone: %q", l.read(unit, "base/added"))
	}
	if token := strings.TrimSpace(l.read(plain, "token")); !strings.HasPrefix(token, "secret-") {
		t.Errorf("the token came as %q", token)
	}

	if got, err := l.do(t.Context(), "add", plain); err != nil || got[plain].Done != "there already" {
		t.Errorf("again: %+v, %v", got, err)
	}
	got, err = l.do(t.Context(), "add", "--remove", plain, unit)
	if err != nil || got[plain].Done != "removed" || !l.f.left[2] || !l.f.left[4] || l.has(plain, "base") || l.has(plain, "node") || l.has(unit, "base") {
		t.Errorf("removed: %+v, %v", got, err)
	}
	if hosts, err := readHosts(os.Getenv("BANYAN_CONFIG"), "C"); err != nil || len(hosts) != 0 {
		t.Errorf("remembered: %v, %v", hosts, err)
	}
	if _, err := l.do(t.Context(), "add", "--remove", plain); err == nil {
		t.Error("removed twice")
	}
}

// A join that is cut off may go on there and be done: who undoes waits for it.
func TestAddInterruptedIsUndone(t *testing.T) {
	l := newLab(t)
	host := l.host(2, "slow", "")
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for !l.has(host, "token") {
			time.Sleep(time.Millisecond)
		}
		cancel()
		_ = os.Remove(filepath.Join(l.f.hosts, host, "slow"))
	}()
	got, err := l.do(ctx, "add", host, "ada@other")
	if !errors.Is(err, context.Canceled) || !strings.Contains(got[host].Error, "undone") || len(got) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if l.has(host, "base") || l.has(host, "node") || !l.f.left[2] {
		t.Errorf("left: base %v, node %v; of the cluster %v", l.has(host, "base"), l.has(host, "node"), l.f.left)
	}
}

func TestUpgradeStopsAtTheFirstThatIsNotWell(t *testing.T) {
	l := newLab(t)
	first, second, third := l.host(2), l.host(3), l.host(4)
	if got, err := l.do(t.Context(), "add", first, second, third); err != nil {
		t.Fatal(got, err)
	}
	if got, err := l.do(t.Context(), "upgrade"); err != nil || got[first].Done != "up to date" || l.f.drained != nil {
		t.Fatalf("nothing to do: %+v, %v, %v", got, err, l.f.drained)
	}
	l.build("two")
	l.write(filepath.Join(l.f.hosts, second, "sick"), "")
	got, err := l.do(t.Context(), "upgrade", "--no-drain")
	if err == nil || got[first].Done != "upgraded" || got[first].Error != "" || !strings.Contains(got[second].Error, "disk on fire") || len(got) != 2 {
		t.Fatalf("%+v, %v", got, err)
	}
	for host, want := range map[string]string{first: "two", second: "two", third: "one"} {
		if !strings.Contains(l.read(host, "base/banyan"), `"commit":"`+want+`"`) {
			t.Errorf("%s does not have %q", host, want)
		}
	}
	// What never was well is not what is gone back to.
	l.build("three")
	if _, err := l.do(t.Context(), "upgrade", "--no-drain", second); err == nil || !strings.Contains(l.read(second, "base/banyan.before"), `"one"`) {
		t.Errorf("the binary before is not the one that was well: %v", err)
	}
	_ = os.Remove(filepath.Join(l.f.hosts, second, "sick"))
	if got, err := l.do(t.Context(), "upgrade", "--back", "--no-drain", second); err != nil || !strings.Contains(l.read(second, "base/banyan"), `"one"`) {
		t.Errorf("back: %+v, %v", got, err)
	}
	l.f.drained = nil
	if got, err := l.do(t.Context(), "upgrade"); err != nil || len(got) != 3 || !strings.Contains(l.read(third, "base/banyan"), `"three"`) {
		t.Errorf("all: %+v, %v", got, err)
	}
	if want := "n2 undo n2 n3 undo n3 n4 undo n4"; strings.Join(l.f.drained, " ") != want {
		t.Errorf("drained %q, want %q", l.f.drained, want)
	}
	l.f.problem = &banyanv1.Problem{What: "shard 1 has no leader", Critical: true}
	if _, err := l.do(t.Context(), "upgrade"); err == nil || !strings.Contains(err.Error(), "not well") {
		t.Errorf("a cluster that is not well: %v", err)
	}
}

func TestWellAfterAnUpgrade(t *testing.T) {
	m := &banyanv1.StatusResponse{
		Nodes:    []*banyanv1.Node{{Id: 1, State: "alive", Version: "v"}, {Id: 2, State: "alive", Version: "v"}},
		Problems: []*banyanv1.Problem{{What: "node n1 has 300 MiB of disk left"}},
		Shards:   []*banyanv1.Shard{{Id: 1, Behind: map[uint64]uint64{2: 3}}},
	}
	before := problemsOf(m)
	m.Problems = []*banyanv1.Problem{{What: "node n1 has 299 MiB of disk left"}, {What: "node n2 runs version 2, the answering node 1"}}
	if what := notWell(m, 2, before); what != "" {
		t.Errorf("not well: %s", what)
	}
	m.Problems = append(m.Problems, &banyanv1.Problem{What: "node n2 is suspect"})
	if what := notWell(m, 2, before); what != "node n2 is suspect" {
		t.Errorf("a new problem: %q", what)
	}
	m.Problems = nil
	m.Shards[0].Behind[2] = behindMax + 1
	if what := notWell(m, 2, before); !strings.Contains(what, "lacks") {
		t.Errorf("behind: %q", what)
	}
}
