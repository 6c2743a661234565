package cli

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/api/banyan/v1/banyanv1connect"
	"banyan/node/pki"
)

// completed gives what a shell would be told of the last of args: the words with
// what is said of them, a line each, and the directive.
func completed(t *testing.T, s *session, args ...string) string {
	t.Helper()
	out, errs, code := do(t, s, append([]string{"__complete"}, args...)...)
	if code != 0 || strings.Count(errs, "\n") != 1 || !strings.HasPrefix(errs, "Completion ended with directive") { // cobra's own
		t.Errorf("%q: exit %d: %s", args, code, errs)
	}
	return out
}

// The directives, as cobra tells them.
const (
	nothingElse = ":4\n"
	inThisOrder = ":36\n"
	asTheShell  = ":0\n"
	directories = ":16\n"
)

func TestCompleteNodesAndShards(t *testing.T) {
	f := &fakeCluster{nodes: [][]*banyanv1.Node{{
		{Id: 1, Name: "rack1", Address: "10.0.0.1:7117", State: "alive"}, {Id: 2, Name: "rack2", State: "draining"},
		{Id: 3, Name: "rack3", State: "dead"}, {Id: 4, Name: "gone", State: "left"}, {Id: 5, Name: "$(reboot)", State: "alive"},
	}}, shards: []*banyanv1.Shard{{Id: 0, Leader: 2}, {Id: 1}, {Id: 10, Leader: 1}}}
	const one, two, three, five = "n1\talive, 10.0.0.1:7117, rack1\n", "n2\tdraining, rack2\n", "n3\tdead, rack3\n", "n5\talive, $(reboot)\n"
	for line, want := range map[string]string{
		"drain *":                    one + five + inThisOrder,
		"drain --undo *":             two + inThisOrder,
		"drain n1 *":                 nothingElse,
		"node remove *":              one + two + three + five + inThisOrder,
		"node decommission n3*":      three + inThisOrder,
		"node remove rack*":          "rack1\tn1, alive, 10.0.0.1:7117\nrack2\tn2, draining\nrack3\tn3, dead\n" + inThisOrder,
		"node remove $*":             inThisOrder,
		"debug log --node *":         one + two + three + five + inThisOrder,
		"debug slow --node=n2*":      two + inThisOrder,
		"recover --lost r*":          inThisOrder,
		"recover --create-empty r*":  inThisOrder,
		"recover --create-empty n2*": two + inThisOrder,
		"recover --lost n2,*":        "n2,n1\nn2,n3\nn2,n5\n" + inThisOrder,
		"recover --lost n2,n3,n*":    "n2,n3,n1\nn2,n3,n5\n" + inThisOrder,
		"debug shard *":              "0\tled by n2\n1\tno leader is known\n10\tled by n1\n" + inThisOrder,
		"debug shard 1*":             "1\tno leader is known\n10\tled by n1\n" + inThisOrder,
		"--local drain *":            inThisOrder,
		"nodes *":                    nothingElse,
	} {
		args := strings.Split(line, " ")
		args[len(args)-1] = strings.TrimSuffix(args[len(args)-1], "*")
		if got := completed(t, f.session(t), args...); got != want {
			t.Errorf("banyan %s\n%s, want\n%s", line, got, want)
		}
	}
}

