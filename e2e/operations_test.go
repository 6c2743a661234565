//go:build unix

package e2e

import (
	"archive/zip"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// browser is an HTTP client that trusts the cluster and, with a certificate,
// is known to it, as 'banyan context export' lets any program be.
func (c *cluster) browser(known bool) *http.Client {
	c.t.Helper()
	dir := filepath.Join(c.dir, "pem")
	if _, err := os.Stat(dir); err != nil {
		c.run("context", "export", dir)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		c.t.Fatal(err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), ServerName: "banyan", MinVersion: tls.VersionTLS13}
	config.RootCAs.AppendCertsFromPEM(ca)
	if known {
		cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
		if err != nil {
			c.t.Fatal(err)
		}
		config.Certificates = []tls.Certificate{cert}
	}
	return &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, DisableKeepAlives: true}}
}

func (c *cluster) get(client *http.Client, n *node, path string) (status int, text string) {
	c.t.Helper()
	res, err := client.Get("https://" + n.addr + path)
	if err != nil {
		c.t.Fatalf("GET %s of %s: %v", path, n.id, err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		c.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// TestOperatorsLook goes the ways of docs/operations.md: Prometheus with and
// without a certificate, debug, and a bundle that has everything but secrets.
func TestOperatorsLook(t *testing.T) {
	c := newCluster(t, 3, "--log-format", "json")
	const secretKey, secretValue, secretInput = "tr3easure/map", "x-marks-th3-spot", "s3cret-input"
	token := c.token()
	c.run("kv", "put", secretKey, secretValue)
	c.run("run", "--", "echo", "{}", ":::", secretInput)

	for _, n := range c.nodes {
		if status, text := c.get(c.browser(true), n, "/metrics"); status != http.StatusOK || !strings.Contains(text, "\nbanyan_ready 1\n") {
			t.Errorf("/metrics of %s with a certificate: %d %s", n.id, status, tail(text, 5))
		}
		if status, text := c.get(c.browser(false), n, "/metrics"); status != http.StatusUnauthorized || strings.Contains(text, "banyan_ready") {
			t.Errorf("/metrics of %s without a certificate: %d %s", n.id, status, text)
		}
	}
	if res, err := http.Get("http://" + c.nodes[0].addr + "/metrics"); err == nil {
		if res.Body.Close(); res.StatusCode == http.StatusOK {
			t.Error("/metrics is served without TLS")
		}
	}

	for _, n := range c.nodes {
		if text := c.run("metrics", "--node", n.id); !strings.Contains(text, `,node="`+n.id+`",`) {
			t.Errorf("metrics of %s: %s", n.id, tail(text, 3))
		}
		var line struct {
			Level, Msg string
			Time       time.Time
		}
		_, log, _ := strings.Cut(n.output(), "{") // before it may stand that the node is up
		first, _, _ := strings.Cut("{"+log, "\n")
		if err := json.Unmarshal([]byte(first), &line); err != nil || line.Msg == "" {
			t.Errorf("the first line of %s's log is not JSON: %v: %s", n.id, err, first)
		}
	}
	replicas := strings.Split(strings.TrimSpace(c.run("debug", "shard", "0", "-o", "json")), "\n")
	if all := strings.Join(replicas, "\n"); len(replicas) != 3 || strings.Count(all, `"role":"leader"`) != 1 || strings.Count(all, `"role":"follower"`) != 2 {
		t.Errorf("replicas of the root shard: %s", all)
	}
	if text := c.run("debug", "goroutines", "--node", "n2"); !strings.Contains(text, "banyan/engine/replica.(*Host).loop") {
		t.Errorf("goroutines: %s", tail(text, 20))
	}
	c.run("debug", "profile", "--heap", "--node", "n3", "-f", "heap.pprof")

	c.nodes[2].kill()
	files := c.bundle("bundle.zip")
	for _, want := range []string{"README.txt", "status.json", "slow.json", "shards/0.json", "nodes/n1/metrics.txt", "nodes/n2/config.json", "nodes/n2/log.txt", "nodes/n1/goroutines.txt", "missing.txt"} {
		if text, ok := files[want]; !ok || text == "" && want != "slow.json" { // nothing may have been slow
			t.Errorf("the bundle has no %s", want)
		}
	}
	if !strings.Contains(files["missing.txt"], "n3") {
		t.Errorf("missing is: %s", files["missing.txt"])
	}
	key, err := os.ReadFile(filepath.Join(c.nodes[0].dir, "pki", "node.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range files {
		for _, secret := range []string{secretKey, secretValue, secretInput, token, "PRIVATE KEY", strings.Split(string(key), "\n")[1]} {
			if strings.Contains(text, secret) {
				t.Errorf("%s in the bundle holds %q", name, secret)
			}
		}
	}
}

// bundle makes a bundle and reads it.
func (c *cluster) bundle(name string) map[string]string {
	c.t.Helper()
	c.run("debug", "bundle", "-f", name)
	z, err := zip.OpenReader(filepath.Join(c.dir, name))
	if err != nil {
		c.t.Fatal(err)
	}
	defer z.Close()
	files := map[string]string{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			c.t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			c.t.Fatal(err)
		}
		files[f.Name] = string(text)
	}
	return files
}

// TestContextRenew: the new certificate is another one, lasts longer, and works.
func TestContextRenew(t *testing.T) {
	c := newCluster(t, 1)
	export := func(name string) *x509.Certificate {
		t.Helper()
		dir := filepath.Join(c.dir, name)
		c.run("context", "export", dir)
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
		if err != nil {
			t.Fatal(err)
		}
		return pair.Leaf
	}
	before := export("before")
	if out := c.run("context", "renew"); !strings.Contains(out, "is valid until ") {
		t.Errorf("context renew: %q", out)
	}
	var renewed struct {
		Context, Cluster string
		Expire           int64 `json:"expire_ms"`
	}
	if out := c.run("context", "renew", "-o", "json"); json.Unmarshal([]byte(out), &renewed) != nil || renewed.Context == "" || renewed.Cluster == "" {
		t.Errorf("context renew -o json: %q", out)
	}
	after := export("after")
	if before.Equal(after) || after.NotAfter.Before(before.NotAfter) || after.NotAfter.UnixMilli() != renewed.Expire || before.URIs[0].String() != after.URIs[0].String() {
		t.Errorf("a certificate of %v until %v became one of %v until %v", before.URIs, before.NotAfter, after.URIs, after.NotAfter)
	}
	c.run("nodes")
	if _, errOut, code := c.try("--local", "context", "renew"); code == 0 || !strings.Contains(errOut, "--context") {
		t.Errorf("without a context: exit %d, %s", code, errOut)
	}
}
