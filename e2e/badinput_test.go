//go:build unix

package e2e

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banyan"
	"banyan/node/pki"
)

// complaint is a command that must fail with one line that holds all words.
type complaint struct {
	name  string
	code  int
	words []string // the thing and the remedy
	args  []string
}

func (c *cluster) complains(list []complaint) {
	c.t.Helper()
	for _, bad := range list {
		out, errOut, code := c.try(bad.args...)
		if code != bad.code || out != "" {
			c.t.Errorf("%s: exit %d, want %d; printed %q", bad.name, code, bad.code, out)
		}
		if strings.Count(errOut, "\n") != 1 || !strings.HasPrefix(errOut, "banyan: ") {
			c.t.Errorf("%s: not one line: %q", bad.name, errOut)
		}
		for _, word := range bad.words {
			if !strings.Contains(errOut, word) {
				c.t.Errorf("%s: no %q in %q", bad.name, word, errOut)
			}
		}
	}
}

func TestBadCommandLines(t *testing.T) {
	c := emptyCluster(t)
	c.complains([]complaint{
		{"unknown command", 2, []string{"frobnicate", "banyan help"}, []string{"frobnicate"}},
		{"unknown flag", 2, []string{"--nope", "banyan help nodes"}, []string{"nodes", "--nope"}},
		{"unknown flag of run", 255, []string{"--nope", "banyan help run"}, []string{"run", "--nope", "true", ":::", "a"}},
		{"missing column", 255, []string{"{3}", "column"}, []string{"run", "echo", "{3}", ":::", "a", ":::", "b"}},
		{"missing column in --return", 255, []string{"{2}", "column"}, []string{"run", "--return", "{2}.out", "echo", ":::", "a"}},
		{"no inputs", 255, []string{"no inputs", ":::", "-a"}, []string{"run", "true"}},
		{"no command", 255, []string{"no command", "banyan run"}, []string{"run"}},
		{"no input file", 255, []string{"missing.txt", "no such file"}, []string{"run", "-a", "missing.txt", "true"}},
		{"nothing to send", 255, []string{"missing.bin"}, []string{"run", "--send", "missing.bin", "true", ":::", "a"}},
		{"bad -j", 255, []string{"-j", "many"}, []string{"run", "-j", "many", "true", ":::", "a"}},
		{"bad --timeout", 255, []string{"--timeout", "soon", "seconds"}, []string{"run", "--timeout", "soon", "true", ":::", "a"}},
		{"bad job", 1, []string{"nonsense", "banyan jobs"}, []string{"job", "show", "nonsense"}},
		{"bad job to wait for", 255, []string{"nonsense", "banyan jobs"}, []string{"wait", "nonsense"}},
		{"no cluster", 1, []string{"no cluster", "banyan up"}, []string{"nodes"}},
		{"no context", 1, []string{"nowhere", "banyan context list"}, []string{"nodes", "--context", "nowhere"}},
		{"bad --listen", 1, []string{"--listen", "nowhere", "HOST:PORT"}, []string{"up", "--dir", filepath.Join(c.dir, "x"), "--listen", "nowhere"}},
		{"no token", 2, []string{"--token", "banyan token"}, []string{"join", "127.0.0.1:1"}},
	})
	if _, err := os.Stat(filepath.Join(c.dir, "state")); !os.IsNotExist(err) {
		t.Errorf("a bad command line changed something: %v", err)
	}
	if _, errOut, code := c.try("run", "no-such-command", ":::", "a"); code != 1 || !strings.Contains(errOut, "no-such-command") || !strings.Contains(errOut, "PATH") {
		t.Errorf("a command that is not there: exit %d, %q", code, errOut)
	}
}