func TestCompleteJobs(t *testing.T) {
	const held = banyanv1.JobState_JOB_STATE_HELD
	f := &fakeJobs{
		list: []*banyanv1.Job{
			{Id: "j0000000000003", State: held, Spec: &banyanv1.JobSpec{Name: "render\tit\nall"}},
			{Id: "j0000000000002", State: failed}, {Id: "j0000000000001", State: succeeded},
		},
		job:     &banyanv1.Job{Id: testJob, Spec: &banyanv1.JobSpec{Then: &banyanv1.Command{}}},
		results: []*banyanv1.TaskResult{result(0, 0, "", ""), result(1, 7, "", "")},
	}
	const three, two, one = "j0000000000003\theld, render it all\n", "j0000000000002\tfailed\n", "j0000000000001\tsucceeded\n"
	for line, want := range map[string]string{
		"job show ":             three + two + one + inThisOrder,
		"job show x":            inThisOrder,
		"logs -f ":              three + two + one + inThisOrder,
		"logs " + testJob + " ": "2\tfailed, in2\n1\tsucceeded, in1\nthen\tthe --then step\n" + inThisOrder,
		"logs nonsense ":        inThisOrder,
		"resume ":               three + two + inThisOrder,
		"wait ":                 three + inThisOrder,
		"cancel -o json ":       three + inThisOrder,
		"jobs ":                 nothingElse,
	} {
		if got := completed(t, f.session(t), strings.Split(line, " ")...); got != want {
			t.Errorf("banyan %s\n%s, want\n%s", line, got, want)
		}
	}

	f.list = nil
	for i := range 3 * candidatesMax {
		f.list = append(f.list, &banyanv1.Job{Id: string(banyan.NewJobID(int64(i), 0))})
	}
	if n := strings.Count(completed(t, f.session(t), "job", "show", ""), "\n") - 1; n != candidatesMax {
		t.Errorf("%d candidates, want at most %d", n, candidatesMax)
	}
}

// fakeCoord lists locks.
type fakeCoord struct {
	banyanv1connect.UnimplementedCoordHandler
	locks []*banyanv1.LockState
}

func (f fakeCoord) List(context.Context, *connect.Request[banyanv1.ListLocksRequest]) (*connect.Response[banyanv1.ListLocksResponse], error) {
	return connect.NewResponse(&banyanv1.ListLocksResponse{Locks: f.locks}), nil
}

func TestCompleteLocks(t *testing.T) {
	_, h := banyanv1connect.NewCoordHandler(fakeCoord{locks: []*banyanv1.LockState{
		{Name: "$(reboot)"}, {Name: "a b"}, {Name: "nightly", Waiting: 2, Holders: []*banyanv1.Claim{{Owner: "ann@host pid 7"}}}, {Name: "shop/stock"},
	}})
	const both = "nightly\theld by ann@host pid 7, 2 waiting\nshop/stock\tnobody holds it\n"
	for line, want := range map[string]string{
		"unlock ":                both + inThisOrder,
		"locks s":                "shop/stock\tnobody holds it\n" + inThisOrder,
		"lock --shared ":         both + inThisOrder,
		"elect ":                 both + inThisOrder,
		"lock nightly -- ls ":    asTheShell,
		"lock nightly -- ls -":   asTheShell,
		"lock nightly -- ls -o ": asTheShell,
	} {
		if got := completed(t, sessionAt(t, h), strings.Split(line, " ")...); got != want {
			t.Errorf("banyan %s\n%s, want\n%s", line, got, want)
		}
	}
}

