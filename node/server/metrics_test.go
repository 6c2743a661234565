package server

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"banyan"
	banyanv1 "banyan/api/banyan/v1"
	"banyan/client"
	"banyan/obs/metric"
)

// alone runs a node with a port, a cluster of one, and gives a client of it.
func alone(t *testing.T) (*Server, *client.Client) {
	t.Helper()
	return aloneWith(t, Config{})
}

func aloneWith(t *testing.T, cfg Config) (*Server, *client.Client) {
	t.Helper()
	cfg.Dir, cfg.Listen, cfg.Shards, cfg.Slots = filepath.Join(t.TempDir(), "node"), "127.0.0.1:0", 2, 1
	n, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	select {
	case <-n.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	c, err := client.Open(client.Config{Transport: client.InProcess(n.Handler())})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return n, c
}

func samples(t *testing.T, c *client.Client) map[string][]metric.Sample {
	t.Helper()
	text, err := c.Debug().Dump(t.Context(), banyanv1.DumpKind_DUMP_KIND_METRICS, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	all, err := metric.Parse(strings.NewReader(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string][]metric.Sample{}
	for _, s := range all {
		out[s.Name] = append(out[s.Name], s)
	}
	return out
}

// value sums the samples of a metric that have these labels.
func value(all map[string][]metric.Sample, name string, labels ...string) (sum float64) {
	for _, s := range all[name] {
		fits := true
		for i := 0; i < len(labels); i += 2 {
			fits = fits && s.Labels[labels[i]] == labels[i+1]
		}
		if fits {
			sum += s.Value
		}
	}
	return sum
}

func TestMetricsTellWhatHappened(t *testing.T) {
	_, c := alone(t)
	before := samples(t, c)
	for range 5 {
		if _, err := c.KV().Put(t.Context(), []byte("k"), []byte("v")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Debug().Shard(t.Context(), 99); !banyan.IsKind(err, banyan.NotFound) {
		t.Fatalf("shard 99: %v", err)
	}
	after := samples(t, c)
	grew := func(by float64, name string, labels ...string) {
		t.Helper()
		if got := value(after, name, labels...) - value(before, name, labels...); got < by {
			t.Errorf("%s %v grew by %v, want %v at least", name, labels, got, by)
		}
	}
	grew(5, "banyan_call_seconds_count", "call", "KV.Put")
	grew(5, "banyan_proposal_seconds_count")
	grew(5, "banyan_fsync_seconds_count")
	grew(5, "banyan_log_entries_total")
	grew(5, "banyan_applied_entries_total")
	grew(1, "banyan_apply_seconds_count")
	grew(1, "banyan_call_errors_total", "door", "Debug", "kind", "not found")
	grew(1, "banyan_streams_total", "call", "Debug.Dump")
	is := func(want float64, name string, labels ...string) {
		t.Helper()
		if got := value(after, name, labels...); got != want {
			t.Errorf("%s %v is %v, want %v", name, labels, got, want)
		}
	}
	is(1, "banyan_ready")
	is(3, "banyan_shards")
	is(3, "banyan_shards_led")
	is(3, "banyan_shards_under_replicated") // three voters are wanted, and there is one node
	is(3, "banyan_shards_on_one_disk")
	is(1, "banyan_shard_voters", "shard", "2")
	is(1, "banyan_shard_voters_live", "shard", "0")
	is(1, "banyan_nodes", "state", "alive")
	is(0, "banyan_replicas_without_leader")
	is(0, "banyan_disk_failed")
	if value(after, "banyan_certificate_expiry_timestamp_seconds", "of", "node") < 1e9 {
		t.Error("the node's certificate does not expire")
	}
}

var metricName = regexp.MustCompile(`banyan_[a-z_]+`)

// TestMetricsAreDocumented holds docs/operations.md to the metrics there are.
func TestMetricsAreDocumented(t *testing.T) {
	doc, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	bare := func(name string) string {
		for _, suffix := range []string{"_bucket", "_sum", "_count"} {
			name = strings.TrimSuffix(name, suffix)
		}
		return name
	}
	documented := map[string]bool{}
	for _, name := range metricName.FindAllString(string(doc), -1) {
		documented[bare(name)] = true
	}
	_, c := alone(t)
	_, _ = c.Debug().Shard(t.Context(), 99) // an error to count
	real := map[string]bool{
		"banyan_clock_offset_seconds": true, // with other nodes only
	}
	for name := range samples(t, c) {
		if strings.HasPrefix(name, "banyan_") {
			real[bare(name)] = true
		}
	}
	for name := range real {
		if !documented[name] {
			t.Errorf("%s is not in docs/operations.md", name)
		}
	}
	for name := range documented {
		if !real[name] {
			t.Errorf("docs/operations.md has %s, which no node tells", name)
		}
	}
}

func TestACertificateThatIsNotRenewedIsAProblem(t *testing.T) {
	for left, want := range map[time.Duration]string{8 * day: "", 6 * day: "warning", day / 2: "critical"} {
		got := ""
		nodeProblems(&banyanv1.Node{Id: 2, State: "alive", CertificateExpireMs: time.Now().Add(left).UnixMilli()}, time.Minute, func(critical bool, _, _ string, _ ...any) {
			if got = "warning"; critical {
				got = "critical"
			}
		})
		if got != want {
			t.Errorf("%v before the end: %q, want %q", left, got, want)
		}
	}
}

const day = 24 * time.Hour
