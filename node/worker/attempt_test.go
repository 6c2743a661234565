//go:build unix

package worker

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banyan"
	peerv1 "banyan/api/banyan/peer/v1"
	"banyan/api/banyan/peer/v1/peerv1connect"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/engine/blob"
	"banyan/node/exec"
)

const testJob = "j0123456789abc"

type nobody struct{}

func (nobody) ShardOf([]byte) banyan.ShardID { return 1 }
func (nobody) Leaders() (map[banyan.ShardID]banyan.NodeID, <-chan struct{}) {
	return nil, make(chan struct{})
}

func newWorker(t testing.TB, cfg Config) *Worker {
	r, err := exec.New(exec.Config{Dir: filepath.Join(t.TempDir(), "tasks"), Node: "n9", Grace: 50 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	cfg.Node, cfg.Runner = 9, r
	if cfg.Slots == 0 {
		cfg.Slots = 2
	}
	if cfg.Blobs == nil {
		cfg.Blobs = &blob.Memory{}
	}
	if cfg.Leaders == nil {
		cfg.Leaders = nobody{}
		cfg.Dial = func(banyan.NodeID) (peerv1connect.PeerClient, error) { return nil, nil }
	}
	w, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func shell(script string) *banyanv1.Command {
	return banyanv1.NewCommand("sh", "-c", script, "sh", "{}")
}

// try runs one attempt of task 3 of 8 (the eighth being the then step when its spec has one).
func try(w *Worker, spec *banyanv1.JobSpec, fromTasks ...*banyanv1.FileRef) *banyanv1.TaskResult {
	s := Start{
		Key: Key{testJob, 2, 77}, Slot: 2,
		Attempt: &peerv1.Attempt{Try: 1, Input: banyanv1.NewInput("in put"), Traceparent: "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", InputsFromTasks: fromTasks},
		Job:     &peerv1.JobHeader{JobId: testJob, Spec: spec, Tasks: 8},
	}
	if spec.Then != nil {
		s.Key.Task, s.Attempt.Input = 8, nil
	}
	return w.attempt(context.Background(), s, &running{done: make(chan struct{})})
}

func put(t testing.TB, w *Worker, name, content string) *banyanv1.FileRef {
	chunks, size, err := blob.Write(context.Background(), w.blobs, strings.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	return &banyanv1.FileRef{Path: []byte(name), Mode: 0o640, Size: size, Chunks: rawHashes(chunks)}
}

func get(t testing.TB, w *Worker, chunks [][]byte) string {
	hs, err := hashes(chunks)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := blob.Read(context.Background(), w.blobs, hs, &b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestAttemptRecordsHowItWent(t *testing.T) {
	w := newWorker(t, Config{})
	spec := &banyanv1.JobSpec{Command: shell(`echo "$1" >&2; echo hello; exit 3`)}
	r := try(w, spec)
	if r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != 3 || r.Task != 2 || r.Attempt != 1 || r.Node != 9 || r.Slot != 2 ||
		r.StartMs == 0 || r.DurationUs == 0 || r.Error != "" || string(r.Stdout.Inline) != "hello\n" || r.Stdout.Bytes != 6 || string(r.Stderr.Inline) != "in put\n" {
		t.Errorf("%v", r)
	}
	spec.Command = shell("kill -KILL $$")
	if r := try(w, spec); r.Signal != "SIGKILL" || r.ExitCode != 137 || r.State != banyanv1.TaskState_TASK_STATE_FAILED {
		t.Errorf("%v", r)
	}
	spec.Command, spec.TimeoutMs = shell("sleep 1000"), 20
	if r := try(w, spec); r.State != banyanv1.TaskState_TASK_STATE_TIMED_OUT {
		t.Errorf("%v", r)
	}
	spec.Command = banyanv1.NewCommand("no-such-thing")
	if r := try(w, spec); r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != 127 || !strings.Contains(r.Error, `"no-such-thing" is not found on node n9`) {
		t.Errorf("%v", r)
	}
	spec.Command, spec.WorkDir = shell("true"), []byte("/no/such/dir")
	if r := try(w, spec); r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != notRun || !strings.Contains(r.Error, "/no/such/dir") {
		t.Errorf("%v", r)
	}
}

func TestOutputOfAnySize(t *testing.T) {
	w := newWorker(t, Config{})
	for _, size := range []int{banyan.OutputInlineMax, banyan.OutputInlineMax + 1, banyan.BlobChunkBytes + 17} {
		r := try(w, &banyanv1.JobSpec{Command: shell(fmt.Sprintf("head -c %d /dev/zero | tr '\\0' x", size))})
		if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || r.Stdout.Bytes != int64(size) {
			t.Fatalf("%v", r)
		}
		if inline := size <= banyan.OutputInlineMax; inline != (len(r.Stdout.Chunks) == 0) || inline != (len(r.Stdout.Inline) == size) {
			t.Errorf("%d bytes: %d inline and %d chunks", size, len(r.Stdout.Inline), len(r.Stdout.Chunks))
		} else if !inline && get(t, w, r.Stdout.Chunks) != strings.Repeat("x", size) {
			t.Errorf("%d bytes came back different", size)
		}
	}
}

// What a task writes beyond its bound is cut off, and it has failed.
func TestBoundedOutput(t *testing.T) {
	w := newWorker(t, Config{})
	r := try(w, &banyanv1.JobSpec{Command: shell("head -c 100000 /dev/zero | tr '\\0' x; echo why >&2"), OutputBytesMax: 50000})
	if r.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(r.Error, "--output-max") {
		t.Errorf("%v", r)
	}
	if !r.Stdout.Truncated || r.Stdout.Bytes != 50000 || get(t, w, r.Stdout.Chunks) != strings.Repeat("x", 50000) {
		t.Errorf("standard output %v", r.Stdout)
	}
	if r.Stderr.Truncated || string(r.Stderr.Inline) != "why\n" {
		t.Errorf("standard error %v", r.Stderr)
	}
}

func TestResultNamesWhatWasLeft(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere processes have no names")
	}
	r := try(newWorker(t, Config{}), &banyanv1.JobSpec{Command: shell("sleep 1000 >/dev/null 2>&1 & sleep 0.1")})
	if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || r.KilledCount != 1 || len(r.Killed) != 1 || !strings.HasPrefix(r.Killed[0], "sleep 1000") {
		t.Errorf("%v", r)
	}
}

func TestEnvironment(t *testing.T) {
	w := newWorker(t, Config{Env: []string{"PATH=" + os.Getenv("PATH"), "HOME=/node", "LANG=node", "OLDPWD=/x", "LATIN=caf\xe9"}})
	r := try(w, &banyanv1.JobSpec{
		Command: shell("env"),
		Env:     banyanv1.Bytes("HOME=/job", "MINE=a b", "BANYAN_NODE=forged"),
	})
	got := strings.Split(strings.TrimSpace(string(r.Stdout.Inline)), "\n")
	slices.Sort(got)
	got = slices.DeleteFunc(got, func(s string) bool {
		return strings.HasPrefix(s, "PATH=") || strings.HasPrefix(s, "PWD=") || strings.HasPrefix(s, "BANYAN_COOKIE=")
	})
	want := []string{
		"BANYAN_ATTEMPT=1", "BANYAN_JOB=" + testJob, "BANYAN_NODE=n9", "BANYAN_SLOT=2", "BANYAN_TASK=3",
		"HOME=/job", "LANG=node", "LATIN=caf\xe9", "MINE=a b", "OLDPWD=/x", "PARALLEL_JOBSLOT=2", "PARALLEL_SEQ=3", "TRACEPARENT=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
	}
	if !slices.Equal(got, want) {
		t.Errorf("environment\n%q\nwant\n%q", got, want)
	}
}

func TestFilesGoInAndOut(t *testing.T) {
	w := newWorker(t, Config{})
	send := []*banyanv1.FileRef{put(t, w, "a/b.txt", "bee"), put(t, w, "in put", "mine"), put(t, w, "other", "not mine"), put(t, w, "empty", "")}
	spec := &banyanv1.JobSpec{
		Command: shell(`cat "$1" a/b.txt >"$1.out"; mkdir -p d/e; echo x >d/e/f; ln -s "$1.out" link; ln -s /etc/passwd d/out; ls -A | tr '\n' ' '; stat -c %a a/b.txt`),
		Send:    send, Return: banyanv1.Bytes("{}.out", "d", "li?k"),
	}
	r := try(w, spec)
	if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED {
		t.Fatalf("%v", r)
	}
	if got := string(r.Stdout.Inline); got != "a d empty in put in put.out link other 640\n" {
		t.Errorf("in the working directory: %q", got)
	}
	got := map[string]string{}
	for _, f := range r.Returned {
		got[string(f.Path)] = get(t, w, f.Chunks) + string(f.Link)
	}
	if len(got) != 4 || got["in put.out"] != "minebee" || got["d/e/f"] != "x\n" || got["link"] != "in put.out" || got["d/out"] != "/etc/passwd" {
		t.Errorf("returned %q", got)
	}
	spec.SendTemplates = banyanv1.Bytes("{}", "a")
	if got := string(try(w, spec).Stdout.Inline); got != "a d in put in put.out link 640\n" {
		t.Errorf("with templates: %q", got)
	}
	spec.SendTemplates = banyanv1.Bytes("{}.raw")
	if r := try(w, spec); !strings.Contains(r.Error, `"in put.raw"`) || r.State != banyanv1.TaskState_TASK_STATE_FAILED {
		t.Errorf("%v", r)
	}
}

func TestReturnErrorsNameTheFile(t *testing.T) {
	w := newWorker(t, Config{})
	for pattern, say := range map[string]string{
		"{}.out": "in put.out", "*.png": "*.png", "../x": "stay in it", "/etc/passwd": "relative",
		"out/passwd": "escapes", "fifo": "regular", "[": "bad pattern",
	} {
		r := try(w, &banyanv1.JobSpec{Command: shell("ln -s /etc out; mkfifo fifo"), Return: banyanv1.Bytes(pattern)})
		if r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != 0 || !strings.Contains(r.Error, say) || len(r.Returned) > 0 {
			t.Errorf("--return %s: %v", pattern, r)
		}
	}
	// A failed command is reported as it failed.
	if r := try(w, &banyanv1.JobSpec{Command: shell("exit 7"), Return: banyanv1.Bytes("x")}); r.ExitCode != 7 || r.Error != "" {
		t.Errorf("%v", r)
	}
}

func TestPathsStayInside(t *testing.T) {
	w := newWorker(t, Config{})
	for _, bad := range []string{"../x", "/x", "a/../../x", "a//b", ".", "", "a/./b"} {
		f := put(t, w, bad, "x")
		if r := try(w, &banyanv1.JobSpec{Command: shell("true"), Send: []*banyanv1.FileRef{f}}); r.State != banyanv1.TaskState_TASK_STATE_FAILED || r.ExitCode != notRun {
			t.Errorf("%q: %v", bad, r)
		}
	}
	// Not through a link that lies in a shared directory either.
	dir, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	r := try(w, &banyanv1.JobSpec{Command: shell("true"), WorkDir: []byte(dir), Send: []*banyanv1.FileRef{put(t, w, "link/x", "x")}})
	if left, _ := os.ReadDir(outside); len(left) > 0 || r.State != banyanv1.TaskState_TASK_STATE_FAILED {
		t.Errorf("%v, %v", left, r)
	}
}

func TestThenGetsEverything(t *testing.T) {
	w := newWorker(t, Config{})
	spec := &banyanv1.JobSpec{
		Command: shell("true"), Return: banyanv1.Bytes("{}.png"),
		Then: banyanv1.NewShell("cat *.png >film; rm 2.png; echo changed >3.png"),
	}
	r := try(w, spec, put(t, w, "1.png", "one "), put(t, w, "2.png", "two "), put(t, w, "3.png", "three"), put(t, w, "3.png", "three"))
	if r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || len(r.Returned) != 2 {
		t.Fatalf("%v", r)
	}
	if string(r.Returned[0].Path) != "3.png" || string(r.Returned[1].Path) != "film" || get(t, w, r.Returned[1].Chunks) != "one two three" {
		t.Errorf("%v", r.Returned)
	}
	spec.Send = []*banyanv1.FileRef{put(t, w, "1.png", "as it was sent")}
	r = try(w, spec, put(t, w, "1.png", "as it came back"), put(t, w, "2.png", ""), put(t, w, "3.png", ""))
	if len(r.Returned) != 2 || get(t, w, r.Returned[1].Chunks) != "as it came back" {
		t.Errorf("what a task returned does not replace what was sent: %v", r)
	}
	spec.Send = nil
	r = try(w, spec, put(t, w, "x.png", "one"), put(t, w, "x.png", "other"))
	if r.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(r.Error, "x.png (3 bytes, blob") || !strings.Contains(r.Error, "and 5 bytes, blob") {
		t.Errorf("two files of one name: %v", r)
	}
	r = try(w, spec, put(t, w, "x", "one"), put(t, w, "x/y", "other"))
	if r.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(r.Error, "x cannot be both a file and the directory of x/y") {
		t.Errorf("a file where a directory must be: %v", r)
	}
}

func TestSharedDirectoryKeepsWhatIsThere(t *testing.T) {
	w, dir := newWorker(t, Config{}), t.TempDir()
	same, stale := filepath.Join(dir, "same"), filepath.Join(dir, "stale")
	for _, f := range []string{same, stale} {
		if err := os.WriteFile(f, []byte("12345"), 0o444); err != nil {
			t.Fatal(err)
		}
	}
	before, _ := os.Stat(same)
	r := try(w, &banyanv1.JobSpec{
		Command: shell("cat same stale; touch made"), WorkDir: []byte(dir), Return: banyanv1.Bytes("made"),
		Send: []*banyanv1.FileRef{put(t, w, "same", "12345"), put(t, w, "stale", "54321")},
	})
	after, _ := os.Stat(same)
	if string(r.Stdout.Inline) != "1234554321" || !os.SameFile(before, after) || len(r.Returned) != 1 {
		t.Errorf("%v", r)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Error(err)
	}
}

// flaky is a blob store whose nodes answer only at the third call.
type flaky struct {
	blob.Memory
	calls int
}

func (f *flaky) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	if f.calls++; f.calls < 3 {
		return banyan.Errorf(banyan.Unavailable, "no node answers")
	}
	return f.Memory.Put(ctx, h, data)
}

func TestPatience(t *testing.T) {
	w := newWorker(t, Config{Blobs: &flaky{}})
	if r := try(w, &banyanv1.JobSpec{Command: shell("head -c 5000 /dev/zero")}); r.State != banyanv1.TaskState_TASK_STATE_SUCCEEDED || len(r.Stdout.Chunks) != 1 {
		t.Errorf("%v", r)
	}
	w.blobs = patient{&flaky{calls: -1000}, 0}
	if r := try(w, &banyanv1.JobSpec{Command: shell("head -c 5000 /dev/zero")}); r.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(r.Error, "could not be stored") {
		t.Errorf("%v", r)
	}
}

// fullStore is a blob store whose disk is full behind the first chunks.
type fullStore struct {
	blob.Memory
	mu   sync.Mutex
	room int
}

func (f *fullStore) Put(ctx context.Context, h banyan.Hash, data []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.room--; f.room < 0 {
		return banyan.Errorf(banyan.Exhausted, "disk full on node n2: free space")
	}
	return f.Memory.Put(ctx, h, data)
}

// TestDiskFullUnderOutputs: what could not be stored is not referred to, be it an
// output or a returned file, and the result says why.
func TestDiskFullUnderOutputs(t *testing.T) {
	for _, c := range []struct {
		spec *banyanv1.JobSpec
		room int
	}{
		{&banyanv1.JobSpec{Command: shell("head -c 5000 /dev/zero")}, 0},
		{&banyanv1.JobSpec{Command: shell("head -c 5000000 /dev/zero")}, 1},
		{&banyanv1.JobSpec{Command: shell("head -c 5000 /dev/zero >f"), Return: banyanv1.Bytes("f")}, 0},
	} {
		w := newWorker(t, Config{Blobs: &fullStore{room: c.room}})
		r := try(w, c.spec)
		if r.State != banyanv1.TaskState_TASK_STATE_FAILED || !strings.Contains(r.Error, "disk full on node n2") {
			t.Errorf("%v", r)
		}
		if out := r.Stdout; len(out.Chunks) > 0 || len(r.Returned) > 0 || out.Bytes > 0 && !out.Truncated {
			t.Errorf("the result refers to what was not stored: %v", r)
		}
	}
}
