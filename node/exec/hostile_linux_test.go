package exec

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// hostileDir names the directory of the node that TestHostileNode is.
const hostileDir = "BANYAN_TEST_HOSTILE"

const hostileHead = `export WARDEN=$PPID
try() { n=$1; shift; got=$("$@" 2>/dev/null | tr -d '\000' | head -c 100); [ -z "$got" ] || echo "$n: $got"; }
`

// hostileTries are what a task may try against the node's process ($NODE). Each
// prints its name and what it got, and gets nothing.
const hostileTries = `
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
`

// isolatedTries are what it may try besides against the node's files ($DIR, with
// the operator's in $CONFIG), against a process of the same user outside
// ($OUTSIDE) and against what keeps it in.
const isolatedTries = `
try 'key of the authority' cat $DIR/pki/ca.key
try 'key of the node' cat $DIR/pki/node.key
try store cat $DIR/store/rows
try 'list of keys' ls $DIR/pki
try 'list of the directory' sh -c 'ls -A $DIR | grep -v work'
try 'context of the operator' cat $CONFIG/admin.key
try 'up from the working directory' cat ../../pki/ca.key
try 'up from above' sh -c 'cd ../.. && cat pki/ca.key'
try 'link to a key' sh -c 'ln -s $DIR/pki/ca.key l && cat l'
try 'name for a key' sh -c 'ln $DIR/pki/ca.key h && cat h'
try 'move of the directory' sh -c 'mv $DIR $DIR.moved && echo moved'
try 'file beside the keys' sh -c 'echo x >$DIR/evil && echo made'
try 'files by any process' sh -c 'cat /proc/[0-9]*/root$DIR/pki/ca.key /proc/[0-9]*/cwd/pki/ca.key'
try 'process outside, its root' cat /proc/$OUTSIDE/root$DIR/pki/ca.key
try 'process outside, its environment' cat /proc/$OUTSIDE/environ
try 'process outside, its memory' head -c 10 /proc/$OUTSIDE/mem
try 'uncovering' sh -c 'umount -l $DIR && echo gone; cat $DIR/pki/ca.key'
try 'mount' sh -c 'mount -t tmpfs x . && echo mounted'
try 'namespace within' unshare -Ur sh -c 'umount -l $DIR; cat $DIR/pki/ca.key'
try 'mounts within' unshare -Urm sh -c 'umount -l $DIR && echo gone; umount -l /proc && echo gone; cat $DIR/pki/ca.key'
try 'move of a mount within' unshare -Urm sh -c 'mkdir m; mount --move $DIR m && echo moved; cat $DIR/pki/ca.key'
try 'bind of the root within' unshare -Urm sh -c 'mkdir b; mount --rbind / b; umount -l b$DIR && echo gone; cat b$DIR/pki/ca.key'
try 'plain bind within' unshare -Urm sh -c 'mkdir p; mount --bind ${DIR%/*} p && cat p/${DIR##*/}/pki/ca.key'
try 'processes within' unshare -Urmpf --mount-proc sh -c 'cat /proc/1/root$DIR/pki/ca.key'
try 'another namespace' nsenter -t $OUTSIDE -m -U cat $DIR/pki/ca.key
try 'signal to the node' sh -c 'kill -0 $NODE && echo heard'
try 'signal outside' sh -c 'kill -0 $OUTSIDE && echo heard'
try 'memory of the warden' head -c 10 /proc/$WARDEN/mem
try 'environment of the warden' cat /proc/$WARDEN/environ
try 'descriptors of the warden' sh -c 'readlink /proc/$WARDEN/fd/*; cat /proc/$WARDEN/fd/[3-9] </dev/null'
try 'device' sh -c 'mknod d b 1 0 && echo made'
try 'control groups' sh -c 'mkdir $(grep " cgroup2 " /proc/mounts | cut -d " " -f 2 | sed s,$,/evil,) && echo made'
./hostile -test.run='^TestHostileCalls$' | grep -v -x PASS
`

// TestHostileCalls is a task of TestAHostileTask that tries what no shell can.
func TestHostileCalls(t *testing.T) {
	node, err := strconv.Atoi(os.Getenv("NODE"))
	if err != nil {
		t.Skip("run by TestAHostileTask")
	}
	outside, _ := strconv.Atoi(os.Getenv("OUTSIDE"))
	for what, pid := range map[string]int{"node": node, "process outside": outside, "warden": os.Getppid()} {
		if what == "warden" { // of the shell that this is started from
			if s, ok := readStat(os.Getppid()); ok {
				pid = s.ppid
			}
		}
		if unix.PtraceAttach(pid) == nil {
			fmt.Printf("traced the %s\n", what)
		}
		var b [8]byte
		local := []unix.Iovec{{Base: &b[0], Len: 8}}
		if _, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 8}}, 0); err == nil {
			fmt.Printf("read memory of the %s\n", what)
		}
		if fd, err := unix.PidfdOpen(pid, 0); err == nil {
			for n := range 20 {
				if got, err := unix.PidfdGetfd(fd, n, 0); err == nil {
					fmt.Printf("got descriptor %d of the %s: %d\n", n, what, got)
				}
			}
			if unix.Setns(fd, unix.CLONE_NEWNS) == nil {
				fmt.Printf("entered the namespace of the %s\n", what)
			}
			unix.Close(fd)
		}
	}
	if top, err := os.Open("/"); err == nil {
		key := filepath.Join(os.Getenv("DIR"), "pki/ca.key")
		if h, _, err := unix.NameToHandleAt(unix.AT_FDCWD, key, 0); err == nil {
			fmt.Println("has a handle of a key")
			if _, err := unix.OpenByHandleAt(int(top.Fd()), h, unix.O_RDONLY); err == nil {
				fmt.Println("opened a key by its handle")
			}
		}
		top.Close()
	}
	if err := unix.Chroot("."); err == nil && os.Geteuid() != 0 {
		fmt.Println("changed its root")
	}
}