// TestCompleteWithoutCluster also shows that nothing is made or started.
func TestCompleteWithoutCluster(t *testing.T) {
	home := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		var out, errs bytes.Buffer
		env := map[string]string{"BANYAN_CONFIG": filepath.Join(home, "config"), "XDG_STATE_HOME": filepath.Join(home, "state")}
		code := Main(t.Context(), append([]string{"__complete"}, args...), IO{In: strings.NewReader(""), Out: &out, Err: &errs, Env: func(n string) string { return env[n] }})
		if code != 0 || strings.Count(errs.String(), "\n") != 1 {
			t.Errorf("%q: exit %d: %s", args, code, errs.String())
		}
		return out.String()
	}
	for line, want := range map[string]string{
		"drain ": inThisOrder, "resume ": inThisOrder, "kv get ": inThisOrder, "unlock ": inThisOrder, "context use ": inThisOrder,
		"--local kv get ": inThisOrder, "--local resume ": inThisOrder, "--context nowhere resume ": inThisOrder,
		"kv put a/b ": nothingElse, "status ": nothingElse, "token --ttl ": nothingElse, "run --name ": nothingElse, "unknown ": nothingElse,
		"nodes -o ": "text\njson\n" + nothingElse, "up --log-level ": "debug\ninfo\nwarn\nerror\n" + nothingElse,
		"run --progress=": "auto\nbar\nplain\nnone\n" + nothingElse,
		"run ":            asTheShell, "run -- ls ": asTheShell, "run ls -": asTheShell, "run ls ::: ": asTheShell, "run -a ": asTheShell, "run --send ": asTheShell,
		"debug bundle -f ": asTheShell, "recover --with ": asTheShell,
		"up --dir ": directories, "run --outdir ": directories, "context export ": directories, "film join ": directories,
	} {
		if got := run(strings.Split(line, " ")...); got != want {
			t.Errorf("banyan %s\n%s, want\n%s", line, got, want)
		}
	}
	if made, _ := os.ReadDir(home); len(made) > 0 {
		t.Errorf("completion made %v", made)
	}

	jobs := filepath.Join(home, "state", "banyan", "local", "jobs")
	os.MkdirAll(jobs, 0o700)
	for _, id := range []string{"j0000000000001", "j0000000000002"} {
		os.WriteFile(filepath.Join(jobs, id), []byte("0\n"), 0o600)
	}
	for _, args := range []string{"resume ", "--local resume "} {
		if got, want := run(strings.Split(args, " ")...), "j0000000000002\trun here, without a cluster\nj0000000000001\trun here, without a cluster\n"+inThisOrder; got != want {
			t.Errorf("%s\n%s, want\n%s", args, got, want)
		}
	}
	for _, name := range []string{"lab", "home"} {
		if err := pki.SaveContext(filepath.Join(home, "config"), &pki.Context{Name: name, Addresses: []string{"127.0.0.1:1"}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := pki.SetCurrentContext(filepath.Join(home, "config"), "lab"); err != nil {
		t.Fatal(err)
	}
	for _, args := range []string{"context use ", "--context ", "nodes --context "} {
		if got := run(strings.Split(args, " ")...); got != "home\nlab\tcurrent\n"+inThisOrder {
			t.Errorf("%s\n%s", args, got)
		}
	}
	if got := run("--context", "home", "resume", ""); got != inThisOrder { // whose jobs these are not
		t.Error(got)
	}
}

// slowCluster answers when the caller has given up.
type slowCluster struct {
	banyanv1connect.UnimplementedClusterHandler
	t *testing.T
}

func (f slowCluster) Map(ctx context.Context, _ *connect.Request[banyanv1.MapRequest]) (*connect.Response[banyanv1.MapResponse], error) {
	if end, ok := ctx.Deadline(); !ok || time.Until(end) > completeMax {
		f.t.Error("the shell is kept waiting")
		return nil, context.Canceled
	}
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestCompleteGivesUp(t *testing.T) {
	_, h := banyanv1connect.NewClusterHandler(slowCluster{t: t})
	if got := completed(t, sessionAt(t, h), "drain", ""); got != inThisOrder {
		t.Error(got)
	}
}

func TestCompleteFromARealNode(t *testing.T) {
	home := t.TempDir()
	a := &app{IO: IO{Env: func(string) string { return home }}}
	l, err := a.lanes()
	if err != nil {
		t.Fatal(err)
	}
	ln, err := l.takeFree()
	if err != nil {
		t.Fatal(err)
	}
	node, err := a.startLane(t.Context(), ln, 1, "")
	if err != nil {
		t.Fatal(err)
	}
	defer node.close()
	s := &session{Client: node.Client} // that stays open
	for _, key := range []string{"app/color", "app/size", "box/a"} {
		if _, err := s.KV().Put(t.Context(), []byte(key), nil); err != nil {
			t.Fatal(err)
		}
	}
	id, errs, code := do(t, s, "run", "--detach", "--name", "nap", "sleep", ":::", "60")
	if code != 0 {
		t.Fatal(errs)
	}
	id = strings.TrimSpace(id)
	for line, want := range map[string]string{
		"drain ":            "n1\talive, ",
		"debug shard ":      "0\tled by n1\n1\tled by n1\n",
		"kv get app/":       "app/color\napp/size\n" + inThisOrder,
		"kv list b":         "box/a\n" + inThisOrder,
		"job show ":         id + "\tactive, nap\n" + inThisOrder,
		"cancel " + id[:10]: id + "\tactive, nap\n" + inThisOrder,
		"unlock ":           inThisOrder,
	} {
		if got := completed(t, s, strings.Split(line, " ")...); !strings.HasPrefix(got, want) {
			t.Errorf("banyan %s\n%s, want\n%s", line, got, want)
		}
	}
}