func TestBadClusters(t *testing.T) {
	c := newCluster(t, 1)
	token := c.token("--uses", "100")
	closed := freeAddr(t)
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	defer secure.Close()
	join := func(addr, dir string, flags ...string) []string {
		return append([]string{"join", addr, "--token", token, "--dir", filepath.Join(c.dir, dir), "--listen", closed}, flags...)
	}
	const unknown = "j0000000000000"
	c.complains([]complaint{
		{"unknown job", 1, []string{unknown, "banyan jobs"}, []string{"job", "show", unknown}},
		{"unknown job to resume", 255, []string{unknown, "banyan jobs"}, []string{"resume", unknown}},
		{"unknown node", 1, []string{"n77", "banyan nodes"}, []string{"drain", "n77"}},
		{"nobody listens", 1, []string{closed, "banyan"}, join(closed, "a")},
		{"a web server", 1, []string{web.Listener.Addr().String(), "banyan node"}, join(web.Listener.Addr().String(), "b")},
		{"a server with TLS", 1, []string{secure.Listener.Addr().String(), "token"}, join(secure.Listener.Addr().String(), "c")},
		{"a directory with a node", 1, []string{c.nodes[0].dir, "banyan up"}, join(c.nodes[0].addr, "n1")},
		{"a directory in use", 1, []string{c.nodes[0].dir, "use"}, []string{"up", "--dir", c.nodes[0].dir, "--listen", closed}},
		{"a port in use", 1, []string{c.nodes[0].addr, "--listen"}, []string{"up", "--dir", filepath.Join(c.dir, "d"), "--listen", c.nodes[0].addr}},
		{"a port in use, to join with", 1, []string{c.nodes[0].addr, "--listen"}, []string{"join", c.nodes[0].addr, "--token", token, "--dir", filepath.Join(c.dir, "e"), "--listen", c.nodes[0].addr}},
	})
	for _, dir := range []string{"d", "e"} {
		if _, err := os.Stat(filepath.Join(c.dir, dir)); !os.IsNotExist(err) {
			t.Errorf("a port in use: %s was made all the same: %v", dir, err)
		}
	}
	out, errOut, code := c.try("run", "no-such-command", ":::", "a")
	if code != 1 || !strings.Contains(errOut, "no-such-command") || !strings.Contains(errOut, "n1") {
		t.Errorf("a command that is on no node: exit %d, %q %q", code, out, errOut)
	}
	if got := c.clockOff(token); got.Code == "" || !strings.Contains(got.Message, "clock") {
		t.Errorf("a clock that is far off: %+v", got)
	}
	c.run("nodes")
}

// clockOff asks to join with a clock that is a day ahead.
func (c *cluster) clockOff(token string) (answer struct{ Code, Message string }) {
	c.t.Helper()
	csr, _, err := pki.NewRequest()
	if err != nil {
		c.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]any{
		"token": token, "csr": csr, "name": "late", "address": "127.0.0.1:1", "slots": 1,
		"protocol": banyan.ProtocolVersion, "version": banyan.Version, "now_ms": time.Now().Add(24 * time.Hour).UnixMilli(),
		"request_id": make([]byte, 16),
	})
	if err != nil {
		c.t.Fatal(err)
	}
	insecure := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	defer insecure.CloseIdleConnections()
	resp, err := insecure.Post("https://"+c.nodes[0].addr+"/banyan.v1.Cluster/Join", "application/json", bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(text, &answer)
	}
	if err != nil {
		c.t.Fatalf("%v: %s", err, text)
	}
	return answer
}

func TestBadDirectories(t *testing.T) {
	one, two := newCluster(t, 1), newCluster(t, 1)
	a, b := one.nodes[0], two.nodes[0]
	a.kill()
	b.kill()
	up := []string{"up", "--dir", a.dir, "--listen", a.addr}
	file := filepath.Join(a.dir, "node.json")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	write := func(text []byte) {
		t.Helper()
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(bytes.Replace(text, []byte(`"version": 2`), []byte(`"version": 99`), 1))
	one.complains([]complaint{{"a newer format", 1, []string{file, "99", "newer banyan"}, up}})
	write(bytes.Replace(text, []byte(`"version": 2`), []byte(`"version": 2, "colour": "blue"`), 1))
	one.complains([]complaint{{"an unknown field", 1, []string{file, `"colour"`, "take it out"}, up}})
	write(bytes.Replace(text, []byte(`"version": 2`), []byte(`"version": 2, "name": 7`), 1))
	one.complains([]complaint{{"a field of another type", 1, []string{file, "name", "restore"}, up}})
	write(text[:len(text)/2])
	one.complains([]complaint{{"a damaged file", 1, []string{file, "restore"}, up}})
	write(text)
	if err := os.Chmod(a.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	one.complains([]complaint{{"a directory that others read", 1, []string{a.dir, "chmod"}, up}})
	if err := os.Chmod(a.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"store", "pki"} {
		swap(t, a.dir, b.dir, part)
		one.complains([]complaint{{part + " of another cluster", 1, []string{filepath.Join(a.dir, part), "one copy"}, up}})
		swap(t, a.dir, b.dir, part)
	}
	a.restart() // and nothing of all that has hurt it
	one.run("kv", "put", "a/b", "c")
}

// swap exchanges a part of two directories.
func swap(t *testing.T, a, b, part string) {
	t.Helper()
	third := filepath.Join(t.TempDir(), part)
	for _, move := range [][2]string{{filepath.Join(a, part), third}, {filepath.Join(b, part), filepath.Join(a, part)}, {third, filepath.Join(b, part)}} {
		if err := os.Rename(move[0], move[1]); err != nil {
			t.Fatal(err)
		}
	}
}
