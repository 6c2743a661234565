//go:build unix

package e2e

import (
	"encoding/json"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

// chunks counts the chunks on the disks of all nodes.
func (c *cluster) chunks() (n int) {
	_ = filepath.WalkDir(c.dir, func(path string, d fs.DirEntry, err error) error { // files come and go
		if err == nil && d.Type().IsRegular() && len(d.Name()) == 62 && strings.Contains(path, "/blobs/") {
			n++
		}
		return nil
	})
	return n
}

// TestARemovedJobIsSwept: what a job wrote stays while there is the job, and goes
// from all nodes after it.
func TestARemovedJobIsSwept(t *testing.T) {
	c := newCluster(t, 3)
	c.waitVoters(3)
	var ids []string
	for _, letter := range []string{"a", "b"} {
		var line struct{ Job string }
		out := c.run("run", "--detach", "-o", "json", "--", "head -c 100000 /dev/zero | tr '\\0' "+letter+"; : {}", ":::", "1")
		if err := json.Unmarshal([]byte(out), &line); err != nil || line.Job == "" {
			t.Fatalf("%q: %v", out, err)
		}
		c.run("wait", line.Job)
		ids = append(ids, line.Job)
	}
	if n := c.chunks(); n < 4 {
		t.Fatalf("two outputs are on disks %d times", n)
	}
	c.run("job", "rm", ids[0])
	last := uint64(0)
	sweep := func() {
		t.Helper()
		c.run("debug", "sweep", "--begin")
		c.eventually("all nodes have swept", func() bool {
			var epoch uint64
			done := 0
			for line := range strings.Lines(c.run("debug", "sweep", "-o", "json")) {
				var s struct{ Epoch uint64 }
				if json.Unmarshal([]byte(line), &s) == nil && s.Epoch != 0 && (epoch == 0 || s.Epoch == epoch) {
					epoch = s.Epoch
					done++
				}
			}
			if done == 3 && epoch > last {
				last = epoch
				return true
			}
			return false
		})
	}
	for range 3 {
		sweep()
	}
	if n := c.chunks(); n < 2 || n > 3 {
		t.Errorf("after the sweep there are %d chunks, want those of one output", n)
	}
	if out := c.run("logs", ids[1], "1"); len(out) != 100000 || strings.Trim(out, "b") != "" {
		t.Errorf("the job that stays has %d bytes of output", len(out))
	}
	if _, errs, code := c.try("logs", ids[0], "1"); code == 0 || !strings.Contains(errs, "there is no job") {
		t.Errorf("the job that went: exit %d, %s", code, errs)
	}
}
