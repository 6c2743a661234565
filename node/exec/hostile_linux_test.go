package exec

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// hostileDir names the directory of the node that TestHostileNode is.
const hostileDir = "BANYAN_TEST_HOSTILE"

// hostileTries are what a task may try against the node's process ($NODE). Each
// prints its name and what it got, and gets nothing.
const hostileTries = `
try() { n=$1; shift; got=$("$@" 2>/dev/null | tr -d '\000' | head -c 100); [ -z "$got" ] || echo "$n: $got"; }
try environ cat /proc/$NODE/environ
try memory head -c 10 /proc/$NODE/mem
try maps cat /proc/$NODE/maps
try descriptors ls /proc/$NODE/fd
try 'descriptors of a thread' ls /proc/$NODE/task/$NODE/fd
try 'what descriptors are' ls /proc/$NODE/fdinfo
try root ls /proc/$NODE/root/
try cwd ls /proc/$NODE/cwd/
try program readlink /proc/$NODE/exe
try namespaces readlink /proc/$NODE/ns/mnt
try stack cat /proc/$NODE/stack
try syscall cat /proc/$NODE/syscall
try auxv cat /proc/$NODE/auxv
try io cat /proc/$NODE/io
try 'own environment' sh -c 'tr "\000" "\n" </proc/self/environ | grep SECRET'
try 'inherited descriptors' sh -c 'for f in /proc/$$/fd/*; do case ${f##*/} in 0|1|2|10|255) ;; *) readlink "$f"; esac; done'
try privileges sh -c 'grep NoNewPrivs /proc/self/status | grep -v 1$'
try 'oom score' sh -c 'echo -1000 >/proc/$NODE/oom_score_adj && echo set'
try 'a file of the node' sh -c 'echo x >/proc/$NODE/comm && echo set'
true`

// TestHostileNode is the node of TestAHostileTask, in a process of its own.
func TestHostileNode(t *testing.T) {
	dir := os.Getenv(hostileDir)
	if dir == "" {
		t.Skip("run by TestAHostileTask")
	}
	if err := Harden(); err != nil {
		t.Fatal(err)
	}
	r, err := New(Config{Dir: filepath.Join(dir, "tasks"), Private: dir, NoNewPrivileges: true})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	p := open(t, r, "")
	defer p.Release()
	res := r.Run(context.Background(), p, Command{
		Args: []string{"/bin/sh", "-c", hostileTries}, Env: append(testEnv, "NODE="+strconv.Itoa(os.Getpid())),
	})
	fmt.Printf("ended %d\n%s", res.ExitCode, text(t, p.Stdout()))
}

// A task of an ordinary user gets nothing out of the node's process, and nothing
// of what whoever started the node had open or in the environment.
func TestAHostileTask(t *testing.T) {
	dir, err := os.MkdirTemp("", "hostile")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	leak, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostileNode$")
	cmd.Dir = dir
	cmd.Env = []string{hostileDir + "=" + dir, "SECRET=token", "TMPDIR=" + dir}
	cmd.ExtraFiles = []*os.File{leak}
	if os.Geteuid() == 0 {
		const nobody = 65534
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, tried, ok := bytes.Cut(out, []byte("ended 0\n"))
	got, _, _ := strings.Cut(string(tried), "PASS")
	if !ok || got != "" {
		t.Errorf("a task got at the node:\n%s", out)
	}
}
