//go:build unix

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"testing"
)

// sshd starts an sshd of this test's own on loopback, with keys and
// configuration of its own, and puts an ssh before the path that uses them and
// knows it as "there". The user's own configuration is not touched.
func sshd(t *testing.T) {
	t.Helper()
	server, err := exec.LookPath("sshd")
	if err != nil {
		if server = "/usr/sbin/sshd"; !executable(server) {
			t.Skip("there is no sshd: apt install openssh-server")
		}
	}
	ssh, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("there is no ssh: apt install openssh-client")
	}
	if os.Geteuid() == 0 {
		_ = os.MkdirAll("/run/sshd", 0o755) // where it is not, sshd says so
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, key := range []string{"host", "mine"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at(key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v: %s", err, out)
		}
	}
	_, port, _ := strings.Cut(freeAddr(t), ":")
	write := func(name, text string, mode os.FileMode) {
		if err := os.WriteFile(at(name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	write("server", fmt.Sprintf("Port %s\nListenAddress 127.0.0.1\nHostKey %s\nPidFile none\nAuthorizedKeysFile %s\nStrictModes no\nUsePAM no\nPermitRootLogin prohibit-password\n", port, at("host"), at("mine.pub")), 0o600)
	write("config", fmt.Sprintf("Host there\n  HostName 127.0.0.1\n  Port %s\n  User %s\n  IdentityFile %s\n  IdentitiesOnly yes\n  UserKnownHostsFile %s\n  StrictHostKeyChecking accept-new\n", port, me.Username, at("mine"), at("known")), 0o600)
	if err := os.Mkdir(at("bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	write("bin/ssh", fmt.Sprintf("#!/bin/sh\nexec %s -F %s \"$@\"\n", ssh, at("config")), 0o700)
	t.Setenv("PATH", at("bin")+":"+os.Getenv("PATH"))
	cmd := exec.Command(server, "-D", "-e", "-f", at("server"))
	log, err := os.Create(at("log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	endWithParent(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended
		_ = cmd.Wait()
		text, _ := os.ReadFile(at("log"))
		log.Close()
		if t.Failed() {
			t.Logf("sshd:\n%s", tail(string(text), 20))
		}
	})
	c := &cluster{t: t}
	c.eventually("sshd answers", func() bool { return exec.Command("ssh", "there", "true").Run() == nil })
}

func executable(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode()&0o111 != 0
}

// TestAddBySSH adds a node by ssh, upgrades it and takes it out again, with
// work under way. It uses no systemd, also where there is one.
func TestAddBySSH(t *testing.T) {
	sshd(t)
	c := newCluster(t, 2, "--slots", "2")
	base, dir := filepath.Join(c.dir, "base"), filepath.Join(c.dir, "n3")
	t.Cleanup(func() { // what a failure leaves running
		if pid, err := os.ReadFile(filepath.Join(base, "pid")); err == nil {
			_ = exec.Command("kill", "-9", strings.TrimSpace(string(pid))).Run() // it may have ended
		}
	})
	where := []string{"--to", base, "--dir", dir}
	type added struct{ Host, Node, Done, Service, Address, Error string }
	var got added
	c.json(&got, append([]string{"add", "there", "--no-service", "--listen", freeAddr(t), "--zone", "z"}, where...)...)
	if got.Done != "added" || got.Node != "n3" || got.Service != "none" {
		t.Fatalf("added: %+v", got)
	}
	c.waitVoters(3)
	c.json(&got, append([]string{"add", "there"}, where...)...)
	if got.Done != "there already" {
		t.Errorf("again: %+v", got)
	}

	before, err := os.ReadFile(filepath.Join(base, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	// Another binary: what stands behind its end is not read.
	text, err := os.ReadFile(c.bin)
	other := filepath.Join(c.dir, "banyan-other")
	if err == nil {
		err = os.WriteFile(other, append(text, '\n'), 0o700)
	}
	if err != nil {
		t.Fatal(err)
	}
	job := strings.TrimSpace(c.run("run", "--detach", "--", "sleep", "0.0{}", ":::", "1", "2", "3", "4", "5", "6", "7", "8", "9"))
	c.json(&got, "upgrade", "--binary", other)
	if got.Done != "upgraded" || got.Host != "there" || got.Error != "" {
		t.Errorf("upgraded: %+v", got)
	}
	after, err := os.ReadFile(filepath.Join(base, "pid"))
	if err != nil || string(after) == string(before) {
		t.Errorf("the process is %s as before (%v)", after, err)
	}
	if !executable(filepath.Join(base, "banyan.before")) {
		t.Error("the binary before is gone")
	}
	if all := strings.Join(c.problems(), "\n"); strings.Contains(all, "n3") {
		t.Errorf("after the upgrade: %s", all)
	}
	c.run("wait", job)

	c.json(&got, append([]string{"add", "--remove", "there"}, where...)...)
	if got.Done != "removed" || got.Node != "n3" {
		t.Errorf("removed: %+v", got)
	}
	for _, path := range []string{base, dir} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is there still (%v)", path, err)
		}
	}
}