// TestHostileNode is the node of TestAHostileTask, in a process of its own.
func TestHostileNode(t *testing.T) {
	dir := os.Getenv(hostileDir)
	if dir == "" {
		t.Skip("run by TestAHostileTask")
	}
	if err := Harden(); err != nil {
		t.Fatal(err)
	}
	killWarden := `for s in $(seq 64); do kill -$s $WARDEN; done 2>/dev/null`
	script := hostileHead + hostileTries
	c := Config{Dir: filepath.Join(dir, "node/work"), Private: filepath.Join(dir, "node"), Hidden: []string{filepath.Join(dir, "config")}, NoNewPrivileges: true, Cgroup: true}
	if os.Getenv(isolateEnv) != "" {
		c = isolated(c)
		script += isolatedTries
		if c.isolateBy == ByNamespaces && os.Geteuid() != 0 {
			c.Isolation = IsolationStrict
		}
		if c.isolateBy == ByNamespaces { // the first of its namespace; under Landlock tasks can end their warden
			script += killWarden
		}
	}
	r, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if by := r.Isolated(); by.By != os.Getenv(isolateEnv) {
		t.Fatalf("isolated by %+v", by)
	}
	p := open(t, r, "")
	defer p.Release()
	if err := copyFile(filepath.Join(dir, "hostile"), filepath.Join(p.Dir(), "hostile")); err != nil {
		t.Fatal(err)
	}
	res := r.Run(context.Background(), p, Command{
		Args: []string{"/bin/sh", "-c", script + "\ntrue"},
		Env: append(testEnv, "NODE="+strconv.Itoa(os.Getpid()), "OUTSIDE="+os.Getenv("OUTSIDE"),
			"DIR="+filepath.Join(dir, "node"), "CONFIG="+filepath.Join(dir, "config")),
	})
	fmt.Printf("ended %d\n%s%v", res.ExitCode, text(t, p.Stdout()), map[bool]any{true: "", false: res.Err}[res.Err == nil])
	if os.Getenv(isolateEnv) == ByNamespaces {
		// All processes that it sees: the node, and the next attempt, do not mind.
		if res, _, _ := sh(t, r, "[ $PPID != 1 ] || kill -9 -1", 0); res.Signal != "" && res.Signal != "SIGKILL" {
			fmt.Printf("killed everything: %+v\n", res)
		}
		if res, _, _ := sh(t, r, "true", 0); !res.OK() {
			fmt.Printf("the next attempt: %+v\n", res)
		}
	}
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer out.Close()
	_, err = io.Copy(out, in)
	return err
}

// A task gets nothing out of the node's process, and nothing of what whoever
// started the node had open or in the environment. Behind a warden it does not
// get at the node's files either, nor at processes outside.
func TestAHostileTask(t *testing.T) {
	const nobody = 65534
	var user *syscall.Credential
	if os.Geteuid() == 0 {
		user = &syscall.Credential{Uid: nobody, Gid: nobody}
	}
	t.Run("without a warden", func(t *testing.T) { hostileTask(t, "", user) })
	byEach(t, func(t *testing.T, by string, user *syscall.Credential) {
		if by == ByLandlock && user == nil && os.Geteuid() == 0 {
			t.Skip("Landlock keeps root from files alone: not from writing to /proc")
		}
		hostileTask(t, by, user)
	})
}

func hostileTask(t *testing.T, by string, user *syscall.Credential) {
	dir := ownDir(t, user)
	for name, text := range map[string]string{"node/pki/ca.key": "secret", "node/pki/node.key": "secret", "node/store/rows": "secret", "config/admin.key": "secret"} {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := copyFile("/proc/self/exe", filepath.Join(dir, "hostile")); err != nil {
		t.Fatal(err)
	}
	if user != nil {
		if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", user.Uid, user.Gid), dir).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	outside := exec.Command("sleep", "1000")
	outside.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	if err := outside.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		outside.Process.Kill()
		outside.Wait()
	}()
	leak, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer leak.Close()
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestHostileNode$")
	cmd.Dir = dir
	cmd.Env = []string{hostileDir + "=" + dir, "SECRET=token", "TMPDIR=" + dir, "OUTSIDE=" + strconv.Itoa(outside.Process.Pid), isolateEnv + "=" + by}
	cmd.ExtraFiles = []*os.File{leak}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: user}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, tried, ok := bytes.Cut(out, []byte("ended 0\n"))
	got, _, _ := strings.Cut(string(tried), "PASS")
	if !ok || got != "" {
		t.Errorf("a task got at the node:\n%s", out)
	}
	if outside.Process.Signal(syscall.Signal(0)) != nil {
		t.Error("a process outside is gone")
	}
}
